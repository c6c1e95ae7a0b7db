//! A bounded list of time intervals: if there are too many, the closest ones are merged.

use std::time::Duration;

/// The maximum number of intervals of a drawing. More could not be distinguished.
const DRAWN: usize = 1024;

/// Time intervals, in order, without overlaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals {
    spans: Vec<(Duration, Duration)>,
    /// The maximum number of intervals.
    limit: usize,
    /// Neighbours that are at most this far apart are merged.
    resolution: Duration,
}

impl Default for Intervals {
    /// As many as a drawing can show.
    fn default() -> Self {
        Self::at_most(DRAWN)
    }
}

impl Intervals {
    /// An empty list of at most `limit` intervals.
    pub const fn at_most(limit: usize) -> Self {
        Intervals { spans: Vec::new(), limit, resolution: Duration::ZERO }
    }

    /// Adds an interval, which may be anywhere. It is merged with those that it touches.
    pub fn add(&mut self, from: Duration, to: Duration) {
        let first = self.spans.partition_point(|(_, end)| *end + self.resolution < from);
        let after = self.spans.partition_point(|(begin, _)| *begin <= to + self.resolution);
        let touched = self.spans.get(first..after).and_then(|touched| touched.first().zip(touched.last()));
        let merged = touched.map_or((from, to), |((begin, _), (_, end))| (from.min(*begin), to.max(*end)));
        self.spans.splice(first..after.max(first), [merged]);

        while self.spans.len() > self.limit {
            self.resolution = (self.resolution * 2).max(Duration::from_millis(1));
            let resolution = self.resolution;
            self.spans.dedup_by(|next, before| {
                let is_close = next.0 <= before.1 + resolution;
                if is_close {
                    before.1 = next.1;
                }
                is_close
            });
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Duration, Duration)> {
        self.spans.iter().copied()
    }

    /// Whether any interval has time in common with the one from `from` to `to`.
    pub fn overlap(&self, from: Duration, to: Duration) -> bool {
        let first = self.spans.partition_point(|(_, end)| *end <= from);
        self.spans.get(first).is_some_and(|(begin, _)| *begin < to)
    }

    /// The parts of the intervals between `from` and `to`.
    #[must_use]
    pub fn within(&self, from: Duration, to: Duration) -> Self {
        let cut = self.iter().map(|(begin, end)| (begin.max(from), end.min(to)));
        Intervals { spans: cut.filter(|(begin, end)| begin < end).collect(), ..*self }
    }

    /// When the first interval begins that does not begin before `at`.
    pub fn begin_after(&self, at: Duration) -> Option<Duration> {
        let place = self.spans.partition_point(|(begin, _)| *begin < at);
        self.spans.get(place).map(|(begin, _)| *begin)
    }

    /// The sum of their lengths.
    pub fn total(&self) -> Duration {
        self.iter().map(|(begin, end)| end - begin).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn of(spans: &[(u64, u64)]) -> Intervals {
        let mut intervals = Intervals::default();
        spans.iter().for_each(|(from, to)| intervals.add(seconds(*from), seconds(*to)));
        intervals
    }

    fn whole_seconds(intervals: &Intervals) -> Vec<(u64, u64)> {
        intervals.iter().map(|(from, to)| (from.as_secs(), to.as_secs())).collect()
    }

    #[test]
    fn the_closest_intervals_are_merged_when_there_are_too_many() {
        let mut spans = of(&[(1, 2), (2, 3), (10, 11)]);
        assert_eq!(whole_seconds(&spans), [(1, 3), (10, 11)]);
        for minute in 1..10_000 {
            spans.add(seconds(minute * 60), seconds(minute * 60 + 1));
        }
        assert!(spans.iter().count() <= DRAWN);
        assert_eq!(spans.iter().last().map(|(_, to)| to), Some(seconds(9_999 * 60 + 1)));
    }

    #[test]
    fn intervals_are_added_in_any_order() {
        let sorted = [(1, 3), (5, 6), (8, 12), (20, 21)];
        for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            assert_eq!(whole_seconds(&of(&order.map(|index| sorted[index]))), sorted);
        }
        // An interval inside another one, one around two others, and one that only touches.
        assert_eq!(whole_seconds(&of(&[(8, 12), (9, 10), (1, 3), (2, 9), (12, 13)])), [(1, 13)]);

        // No interval is lost when those of a later batch are earlier.
        let mut spans = Intervals::default();
        for minute in (1..3_000).rev().chain(3_000..6_000) {
            spans.add(seconds(minute * 60), seconds(minute * 60 + 30));
        }
        assert!((1..6_000).all(|minute| spans.overlap(seconds(minute * 60), seconds(minute * 60 + 30))));
    }

    #[test]
    fn parts_of_intervals_are_found() {
        let spans = of(&[(1, 3), (10, 20)]);
        let overlap = |from, to| spans.overlap(seconds(from), seconds(to));
        assert!(overlap(0, 2) && overlap(2, 2_000) && overlap(12, 13) && overlap(3, 11));
        assert!(!overlap(3, 10) && !overlap(0, 1) && !overlap(20, 30));
        assert_eq!(whole_seconds(&spans.within(seconds(2), seconds(12))), [(2, 3), (10, 12)]);
        assert_eq!(spans.within(seconds(3), seconds(10)), Intervals::default());
        assert_eq!((spans.total(), spans.within(seconds(2), seconds(12)).total()), (seconds(12), seconds(3)));
    }
}
