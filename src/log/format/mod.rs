//! The formats of log lines: the classic lines of the scripts, and JSON. Pure.

pub mod classic;
pub mod json;
mod legacy;
#[cfg(test)]
mod properties;
pub mod timestamp;

use std::fmt;

use crate::log::record::{Entry, Format, Record, Unreadable};
pub use classic::read_success;
use timestamp::TimestampReader;

/// Writes a record in a format, without the last line's end.
///
/// # Errors
/// `f` fails; memory does not.
pub fn write(record: &Record, format: Format, f: &mut impl fmt::Write) -> fmt::Result {
    match format {
        Format::Classic => classic::write(record, f),
        Format::Json => json::write(record, f),
    }
}

/// Reads one line, without its end, in whichever format it is. Its entries go to `emit`; a line that cannot be read gives
/// none. `timestamps` is the same for all lines of a file.
///
/// # Errors
/// The line is in no known format.
pub fn read_line(line: &str, timestamps: &mut TimestampReader, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    if line.starts_with('{') { json::read(line, timestamps, emit) } else { classic::read(line, timestamps).map(emit) }
}
