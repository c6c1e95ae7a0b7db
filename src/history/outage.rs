//! Folds the results of checks into outages. Pure: used live by `cycles`, and by `report` on logs.
//!
//! Consecutive failed checks of one subject are one outage. Nothing is known between two checks, so its duration is
//! known only within bounds. It lasted at least from the failing phase of the first failed check to the start of the
//! last failed check, and at most from the start of the last success before it to the end of the first success after
//! it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::intervals::Intervals;
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::{Failure, Kind};

/// One check of a subject. Checks of one subject must be observed in the order in which they began.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    pub at: Moment,
    /// How long the check took. For a failed check: the time elapsed before the failing phase. Zero if unknown.
    pub took: Duration,
    pub failure: Option<&'a Failure>,
}

/// Consecutive failed checks of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    pub first_failure: Moment,
    pub last_failure: Moment,
    /// None if the very first check failed: the beginning was not observed.
    pub last_success_before: Option<Moment>,
    /// None while the outage is ongoing, or if observation ended before it did.
    pub first_success_after: Option<Moment>,
    /// The time elapsed before the failing phase of the first failed check. The server may have been healthy until
    /// then.
    onset: Duration,
    /// How long the first successful check took. The server may have recovered at any time during it.
    recovery: Duration,
    /// The bounds that a live run reported, if this outage was read from its log. They are more exact than bounds
    /// computed from its lines.
    reported: Reported,
    /// Part of the time between the two successes was not observed: a break, or checks that were scheduled but not run.
    /// Known only after [`OutageHistory::complete`].
    pub spans_gap: bool,
    pub failed_checks: u64,
    /// How many checks failed, by reason.
    pub kinds: BTreeMap<Kind, u64>,
    /// The failure of the first failed check.
    pub reason: Failure,
}

impl Outage {
    /// The lower bound of its duration.
    pub fn at_least(&self) -> Duration {
        if let Some(at_least) = self.reported.at_least {
            return at_least;
        }
        self.last_failure.since.saturating_sub(self.first_failure.since + self.onset)
    }

    /// The upper bound of its duration. None if its beginning or its end was not observed.
    pub fn at_most(&self) -> Option<Duration> {
        if self.reported.at_most.is_some() {
            return self.reported.at_most;
        }
        let (before, after) = (self.last_success_before?, self.first_success_after?);
        Some(after.since.saturating_sub(before.since) + self.recovery)
    }

    /// Whether a failure at this time is part of it: no success is between the two.
    fn lasts_at(&self, failure: Stamp) -> bool {
        let whole = |at: Stamp| at.at.timestamp();
        let begins_before = self.last_success_before.is_none_or(|before| before.stamp.at < failure.at);
        // Lines may have whole seconds.
        begins_before && whole(self.last_failure.stamp) >= whole(failure)
    }

    /// Sets how long the check took that ended it, if the check itself did not tell.
    fn set_recovery(&mut self, end: Stamp) {
        if let Some(after) = self.first_success_after.filter(|_| self.recovery.is_zero()) {
            self.recovery = (end.at - after.stamp.at).to_std().unwrap_or_default();
        }
    }

    /// The interval to draw: from the first failure to the first success after it.
    pub fn span(&self) -> (Duration, Duration) {
        (self.first_failure.since, self.first_success_after.unwrap_or(self.last_failure).since)
    }

    /// What was not observed of it, in words.
    pub fn caveats(&self) -> Vec<&'static str> {
        [
            (self.last_success_before.is_none(), "its beginning was not observed"),
            (self.first_success_after.is_none(), "its end was not observed"),
            (self.spans_gap, "part of it was not observed, so it may be several"),
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

/// The bounds that a live run reported. None where it did not, or where they are of another time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reported {
    at_least: Option<Duration>,
    at_most: Option<Duration>,
}

/// What a live run reported when an outage ended.
#[derive(Clone, Copy, Debug)]
pub struct ReportedEnd {
    /// The end of the check that passed.
    pub at: Stamp,
    /// The start of the first failed check, with milliseconds. None in old logs.
    pub first_failure: Option<Stamp>,
    pub at_least: Duration,
    /// None if the run did not observe the beginning.
    pub at_most: Option<Duration>,
}

/// Whether a check whose line has this moment began at this time, which has milliseconds.
fn is_logged_as(line: Moment, exact: Stamp) -> bool {
    if line.stamp.millis {
        line.stamp.at.timestamp_millis() == exact.at.timestamp_millis()
    } else {
        line.stamp.at.timestamp() == exact.at.timestamp()
    }
}

/// What an observation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    Began,
    Ended(Box<Outage>),
}

