//! Folds the outcomes of checks into outages. Pure: fed live by `cycles`, and by whoever reads the logs back.
//!
//! Consecutive failed checks of one subject are one outage. Checks are points in time, so its length is known only
//! within bounds: it lasted at least from when the first failed check met the failure to the beginning of the last one,
//! and at most from the beginning of the last success before to the end of the first success after.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::intervals::Intervals;
use crate::model::clock::Moment;
use crate::model::failure::{Failure, Kind};

/// One check, as the fold sees it. Checks of one subject are observed in the order in which they began.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    pub at: Moment,
    /// How long the check took; of one that failed, how long it was under way before it met the failure. Zero where that
    /// is not known.
    pub took: Duration,
    pub failure: Option<&'a Failure>,
    /// Time passed before this check in which checks were not due, or were missed.
    pub after_gap: bool,
}

/// Consecutive failed checks of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    pub first_failure: Moment,
    pub last_failure: Moment,
    /// None when the first check of all failed already: the beginning was not observed.
    pub last_success_before: Option<Moment>,
    /// None while it goes on, and when observation ended before it did.
    pub first_success_after: Option<Moment>,
    /// How long the first failed check was under way before it met the failure: the server may have been well until then.
    onset: Duration,
    /// How long the check took that ended it: the server may have come back while that check waited.
    recovery: Duration,
    /// The bounds that a live run reported, where this was read from its log.
    reported: Option<(Duration, Option<Duration>)>,
    /// For some time between the two successes nothing was observed.
    pub spans_gap: bool,
    pub failed_checks: u64,
    /// How many checks failed for which reason.
    pub kinds: BTreeMap<Kind, u64>,
    /// What the first failed check said.
    pub reason: Failure,
}

impl Outage {
    /// It lasted no shorter than this.
    pub fn at_least(&self) -> Duration {
        if let Some((at_least, _)) = self.reported {
            return at_least;
        }
        self.last_failure.since.saturating_sub(self.first_failure.since + self.onset)
    }

    /// It lasted no longer than this; none when an end of it was not observed.
    pub fn at_most(&self) -> Option<Duration> {
        if let Some((_, at_most)) = self.reported {
            return at_most;
        }
        let (before, after) = (self.last_success_before?, self.first_success_after?);
        Some(after.since.saturating_sub(before.since) + self.recovery)
    }

    /// From when to when it is drawn: from the first failure to the success that ended it.
    pub fn span(&self) -> (Duration, Duration) {
        (self.first_failure.since, self.first_success_after.unwrap_or(self.last_failure).since)
    }

    /// What was not seen of it.
    pub fn caveats(&self) -> Vec<&'static str> {
        [
            (self.last_success_before.is_none(), "its beginning was not observed"),
            (self.first_success_after.is_none(), "its end was not observed"),
            (self.spans_gap, "if it was one: part of it was not observed"),
        ]
        .into_iter()
        .filter_map(|(holds, words)| holds.then_some(words))
        .collect()
    }

    /// `reset 1, refused 3`.
    pub fn kinds_in_words(&self) -> String {
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        kinds.join(", ")
    }
}

/// What an observation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    Began,
    Ended(Box<Outage>),
}

/// How many outages of one subject are kept, the longest. A server that flaps for weeks must not fill the memory.
const KEPT: usize = 1000;

/// The checks of one subject, folded.
#[derive(Clone, Debug, Default)]
pub struct OutageHistory {
    pub checks: u64,
    pub failures: u64,
    /// Outages that are counted and not kept, since there were too many, and when they were.
    pub unlisted: u64,
    pub unlisted_spans: Intervals,
    last_success: Option<Moment>,
    gap_since_success: bool,
    ended: Vec<Outage>,
    ongoing: Option<Outage>,
}

impl OutageHistory {
    /// Takes the next check, and says whether it began or ended an outage.
    pub fn observe(&mut self, check: &Observation<'_>) -> Option<Transition> {
        self.checks += 1;
        self.gap_since_success |= check.after_gap;
        match check.failure {
            Some(failure) => {
                self.failures += 1;
                self.fail(check, failure)
            }
            None => self.succeed(check.at, check.took),
        }
    }

    /// Takes `count` more checks that passed, after one that did; the last of them at `last`.
    pub fn pass_again(&mut self, count: u64, last: Moment) {
        self.checks += count;
        self.last_success = Some(last);
    }

    fn keep(&mut self, outage: Outage) {
        self.ended.push(outage);
        // Only now and then, since it takes a look at all of them.
        if self.ended.len() < 2 * KEPT {
            return;
        }
        self.ended.sort_by_key(|outage| Reverse(outage.at_least()));
        let mut dropped = self.ended.split_off(KEPT);
        let by_time = |outage: &Outage| outage.first_failure.since;
        dropped.sort_by_key(by_time);
        self.ended.sort_by_key(by_time);
        self.unlisted += dropped.len() as u64;
        for outage in dropped {
            let (from, to) = outage.span();
            self.unlisted_spans.add(from, to);
        }
    }

