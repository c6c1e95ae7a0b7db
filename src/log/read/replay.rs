//! Replays events from logs into ledgers, as a live run does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use super::reader::{Block, EventKind, LogEvent, LoggedCheck, LoggedResult};
use crate::history::ledger::{Check, Gap, Ledger};
use crate::log::record::{Mark, Mode};
use crate::model::change::{Changed, Observed};
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::Failure;
use crate::model::subject::{Subject, Target};

/// The checks of one command, and the gaps between them.
#[derive(Default)]
struct Stream {
    ledger: Ledger,
    usual_interval: UsualInterval,
    /// Since when nothing has been observed. Ends with the next check.
    gap: Option<Moment>,
    /// Until when records were lost. The time between two checks before that is a gap.
    lost_until: Option<Moment>,
    /// How long the break after the last cycle is.
    break_duration: Duration,
    /// Each check also writes a canary key.
    writes: bool,
    /// Plain successes that are not in the ledger yet: how many, and the last of them.
    run: Option<(u64, Moment)>,
}

impl Stream {
    /// Processes a check. A check from before the requested range is not `counted`.
    fn take(
        &mut self,
        at: Stamp,
        subject: &Subject,
        result: Result<(), &Failure>,
        took: Option<Duration>,
        counted: bool,
    ) {
        let at = moment(at);
        let overdue = self.usual_interval.gap_before(at);
        match counted {
            true => self.check(at, overdue, subject, result, took),
            false => self.remember(at, subject, result),
        }
    }

    /// Processes a plain success of the endpoint. Another one after it changes only a count and a time, so a whole run of
    /// them is added to the ledger at once. Most of a log consists of such runs.
    fn success(&mut self, at: Stamp) {
        let at = moment(at);
        let overdue = self.usual_interval.gap_before(at);
        match &mut self.run {
            Some((count, last)) if overdue.is_none() && last.since <= at.since => {
                *count += 1;
                *last = at;
            }
            _ => {
                self.end_run();
                self.check(at, overdue, &Subject::default(), Ok(()), None);
                // After lost records, or with writes, the next success changes more than a count.
                let plain = self.lost_until.is_none() && !self.writes;
                self.run = plain.then_some((0, at));
            }
        }
    }

    /// Adds the run to the ledger, before anything else is processed.
    fn end_run(&mut self) {
        if let Some((count, last)) = self.run.take() {
            self.ledger.passed_again(&Subject::default(), count, last);
        }
    }

    /// Processes a check. `overdue` is the check before it if others were due in between and not logged.
    fn check(
        &mut self,
        at: Moment,
        overdue: Option<Moment>,
        subject: &Subject,
        result: Result<(), &Failure>,
        took: Option<Duration>,
    ) {
        if let Some(from) = self.gap.take().or(overdue).or_else(|| self.lost_before(at)) {
            self.ledger.gap(Gap { from, to: at });
        }

        let writes = self.writes && subject.target.reads_and_writes();
        let gaps = self.ledger.gaps.count;
        // The logs do not contain how much time passed before the failing phase.
        let took = took.filter(|_| result.is_ok());
        self.ledger.check(&Check { subject, at, took, result, writes, gaps });
    }

    /// The last check before this one, if records may have been lost in between.
    fn lost_before(&mut self, at: Moment) -> Option<Moment> {
        let (last, until) = (self.ledger.last?, self.lost_until?);
        if last.since >= until.since {
            self.lost_until = None;
        }
        (last.since < until.since && last.since < at.since).then_some(last)
    }

    /// Takes a check from before the requested range: it sets the state but is not counted.
    fn remember(&mut self, at: Moment, subject: &Subject, result: Result<(), &Failure>) {
        self.gap = None;
        let check = Check { subject, at, took: None, result, writes: self.writes, gaps: 0 };
        self.ledger.remember(&check);
    }

    /// Nothing is observed from here to the next check.
    fn begin_gap(&mut self, from: Moment) {
        self.gap.get_or_insert(from);
    }
}

