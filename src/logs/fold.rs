//! Folds what the logs tell, as a live run folds what it sees.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use super::source::{Block, Event, Judged, What};
use crate::clock::Stamp;
use crate::failure::Failure;
use crate::identity::Observed;
use crate::ledger::{Changed, Check, Gap, Ledger};
use crate::outage::Moment;
use crate::record::{Mark, Mode, Subject, Who};

/// A mode's checks, and where they pause.
#[derive(Default)]
pub struct Stream {
    pub ledger: Ledger,
    pace: Pace,
    /// Since when nothing has been observed, before the next check.
    gap: Option<Moment>,
    /// How long the break is that follows the cycle which ended last.
    rest: Duration,
    /// Each check writes a canary too.
    writes: bool,
}

impl Stream {
    fn check(&mut self, at: Stamp, subject: &Subject, result: Result<(), &Failure>, took: Option<Duration>) {
        let at = moment(at);
        let unpaced = self.pace.gap_before(at);
        if let Some(from) = self.gap.take().or(unpaced) {
            self.ledger.gap(Gap { from, to: at });
        }
        let writes = self.writes && subject.who.reads_and_writes();
        let gaps = self.ledger.gap_count;
        // When a check met its failure is not in the logs.
        let took = took.filter(|_| result.is_ok());
        self.ledger.check(&Check { subject, at, took, result, writes, gaps });
    }

    /// Takes a check from before the time that is of interest.
    fn remember(&mut self, at: Stamp, subject: &Subject, result: Result<(), &Failure>) {
        let at = moment(at);
        let _ = (self.pace.gap_before(at), self.gap.take());
        let check = Check { subject, at, took: None, result, writes: self.writes, gaps: 0 };
        self.ledger.remember(&check);
    }

    fn pause(&mut self, from: Moment) {
        self.gap.get_or_insert(from);
    }
}

/// What the logs tell, folded.
#[derive(Default)]
pub struct Fold {
    pub dbs: Stream,
    pub cycles: Stream,
    repeated: Repeated,
    /// What the servers told of themselves in scans that say so.
    observed: BTreeMap<Who, Observed>,
}

/// The failures in the blocks of one stamp: the error log repeats them.
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

    /// Whether a failure was told by a block already; each is repeated once.
    fn take(&mut self, at: DateTime<FixedOffset>, subject: &Subject, failure: &Failure) -> bool {
        let place = self.failures.iter().position(|(s, f)| s == subject && f == failure);
        self.at == Some(at) && place.map(|place| self.failures.swap_remove(place)).is_some()
    }
}

impl Fold {
    /// Takes the next event. One that is not `counted`, because it lies before the time that is of interest, only tells
    /// how things stood.
    pub fn take(&mut self, Event { at, what }: Event, counted: bool) {
        match what {
            What::Block(block) => self.block(at, *block, counted),
            What::Check { stamp, mode, subject, result, elapsed } => {
                if let Err(failure) = &result
                    && mode != Some(Mode::Cycles)
                    && self.repeated.take(at, &subject, failure)
                {
                    return;
                }
                let stream = if mode == Some(Mode::Dbs) { &mut self.dbs } else { &mut self.cycles };
                let result = result.as_ref().copied().map_err(|failure| &**failure);
                match counted {
                    true => stream.check(stamp, &subject, result, elapsed),
                    false => stream.remember(stamp, &subject, result),
                }
            }
            What::Mark(mark) => self.mark(*mark, counted),
        }
    }

    fn block(&mut self, at: DateTime<FixedOffset>, block: Block, counted: bool) {
        self.dbs.writes = block.writes;
        for Judged { subject, result, elapsed, contact } in &block.verdicts {
            let result = result.as_ref().copied();
            match counted {
                true => self.dbs.check(block.stamp, subject, result, *elapsed),
                false => self.dbs.remember(block.stamp, subject, result),
            }
            if let Some(contact) = contact {
                let who = &subject.who;
                for change in self.observed.entry(who.clone()).or_default().update(contact) {
                    if counted {
                        self.dbs.ledger.change(Changed { who: who.clone(), at: block.stamp, change });
                    }
                }
            }
        }
        let failures = block.verdicts.into_iter().filter_map(|judged| Some((judged.subject, judged.result.err()?)));
        self.repeated.add(at, failures);
    }

