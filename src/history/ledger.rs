//! The complete history of a run or of logs, updated check by check: live by `cycles`, from files by `report`. Pure,
//! and of bounded size.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::history::intervals::Intervals;
use crate::history::outage::{Observation, OutageHistory, ReportedEnd, Transition};
use crate::history::time_series::TimeSeries;
use crate::model::change::Changed;
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::Failure;
use crate::model::outcome::Verdict;
use crate::model::subject::Subject;

/// The maximum number of subjects with their own latency histogram. 10,000 databases would need too much memory.
const HISTOGRAMS: usize = 1024;

/// The maximum number of subjects with their own history. Names in logs may come from anybody, and a report of more rows
/// could not be read.
const SUBJECTS: usize = 20_000;

/// The maximum number of changes and of gaps that are kept.
const KEPT: usize = 100_000;

/// How many different reasons for checks that could not be made are kept. There are few.
const REASONS: usize = 32;

/// One check, for the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub subject: &'a Subject,
    pub at: Moment,
    /// How long it took. For a failed check: the time elapsed before the failing phase. None if unknown.
    pub took: Option<Duration>,
    pub result: Result<(), &'a Failure>,
    /// The check includes a canary write.
    pub writes: bool,
}

/// When the checks of one subject were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// From each check that was made to the next check, once the history is complete. Includes gaps.
    pub made: Intervals,
    /// When its checks could not be made for a reason on our side: from each such check to the next one.
    pub not_made: Intervals,
}

/// The history of one subject.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub history: OutageHistory,
    /// How long its successful checks took, in microseconds.
    pub latency: Option<Box<Histogram<u32>>>,
    pub coverage: Coverage,
    /// When its first and its last check began that could be made.
    pub observed: Option<(Moment, Moment)>,
    /// When its last check began, if that could not be made.
    unmade: Option<Duration>,
    /// The last time in which its checks were made: from the first of them to the last.
    watching: Option<(Duration, Duration)>,
}

impl Account {
    /// Its check at `at` could not be made.
    fn skip(&mut self, at: Moment) {
        let from = self.unmade.unwrap_or(at.since).min(at.since);
        self.coverage.not_made.add(from, at.since);
        self.unmade = Some(at.since);
        if let Some((from, _)) = self.watching.take() {
            self.coverage.made.add(from.min(at.since), at.since);
        }
    }

    fn watch(&mut self, at: Moment) {
        let at = at.since;
        self.watching = Some(self.watching.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }

    /// Its check at `at` was made, which ends the time in which none could be made, if there was any.
    fn resume(&mut self, at: Moment) {
        self.observed = Some((self.observed.map_or(at, |(first, _)| first), at));
        self.watch(at);
        if let Some(from) = self.unmade.take() {
            self.coverage.not_made.add(from.min(at.since), at.since);
        }
    }
}

/// Checks that are in no account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absent {
    /// Scheduled but not run, according to the marks.
    pub missed: u64,
    /// Records that could not be written, according to the marks.
    pub lost: u64,
    /// Of further subjects, which have no account.
    pub unlisted: u64,
}

/// The history of all subjects.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub accounts: BTreeMap<Subject, Account>,
    pub changes: Vec<Changed>,
    /// When nothing was observed. May extend beyond the first and the last check.
    pub gaps: Intervals,
    /// When the first check began, and the last.
    pub first: Option<Moment>,
    pub last: Option<Moment>,
    /// Checks that were made: those that passed or failed.
    pub checks: u64,
    pub failures: u64,
    /// How many checks could not be made, by the reason on our side.
    pub not_observed: BTreeMap<String, u64>,
    pub latency: Option<Box<Histogram<u32>>>,
    /// The latency over time.
    pub series: TimeSeries,
    pub absent: Absent,
    /// The state of subjects before the requested range.
    remembered: BTreeMap<Subject, OutageHistory>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            accounts: BTreeMap::new(),
            changes: Vec::new(),
            gaps: Intervals::at_most(KEPT),
            first: None,
            last: None,
            checks: 0,
            failures: 0,
            latency: None,
            series: TimeSeries::default(),
            absent: Absent::default(),
            not_observed: BTreeMap::new(),
            remembered: BTreeMap::new(),
        }
    }
}

