//! Text from outside: escaped and truncated where it is taken in, so that no output can show it raw.

use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The longest failure text in a log line, and the longest name, in bytes.
pub const MAX_TEXT: usize = 300;

/// The longest message and the longest path of a file, in bytes. The system opens no longer paths (`PATH_MAX`).
const MAX_LINE: usize = 4096;

/// A text that is safe in a log line, on a terminal and in a page: printable, on one line, of limited length.
///
/// Text from outside (server replies, certificates, log files, names of files) is kept only in this form. Escaping a
/// text again changes nothing, so a text that was written to a log is the same when it is read back.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Printable(Arc<str>);

impl Printable {
    /// Escapes `text`, and truncates it at `limit` bytes.
    pub fn new(text: &str, limit: usize) -> Self {
        // Most texts are short and plain. A log may have millions of them.
        if text.len() <= limit && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Printable(text.into());
        }
        let mut line = String::new();
        escape_into(&mut line, text, limit);
        Printable(line.into())
    }

    /// A message of one line. Its parts should be printable already; this is for those that were missed.
    pub fn line(text: &str) -> Self {
        Printable::new(text, MAX_LINE)
    }

    /// The name of a file. It is only for people: its escaped form may name another file.
    pub fn path(path: &Path) -> Self {
        Printable::new(&path.to_string_lossy(), MAX_LINE)
    }

    /// A text of several lines, each at most [`MAX_LINE`] bytes long.
    pub fn lines(text: &str) -> String {
        text.split('\n').map(Printable::line).map(|line| line.to_string()).collect::<Vec<_>>().join("\n")
    }

    /// Whether `text` may be shown as it is.
    pub fn is_plain(text: &str) -> bool {
        text.chars().all(is_printable)
    }
}

/// Truncates at [`MAX_TEXT`].
impl From<&str> for Printable {
    fn from(text: &str) -> Self {
        Printable::new(text, MAX_TEXT)
    }
}

/// Truncates at [`MAX_TEXT`].
impl From<String> for Printable {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Deref for Printable {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl PartialEq<str> for Printable {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Printable {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

/// Appends `text` to `line`, escaped to be printable and on one line. `line` is truncated at `limit` bytes.
///
/// A truncated text ends in `…`.
fn escape_into(line: &mut String, text: &str, limit: usize) {
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

/// Control characters break a line or drive a terminal; bidirectional marks reorder what is read; characters without a
/// width or a glyph hide in it. The standard library's debug output escapes these, and quotes and backslashes.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && c.escape_debug().len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        for c in [
            '\u{1b}',
            '\u{7}',
            '\r',
            '\n',
            '\t',
            '\0',
            '\u{7f}',
            '\u{80}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e000}',
            '\u{e0041}',
            '\u{301}',
            '\u{fe0f}',
        ] {
            let shown = Printable::from(format!("a{c}b"));
            assert_eq!(*shown, *format!("a{}b", c.escape_default()));
            assert!(Printable::is_plain(&shown) && !Printable::is_plain(&c.to_string()));
            assert_eq!(Printable::from(&*shown), shown, "escaping it again changes nothing");
        }
        let plain = "cache.example:6379 (ü, 東京, 🙂) 'a' \"b\" \\c";
        assert_eq!(Printable::from(plain), plain);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        for text in ["x".repeat(400), "ü".repeat(400), "\n".repeat(400), "𝄞".repeat(400)] {
            let cut = Printable::new(&text, 64);
            assert!(cut.len() <= 64 && cut.len() > 64 - 8 && cut.ends_with('…'), "{cut}");
            assert_eq!(Printable::new(&cut, 64), cut);
        }
        assert_eq!(Printable::new(&"x".repeat(64), 64), &*"x".repeat(64));
    }
}
