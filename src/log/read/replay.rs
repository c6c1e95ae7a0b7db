//! Replays events from logs into ledgers, as a live run does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use super::reader::{Block, EventKind, LogEvent, LoggedCheck, LoggedResult};
use crate::history::ledger::{Check, Ledger};
use crate::history::outage::ReportedEnd;
use crate::log::record::{Mark, Mode};
use crate::model::change::Changed;
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::Failure;
use crate::model::observed::Observed;
use crate::model::subject::{Subject, Target};

/// The checks of one command, and the time that it did not observe.
struct Stream {
    ledger: Ledger,
    usual_interval: UsualInterval,
    /// When the last check began.
    last: Option<Moment>,
    /// Since when nothing has been observed, according to a mark. Ends with the next check.
    gap: Option<Moment>,
    /// Until when records were lost. The time between two checks before that is a gap.
    lost_until: Option<Moment>,
    /// How long the break after the last cycle is, if its mark does not tell when it began.
    break_duration: Duration,
    /// Each check also writes a canary key.
    writes: bool,
    /// The shift of the current event.
    shift: i64,
    coverage: Coverage,
    /// The event after the requested range was seen that shows whether the last interval in it was a usual one.
    looked_ahead: bool,
    /// Plain successes that are not in the ledger yet: how many, and the last of them.
    run: Option<(u64, Moment)>,
}

impl Stream {
    fn new(usual_interval: UsualInterval) -> Self {
        Stream {
            ledger: Ledger::default(),
            usual_interval,
            last: None,
            gap: None,
            lost_until: None,
            break_duration: Duration::ZERO,
            writes: false,
            shift: 0,
            coverage: Coverage::default(),
            looked_ahead: false,
            run: None,
        }
    }

    /// From here on the logs contain successes, and failures are told with them.
    fn begin_coverage(&mut self, at: Moment) {
        if !std::mem::replace(&mut self.coverage.began, true)
            && let Some(last) = self.last
        {
            self.begin_gap(last);
            self.ledger.interrupt(at.since);
        }
    }

    /// Processes a failure that is only in the error log. Nothing is known about the time around it.
    fn take_alone(&mut self, at: Stamp, check: Logged<'_>, counted: bool) {
        let at = self.moment(at);
        if let Some(last) = self.last {
            self.begin_gap(last);
        }
        self.end_gap(at);
        if counted {
            let Logged { subject, result, took, .. } = check;
            self.ledger.failure_alone(&Check { subject, at, took, result, writes: false });
        }
    }

    /// A time of the current event, for durations.
    fn moment(&self, stamp: Stamp) -> Moment {
        let Moment { stamp, since } = moment(stamp);
        let shift = Duration::from_micros(self.shift.unsigned_abs());
        let since = if self.shift < 0 { since.saturating_sub(shift) } else { since + shift };
        Moment { stamp, since }
    }

    /// Processes a check. A check from before the requested range is not `counted`.
    fn take(&mut self, at: Stamp, check: Logged<'_>, counted: bool) {
        let at = self.moment(at);
        self.end_gap(at);

        let Logged { subject, result, took, writes } = check;
        let writes = writes && subject.target.reads_and_writes();
        let check = Check { subject, at, took, result, writes };
        match counted {
            true => drop(self.ledger.check(&check)),
            false => self.ledger.remember(&check),
        }
    }

    /// Processes a plain success of the endpoint. Another one after it changes only a count and a time, so a whole run of
    /// them is added to the ledger at once. Most of a log consists of such runs.
    fn success(&mut self, at: Stamp) {
        let at = self.moment(at);
        self.end_gap(at);
        match &mut self.run {
            Some((count, last)) if last.since <= at.since => {
                *count += 1;
                *last = at;
            }
            _ => {
                self.end_run();
                let (subject, writes) = (&Subject::default(), self.writes);
                self.ledger.check(&Check { subject, at, took: None, result: Ok(()), writes });
                // With writes, the next success changes more than a count.
                self.run = (!self.writes).then_some((0, at));
            }
        }
    }