impl Ledger {
    /// Adds a check. Returns the transitions that it caused, for the subject's reads and for its writes.
    pub fn check(&mut self, check: &Check<'_>) -> Vec<(Subject, Transition)> {
        if self.first.is_none_or(|first| first.since > check.at.since) {
            self.first = Some(check.at);
        }
        if self.last.is_none_or(|last| last.since <= check.at.since) {
            self.last = Some(check.at);
        }
        match Verdict::from(check.result) {
            Verdict::Passed => self.checks += 1,
            Verdict::Failed(_) => {
                self.checks += 1;
                self.failures += 1;
            }
            Verdict::NotObserved(reason) => self.count_not_observed(reason),
        }

        if let (Ok(()), Some(took)) = (check.result, check.took) {
            record(&mut self.latency, took);
            self.series.add(check.at.since, took);
        }

        // If only the write failed, the reads passed. If the reads failed, so did the writes.
        let reads = if check.subject.write { Ok(()) } else { check.result };
        let mut transitions = Vec::new();
        if !check.subject.write {
            self.observe(check.subject, check, reads, &mut transitions);
        } else {
            self.observe(&check.subject.writing(false), check, reads, &mut transitions);
        }
        if check.writes || check.subject.write {
            self.observe(&check.subject.writing(true), check, check.result, &mut transitions);
        }
        transitions
    }

    fn count_not_observed(&mut self, reason: &Failure) {
        let reason = reason.detail.to_string();
        if self.not_observed.len() < REASONS || self.not_observed.contains_key(&reason) {
            *self.not_observed.entry(reason).or_default() += 1;
        } else if let Some(mut last) = self.not_observed.last_entry() {
            *last.get_mut() += 1;
        }
    }

    /// Adds `count` checks of a subject whose previous check passed. They passed too, the last of them at `last`, without
    /// a canary write, and how long they took is unknown.
    pub fn passed_again(&mut self, subject: &Subject, count: u64, last: Moment) {
        if count == 0 {
            return;
        }
        if self.last.is_none_or(|before| before.since <= last.since) {
            self.last = Some(last);
        }
        self.checks += count;
        if let Some(account) = self.accounts.get_mut(subject) {
            account.history.pass_again(count, last);
            account.observed = account.observed.map(|(first, _)| (first, last));
            account.watch(last);
        }
    }

    fn observe(
        &mut self,
        subject: &Subject,
        check: &Check<'_>,
        result: Result<(), &Failure>,
        transitions: &mut Vec<(Subject, Transition)>,
    ) {
        let room = self.accounts.len() < HISTOGRAMS;
        let is_full = self.accounts.len() >= SUBJECTS;
        let account = match self.accounts.get_mut(subject) {
            Some(account) => account,
            None if is_full => {
                self.absent.unlisted += 1;
                return;
            }
            None => self.accounts.entry(subject.clone()).or_insert_with(|| Account {
                latency: room.then(histogram).flatten(),
                history: self.remembered.remove(subject).unwrap_or_default(),
                ..Account::default()
            }),
        };
        let failure = match Verdict::from(result) {
            Verdict::Passed => None,
            Verdict::Failed(failure) => Some(failure),
            Verdict::NotObserved(_) => return account.skip(check.at),
        };

        // A check whose write failed did not pass, and its time says nothing about checks that pass.
        if let (Ok(()), Some(took), true) = (check.result, check.took, account.latency.is_some()) {
            record(&mut account.latency, took);
        }

        account.resume(check.at);
        let observation = Observation { at: check.at, took: check.took.unwrap_or_default(), failure };
        if let Some(transition) = account.history.observe(&observation) {
            transitions.push((subject.clone(), transition));
        }
    }

    /// Completes the history after the last check.
    pub fn complete(&mut self) {
        for account in self.accounts.values_mut() {
            if let Some((first, last)) = account.watching.take() {
                // Its run went on after its last check.
                let end = self.gaps.begin_after(last).or(self.last.map(|last| last.since)).unwrap_or(last);
                account.coverage.made.add(first, end.max(last));
            }
            account.history.complete(&[&self.gaps, &account.coverage.not_made]);
        }
        if let Some((first, last)) = self.first.zip(self.last) {
            self.gaps = self.gaps.within(first.since, last.since);
        }
    }

    /// Takes a check from before the requested range. It sets the state but is not counted.
    pub fn remember(&mut self, check: &Check<'_>) {
        if let Verdict::NotObserved(_) = check.result.into() {
            return;
        }
        let took = check.took.unwrap_or_default();
        let observe = |failure| Observation { at: check.at, took, failure };
        let is_new = !self.remembered.contains_key(&check.subject.writing(false));
        if is_new && self.remembered.len() >= SUBJECTS {
            return;
        }
        let reads = if check.subject.write { None } else { check.result.err() };
        let account = self.remembered.entry(check.subject.writing(false)).or_default();
        account.remember(&observe(reads));
        if check.writes || check.subject.write {
            let account = self.remembered.entry(check.subject.writing(true)).or_default();
            account.remember(&observe(check.result.err()));
        }
    }

    /// Sets what a live run reported when an outage began; see [`OutageHistory::set_reported_onset`].
    pub fn set_reported_onset(&mut self, subject: &Subject, first_failure: Stamp, onset: Duration) {
        if let Some(account) = self.accounts.get_mut(subject) {
            account.history.set_reported_onset(first_failure, onset);
        }
    }

