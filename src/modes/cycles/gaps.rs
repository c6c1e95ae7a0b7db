//! Tracks gaps in observation: checks that were scheduled but not run because this process or its machine was
//! suspended, and lost records. Pure.

use std::time::Duration;

use crate::model::clock::Moment;
use crate::model::event::Event;

/// A check that would start later than this is not run, unless the check interval is even longer.
pub const MAX_DELAY: Duration = Duration::from_millis(100);

/// The longest time that one mark of lost records covers. `report` holds back events for longer than that, so that it
/// processes the mark before the checks that follow the beginning of the loss.
const MAX_MARK: Duration = Duration::from_secs(60);

/// Tracks what was not observed between ticks.
pub struct GapTracker {
    check_interval: Duration,
    /// When the last tick began, or the run if there was none.
    last_tick: Moment,
    /// Checks that were scheduled but not run since the last tick.
    missed: Option<Missed>,
    /// The total time that the machine was suspended, as of the last tick.
    suspended: Duration,
    /// The number of lost records that a mark was made for.
    lost: u64,
    /// The last tick before records were lost that have no mark yet.
    lost_since: Option<Moment>,
}

struct Missed {
    since: Moment,
    count: u64,
}

impl GapTracker {
    /// For a run that begins `now`. `suspended` is the total time that the machine was suspended before.
    pub fn new(check_interval: Duration, now: Moment, suspended: Duration) -> Self {
        GapTracker { check_interval, last_tick: now, missed: None, suspended, lost: 0, lost_since: None }
    }

    /// Whether a check that is late by `late` is not run. Once one is not run, all other overdue checks are not run
    /// either, so there is never a burst of late checks.
    pub fn is_missed(&self, late: Duration) -> bool {
        late >= self.check_interval && (late >= MAX_DELAY || self.missed.is_some())
    }

    /// Records a check that is not run.
    pub fn miss(&mut self, now: Moment, late: Duration) {
        // The gap cannot begin before the last check that was run.
        let due = now.earlier(late);
        let since = if due.since < self.last_tick.since { self.last_tick } else { due };
        self.missed.get_or_insert(Missed { since, count: 0 }).count += 1;
    }

    /// The checks that were scheduled but not run since the last tick, if any.
    pub fn take_missed(&mut self, now: Moment) -> Option<Event> {
        let Missed { since, count } = self.missed.take()?;
        Some(Event::NotObserved { from: since, to: now.stamp, missed: count })
    }

    /// The checks that were not run while the machine was suspended since the last tick, if it was suspended for longer
    /// than an interval.
    ///
    /// The monotonic clock of the schedule stands still during a suspension, so these checks are not late. The system
    /// reports how long the machine was suspended.
    pub fn take_suspension(&mut self, now: Moment, suspended: Duration) -> Option<Event> {
        let slept = suspended.saturating_sub(std::mem::replace(&mut self.suspended, suspended));
        if slept < self.check_interval.max(MAX_DELAY) {
            return None;
        }

        let missed = u64::try_from(slept.as_nanos() / self.check_interval.as_nanos()).unwrap_or(u64::MAX);
        Some(Event::NotObserved { from: now.earlier(slept), to: now.stamp, missed })
    }

    /// The records that were lost since the last mark, if any. Their results are unknown. There is no mark until the
    /// loss `is_over`, or for [`MAX_MARK`]. The first lost record may be of a check that began before the mark's `from`.
    pub fn take_lost(&mut self, now: Moment, lost: u64, is_over: bool) -> Option<Event> {
        if lost == self.lost {
            return None;
        }
        let from = *self.lost_since.get_or_insert(self.last_tick);
        if !is_over && now.since < from.since + MAX_MARK {
            return None;
        }

        self.lost_since = None;
        let count = lost - std::mem::replace(&mut self.lost, lost);
        Some(Event::RecordsLost { from, to: now.stamp, count })
    }

    /// Begins a tick.
    pub fn begin_tick(&mut self, now: Moment) {
        self.last_tick = now;
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
    fn no_overdue_check_is_run_after_one_was_not() {
        let millis = Duration::from_millis;
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::ZERO);
        gap_tracker.begin_tick(at(0));
        assert!(!gap_tracker.is_missed(millis(199)));

        // The process did not run from 100 to 700 ms: the checks scheduled at 200 and 400 are not run, the one at 600
        // is late.
        for late in [500, 300] {
            assert!(gap_tracker.is_missed(millis(late)));
            gap_tracker.miss(at(700), millis(late));
        }
        assert!(!gap_tracker.is_missed(millis(100)));
        let Some(Event::NotObserved { from, to, missed }) = gap_tracker.take_missed(at(700)) else { unreachable!() };
        assert_eq!((from, to, missed), (at(200), at(700).stamp, 2));
        assert!(gap_tracker.take_missed(at(700)).is_none());
    }

    #[test]
    fn a_suspension_is_reported_if_it_is_longer_than_an_interval() {
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::from_secs(5));
        assert!(gap_tracker.take_suspension(at(200), Duration::from_millis(5_199)).is_none());
        let event = gap_tracker.take_suspension(at(1_400), Duration::from_millis(6_199));
        let Some(Event::NotObserved { from, missed, .. }) = event else { unreachable!() };
        assert_eq!((from, missed), (at(400), 5));
    }

    #[test]
    fn lost_records_are_one_gap_since_the_last_tick_before() {
        let mut gap_tracker = GapTracker::new(INTERVAL, at(0), Duration::ZERO);
        gap_tracker.begin_tick(at(200));
        assert!(gap_tracker.take_lost(at(400), 0, true).is_none());
        gap_tracker.begin_tick(at(400));
        assert!(gap_tracker.take_lost(at(600), 3, false).is_none());
        gap_tracker.begin_tick(at(600));
        let Some(Event::RecordsLost { from, to, count }) = gap_tracker.take_lost(at(800), 4, true) else {
            unreachable!()
        };
        assert_eq!((from, to, count), (at(400), at(800).stamp, 4));
        assert!(gap_tracker.take_lost(at(1_000), 4, true).is_none());
        // A loss that goes on is told in parts.
        assert!(gap_tracker.take_lost(at(1_200), 5, false).is_none());
        assert!(gap_tracker.take_lost(at(59_000), 6, false).is_none());
        assert!(gap_tracker.take_lost(at(61_000), 7, false).is_some());
    }
}
