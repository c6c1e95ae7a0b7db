//! What was when, cut into equal spans of time: for the bar of the text and the bands of the page. Pure.

use std::time::Duration;

use super::{Report, Row};

/// What a span of time was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    /// At least one outage lies in it.
    Down,
    /// All of it lies in a gap.
    Unobserved,
}

/// The states of one row in `cells` equal spans from the first check to the last.
pub fn bar(report: &Report, row: &Row, cells: usize) -> Vec<State> {
    let Some((first, last)) = report.span else { return Vec::new() };
    let (start, length) = (first.since, last.since.saturating_sub(first.since));
    let cells_u32 = u32::try_from(cells).unwrap_or(u32::MAX).max(1);
    let edge = |cell: usize| start + length / cells_u32 * u32::try_from(cell).unwrap_or(u32::MAX);
    let state = |cell: usize| {
        let (from, to) = (edge(cell), if cell + 1 == cells { last.since } else { edge(cell + 1) });
        let touches = |begin: Duration, end: Duration| begin <= to && end >= from && (begin < to || cell + 1 == cells);
        let down = row.outages.iter().any(|outage| {
            let end = outage.first_success_after.unwrap_or(outage.last_failure).since;
            touches(outage.first_failure.since, end)
        });
        let gap = row.gaps.iter().any(|gap| gap.from.since <= from && gap.to.since >= to && from < to);
        let outside = row.span.is_none_or(|(first, last)| to < first.since || from > last.since);
        match (down, gap || outside) {
            (true, _) => State::Down,
            (false, true) => State::Unobserved,
            (false, false) => State::Up,
        }
    };
    (0..cells).map(state).collect()
}
