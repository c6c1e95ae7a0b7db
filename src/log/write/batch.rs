//! Records that are written together.

use std::ops::Range;

use crate::log::format;
use crate::log::record::{Format, Record};

/// The maximum number of bytes in one write, unless a single record is longer.
pub const MAX_WRITE: usize = 64 << 10;

/// Formatted records of one file, each with its line end.
#[derive(Default)]
pub struct Batch {
    text: String,
    /// Where each record ends in `text`.
    ends: Vec<usize>,
}

impl Batch {
    /// Removes all records, and keeps some memory for the next.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_WRITE);
        self.ends.clear();
    }

    /// Appends a record.
    pub fn add(&mut self, record: &Record, format: Format) {
        // Writing to memory does not fail.
        let _ = format::write(record, format, &mut self.text);
        self.text.push('\n');
        self.ends.push(self.text.len());
    }

    /// Records that are formatted already.
    #[cfg(test)]
    pub fn of(records: &[&str]) -> Self {
        let mut batch = Batch::default();
        for record in records {
            batch.text.push_str(record);
            batch.ends.push(batch.text.len());
        }
        batch
    }

    /// Splits the batch into writes, each with the ends of its records relative to its start: as many whole records as
    /// fit into `limit` bytes, but at least one.
    pub fn parts(&self, limit: usize) -> impl Iterator<Item = (&[u8], Vec<usize>)> {
        let mut from = 0;
        let mut rest = &self.ends[..];
        std::iter::from_fn(move || {
            let fitting = rest.partition_point(|end| end - from <= limit).max(1);
            let (ends, after) = rest.split_at_checked(fitting)?;
            rest = after;

            let bytes: Range<usize> = from..*ends.last()?;
            let ends = ends.iter().map(|end| end - bytes.start).collect();
            from = bytes.end;
            Some((&self.text.as_bytes()[bytes], ends))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_whole_records() {
        let batch = Batch { text: "a\nbb\ncccccc\nd\n".into(), ends: vec![2, 5, 12, 14] };
        let parts = |limit| -> Vec<_> { batch.parts(limit).map(|(bytes, ends)| (bytes.len(), ends)).collect() };
        assert_eq!(parts(5), [(5, vec![2, 5]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(0), [(2, vec![2]), (3, vec![3]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(100), [(14, vec![2, 5, 12, 14])]);
        assert_eq!(Batch::default().parts(5).count(), 0);
    }
}
