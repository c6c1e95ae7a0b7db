//! The checks of one target: which are running, and how each one reports.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::debug;

use crate::model::event::{CheckFinished, Event, SendEvent, Tick};
use crate::model::outcome::Outcome;
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

/// Reports the outcomes of one check. The check ends when this is dropped.
pub struct Reporter {
    pub target: Target,
    pub tick: Tick,
    pub lane: Arc<Lane>,
    /// Its subjects include the database.
    pub has_db: bool,
    pub send: SendEvent,
    pub failures: Arc<AtomicU64>,
}

impl Reporter {
    /// Reports the outcome for one database.
    pub fn outcome(&self, outcome: Outcome) {
        let mut state = self.lane.state();
        state.reported = state.reported.max(self.tick.number);
        let oldest = state.oldest();
        let (was_down, is_down) = (state.down.contains(&outcome.db), outcome.result.is_err());
        if is_down {
            state.down.insert(outcome.db);
        } else {
            state.down.remove(&outcome.db);
        }
        drop(state);

        let subject = self.subject(&outcome);
        self.failures.fetch_add(u64::from(is_down), Ordering::Relaxed);
        match (was_down, is_down) {
            (false, true) => debug!("{subject} is down"),
            (true, false) => debug!("{subject} recovered"),
            _ => {}
        }
        (self.send)(Event::CheckFinished(CheckFinished { subject, tick: self.tick, outcome, oldest }));
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
