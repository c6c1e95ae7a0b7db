//! How a record looks as a line: the classic lines of the scripts, or JSON.

pub mod classic;
pub mod json;
mod legacy;
#[cfg(test)]
mod properties;
pub mod timestamp;

use std::fmt;

use crate::log::record::{Entry, Format, Record, Unreadable};
use timestamp::Zone;

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

/// Reads one line, without its end, in whichever format it is. Its stamps are resolved by `zone`, and its entries go to
/// `emit`; a line that cannot be read gives none.
///
/// # Errors
/// The line cannot be read.
pub fn read_line(line: &str, zone: &mut Zone, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    if line.starts_with('{') { json::read(line, zone, emit) } else { classic::read(line, zone).map(emit) }
}