    /// Adds the run to the ledger, before anything else is processed.
    fn end_run(&mut self) {
        if let Some((count, last)) = self.run.take() {
            self.ledger.passed_again(&Subject::default(), count, last);
        }
    }

    /// Nothing is observed from here to the next check, or from an earlier mark on.
    fn begin_gap(&mut self, from: Moment) {
        let is_earlier = self.gap.is_none_or(|gap| from.since < gap.since);
        if is_earlier {
            self.gap = Some(from);
        }
    }

    /// Records were lost in this time.
    fn lose(&mut self, from: Stamp, to: Stamp, count: u64) {
        self.ledger.absent.lost += count;
        self.begin_gap(self.moment(from));
        self.lost_until = Some(self.moment(to));
    }

    /// Notes the time before a check that was not observed.
    fn end_gap(&mut self, at: Moment) {
        let from = self.gap.take().map(|from| from.since).or_else(|| self.lost_before(at));
        let doubtful = match from {
            Some(_) => self.usual_interval.skip_to(at.since),
            None => self.usual_interval.next(at.since),
        };
        for (from, to) in from.map(|from| (from, at.since)).into_iter().chain(doubtful) {
            self.ledger.gaps.add(from, to);
        }
        if self.last.is_none_or(|last| last.since < at.since) {
            self.last = Some(at);
        }
    }

    /// The last check before this one, if records may have been lost in between.
    fn lost_before(&mut self, at: Moment) -> Option<Duration> {
        let (last, until) = (self.last?.since, self.lost_until?.since);
        if last >= until {
            self.lost_until = None;
        }
        (last < until.min(at.since)).then_some(last)
    }

    /// Takes the time of a check after the requested range, up to which the schedule went on.
    fn look_ahead(&mut self, at: Stamp) {
        let at = self.moment(at).since;
        if self.looked_ahead || self.last.is_none_or(|last| at <= last.since) {
            return;
        }

        self.looked_ahead = true;
        if let Some((from, to)) = self.usual_interval.next(at) {
            self.ledger.gaps.add(from, to);
        }
        // The interval up to this check is not in the range.
        self.usual_interval.doubtful = None;
    }

    /// The history after the last check.
    fn into_ledger(mut self) -> Ledger {
        self.end_run();
        if let Some((from, to)) = self.usual_interval.doubtful {
            self.ledger.gaps.add(from, to);
        }
        self.ledger
    }
}

/// Which times the logs cover with successes, and whose failures a line without a mode may tell.
#[derive(Default)]
struct Coverage {
    /// A success, or a mark of a success log, or a block of `dbs` was read.
    began: bool,
    /// A run of `cycles` began, and no mark tells its end.
    is_run: bool,
    /// This run checks a single database, which its lines do not name.
    is_unnamed: bool,
}

/// A check, as it was logged.
struct Logged<'a> {
    subject: &'a Subject,
    result: Result<(), &'a Failure>,
    took: Option<Duration>,
    writes: bool,
}

/// The state of a replay.
pub struct Replay {
    dbs: Stream,
    cycles: Stream,
    repeated: Repeated,
    /// The last known address and identity of each target, from scans that contain them.
    observed: BTreeMap<Target, Observed>,
    /// When the outage of each subject began in its run, by the last mark. Marks of old versions tell it only there, and
    /// not where the outage ended.
    began: BTreeMap<Subject, Stamp>,
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

impl Default for Replay {
    fn default() -> Self {
        Replay {
            dbs: Stream::new(UsualInterval::of_scans()),
            cycles: Stream::new(UsualInterval::of_a_run()),
            repeated: Repeated::default(),
            observed: BTreeMap::new(),
            began: BTreeMap::new(),
        }
    }
}

impl Replay {
    /// The ledgers of `dbs` and of `cycles`, after the last event.
    pub fn into_ledgers(self) -> (Ledger, Ledger) {
        (self.dbs.into_ledger(), self.cycles.into_ledger())
    }

