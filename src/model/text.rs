//! Escapes and truncates outside text for log lines and terminals.

use std::fmt::Write as _;

/// The longest failure text in a log line, in bytes.
pub const MAX_TEXT: usize = 300;

/// Appends `text` to `line`, escaped to be printable and on one line. `line` is truncated at `limit` bytes.
///
/// A truncated text ends in `…`.
pub fn escape_into(line: &mut String, text: &str, limit: usize) {
    const CUT: &str = "…";
    let mut fits = line.len();
    for c in text.chars() {
        if is_printable(c) {
            line.push(c);
        } else {
            let _ = write!(line, "{}", c.escape_default());
        }
        if line.len() > limit {
            line.truncate(fits);
            line.push_str(CUT);
            return;
        }
        if line.len() + CUT.len() <= limit {
            fits = line.len();
        }
    }
}

/// Control characters break a line or drive a terminal; separators and bidirectional marks reorder what is read.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