/// How many outages of one subject are kept: the longest. A server that flaps for weeks must not fill the memory.
const KEPT: usize = 1000;

/// Failures that are further apart, without successes in the logs between them, are not told as one outage.
const MAX_SILENCE: Duration = Duration::from_secs(10 * 60);

/// The outages of one subject.
#[derive(Clone, Debug, Default)]
pub struct OutageHistory {
    pub checks: u64,
    pub failures: u64,
    /// Failures among them at times whose successes the logs do not contain. They say nothing about availability.
    pub alone: u64,
    /// Outages that are only counted, because there were too many to keep, and when they were.
    pub unlisted: u64,
    pub unlisted_spans: Intervals,
    last_success: Option<Moment>,
    ended: Vec<Outage>,
    ongoing: Option<Outage>,
}

impl OutageHistory {
    /// Adds the next check. Returns whether it began or ended an outage.
    pub fn observe(&mut self, check: &Observation<'_>) -> Option<Transition> {
        self.checks += 1;
        match check.failure {
            Some(failure) => {
                self.failures += 1;
                self.fail(check, failure)
            }
            None => self.succeed(check.at, check.took),
        }
    }

    /// Adds `count` checks that passed, after one that passed. The last of them was at `last`.
    pub fn pass_again(&mut self, count: u64, last: Moment) {
        self.checks += count;
        self.last_success = Some(last);
    }

    fn keep(&mut self, outage: Outage) {
        self.ended.push(outage);
        // Sorting is expensive, so it is done only once the list has doubled.
        if self.ended.len() >= 2 * KEPT {
            self.drop_shortest(KEPT);
        }
    }

    /// Keeps only the `count` longest outages that have ended.
    fn drop_shortest(&mut self, count: usize) {
        self.ended.sort_by_key(|outage| Reverse(outage.at_least()));
        let dropped = self.ended.split_off(count.min(self.ended.len()));
        self.ended.sort_by_key(|outage| outage.first_failure.since);

        self.unlisted += dropped.len() as u64;
        for outage in dropped {
            let (from, to) = outage.span();
            self.unlisted_spans.add(from, to);
        }
    }

    /// Completes the outages after the last check. `gaps` are the times that were not observed.
    pub fn complete(&mut self, gaps: &[&Intervals]) {
        let room = KEPT - usize::from(self.ongoing.is_some());
        if self.ended.len() > room {
            self.drop_shortest(room);
        }
        for outage in self.ended.iter_mut().chain(&mut self.ongoing) {
            let from = outage.last_success_before.unwrap_or(outage.first_failure).since;
            let to = outage.first_success_after.unwrap_or(outage.last_failure).since;
            outage.spans_gap = gaps.iter().any(|gaps| gaps.overlap(from, to));
        }
    }

    /// The logs do not contain the successes since the last check. An outage that is long past has ended meanwhile; when is
    /// not known.
    pub fn interrupt(&mut self, now: Duration) {
        let past = |outage: &mut Outage| now.saturating_sub(outage.last_failure.since) > MAX_SILENCE;
        if let Some(outage) = self.ongoing.take_if(past) {
            self.keep(outage);
            self.last_success = None;
        }
    }

    /// Sets how far into its first failed check an outage began, if the check itself did not tell.
    pub fn set_reported_onset(&mut self, first_failure: Stamp, onset: Duration) {
        let mut outages = self.ongoing.iter_mut().chain(self.ended.iter_mut().rev());
        let outage = outages.find(|outage| is_logged_as(outage.first_failure, first_failure));
        if let Some(outage) = outage.filter(|outage| outage.onset.is_zero()) {
            outage.onset = onset;
        }
    }