    /// Processes the next event. An event from before the requested range is not `counted`: it only sets the state.
    pub fn take(&mut self, LogEvent { at, kind, shift }: LogEvent, counted: bool) {
        self.cycles.shift = shift;
        if matches!(kind, EventKind::Success { .. }) {
            self.cycles.begin_coverage(self.cycles.moment(at));
            let is_unnamed = matches!(kind, EventKind::Success { db: None });
            self.cycles.coverage.is_unnamed |= is_unnamed;
            self.cycles.coverage.is_run |= !is_unnamed;
        }
        if counted && matches!(kind, EventKind::Success { db: None }) {
            return self.cycles.success(at);
        }
        self.cycles.end_run();
        match kind {
            EventKind::Success { db } => {
                let (subject, writes) = (Subject { db, ..Subject::default() }, self.cycles.writes);
                self.cycles.take(at, Logged { subject: &subject, result: Ok(()), took: None, writes }, counted);
            }
            EventKind::Check(check) => self.check(at, &check, counted),
            EventKind::Block(block) => self.block(*block, counted),
            EventKind::Mark(mark) => self.mark(*mark, counted),
        }
    }

    /// Looks at an event after the requested range. It is not counted, but shows whether checks went on at the interval
    /// of the last ones in the range.
    pub fn look_ahead(&mut self, LogEvent { at, kind, shift }: &LogEvent) {
        self.cycles.shift = *shift;
        match kind {
            EventKind::Block(block) => self.dbs.look_ahead(block.stamp),
            EventKind::Success { .. } => self.cycles.look_ahead(*at),
            EventKind::Check(check) if check.mode != Some(Mode::Dbs) => self.cycles.look_ahead(*at),
            EventKind::Check(_) => {}
            // Then the next interval shows nothing.
            EventKind::Mark(mark) => self.cycles.looked_ahead |= mark.interrupts_checks(),
        }
    }

    fn check(&mut self, at: Stamp, check: &LoggedCheck, counted: bool) {
        let LoggedCheck { mode, subject, result, took, wrote } = check;
        if let Err(failure) = result
            && *mode != Some(Mode::Cycles)
            && self.repeated.take(at.at, subject, failure)
        {
            return;
        }

        let is_of_dbs = match mode {
            // The block of that scan tells all of its failures. This one is of a run in the same second.
            Some(Mode::Dbs) => self.repeated.at != Some(at.at),
            Some(Mode::Cycles) => false,
            None => self.is_of_dbs(subject),
        };
        let stream = if is_of_dbs { &mut self.dbs } else { &mut self.cycles };
        // Successes do not tell that they wrote, but a write that failed tells it of its run.
        stream.writes |= subject.write && !is_of_dbs;
        let writes = wrote.unwrap_or(stream.writes);
        let logged = Logged { subject, result: result.as_ref().copied(), took: *took, writes };
        if result.is_ok() {
            stream.begin_coverage(stream.moment(at));
        }
        let is_failure = result.as_ref().is_err_and(|failure| !failure.is_local());
        if is_failure && (is_of_dbs || !stream.coverage.began) {
            stream.take_alone(at, logged, counted);
        } else {
            stream.take(at, logged, counted);
        }
    }

    /// Whether a failure whose line does not tell its mode is one of `dbs`, which always names its databases.
    fn is_of_dbs(&self, subject: &Subject) -> bool {
        let is_named =
            subject.db.is_some() || matches!(subject.target, Target::Node(_) | Target::Shard(_) | Target::Cluster);
        let Coverage { is_run, is_unnamed, .. } = self.cycles.coverage;
        is_named && (!is_run || is_unnamed) && !self.cycles.ledger.accounts.contains_key(&subject.writing(false))
    }