/// The state of a replay.
#[derive(Default)]
pub struct Replay {
    dbs: Stream,
    cycles: Stream,
    repeated: Repeated,
    /// The last known address and identity of each target, from scans that contain them.
    observed: BTreeMap<Target, Observed>,
}

/// The failures in the blocks of one timestamp. The error log repeats each of them.
#[derive(Default)]
struct Repeated {
    at: Option<DateTime<FixedOffset>>,
    failures: Vec<(Subject, Failure)>,
}

impl Repeated {
    fn add(&mut self, at: DateTime<FixedOffset>, failures: impl Iterator<Item = (Subject, Failure)>) {
        if self.at.replace(at) != Some(at) {
            self.failures.clear();
        }
        self.failures.extend(failures);
    }

    /// Whether a failure repeats one of a block. Each is repeated once.
    fn take(&mut self, at: DateTime<FixedOffset>, subject: &Subject, failure: &Failure) -> bool {
        let place = self.failures.iter().position(|(s, f)| s == subject && f == failure);
        self.at == Some(at) && place.map(|place| self.failures.swap_remove(place)).is_some()
    }
}

impl Replay {
    /// The ledgers of `dbs` and of `cycles`, after the last event.
    pub fn into_ledgers(mut self) -> (Ledger, Ledger) {
        self.cycles.end_run();
        (self.dbs.ledger, self.cycles.ledger)
    }

    /// Processes the next event. An event from before the requested range is not `counted`: it only sets the state.
    pub fn take(&mut self, LogEvent { at, kind }: LogEvent, counted: bool) {
        if counted && matches!(kind, EventKind::Success { db: None }) {
            return self.cycles.success(at);
        }
        self.cycles.end_run();
        match kind {
            EventKind::Success { db } => {
                self.cycles.take(at, &Subject { db, ..Subject::default() }, Ok(()), None, counted);
            }
            EventKind::Check(check) => self.check(at, &check, counted),
            EventKind::Block(block) => self.block(*block, counted),
            EventKind::Mark(mark) => self.mark(*mark, counted),
        }
    }

    fn check(&mut self, at: Stamp, check: &LoggedCheck, counted: bool) {
        let LoggedCheck { mode, subject, result, elapsed } = check;
        if let Err(failure) = result
            && *mode != Some(Mode::Cycles)
            && self.repeated.take(at.at, subject, failure)
        {
            return;
        }

        let stream = if *mode == Some(Mode::Dbs) { &mut self.dbs } else { &mut self.cycles };
        stream.take(at, subject, result.as_ref().copied(), *elapsed, counted);
    }

    fn block(&mut self, block: Block, counted: bool) {
        self.dbs.writes = block.writes;
        for LoggedResult { subject, result, elapsed, connection } in &block.results {
            self.dbs.take(block.stamp, subject, result.as_ref().copied(), *elapsed, counted);
            if let Some(connection) = connection {
                let target = &subject.target;
                for change in self.observed.entry(target.clone()).or_default().update(connection) {
                    if counted {
                        self.dbs.ledger.change(Changed { target: target.clone(), at: block.stamp, change });
                    }
                }
            }
        }

        let failures = block.results.into_iter().filter_map(|logged| Some((logged.subject, logged.result.err()?)));
        self.repeated.add(block.stamp.at, failures);
    }

