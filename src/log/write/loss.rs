//! Records that could not be written, and when their mark is written. Pure.

use chrono::TimeDelta;

use crate::log::record::{Mark, Record};
use crate::model::clock::Stamp;

/// The longest time that one mark covers, unless no record can be written. `report` holds back records for longer than
/// that, so that it processes the mark before the checks that follow the beginning of the loss.
const MAX_MARK: TimeDelta = TimeDelta::seconds(60);

/// Tracks the records that were lost since the last mark.
#[derive(Default)]
pub struct Losses {
    /// The time of the last record before any loss.
    reached: Option<Stamp>,
    loss: Option<Loss>,
}

struct Loss {
    /// What was checked from here on is not known: the last record before the loss.
    from: Stamp,
    /// The last record of the last write that lost one.
    to: Stamp,
    count: u64,
    /// Later records were written.
    is_over: bool,
}

impl Losses {
    /// Notes how many of these records, which were written together, were lost.
    pub fn note(&mut self, records: &[Record], lost: u64) {
        let times = || records.iter().map(Record::at);
        let (Some(earliest), Some(last)) = (times().min_by_key(|stamp| stamp.at), times().next_back()) else { return };
        if lost == 0 {
            self.reached = Some(last);
            self.loss.iter_mut().for_each(|loss| loss.is_over = true);
            return;
        }

        // A check that is logged late may have begun before the last record.
        let from = self.reached.filter(|reached| reached.at < earliest.at).unwrap_or(earliest);
        let loss = self.loss.get_or_insert(Loss { from, to: last, count: 0, is_over: false });
        loss.from = if from.at < loss.from.at { from } else { loss.from };
        loss.to = last;
        loss.count += lost;
        loss.is_over = false;
    }

    /// The mark to write before the next records, if any. While its log can be written, it waits until the loss in the
    /// other log is over. While it cannot, writing the mark shows whether the loss is over.
    pub fn due(&self, next: &[Record], is_log_failing: bool) -> Option<Record> {
        let Loss { from, to, count, is_over } = *self.loss.as_ref()?;
        let ends = |record: &Record| matches!(record, Record::Mark(Mark::AllFinished { .. } | Mark::Stopped { .. }));
        let is_due =
            !next.is_empty() && (is_over || is_log_failing || to.at - from.at >= MAX_MARK || next.iter().any(ends));
        is_due.then_some(Record::Mark(Mark::RecordsLost { from, to, count }))
    }

    /// The mark was written.
    pub fn told(&mut self) {
        self.reached = self.loss.take().map(|loss| loss.to).or(self.reached);
    }
}