    fn block(&mut self, block: Block, counted: bool) {
        self.dbs.begin_coverage(self.dbs.moment(block.stamp));
        for LoggedResult { subject, result, took, connection } in &block.results {
            let logged = Logged { subject, result: result.as_ref().copied(), took: *took, writes: block.writes };
            self.dbs.take(block.stamp, logged, counted);
            if let Some(connection) = connection {
                let target = &subject.target;
                for change in
                    self.observed.entry(target.clone()).or_default().update(connection, moment(block.stamp).since)
                {
                    if counted {
                        self.dbs.ledger.change(Changed { target: target.clone(), at: block.stamp, change });
                    }
                }
            }
        }

        let failures = block.results.into_iter().filter_map(|logged| Some((logged.subject, logged.result.err()?)));
        self.repeated.add(block.stamp.at, failures);
    }

    fn outage_ended(&mut self, subject: &Subject, end: &ReportedEnd) {
        // Without the log of the run, its failures were taken as those of `dbs`.
        let is_known = self.cycles.ledger.accounts.contains_key(subject);
        let stream = if is_known || self.dbs.coverage.began { &mut self.cycles } else { &mut self.dbs };
        if !stream.coverage.began {
            stream.ledger.end_without_success(subject, end);
        }
        stream.ledger.set_reported_end(subject, end);
    }

    fn mark(&mut self, mark: Mark, counted: bool) {
        let cycles = &mut self.cycles;
        let is_of_success_log = !matches!(
            mark,
            Mark::RunStarted { .. } | Mark::Canary { .. } | Mark::OutageBegan { .. } | Mark::OutageEnded { .. }
        );
        if is_of_success_log {
            cycles.begin_coverage(cycles.moment(mark.at()));
        }
        cycles.coverage.is_run |= matches!(mark, Mark::CycleStarted { .. });
        match mark {
            Mark::CycleStarted { cycle: 1, .. } => {
                cycles.coverage.is_unnamed = false;
                // A run that was killed leaves no mark at its end.
                cycles.gap = cycles.gap.or(cycles.last);
                cycles.usual_interval.forget();
                cycles.break_duration = Duration::ZERO;
                cycles.writes = false;
            }
            Mark::CycleStarted { at, .. } => {
                let length = std::mem::take(&mut cycles.break_duration);
                if !length.is_zero() {
                    // The break does not begin before the last check.
                    let from = cycles.moment(at).earlier(length);
                    cycles.begin_gap(cycles.last.filter(|last| last.since > from.since).unwrap_or(from));
                }
            }
            Mark::CycleCompleted { break_duration, .. } if break_duration.is_zero() => {}
            Mark::CycleCompleted { at, is_exact: true, .. } => cycles.begin_gap(cycles.moment(at)),
            // The start of the next cycle is known.
            Mark::CycleCompleted { break_duration, .. } => cycles.break_duration = break_duration,
            Mark::AllFinished { at } | Mark::Stopped { at, .. } => {
                cycles.coverage.is_run = false;
                // In a break, nothing is observed from the last check on.
                let is_break = !std::mem::take(&mut cycles.break_duration).is_zero();
                cycles.begin_gap(cycles.last.filter(|_| is_break).unwrap_or(cycles.moment(at)));
            }
            Mark::Canary { .. } => cycles.writes = true,
            Mark::NotObserved { from, missed, .. } => {
                cycles.begin_gap(cycles.moment(from));
                cycles.ledger.absent.missed += if counted { missed } else { 0 };
            }
            Mark::RecordsLost { from, to, count } => cycles.lose(from, to, if counted { count } else { 0 }),
            Mark::Changed { target, at, change } if counted => cycles.ledger.change(Changed { target, at, change }),
            Mark::OutageBegan { subject, at, onset } => {
                if let Some(onset) = onset.filter(|_| counted) {
                    cycles.ledger.set_reported_onset(&subject, at, onset);
                }
                self.began.insert(subject, at);
            }
            Mark::OutageEnded { subject, at, first_failure, at_least, at_most } => {
                let first_failure = first_failure.or(self.began.remove(&subject));
                if counted {
                    self.outage_ended(&subject, &ReportedEnd { at, first_failure, at_least, at_most });
                }
            }
            Mark::RunStarted { .. } | Mark::Changed { .. } => {}
        }
    }
}

fn moment(stamp: Stamp) -> Moment {
    let since = stamp.at.timestamp_micros();
    Moment { stamp, since: Duration::from_micros(u64::try_from(since).unwrap_or(0)) }
}

/// Finds unobserved time that no mark tells: a cron job that did not run, a machine that was off, lost lines.
///
/// The time between two checks counts as observed if it is not much longer than the usual interval before it, or than the
/// interval after it, because the schedule may have changed.
struct UsualInterval {
    last: Option<Duration>,
    /// Intervals that count as observed.
    recent: VecDeque<Duration>,
    /// The last interval, if it is much longer than those before it.
    doubtful: Option<(Duration, Duration)>,
    /// The value of all recent intervals, if they are equal. Another one of the same value changes nothing.
    steady: Option<Duration>,
    /// The checks belong to one run, which has a schedule and marks its gaps.
    is_run: bool,
}

/// How many intervals are remembered, and how many show the schedule of a run.
const REMEMBERED: usize = 5;
const ENOUGH: usize = 2;

/// Intervals vary because of timestamps in whole seconds and busy machines.
const JITTER: Duration = Duration::from_secs(1);

impl UsualInterval {
    /// Of scans by `dbs`, which may be started at any time: a single interval does not show that they are regular.
    fn of_scans() -> Self {
        UsualInterval { last: None, recent: VecDeque::new(), doubtful: None, steady: None, is_run: false }
    }

