//! The checks of one target: which are running, and how each one reports.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::debug;

use crate::model::event::{CheckFinished, Event, SendEvent, Tick};
use crate::model::outcome::{Outcome, Tally, Verdict};
use crate::model::subject::{Subject, Target};

/// The running checks of one target, and whether the target is up.
#[derive(Default)]
pub struct Lane(Mutex<LaneState>);

#[derive(Default)]
struct LaneState {
    under_way: BTreeSet<u64>,
    /// The number of the last check that began, and of the last one that reported an outcome.
    begun: u64,
    reported: u64,
    /// The databases whose last outcome was a failure.
    down: BTreeSet<u32>,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        // No code leaves the state inconsistent while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_begun(&self, number: u64) -> bool {
        self.state().begun >= number
    }

    pub fn begin(&self, number: u64) {
        let mut state = self.state();
        state.under_way.insert(number);
        state.begun = state.begun.max(number);
    }
}

impl LaneState {
    /// The lowest number of a running check; `u64::MAX` if there is none.
    fn oldest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(u64::MAX)
    }
}

/// How many outcomes one check still owes, as a part of the sum over all running checks.
pub struct Owed {
    /// None if the number of databases is unknown: then one is owed until the check ends.
    own: Option<AtomicU64>,
    sum: Arc<AtomicU64>,
}

impl Owed {
    /// Adds a check of `count` databases, or of an unknown number.
    pub fn new(count: Option<u64>, sum: &Arc<AtomicU64>) -> Self {
        sum.fetch_add(count.unwrap_or(1), Ordering::Relaxed);
        Owed { own: count.map(AtomicU64::new), sum: sum.clone() }
    }

    fn pay(&self) {
        let Some(own) = &self.own else { return };
        let paid = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1));
        if paid.is_ok() {
            self.sum.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let rest = self.own.as_ref().map_or(1, |own| own.load(Ordering::Relaxed));
        self.sum.fetch_sub(rest, Ordering::Relaxed);
    }
}

/// Reports the outcomes of one check. The check ends when this is dropped.
pub struct Reporter {
    pub target: Target,
    pub tick: Tick,
    pub lane: Arc<Lane>,
    /// Its subjects include the database.
    pub has_db: bool,
    pub send: SendEvent,
    pub tally: Arc<Mutex<Tally>>,
    pub owed: Owed,
    /// How long the check waited before it began.
    pub waited: Duration,
}

impl Reporter {
    /// Reports the outcome for one database.
    pub fn outcome(&self, mut outcome: Outcome) {
        outcome.details.begin_earlier(self.waited);
        self.owed.pay();
        let mut state = self.lane.state();
        state.reported = state.reported.max(self.tick.number);
        let oldest = state.oldest();
        let verdict = outcome.verdict();
        let has_changed = match verdict {
            Verdict::Passed => state.down.remove(&outcome.db),
            Verdict::Failed(_) => state.down.insert(outcome.db),
            Verdict::NotObserved(_) => false,
        };
        drop(state);

        let subject = self.subject(&outcome);
        match verdict {
            Verdict::Passed if has_changed => debug!("{subject} recovered"),
            Verdict::Failed(_) if has_changed => debug!("{subject} is down"),
            _ => {}
        }
        self.count(verdict);
        (self.send)(Event::CheckFinished(CheckFinished { subject, tick: self.tick, outcome, oldest }));
    }

    /// Whether the target has databases of its own. A cluster as a whole has not.
    pub fn has_dbs(&self) -> bool {
        self.target != Target::Cluster
    }

    fn count(&self, verdict: Verdict<'_>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match verdict {
            Verdict::Passed => {}
            Verdict::Failed(_) => tally.failures += 1,
            Verdict::NotObserved(_) => tally.not_observed += 1,
        }
    }

    fn subject(&self, outcome: &Outcome) -> Subject {
        Subject {
            target: self.target.clone(),
            db: self.has_db.then_some(outcome.db),
            write: outcome.write && self.target.reads_and_writes(),
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.under_way.remove(&self.tick.number);
        let (oldest, has_held_back) = (state.oldest(), state.reported > self.tick.number);
        drop(state);

        // Only outcomes of a later check can have been held back.
        if has_held_back {
            (self.send)(Event::CheckEnded { target: self.target.clone(), oldest });
        }
    }
}
