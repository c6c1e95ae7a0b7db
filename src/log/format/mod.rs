//! The formats of log lines: classic text and JSON. Pure.

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

/// Writes a record in a format, without the final line end.
///
/// # Errors
/// Only if `f` fails; a `String` never does.
pub fn write(record: &Record, format: Format, f: &mut impl fmt::Write) -> fmt::Result {
    match format {
        Format::Classic => classic::write(record, f),
        Format::Json => json::write(record, f),
    }
}

/// Reads one line in any format, without its line end, and emits its entries: none if the line cannot be read.
/// `timestamps` must be the same for all lines of a file.
///
/// # Errors
/// The line is in an unknown format.
pub fn read_line(line: &str, timestamps: &mut TimestampReader, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    if line.starts_with('{') { json::read(line, timestamps, emit) } else { classic::read(line, timestamps).map(emit) }
}

impl Record {
    /// Displays the record in a format, without the final line end.
    pub fn in_format(&self, format: Format) -> impl fmt::Display {
        struct Formatted<'a>(&'a Record, Format);
        impl fmt::Display for Formatted<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(self.0, self.1, f)
            }
        }
        Formatted(self, format)
    }
}

/// Displays the classic lines, without the final line end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, Format::Classic, f)
    }
}