    fn mark(&mut self, mark: Mark, counted: bool) {
        let cycles = &mut self.cycles;
        match mark {
            Mark::CycleStarted { cycle: 1, .. } => {
                // A killed run leaves no mark at its end.
                if let Some(last) = cycles.ledger.last {
                    cycles.begin_gap(last);
                }
                cycles.writes = false;
            }
            Mark::CycleStarted { at, .. } => {
                let length = std::mem::take(&mut cycles.break_duration);
                if !length.is_zero() {
                    cycles.begin_gap(moment(at).earlier(length));
                }
            }
            // The classic line does not contain when the break began, but the start of the next cycle is known.
            Mark::CycleCompleted { break_duration, .. } => cycles.break_duration = break_duration,
            Mark::AllFinished { at } | Mark::Stopped { at, .. } => cycles.begin_gap(moment(at)),
            Mark::Canary { .. } => cycles.writes = true,
            Mark::NotObserved { from, missed, .. } => {
                cycles.begin_gap(moment(from));
                cycles.ledger.missed += if counted { missed } else { 0 };
            }
            Mark::RecordsLost { from, to, .. } => {
                cycles.begin_gap(moment(from));
                cycles.lost_until = Some(moment(to));
            }
            Mark::Changed { target, at, change } if counted => cycles.ledger.change(Changed { target, at, change }),
            Mark::OutageEnded { subject, at_least, at_most, .. } if counted => {
                cycles.ledger.set_reported_bounds(&subject, at_least, at_most);
            }
            Mark::RunStarted { .. } | Mark::Changed { .. } | Mark::OutageBegan { .. } | Mark::OutageEnded { .. } => {}
        }
    }
}

fn moment(stamp: Stamp) -> Moment {
    let since = stamp.at.timestamp_micros();
    Moment { stamp, since: Duration::from_micros(u64::try_from(since).unwrap_or(0)) }
}

/// Finds gaps in checks that run at regular intervals: a cron job that did not run, a machine that was off.
#[derive(Default)]
struct UsualInterval {
    last: Option<Moment>,
    /// The last intervals. An additional check, run by hand, does not change the longest one.
    recent: VecDeque<Duration>,
    /// The last unusually long interval. If the next one is similar, the usual interval has changed.
    unusual: Option<Duration>,
    /// The value of all recent intervals, if they are equal. Another one of the same value changes nothing.
    steady: Option<Duration>,
}

/// How many intervals are remembered, and how many are needed to determine the usual one.
const REMEMBERED: usize = 5;
const ENOUGH: usize = 2;

/// Intervals vary because of timestamps in whole seconds and busy machines.
const JITTER: Duration = Duration::from_secs(1);

impl UsualInterval {
    /// Adds the next check. Returns the previous one if the interval between them is more than 1.5 times the usual one.
    fn gap_before(&mut self, at: Moment) -> Option<Moment> {
        let last = self.last.replace(at)?;
        let interval = at.since.saturating_sub(last.since);
        if self.steady == Some(interval) {
            self.unusual = None;
            return None;
        }
        self.is_unusual(interval).then_some(last)
    }

