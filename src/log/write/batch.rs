//! Records that are written together.

use std::ops::Range;

use crate::log::format;
use crate::log::record::{Format, Record};
use crate::model::clock::Moment;

/// The maximum number of bytes in one write, unless a single record is longer.
pub const MAX_WRITE: usize = 64 << 10;

/// Formatted records of one file, each with its line end.
#[derive(Default)]
pub struct Batch {
    text: String,
    /// Where each record ends in `text`.
    ends: Vec<usize>,
    /// The moment of each record, for a header before it. None before the run begins.
    moments: Vec<Option<Moment>>,
}

/// Records that are written together.
pub struct Part<'b> {
    /// The moment of the first one, for a header before it.
    pub at: Option<Moment>,
    pub bytes: &'b [u8],
    /// Where each record ends in `bytes`.
    pub ends: Vec<usize>,
}

impl Batch {
    /// Removes all records, and keeps some memory for the next.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_WRITE);
        self.ends.clear();
        self.moments.clear();
    }

    /// Appends lines that belong to the next record: a header that is repeated.
    pub fn repeat_header(&mut self, lines: &str) {
        self.text.push_str(lines);
    }

    /// Appends a record.
    pub fn add(&mut self, record: &Record, format: Format, at: Option<Moment>) {
        // Writing to memory does not fail.
        let _ = format::write(record, format, &mut self.text);
        self.text.push('\n');
        self.ends.push(self.text.len());
        self.moments.push(at);
    }

    /// Records that are formatted already.
    #[cfg(test)]
    pub fn of(records: &[&str]) -> Self {
        let mut batch = Batch::default();
        for record in records {
            batch.text.push_str(record);
            batch.ends.push(batch.text.len());
            batch.moments.push(None);
        }
        batch
    }

    /// Splits the batch into writes, each with the ends of its records relative to its start: as many whole records as
    /// fit into `limit` bytes, but at least one.
    pub fn parts(&self, limit: usize) -> impl Iterator<Item = Part<'_>> {
        let mut from = 0;
        let mut moments = &self.moments[..];
        let mut rest = &self.ends[..];
        std::iter::from_fn(move || {
            let fitting = rest.partition_point(|end| end - from <= limit).max(1);
            let (ends, after) = rest.split_at_checked(fitting)?;
            rest = after;

            let bytes: Range<usize> = from..*ends.last()?;
            let ends: Vec<_> = ends.iter().map(|end| end - bytes.start).collect();
            from = bytes.end;
            let (of_part, after) = moments.split_at_checked(ends.len())?;
            moments = after;
            Some(Part { at: *of_part.first()?, bytes: &self.text.as_bytes()[bytes], ends })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_whole_records() {
        let moments = vec![None; 4];
        let text = "a\nbb\ncccccc\nd\n".into();
        let batch = Batch { text, ends: vec![2, 5, 12, 14], moments };
        let parts =
            |limit| -> Vec<_> { batch.parts(limit).map(|Part { bytes, ends, .. }| (bytes.len(), ends)).collect() };
        assert_eq!(parts(5), [(5, vec![2, 5]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(0), [(2, vec![2]), (3, vec![3]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(100), [(14, vec![2, 5, 12, 14])]);
        assert_eq!(Batch::default().parts(5).count(), 0);
    }
}