    /// Sets the bounds that a live run reported for an outage that ended.
    pub fn set_reported_end(&mut self, end: &ReportedEnd) {
        let mut unreported = self.ended.iter_mut().rev().filter(|outage| outage.reported == Reported::default());
        let Some(first_failure) = end.first_failure else {
            // A log of version 0.1.0, which does not tell which outage ended.
            if let Some(outage) = unreported.next() {
                outage.reported = Reported { at_least: Some(end.at_least), at_most: end.at_most };
                outage.set_recovery(end.at);
            }
            return;
        };

        // The outage of the log may have begun earlier, in a run that was killed, or later, if only a part of the log is
        // read. The run's lower bound is then of another time, and so is its upper bound if it began earlier.
        // After the clock was set back in an outage, only its first failure is found by its time.
        let outage = unreported
            .find(|outage| is_logged_as(outage.first_failure, first_failure) || outage.lasts_at(first_failure));
        let Some(outage) = outage else { return };
        let is_same = is_logged_as(outage.first_failure, first_failure);
        let is_cut = outage.first_failure.stamp.at > first_failure.at;
        outage.reported =
            Reported { at_least: is_same.then_some(end.at_least), at_most: end.at_most.filter(|_| is_same || is_cut) };
        outage.set_recovery(end.at);
    }

    /// Ends the outage that this mark is about, if the logs do not contain the check that passed.
    pub fn end_without_success(&mut self, end: &ReportedEnd) {
        let is_known = match end.first_failure {
            Some(first_failure) => self.ended.iter().rev().any(|outage| outage.lasts_at(first_failure)),
            None => self.ended.last().is_some_and(|outage| outage.reported == Reported::default()),
        };
        let is_past = |outage: &mut Outage| {
            let begins = end.first_failure.unwrap_or(outage.first_failure.stamp);
            !is_known && outage.lasts_at(begins) && outage.last_failure.stamp.at <= end.at.at
        };

        if let Some(mut outage) = self.ongoing.take_if(is_past) {
            let last = outage.last_failure;
            let after = (end.at.at - last.stamp.at).to_std().unwrap_or_default();
            outage.first_success_after = Some(Moment { stamp: end.at, since: last.since + after });
            self.keep(outage);
            self.last_success = None;
        }
    }

    /// Takes a check from before the requested range: it sets the state but is not counted.
    pub fn remember(&mut self, check: &Observation<'_>) {
        if check.failure.is_none() {
            self.last_success = Some(check.at);
        }
    }

    /// All outages, including the ongoing one.
    pub fn outages(&self) -> impl Iterator<Item = &Outage> {
        self.ended.iter().chain(&self.ongoing)
    }

    /// The ongoing outage.
    #[cfg(test)]
    fn ongoing(&self) -> Option<&Outage> {
        self.ongoing.as_ref()
    }