    fn mark(&mut self, mark: Mark, counted: bool) {
        let cycles = &mut self.cycles;
        match mark {
            Mark::CycleStarted { cycle: 1, .. } => {
                // A run that was killed left no mark at its end.
                if let Some(last) = cycles.ledger.last {
                    cycles.pause(last);
                }
                cycles.writes = false;
            }
            Mark::CycleStarted { at, .. } => {
                let length = std::mem::take(&mut cycles.rest);
                if !length.is_zero() {
                    cycles.pause(moment(at).earlier(length));
                }
            }
            // The classic line does not say when that was, and the next cycle's beginning does.
            Mark::CycleCompleted { pause, .. } => cycles.rest = pause,
            Mark::AllFinished { at } | Mark::Stopped { at, .. } => cycles.pause(moment(at)),
            Mark::Canary { .. } => cycles.writes = true,
            Mark::NotObserved { from, missed, .. } => {
                cycles.pause(moment(from));
                cycles.ledger.missed += if counted { missed } else { 0 };
            }
            Mark::Changed { who, at, change } if counted => cycles.ledger.change(Changed { who, at, change }),
            Mark::OutageEnded { subject, at_least, at_most, .. } if counted => {
                cycles.ledger.know_bounds(&subject, at_least, at_most);
            }
            Mark::Changed { .. } | Mark::OutageBegan { .. } | Mark::OutageEnded { .. } => {}
        }
    }
}

fn moment(stamp: Stamp) -> Moment {
    let since = stamp.at.timestamp_micros();
    Moment { stamp, since: Duration::from_micros(u64::try_from(since).unwrap_or(0)) }
}

/// Finds where checks that came at a steady pace did not come: a cron job that did not run, a machine that was off.
#[derive(Default)]
struct Pace {
    last: Option<Moment>,
    /// The last distances. One check more than usual, made by hand, does not change the pace.
    usual: VecDeque<Duration>,
    /// The last distance that was out of pace: when the next is like it, the pace has changed.
    odd: Option<Duration>,
    /// What all the last distances are: one more of it changes nothing.
    steady: Option<Duration>,
}

/// How many distances make a pace, and from how many on one is out of it.
const PACE: usize = 5;
const SETTLED: usize = 2;

/// Stamps of whole seconds and a busy machine make distances differ.
const JITTER: Duration = Duration::from_secs(1);

impl Pace {
    /// Takes the next check; gives the one before when more than one and a half of the usual time lies between.
    fn gap_before(&mut self, at: Moment) -> Option<Moment> {
        let last = self.last.replace(at)?;
        let distance = at.since.saturating_sub(last.since);
        if self.steady == Some(distance) {
            self.odd = None;
            return None;
        }
        self.is_odd(distance).then_some(last)
    }

    fn is_odd(&mut self, distance: Duration) -> bool {
        if distance.is_zero() {
            return false;
        }
        let longest = self.usual.iter().max().filter(|_| self.usual.len() >= SETTLED);
        let is_odd = longest.is_some_and(|longest| distance > *longest && distance > *longest * 3 / 2 + JITTER);
        let is_new_pace = self.odd.is_some_and(|odd| distance <= odd * 3 / 2 && odd <= distance * 3 / 2);
        if is_odd && !is_new_pace {
            self.odd = Some(distance);
            return true;
        }
        self.odd = None;
        self.usual.push_back(distance);
        if self.usual.len() > PACE {
            self.usual.pop_front();
        }
        let is_steady = self.usual.len() == PACE && self.usual.iter().all(|usual| *usual == distance);
        self.steady = is_steady.then_some(distance);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        let at = DateTime::from_timestamp(i64::try_from(second).unwrap(), 0).unwrap().fixed_offset();
        moment(Stamp { at, millis: false })
    }

    #[test]
    fn a_pause_out_of_pace_is_a_gap() {
        let gaps = |seconds: &[u64]| -> Vec<u64> {
            let mut pace = Pace::default();
            seconds.iter().filter_map(|second| pace.gap_before(at(*second))).map(|from| from.since.as_secs()).collect()
        };
        assert!(gaps(&[0, 300, 600, 901, 1200]).is_empty());
        assert_eq!(gaps(&[0, 300, 600, 1500, 1800]), [600]);
        // Another pace from 600 on: only its first distance is a surprise.
        assert_eq!(gaps(&[0, 60, 120, 420, 720, 1020]), [120]);
        assert!(gaps(&[0, 300, 300, 300, 360, 420, 420]).is_empty());
        // Runs by hand, between those of cron and before the first of them.
        assert!(gaps(&[0, 300, 600, 700, 900, 1200, 1500]).is_empty());
        assert!(gaps(&[290, 300, 600, 900]).is_empty());
        assert_eq!(gaps(&[290, 300, 600, 900, 1800]), [900]);
    }
}