    /// The logs do not contain the successes since the last check of these subjects; see [`OutageHistory::interrupt`].
    pub fn interrupt(&mut self, now: Duration) {
        for account in self.accounts.values_mut() {
            account.history.interrupt(now);
        }
    }

    /// Adds a failure at a time whose successes the logs do not contain.
    pub fn failure_alone(&mut self, check: &Check<'_>) {
        for write in [false, true] {
            if let Some(account) = self.accounts.get_mut(&check.subject.writing(write)) {
                account.history.interrupt(check.at.since);
            }
        }
        // The reads passed if only the write failed, but that is not a check of them that was logged.
        let mut transitions = Vec::new();
        self.first = Some(self.first.filter(|first| first.since <= check.at.since).unwrap_or(check.at));
        self.last = Some(self.last.filter(|last| last.since >= check.at.since).unwrap_or(check.at));
        self.checks += 1;
        self.failures += 1;
        self.observe(check.subject, check, check.result, &mut transitions);
        if let Some(account) = self.accounts.get_mut(check.subject) {
            account.history.alone += 1;
        }
    }

    /// Sets what a live run reported when an outage ended; see [`OutageHistory::set_reported_end`].
    pub fn set_reported_end(&mut self, subject: &Subject, end: &ReportedEnd) {
        if let Some(account) = self.accounts.get_mut(subject) {
            account.history.set_reported_end(end);
        }
    }

    /// Ends the outage that a mark is about, whose successes the logs do not contain; see
    /// [`OutageHistory::end_without_success`].
    pub fn end_without_success(&mut self, subject: &Subject, end: &ReportedEnd) {
        if let Some(account) = self.accounts.get_mut(subject) {
            account.history.end_without_success(end);
        }
    }

    /// Adds a change.
    pub fn change(&mut self, changed: Changed) {
        if self.changes.len() < KEPT {
            self.changes.push(changed);
        }
    }
}

/// A histogram of microseconds with two significant digits, which grows as needed.
fn histogram() -> Option<Box<Histogram<u32>>> {
    Histogram::new(2).ok().map(Box::new)
}

fn record(into: &mut Option<Box<Histogram<u32>>>, took: Duration) {
    if into.is_none() {
        *into = histogram();
    }
    if let Some(histogram) = into {
        // The histogram resizes automatically, so no value is out of range.
        let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::model::failure::Kind;

    /// One check per second, one character each: `.` passes, `x` fails, `?` could not be made.
    fn fold(checks: &str) -> (Ledger, Vec<Transition>) {
        let (refused, local) = (Failure::new(Kind::Refused, ""), Failure::local("too many open files"));
        let (subject, mut ledger, mut transitions) = (Subject::default(), Ledger::default(), Vec::new());
        for (second, check) in (0_u32..).zip(checks.chars()) {
            let at = DateTime::from_timestamp(second.into(), 0).unwrap().fixed_offset();
            let at = Moment { stamp: Stamp { at, millis: false }, since: Duration::from_secs(second.into()) };
            let result = match check {
                '.' => Ok(()),
                'x' => Err(&refused),
                _ => Err(&local),
            };
            let check = Check { subject: &subject, at, took: Some(Duration::ZERO), result, writes: false };
            transitions.extend(ledger.check(&check).into_iter().map(|(_, transition)| transition));
        }
        ledger.complete();
        (ledger, transitions)
    }

    #[test]
    fn a_check_that_could_not_be_made_neither_begins_nor_ends_an_outage() {
        let (ledger, transitions) = fold("..??.?");
        let account = &ledger.accounts[&Subject::default()];
        assert_eq!((ledger.checks, ledger.failures, transitions.len()), (3, 0, 0));
        assert_eq!(ledger.not_observed, BTreeMap::from([("too many open files".to_owned(), 3)]));
        assert_eq!(account.history.availability(), Some(1.0));
        let seconds = |(from, to): (Duration, Duration)| (from.as_secs(), to.as_secs());
        assert_eq!(account.coverage.not_made.iter().map(seconds).collect::<Vec<_>>(), [(2, 4), (5, 5)]);
        assert_eq!(account.observed.map(|(first, last)| seconds((first.since, last.since))), Some((0, 4)));

        let (ledger, transitions) = fold(".x?x.");
        assert!(matches!(transitions[..], [Transition::Began, Transition::Ended(_)]), "{transitions:?}");
        let outage = ledger.accounts[&Subject::default()].history.outages().next().unwrap();
        assert_eq!((outage.failed_checks, outage.spans_gap), (2, true));
        assert_eq!((ledger.checks, ledger.failures), (4, 2));

        let (ledger, _) = fold("??");
        assert_eq!((ledger.checks, ledger.accounts[&Subject::default()].history.availability()), (0, None));
    }
}
