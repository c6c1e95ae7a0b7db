//! A value over time, in a bounded number of equal spans: when they no longer suffice, neighbours are merged.

use std::time::Duration;

/// The maximum number of spans: about as many points as fit on a page.
const SPANS: usize = 512;

/// The values in one span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    pub count: u64,
    pub sum: Duration,
    pub max: Duration,
}

impl Span {
    /// The mean of its values. None if it has none.
    pub fn mean(&self) -> Option<Duration> {
        u32::try_from(self.count).ok().filter(|count| *count > 0).map(|count| self.sum / count)
    }

    fn merge(self, other: Span) -> Span {
        Span { count: self.count + other.count, sum: self.sum + other.sum, max: self.max.max(other.max) }
    }
}

/// Values over time.
#[derive(Clone, Debug, Default)]
pub struct TimeSeries {
    /// When the first span begins.
    start: Duration,
    /// How long each span is.
    width: Duration,
    spans: Vec<Span>,
}

impl TimeSeries {
    /// Adds a value. `at` is the time since the origin of the fold. A value before the first one is added to the first
    /// span.
    pub fn add(&mut self, at: Duration, value: Duration) {
        if self.spans.is_empty() {
            self.start = at;
            self.width = Duration::from_millis(1);
        }

        let index = loop {
            let offset = at.saturating_sub(self.start).as_nanos() / self.width.as_nanos().max(1);
            match usize::try_from(offset) {
                Ok(index) if index < SPANS => break index,
                _ => self.halve(),
            }
        };

        if self.spans.len() <= index {
            self.spans.resize(index + 1, Span::default());
        }
        self.spans[index] = self.spans[index].merge(Span { count: 1, sum: value, max: value });
    }

    /// Merges each pair of spans.
    fn halve(&mut self) {
        self.width *= 2;
        self.spans = self.spans.chunks(2).map(|pair| pair.iter().copied().fold(Span::default(), Span::merge)).collect();
    }

    /// The spans that have values, each with the time of its middle.
    pub fn points(&self) -> impl Iterator<Item = (Duration, Span)> {
        let spans = self.spans.iter().enumerate().filter(|(_, span)| span.count > 0);
        spans.map(|(index, span)| {
            let steps = u32::try_from(index).unwrap_or(u32::MAX);
            (self.start + self.width * steps + self.width / 2, *span)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_its_sum_and_its_size() {
        let mut series = TimeSeries::default();
        for second in 0..100_000 {
            series.add(Duration::from_secs(1_000 + second), Duration::from_millis(second % 10));
        }
        let points: Vec<_> = series.points().collect();
        assert!((200..=SPANS).contains(&points.len()), "{}", points.len());
        assert_eq!(points.iter().map(|(_, span)| span.count).sum::<u64>(), 100_000);
        assert!(points.iter().all(|(_, span)| span.max == Duration::from_millis(9)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(points[10].1.mean().map(|mean| mean.as_millis()), Some(4));
    }
}