    /// The share of checks that succeeded, from 0 to 1. None before the first check whose time has successes in the logs.
    pub fn availability(&self) -> Option<f64> {
        let made = self.checks.saturating_sub(self.alone);
        (made > 0).then(|| (self.checks - self.failures) as f64 / made as f64)
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
            reported: Reported::default(),
            spans_gap: false,
            failed_checks: 0,
            kinds: BTreeMap::new(),
            reason: failure.clone(),
        });

        outage.last_failure = at;
        outage.failed_checks += 1;
        *outage.kinds.entry(failure.kind).or_default() += 1;
        began.then_some(Transition::Began)
    }

    fn succeed(&mut self, at: Moment, took: Duration) -> Option<Transition> {
        let ended = self.ongoing.take().map(|mut outage| {
            outage.first_success_after = Some(at);
            outage.recovery = took;
            self.keep(outage.clone());
            Transition::Ended(Box::new(outage))
        });
        self.last_success = Some(at);
        ended
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;

    use super::*;

    /// Feeds one check per second, one character each: `.` succeeds, `x` fails, a space is a second without a check.
    fn fold(checks: &str) -> (OutageHistory, Vec<Outage>) {
        let mut gaps = Intervals::default();
        let start = DateTime::parse_from_rfc3339("2025-08-27T07:35:01Z").unwrap();
        let refused = Failure::new(Kind::Refused, "Connection refused");
        let (mut history, mut ended) = (OutageHistory::default(), Vec::new());
        for (second, check) in checks.chars().enumerate() {
            let since = Duration::from_secs(second as u64);
            if check == ' ' {
                gaps.add(since.saturating_sub(Duration::from_secs(1)), since + Duration::from_secs(1));
                continue;
            }
            let at = Moment { stamp: Stamp { at: start + TimeDelta::seconds(second as i64), millis: false }, since };
            let failure = (check == 'x').then_some(&refused);
            let observation = Observation { at, took: Duration::from_millis(100), failure };
            if let Some(Transition::Ended(outage)) = history.observe(&observation) {
                ended.push(*outage);
            }
        }
        history.complete(&[&gaps]);
        (history, ended)
    }

    #[test]
    fn an_outage_lies_between_its_bounds() {
        let (history, ended) = fold("..xxx.");
        assert_eq!((history.checks, history.failures, ended.len()), (6, 3, 1));
        // The failing phase of the check at second 2 began after a tenth of a second.
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
    fn a_gap_is_noted_wherever_it_is() {
        for (checks, spans) in [(". x.", true), (".x x.", true), (".x .", true), (". .x.", false), (".x. ", false)] {
            assert_eq!(fold(checks).0.ended[0].spans_gap, spans, "{checks}");
        }
    }

    #[test]
    fn the_longest_thousand_are_listed_and_all_are_drawn() {
        for (count, listed) in [(900, 900), (1_500, 1_000), (2_400, 1_000), (5_400, 1_000)] {
            // Every third outage takes two checks.
            let (history, ended) = fold(&"x.x.xx.".repeat(count / 3));
            assert_eq!(ended.len(), count, "{count}");
            assert_eq!((history.outages().count(), history.unlisted), (listed, (count - listed) as u64), "{count}");
            let long = |outages: &mut dyn Iterator<Item = &Outage>| outages.filter(|o| o.failed_checks == 2).count();
            assert_eq!(long(&mut history.outages()), long(&mut ended.iter()).min(listed), "{count}");

            let kept: Vec<_> = history.outages().map(Outage::span).collect();
            let is_drawn = |(from, to)| kept.contains(&(from, to)) || history.unlisted_spans.overlap(from, to);
            assert!(ended.iter().all(|outage| is_drawn(outage.span())), "{count}");
        }
        // The ongoing outage is one of the thousand.
        let (history, _) = fold(&("x.".repeat(1_000) + "x"));
        assert_eq!((history.outages().count(), history.unlisted), (1_000, 1));
        assert!(history.outages().any(|outage| outage.first_success_after.is_none()));
    }

    #[test]
    fn each_run_of_failures_is_one_outage() {
        let (history, ended) = fold(".x..xx.x");
        assert_eq!(ended.len(), 2);
        assert!(history.ongoing().is_some());
        assert_eq!(history.availability(), Some(0.5));
        assert_eq!(OutageHistory::default().availability(), None);
    }

    fn second(second: i64) -> Stamp {
        let start = DateTime::parse_from_rfc3339("2025-08-27T07:35:01Z").unwrap();
        Stamp { at: start + TimeDelta::seconds(second), millis: true }
    }

    fn report_end(history: &mut OutageHistory, first_failure: Option<i64>, end: i64, bounds: (u64, Option<u64>)) {
        let at_most = bounds.1.map(Duration::from_millis);
        let first_failure = first_failure.map(|failure| second(failure).later(Duration::from_millis(250)));
        let at = second(end);
        history.set_reported_end(&ReportedEnd {
            at,
            first_failure,
            at_least: Duration::from_millis(bounds.0),
            at_most,
        });
    }

    fn bounds(history: &OutageHistory) -> Vec<(u128, Option<u128>)> {
        let millis = |outage: &Outage| (outage.at_least().as_millis(), outage.at_most().map(|most| most.as_millis()));
        history.outages().map(millis).collect()
    }

    #[test]
    fn reported_bounds_belong_to_the_outage_that_began_then() {
        // The check that ended the first outage took so long that the second one had ended before.
        let (mut history, _) = fold(".x.xx.");
        report_end(&mut history, Some(3), 6, (700, Some(3_300)));
        report_end(&mut history, Some(1), 6, (0, Some(5_900)));
        assert_eq!(bounds(&history), [(0, Some(5_900)), (700, Some(3_300))]);

        // In logs of version 0.1.0, the last outage that ended.
        let (mut history, _) = fold(".x.");
        report_end(&mut history, None, 3, (1, Some(1_900)));
        assert_eq!(bounds(&history), [(1, Some(1_900))]);

        // An outage of which nothing is known here, and one that is not over.
        let (mut history, _) = fold(".x..x");
        report_end(&mut history, Some(2), 3, (1, Some(1)));
        report_end(&mut history, Some(4), 6, (1, Some(1)));
        assert_eq!(bounds(&history), [(0, Some(2_100)), (0, None)]);
    }

    #[test]
    fn a_run_reports_only_its_own_part_of_an_outage() {
        // A run was killed in the outage. The next one began at second 3 and did not see the beginning.
        let (mut history, _) = fold(".x xxx.");
        history.set_reported_onset(second(1), Duration::from_millis(400));
        history.set_reported_onset(second(3), Duration::from_millis(900));
        report_end(&mut history, Some(3), 7, (1_500, None));
        // Its own checks tell how long they took.
        assert_eq!(bounds(&history), [(3_900, Some(6_100))]);

        // The requested range begins in the outage, after the success before it.
        let (mut history, _) = fold(" xx.");
        history.ended[0].last_success_before = Some(Moment { stamp: second(-3), since: Duration::ZERO });
        report_end(&mut history, Some(-1), 4, (2_500, Some(6_200)));
        assert_eq!(bounds(&history), [(900, Some(6_200))]);
    }

    #[test]
    fn times_that_the_lines_do_not_contain_are_taken_from_the_marks() {
        let (mut history, _) = fold(".xx");
        let outage = history.ongoing.as_mut().unwrap();
        outage.onset = Duration::ZERO;
        history.set_reported_onset(second(1).later(Duration::from_millis(730)), Duration::from_millis(803));
        assert_eq!(bounds(&history), [(197, None)]);

        // The first part of the outage is in the log of another run.
        let (mut history, _) = fold(".x xx.");
        history.ended[0].recovery = Duration::ZERO;
        report_end(&mut history, Some(3), 7, (0, None));
        assert_eq!(bounds(&history), [(2_900, Some(7_000))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// A check asks some time after it began, and gets its reply within the timeout. It passes if the server is up
        /// when it is asked.
        #[test]
        fn bounds_hold_and_differ_by_at_most_two_intervals_and_two_timeouts(
            interval in 50..1_000_u64,
            down in (2_000..5_000_u64, 1..5_000_u64),
            checks in proptest::collection::vec((0..1_000_u64, 0..1_000_u64), 300),
        ) {
            const TIMEOUT: u64 = 2_000;
            let millis = Duration::from_millis;
            let (refused, mut history) = (Failure::new(Kind::Refused, ""), OutageHistory::default());
            let (begin, end) = (down.0, down.0 + down.1);
            for (start, (asked, waited)) in (0..).map(|check| check * interval).zip(checks) {
                let is_down = (begin..end).contains(&(start + asked));
                let at = Moment { stamp: second(0).later(millis(start)), since: millis(start) };
                let took = millis(if is_down { asked } else { asked + waited });
                history.observe(&Observation { at, took, failure: is_down.then_some(&refused) });
            }

            for outage in history.outages() {
                let (at_least, at_most) = (outage.at_least(), outage.at_most().unwrap());
                prop_assert!(at_least <= millis(down.1));
                // Checks overlap, so a later one may have asked before an earlier one: then they are several outages.
                prop_assert!(at_most >= millis(down.1) || history.outages().count() > 1);
                prop_assert!(at_most - at_least <= millis(2 * interval + 2 * TIMEOUT));
            }
        }
    }
}