    /// Takes the bounds that a live run told of the outage that ended last: it knew more than its log tells.
    pub fn set_reported_bounds(&mut self, at_least: Duration, at_most: Option<Duration>) {
        if let Some(outage) = self.ended.last_mut().filter(|outage| outage.reported.is_none()) {
            outage.reported = Some((at_least, at_most));
        }
    }

    /// Takes a check from before the time that is of interest: what it says of the state, and no count.
    pub fn remember(&mut self, check: &Observation<'_>) {
        if check.failure.is_none() {
            self.last_success = Some(check.at);
        }
    }

    /// The outages so far, the one that goes on included.
    pub fn outages(&self) -> impl Iterator<Item = &Outage> {
        self.ended.iter().chain(&self.ongoing)
    }

    /// The outage that goes on.
    #[cfg(test)]
    fn ongoing(&self) -> Option<&Outage> {
        self.ongoing.as_ref()
    }

    /// The share of observed checks that succeeded, from 0 to 1; none before the first check.
    pub fn availability(&self) -> Option<f64> {
        (self.checks > 0).then(|| (self.checks - self.failures) as f64 / self.checks as f64)
    }

    fn fail(&mut self, &Observation { at, took, .. }: &Observation<'_>, failure: &Failure) -> Option<Transition> {
        let began = self.ongoing.is_none();
        let outage = self.ongoing.get_or_insert_with(|| Outage {
            first_failure: at,
            last_failure: at,
            last_success_before: self.last_success,
            first_success_after: None,
            onset: took,
            recovery: Duration::ZERO,
            reported: None,
            spans_gap: false,
            failed_checks: 0,
            kinds: BTreeMap::new(),
            reason: failure.clone(),
        });
        outage.last_failure = at;
        outage.failed_checks += 1;
        outage.spans_gap |= self.gap_since_success;
        *outage.kinds.entry(failure.kind).or_default() += 1;
        began.then_some(Transition::Began)
    }

    fn succeed(&mut self, at: Moment, took: Duration) -> Option<Transition> {
        let ended = self.ongoing.take().map(|mut outage| {
            outage.first_success_after = Some(at);
            outage.recovery = took;
            outage.spans_gap |= self.gap_since_success;
            self.keep(outage.clone());
            Transition::Ended(Box::new(outage))
        });
        self.last_success = Some(at);
        self.gap_since_success = false;
        ended
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use crate::model::clock::Stamp;

    use super::*;

    /// Feeds checks a second apart, written as a word: `.` succeeds, `x` fails, a space is a second without a check.
    fn fold(checks: &str) -> (OutageHistory, Vec<Outage>) {
        let start = DateTime::parse_from_rfc3339("2025-08-27T07:35:01Z").unwrap();
        let refused = Failure::new(Kind::Refused, "Connection refused");
        let (mut history, mut ended, mut after_gap) = (OutageHistory::default(), Vec::new(), false);
        for (second, check) in checks.chars().enumerate() {
            if check == ' ' {
                after_gap = true;
                continue;
            }
            let at = Moment {
                stamp: Stamp { at: start + TimeDelta::seconds(second as i64), millis: false },
                since: Duration::from_secs(second as u64),
            };
            let failure = (check == 'x').then_some(&refused);
            let observation = Observation { at, took: Duration::from_millis(100), failure, after_gap };
            if let Some(Transition::Ended(outage)) = history.observe(&observation) {
                ended.push(*outage);
            }
            after_gap = false;
        }
        (history, ended)
    }

    #[test]
    fn an_outage_lies_between_its_bounds() {
        let (history, ended) = fold("..xxx.");
        assert_eq!((history.checks, history.failures, ended.len()), (6, 3, 1));
        // The check that began at second 2 met the failure after a tenth of a second.
        assert_eq!(ended[0].at_least(), Duration::from_millis(1_900));
        // From the success at second 1 to the end of the check that began at second 5.
        assert_eq!(ended[0].at_most(), Some(Duration::from_millis(4_100)));
        assert_eq!((ended[0].failed_checks, ended[0].spans_gap), (3, false));
        assert_eq!(ended[0].kinds, BTreeMap::from([(Kind::Refused, 3)]));
    }

    #[test]
    fn an_end_that_was_not_observed_has_no_upper_bound() {
        let (_, ended) = fold("xx.");
        assert_eq!((ended[0].last_success_before, ended[0].at_most()), (None, None));
        let (history, ended) = fold("..x");
        assert!(ended.is_empty());
        let ongoing = history.ongoing().unwrap();
        assert_eq!((ongoing.at_least(), ongoing.at_most()), (Duration::ZERO, None));
    }

    #[test]
    fn a_gap_is_said_wherever_it_lies() {
        for (checks, spans) in [(". x.", true), (".x x.", true), (".x .", true), (". .x.", false), (".x. ", false)] {
            assert_eq!(fold(checks).1[0].spans_gap, spans, "{checks}");
        }
    }

    #[test]
    fn each_run_of_failures_is_one_outage() {
        let (history, ended) = fold(".x..xx.x");
        assert_eq!(ended.len(), 2);
        assert!(history.ongoing().is_some());
        assert_eq!(history.availability(), Some(0.5));
        assert_eq!(OutageHistory::default().availability(), None);
    }
}