    /// Adds the next interval. Returns whether it is unusually long.
    #[cold]
    fn is_unusual(&mut self, interval: Duration) -> bool {
        if interval.is_zero() {
            return false;
        }

        let longest = self.recent.iter().max().filter(|_| self.recent.len() >= ENOUGH);
        let is_unusual = longest.is_some_and(|longest| interval > *longest && interval > *longest * 3 / 2 + JITTER);
        let has_changed = self.unusual.is_some_and(|before| interval <= before * 3 / 2 && before <= interval * 3 / 2);
        if is_unusual && !has_changed {
            self.unusual = Some(interval);
            return true;
        }

        self.unusual = None;
        self.recent.push_back(interval);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
        let is_steady = self.recent.len() == REMEMBERED && self.recent.iter().all(|recent| *recent == interval);
        self.steady = is_steady.then_some(interval);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Kind;
    use crate::model::signal::Signal;

    fn at(second: u64) -> Moment {
        let at = DateTime::from_timestamp(i64::try_from(second).unwrap(), 0).unwrap().fixed_offset();
        moment(Stamp { at, millis: false })
    }

    #[test]
    fn time_with_lost_records_is_not_observed() {
        let mut replay = Replay::default();
        let check = |second, db| {
            let (stamp, subject) = (at(second).stamp, Subject::db(db));
            let check = LoggedCheck { mode: Some(Mode::Cycles), subject, result: Ok(()), elapsed: None };
            LogEvent { at: stamp, kind: EventKind::Check(Box::new(check)) }
        };
        let mark = Mark::RecordsLost { from: at(15).stamp, to: at(45).stamp, count: 3 };
        let mark = LogEvent { at: at(15).stamp, kind: EventKind::Mark(Box::new(mark)) };
        let checks = |seconds: [u64; 3]| seconds.into_iter().flat_map(|second| [check(second, 0), check(second, 1)]);
        for event in checks([0, 5, 10]).chain([mark]).chain(checks([30, 50, 55])) {
            replay.take(event, true);
        }
        let (_, ledger) = replay.into_ledgers();
        let gaps: Vec<_> =
            ledger.gaps.kept.iter().map(|gap| (gap.from.since.as_secs(), gap.to.since.as_secs())).collect();
        assert_eq!(gaps, [(15, 30), (30, 50)]);
        assert_eq!((ledger.checks, ledger.missed), (12, 0));
    }

    #[test]
    fn a_run_of_successes_counts_as_its_checks_do() {
        let ledger = |plain: bool| {
            let mut replay = Replay::default();
            let check = |second: u64, result| {
                let kind = match result {
                    Ok(()) if plain => EventKind::Success { db: None },
                    result => {
                        let subject = Subject::default();
                        EventKind::Check(Box::new(LoggedCheck { mode: None, subject, result, elapsed: None }))
                    }
                };
                LogEvent { at: at(second).stamp, kind }
            };
            let mark = |mark| LogEvent { at: at(0).stamp, kind: EventKind::Mark(Box::new(mark)) };
            let successes = |seconds: std::ops::Range<u64>| seconds.map(|second| check(second, Ok(())));
            let refused = || Err(Failure::new(Kind::Refused, "Connection refused"));

            let events = successes(5..10)
                .chain([check(10, refused()), check(11, refused())])
                // With a gap, and with an event that is too late to be sorted.
                .chain(successes(12..20))
                .chain(successes(40..50))
                .chain([check(30, Ok(()))])
                .chain(successes(51..60))
                .chain([mark(Mark::Stopped { signal: Signal::Term, at: at(60).stamp })])
                .chain(successes(70..80))
                .chain([mark(Mark::Canary { at: at(80).stamp })])
                .chain(successes(80..90))
                .chain([mark(Mark::CycleStarted { cycle: 1, at: at(95).stamp })])
                .chain(successes(95..99))
                .chain([mark(Mark::RecordsLost { from: at(99).stamp, to: at(105).stamp, count: 3 })])
                .chain(successes(102..120));
            for (index, event) in events.enumerate() {
                replay.take(event, index > 2);
            }
            replay.into_ledgers().1
        };
        assert_eq!(format!("{:?}", ledger(true)), format!("{:?}", ledger(false)));
        assert_eq!((ledger(true).checks, ledger(true).gaps.count), (74, 8));
    }

    #[test]
    fn an_unusually_long_interval_is_a_gap() {
        let gaps = |seconds: &[u64]| -> Vec<u64> {
            let mut usual = UsualInterval::default();
            seconds.iter().filter_map(|second| usual.gap_before(at(*second))).map(|from| from.since.as_secs()).collect()
        };
        assert!(gaps(&[0, 300, 600, 901, 1200]).is_empty());
        assert_eq!(gaps(&[0, 300, 600, 1500, 1800]), [600]);
        // The interval changes at 120. Only the first new interval is a gap.
        assert_eq!(gaps(&[0, 60, 120, 420, 720, 1020]), [120]);
        assert!(gaps(&[0, 300, 300, 300, 360, 420, 420]).is_empty());
        // Runs by hand, between cron's and before the first one.
        assert!(gaps(&[0, 300, 600, 700, 900, 1200, 1500]).is_empty());
        assert!(gaps(&[290, 300, 600, 900]).is_empty());
        assert_eq!(gaps(&[290, 300, 600, 900, 1800]), [900]);
    }
}
