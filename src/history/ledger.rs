//! All that a run or a log tells, folded as it comes: fed live by `cycles` and from files by `report`. Pure, and of
//! bounded size however many checks there are.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::history::outage::{Observation, OutageHistory, Transition};
use crate::history::time_series::TimeSeries;
use crate::model::change::Changed;
use crate::model::clock::Moment;
use crate::model::failure::Failure;
use crate::model::subject::Subject;

/// Beyond so many subjects the latency of each is not kept: 10,000 databases would need a histogram each.
const HISTOGRAMS: usize = 1024;

/// How many changes and gaps are kept.
const KEPT: usize = 100_000;

/// One check, for the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub subject: &'a Subject,
    pub at: Moment,
    /// How long it took; of one that failed, how long it was under way before it met the failure. None where that is not
    /// known.
    pub took: Option<Duration>,
    pub result: Result<(), &'a Failure>,
    /// The check wrote a canary too, unless it failed before.
    pub writes: bool,
    /// How many gaps there were before it: [`Ledger::gap_count`] when it began.
    pub gaps: u64,
}

/// Time in which nothing was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: Moment,
    pub to: Moment,
}

/// What is known of one subject.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub history: OutageHistory,
    /// How long its checks took that succeeded, in microseconds.
    pub latency: Option<Box<Histogram<u32>>>,
    /// How many gaps there had been at its last check.
    gaps_seen: u64,
}

/// The fold itself.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub accounts: BTreeMap<Subject, Account>,
    pub changes: Vec<Changed>,
    pub gaps: Vec<Gap>,
    /// The length of all gaps, those included that are not kept.
    pub unobserved: Duration,
    /// When the first check began, and the last.
    pub first: Option<Moment>,
    pub last: Option<Moment>,
    pub checks: u64,
    pub failures: u64,
    pub latency: Option<Box<Histogram<u32>>>,
    /// The latency over time.
    pub series: TimeSeries,
    /// How many gaps there were.
    pub gap_count: u64,
    /// Checks that were due and not made, as far as marks tell.
    pub missed: u64,
    /// What is known from before the time that is of interest.
    remembered: BTreeMap<Subject, OutageHistory>,
}

impl Ledger {
    /// Takes a check and gives the transitions that it made, of the subject's reads and of its writes.
    pub fn check(&mut self, check: &Check<'_>) -> Vec<(Subject, Transition)> {
        self.first.get_or_insert(check.at);
        if self.last.is_none_or(|last| last.since <= check.at.since) {
            self.last = Some(check.at);
        }
        self.checks += 1;
        self.failures += u64::from(check.result.is_err());
        if let (Ok(()), Some(took)) = (check.result, check.took) {
            record(&mut self.latency, took);
            self.series.add(check.at.since, took);
        }
        // The reads fail unless only the write did; the writes fail with either.
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

    /// Takes `count` more checks of a subject whose last check passed. They passed too, at no time that `last` is before,
    /// wrote nothing, and how long they took is not known.
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
        let account = match self.accounts.get_mut(subject) {
            Some(account) => account,
            None => self.accounts.entry(subject.clone()).or_insert_with(|| Account {
                latency: room.then(histogram).flatten(),
                gaps_seen: check.gaps,
                history: self.remembered.remove(subject).unwrap_or_default(),
            }),
        };
        if let (Ok(()), Some(took), true) = (result, check.took, account.latency.is_some()) {
            record(&mut account.latency, took);
        }
        let observation = Observation {
            at: check.at,
            took: check.took.unwrap_or_default(),
            failure: result.err(),
            after_gap: account.gaps_seen != check.gaps,
        };
        account.gaps_seen = check.gaps;
        if let Some(transition) = account.history.observe(&observation) {
            transitions.push((subject.clone(), transition));
        }
    }

    /// Takes a gap before the next checks.
    pub fn gap(&mut self, gap: Gap) {
        self.gap_count += 1;
        self.unobserved += gap.to.since.saturating_sub(gap.from.since);
        if self.gaps.len() < KEPT {
            self.gaps.push(gap);
        }
    }

    /// Takes a check from before the time that is of interest, so that what it found is known and not counted.
    pub fn remember(&mut self, check: &Check<'_>) {
        let took = check.took.unwrap_or_default();
        let observe = |failure| Observation { at: check.at, took, failure, after_gap: false };
        let reads = if check.subject.write { None } else { check.result.err() };
        let account = self.remembered.entry(check.subject.writing(false)).or_default();
        account.remember(&observe(reads));
        if check.writes || check.subject.write {
            let account = self.remembered.entry(check.subject.writing(true)).or_default();
            account.remember(&observe(check.result.err()));
        }
    }

    /// Takes what a live run told of the outage of a subject that ended last.
    pub fn set_reported_bounds(&mut self, subject: &Subject, at_least: Duration, at_most: Option<Duration>) {
        if let Some(account) = self.accounts.get_mut(subject) {
            account.history.set_reported_bounds(at_least, at_most);
        }
    }

    /// Takes a change.
    pub fn change(&mut self, changed: Changed) {
        if self.changes.len() < KEPT {
            self.changes.push(changed);
        }
    }
}

/// A histogram of microseconds with two significant digits, which grows with the values that it meets.
fn histogram() -> Option<Box<Histogram<u32>>> {
    Histogram::new(2).ok().map(Box::new)
}

fn record(into: &mut Option<Box<Histogram<u32>>>, took: Duration) {
    if into.is_none() {
        *into = histogram();
    }
    if let Some(histogram) = into {
        // It grows by itself, so this fails for no value.
        let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }
}
