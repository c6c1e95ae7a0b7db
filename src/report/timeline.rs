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
    let down: Vec<_> = row.down().collect();
    let unobserved: Vec<_> = row.unobserved((first.since, last.since)).collect();
    let state = |cell: usize| {
        let (from, to) = (edge(cell), if cell + 1 == cells { last.since } else { edge(cell + 1) });
        // What was not observed is not known to have been down, even inside an outage.
        if from < to && unobserved.iter().any(|(begin, end)| *begin <= from && *end >= to) {
            return State::Unobserved;
        }
        let touches = |begin: Duration, end: Duration| begin <= to && end >= from && (begin < to || cell + 1 == cells);
        if down.iter().any(|(begin, end)| touches(*begin, *end)) { State::Down } else { State::Up }
    };
    (0..cells).map(state).collect()
}
