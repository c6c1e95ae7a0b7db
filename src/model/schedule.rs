//! When checks start: cycles of a fixed length with breaks between them. Pure: offsets from the start of the run.

use std::time::Duration;

/// The schedule of a `cycles` run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub cycles: u32,
    /// How long one cycle lasts.
    pub run_duration: Duration,
    /// From the start of one check to the start of the next.
    pub check_interval: Duration,
    /// The break between two cycles. There is none after the last.
    pub break_duration: Duration,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A cycle begins, numbered from 1.
    CycleStarts(u32),
    CheckStarts,
    CycleEnds(u32),
}

impl Schedule {
    /// How long the whole run takes. None if that overflows a `Duration`.
    pub fn total(&self) -> Option<Duration> {
        let cycles = self.run_duration.checked_mul(self.cycles)?;
        cycles.checked_add(self.break_duration.checked_mul(self.cycles.checked_sub(1)?)?)
    }

    /// How many checks one cycle has: one at each multiple of the interval before its end.
    pub fn checks_per_cycle(&self) -> u128 {
        self.run_duration.as_nanos().div_ceil(self.check_interval.as_nanos())
    }

    /// All steps in their order, each with its offset from the start of the run.
    pub fn steps(self) -> impl Iterator<Item = (Duration, Step)> {
        (1..=self.cycles).flat_map(move |cycle| {
            let start = (self.run_duration + self.break_duration) * (cycle - 1);
            let checks = std::iter::successors(Some(Duration::ZERO), move |at| at.checked_add(self.check_interval))
                .take_while(move |at| *at < self.run_duration)
                .map(move |at| (start + at, Step::CheckStarts));
            std::iter::once((start, Step::CycleStarts(cycle)))
                .chain(checks)
                .chain(std::iter::once((start + self.run_duration, Step::CycleEnds(cycle))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cycles: u32, run: u64, interval: u64, break_seconds: u64) -> Schedule {
        let seconds = Duration::from_secs;
        Schedule {
            cycles,
            run_duration: seconds(run),
            check_interval: seconds(interval),
            break_duration: seconds(break_seconds),
        }
    }

    #[test]
    fn the_defaults_take_thirty_five_minutes() {
        let defaults = schedule(4, 300, 60, 300);
        assert_eq!(defaults.total(), Some(Duration::from_secs(35 * 60)));
        assert_eq!(defaults.checks_per_cycle(), 5);
        assert_eq!(defaults.steps().last(), Some((Duration::from_secs(35 * 60), Step::CycleEnds(4))));
        assert_eq!(defaults.steps().filter(|(_, event)| *event == Step::CheckStarts).count(), 20);
    }

    #[test]
    fn checks_start_at_multiples_of_the_interval_before_the_end() {
        let at = |schedule: Schedule| -> Vec<u64> {
            let checks = schedule.steps().filter(|(_, event)| *event == Step::CheckStarts);
            checks.map(|(at, _)| at.as_secs()).collect()
        };
        assert_eq!(at(schedule(2, 3, 1, 1)), [0, 1, 2, 4, 5, 6]);
        assert_eq!(at(schedule(1, 5, 2, 0)), [0, 2, 4]);
        assert_eq!(at(schedule(1, 4, 2, 0)), [0, 2]);
        assert_eq!(at(schedule(1, 1, 60, 0)), [0]);
        assert_eq!(at(schedule(2, 2, 1, 0)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_total_that_overflows_is_none() {
        assert_eq!(schedule(u32::MAX, u64::MAX / 2, 1, 0).total(), None);
    }
}
