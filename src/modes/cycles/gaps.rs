//! Which scheduled checks were not run, and why: this process, or its machine, did not run. Pure.

use std::time::Duration;

use crate::model::clock::Moment;
use crate::model::event::Event;

/// A check that starts later than this is missed, unless its interval is longer still.
pub const MAX_DELAY: Duration = Duration::from_millis(100);

/// What was not observed, from tick to tick.
pub struct GapTracker {
    check_interval: Duration,
    /// When the last tick began, or the run.
    last_tick: Moment,
    /// Checks that are overdue and will not be made.
    missed: Option<Missed>,
    /// For how long the machine had been suspended when the last tick began.
    suspended: Duration,
    /// How many records had been lost when the last tick began.
    lost: u64,
    /// How often observation was interrupted, and whether it is now.
    gaps: u64,
    is_interrupted: bool,
}

struct Missed {
    since: Moment,
    count: u64,
}

impl GapTracker {
    /// Of a run that begins `now`, on a machine that has been suspended for so long.
    pub fn new(check_interval: Duration, now: Moment, suspended: Duration) -> Self {
        GapTracker { check_interval, last_tick: now, missed: None, suspended, lost: 0, gaps: 0, is_interrupted: false }
    }

    /// Whether a check that is late by so much is missed. Once one is, so are all that are overdue: there is no burst of
    /// those that a busy machine could just have made.
    pub fn is_missed(&self, late: Duration) -> bool {
        late >= self.check_interval && (late >= MAX_DELAY || self.missed.is_some())
    }

    /// Takes note of a missed check.
    pub fn miss(&mut self, now: Moment, late: Duration) {
        // What was missed begins behind the last check that was made.
        let due = now.earlier(late);
        let since = if due.since < self.last_tick.since { self.last_tick } else { due };
        self.missed.get_or_insert(Missed { since, count: 0 }).count += 1;
    }

    /// A break begins.
    pub fn interrupt(&mut self) {
        self.is_interrupted = true;
    }

    /// The checks that were missed since the last tick, if any were.
    pub fn take_missed(&mut self, now: Moment) -> Option<Event> {
        let Missed { since, count } = self.missed.take()?;
        self.is_interrupted = true;
        Some(Event::NotObserved { from: since, to: now.stamp, missed: count })
    }

    /// The checks that the machine slept over since the last tick, if it was suspended for longer than an interval.
    ///
    /// The clock that the schedule follows stands still meanwhile, so checks do not come late then: the system tells how
    /// long the machine slept.
    pub fn take_suspension(&mut self, now: Moment, suspended: Duration) -> Option<Event> {
        let slept = suspended.saturating_sub(std::mem::replace(&mut self.suspended, suspended));
        if slept < self.check_interval.max(MAX_DELAY) {
            return None;
        }

        self.is_interrupted = true;
        let missed = u64::try_from(slept.as_nanos() / self.check_interval.as_nanos()).unwrap_or(u64::MAX);
        Some(Event::NotObserved { from: now.earlier(slept), to: now.stamp, missed })
    }

    /// The records that were lost since the last tick, if any were: what they would have told is not known.
    pub fn take_lost(&mut self, now: Moment, lost: u64) -> Option<Event> {
        let count = lost - std::mem::replace(&mut self.lost, lost);
        if count == 0 {
            return None;
        }

        self.is_interrupted = true;
        Some(Event::RecordsLost { from: self.last_tick, to: now.stamp, count })
    }

    /// A tick begins; gives how often observation has been interrupted before.
    pub fn begin_tick(&mut self, now: Moment) -> u64 {
        self.last_tick = now;
        self.gaps += u64::from(std::mem::take(&mut self.is_interrupted));
        self.gaps
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::model::clock::Stamp;

    const INTERVAL: Duration = Duration::from_millis(200);

    fn at(millis: u64) -> Moment {
        let at = DateTime::from_timestamp_millis(i64::try_from(millis).unwrap()).unwrap().fixed_offset();
        Moment { stamp: Stamp { at, millis: true }, since: Duration::from_millis(millis) }
    }

    #[test]
    fn overdue_checks_are_missed_together() {
        let millis = Duration::from_millis;
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::ZERO);
        assert_eq!(gap_tracker.begin_tick(at(0)), 0);
        assert!(!gap_tracker.is_missed(millis(199)));

        // The process stood still from 100 to 700 ms: the checks due at 200 and 400 are missed, that at 600 is late.
        for late in [500, 300] {
            assert!(gap_tracker.is_missed(millis(late)));
            gap_tracker.miss(at(700), millis(late));
        }
        assert!(!gap_tracker.is_missed(millis(100)));
        let Some(Event::NotObserved { from, to, missed }) = gap_tracker.take_missed(at(700)) else { unreachable!() };
        assert_eq!((from, to, missed), (at(200), at(700).stamp, 2));
        assert!(gap_tracker.take_missed(at(700)).is_none());
        assert_eq!((gap_tracker.begin_tick(at(700)), gap_tracker.begin_tick(at(800))), (1, 1));
    }

    #[test]
    fn a_suspension_is_told_when_it_is_longer_than_an_interval() {
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::from_secs(5));
        assert!(gap_tracker.take_suspension(at(200), Duration::from_millis(5_199)).is_none());
        let told = gap_tracker.take_suspension(at(1_400), Duration::from_millis(6_199));
        let Some(Event::NotObserved { from, missed, .. }) = told else { unreachable!() };
        assert_eq!((from, missed), (at(400), 5));
    }

    #[test]
    fn lost_records_are_a_gap_behind_the_last_tick() {
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::ZERO);
        gap_tracker.begin_tick(at(200));
        assert!(gap_tracker.take_lost(at(400), 0).is_none());
        let Some(Event::RecordsLost { from, count, .. }) = gap_tracker.take_lost(at(600), 3) else { unreachable!() };
        assert_eq!((from, count), (at(200), 3));
        assert!(gap_tracker.take_lost(at(800), 3).is_none());
        assert_eq!(gap_tracker.begin_tick(at(800)), 1);
    }
}