    /// Of checks by `cycles`: the first intervals count as observed.
    fn of_a_run() -> Self {
        UsualInterval { is_run: true, ..Self::of_scans() }
    }

    /// Another run begins. Its schedule may be another one.
    fn forget(&mut self) {
        self.recent.clear();
        self.steady = None;
    }

    /// Adds the next check. Returns an interval that was not observed: the one before the last, which is known only now.
    fn next(&mut self, at: Duration) -> Option<(Duration, Duration)> {
        let Some(last) = self.last else {
            self.last = Some(at);
            return None;
        };
        let interval = at.saturating_sub(last);
        if interval.is_zero() {
            return None;
        }
        self.last = Some(at);
        if self.steady == Some(interval) && self.doubtful.is_none() {
            return None;
        }
        self.judge((last, at))
    }

    /// Adds the next check. A mark tells that the interval before it was not observed.
    fn skip_to(&mut self, at: Duration) -> Option<(Duration, Duration)> {
        self.last = self.last.max(Some(at));
        self.doubtful.take()
    }

    #[cold]
    fn judge(&mut self, (from, to): (Duration, Duration)) -> Option<(Duration, Duration)> {
        let interval = to - from;
        let is_usual = |interval: Duration, usual: Duration| interval <= usual * 3 / 2 + JITTER;

        let mut gap = None;
        if let Some((from, to)) = self.doubtful.take() {
            if is_usual(to - from, interval) {
                self.remember(to - from);
            } else {
                gap = Some((from, to));
            }
        }

        let longest = self.recent.iter().max();
        let is_first = self.is_run && self.recent.len() < ENOUGH;
        if is_first || longest.is_some_and(|longest| is_usual(interval, *longest)) {
            self.remember(interval);
        } else {
            self.doubtful = Some((from, to));
        }
        gap
    }

