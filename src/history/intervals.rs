//! A bounded list of time intervals: if there are too many, the closest ones are merged.

use std::time::Duration;

/// The maximum number of intervals. More could not be distinguished in a drawing.
const LIMIT: usize = 1024;

/// Time intervals, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    spans: Vec<(Duration, Duration)>,
    /// Neighbours that are at most this far apart are merged.
    resolution: Duration,
}

impl Intervals {
    /// Adds an interval. It must not begin before the previous ones.
    pub fn add(&mut self, from: Duration, to: Duration) {
        match self.spans.last_mut() {
            Some((_, end)) if from <= *end + self.resolution => *end = to.max(*end),
            _ => self.spans.push((from, to)),
        }
        while self.spans.len() > LIMIT {
            self.resolution = (self.resolution * 2).max(Duration::from_millis(1));
            let all = std::mem::take(&mut self.spans);
            for (from, to) in all {
                match self.spans.last_mut() {
                    Some((_, end)) if from <= *end + self.resolution => *end = to,
                    _ => self.spans.push((from, to)),
                }
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Duration, Duration)> {
        self.spans.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_intervals_are_merged_when_there_are_too_many() {
        let seconds = Duration::from_secs;
        let mut spans = Intervals::default();
        spans.add(seconds(1), seconds(2));
        spans.add(seconds(2), seconds(3));
        spans.add(seconds(10), seconds(11));
        assert_eq!(spans.iter().collect::<Vec<_>>(), [(seconds(1), seconds(3)), (seconds(10), seconds(11))]);
        for minute in 1..10_000 {
            spans.add(seconds(minute * 60), seconds(minute * 60 + 1));
        }
        assert!(spans.iter().count() <= LIMIT);
        assert_eq!(spans.iter().last().map(|(_, to)| to), Some(seconds(9_999 * 60 + 1)));
    }
}
