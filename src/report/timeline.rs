//! Buckets time into up, down and unobserved, for the bar of the text report. Pure.

use std::time::Duration;

use super::{Report, Row};

/// The state of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    /// At least one outage overlaps it.
    Down,
    /// The whole bucket was not observed.
    Unobserved,
}

/// The states of one row in `cells` equal buckets, from the first check of the report to the last.
pub fn bar(report: &Report, row: &Row, cells: usize) -> Vec<State> {
    let Some((first, last)) = report.span else { return Vec::new() };
    let (start, length) = (first.since, last.since.saturating_sub(first.since));
    let cells_u32 = u32::try_from(cells).unwrap_or(u32::MAX).max(1);
    let edge = |cell: usize| start + length / cells_u32 * u32::try_from(cell).unwrap_or(u32::MAX);

    let down: Vec<_> = row.down().collect();
    let unobserved: Vec<_> = row.unobserved((first.since, last.since)).collect();

    let state = |cell: usize| {
        let (from, to) = (edge(cell), if cell + 1 == cells { last.since } else { edge(cell + 1) });
        let holds = |at: Duration| from <= at && (at < to || cell + 1 == cells);
        let is_end = row.span.is_some_and(|(first, last)| holds(first.since) || holds(last.since));
        // Even within an outage, unobserved time is not known to be downtime.
        if !is_end && from < to && unobserved.iter().any(|(begin, end)| *begin <= from && *end >= to) {
            return State::Unobserved;
        }

        let touches = |begin: Duration, end: Duration| begin <= to && end >= from && (begin < to || cell + 1 == cells);
        if down.iter().any(|(begin, end)| touches(*begin, *end)) { State::Down } else { State::Up }
    };
    (0..cells).map(state).collect()
}

#[cfg(test)]
mod tests {
    use crate::report::Unlisted;
    use chrono::DateTime;

    use super::*;
    use crate::history::intervals::Intervals;
    use crate::history::ledger::Coverage;
    use crate::model::clock::{Moment, Stamp};
    use crate::model::subject::Subject;

    fn at(second: u64) -> Moment {
        let at = DateTime::from_timestamp(i64::try_from(second).unwrap(), 0).unwrap().fixed_offset();
        Moment { stamp: Stamp { at, millis: false }, since: Duration::from_secs(second) }
    }

    /// The bar of a row that was observed in `span` except for `gaps`, in ten cells of one second each.
    fn drawn(span: (u64, u64), gaps: &[(u64, u64)]) -> String {
        let mut unobserved = Intervals::default();
        gaps.iter().for_each(|(from, to)| unobserved.add(at(*from).since, at(*to).since));
        let row = Row {
            subject: Subject::default(),
            checks: 1,
            failures: 0,
            alone: 0,
            availability: Some(1.0),
            latency: None,
            outages: Vec::new(),
            unlisted: Unlisted::default(),
            coverage: Coverage::default(),
            gaps: unobserved.into(),
            span: Some((at(span.0), at(span.1))),
            folder: None,
        };
        let report = Report { span: Some((at(0), at(10))), ..Report::default() };
        let states = bar(&report, &row, 10).into_iter();
        states
            .map(|state| match state {
                State::Up => '=',
                State::Down => 'X',
                State::Unobserved => '.',
            })
            .collect()
    }

    #[test]
    fn unobserved_time_is_neither_up_nor_down() {
        assert_eq!(drawn((0, 10), &[]), "==========");
        assert_eq!(drawn((0, 10), &[(3, 6)]), "===...====");
        assert_eq!(drawn((4, 6), &[]), "....===...");
        // A single check is visible wherever it is.
        assert_eq!(drawn((0, 0), &[]), "=.........");
        assert_eq!(drawn((10, 10), &[]), ".........=");
    }
}