    fn remember(&mut self, interval: Duration) {
        self.recent.push_back(interval);
        if self.recent.len() > REMEMBERED {
            let shortest = self.recent.iter().enumerate().min_by_key(|(_, interval)| **interval);
            // A run may check more often for a while. That does not change its schedule.
            let forgotten = shortest.filter(|_| self.is_run).map_or(0, |(index, _)| index);
            self.recent.remove(forgotten);
        }
        let is_steady = self.recent.len() == REMEMBERED && self.recent.iter().all(|recent| *recent == interval);
        self.steady = is_steady.then_some(interval);
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
            let check = LoggedCheck { mode: Some(Mode::Cycles), subject, result: Ok(()), took: None, wrote: None };
            LogEvent { at: stamp, kind: EventKind::Check(Box::new(check)), shift: 0 }
        };
        let mark = Mark::RecordsLost { from: at(15).stamp, to: at(45).stamp, count: 3 };
        let mark = LogEvent { at: at(15).stamp, kind: EventKind::Mark(Box::new(mark)), shift: 0 };
        let checks = |seconds: [u64; 3]| seconds.into_iter().flat_map(|second| [check(second, 0), check(second, 1)]);
        for event in checks([0, 5, 10]).chain([mark]).chain(checks([30, 50, 55])) {
            replay.take(event, true);
        }
        let (_, ledger) = replay.into_ledgers();
        let gaps: Vec<_> = ledger.gaps.iter().map(|(from, to)| (from.as_secs(), to.as_secs())).collect();
        assert_eq!(gaps, [(15, 50)]);
        assert_eq!((ledger.checks, ledger.absent.missed), (12, 0));
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
                        EventKind::Check(Box::new(LoggedCheck { mode: None, subject, result, took: None, wrote: None }))
                    }
                };
                LogEvent { at: at(second).stamp, kind, shift: 0 }
            };
            let mark = |mark| LogEvent { at: at(0).stamp, kind: EventKind::Mark(Box::new(mark)), shift: 0 };
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
        assert_eq!((ledger(true).checks, ledger(true).gaps.iter().count()), (74, 4));
    }

    #[test]
    fn an_unusually_long_interval_is_a_gap() {
        let gaps = |mut usual: UsualInterval, seconds: &[u64]| -> Vec<(u64, u64)> {
            let found = seconds.iter().filter_map(|second| usual.next(Duration::from_secs(*second)));
            let mut found: Vec<_> = found.collect();
            found.extend(usual.doubtful);
            found.iter().map(|(from, to)| (from.as_secs(), to.as_secs())).collect()
        };
        let of_scans = |seconds: &[u64]| gaps(UsualInterval::of_scans(), seconds);
        let of_a_run = |seconds: &[u64]| gaps(UsualInterval::of_a_run(), seconds);

        for regular in [
            &[0, 300, 600, 901, 1200][..],
            // The schedule changes.
            &[0, 60, 120, 420, 720, 1020],
            &[0, 300, 600, 660, 720],
            // Runs by hand, between cron's and before the first one.
            &[0, 300, 600, 700, 900, 1200, 1500],
            &[290, 300, 600, 900],
            &[0],
        ] {
            assert_eq!((of_scans(regular), of_a_run(regular)), (vec![], vec![]), "{regular:?}");
        }
        for (seconds, gap) in [
            (&[0, 300, 600, 1500, 1800][..], (600, 1500)),
            (&[290, 300, 600, 900, 1800], (900, 1800)),
            (&[0, 300, 600, 900, 86_400], (900, 86_400)),
        ] {
            assert_eq!((of_scans(seconds), of_a_run(seconds)), (vec![gap], vec![gap]), "{seconds:?}");
        }

        // Two scans do not show how often scans run. A run has a schedule.
        assert_eq!((of_scans(&[0, 300]), of_a_run(&[0, 300])), (vec![(0, 300)], vec![]));
        assert_eq!(of_scans(&[0, 3_000, 3_300, 3_600]), [(0, 3_000)]);

        // A run that checks more often for a while.
        let often = (120..200).chain([260, 320]);
        assert_eq!(of_a_run(&[0, 60, 120].into_iter().chain(often).collect::<Vec<_>>()), []);
    }
}
