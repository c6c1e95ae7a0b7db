//! The interface between the checks and the recorder.
//!
//! The probe thread sends events in the order in which they happened. The recorder passes each one to its sinks: log,
//! history, metrics, console. Nothing flows back. The history derives further events for the other sinks: an outage
//! began or ended, a target changed.

use std::sync::Arc;
use std::time::Duration;

use crate::model::change::{Changed, TopologyChange};
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::Kind;
use crate::model::outcome::{CheckResult, Outcome};
use crate::model::run::Run;
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// When checks began, and their number. All targets checked at the same time share one tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Counts the ticks of a run from 1.
    pub number: u64,
    pub at: Moment,
    /// The check includes a canary write, which has its own result.
    pub writes: bool,
}

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run begins. It is the first event.
    RunStarted {
        run: Run,
        /// Each check also writes a canary key.
        writes: bool,
    },
    /// A cycle begins.
    CycleStarted {
        /// Counts from 1.
        cycle: u32,
        at: Stamp,
        /// Each check also writes a canary key.
        writes: bool,
    },
    /// A cycle ended, and another one follows after a break.
    CycleCompleted { cycle: u32, at: Moment, break_duration: Duration },
    /// The checks of a tick begin.
    TickStarted(Tick),
    /// One database of a target was checked.
    CheckFinished(CheckFinished),
    /// A check ended after a later check of the same target. All checks up to `oldest` can now be processed in order.
    CheckEnded {
        target: Target,
        /// The lowest number of a check of the target that is still running; `u64::MAX` if there is none.
        oldest: u64,
    },
    /// Nodes or shards were added or removed, or a shard has a new primary.
    TopologyChanged { tick: Tick, change: TopologyChange },
    /// Checks were scheduled but not run, because this process or its machine was suspended.
    NotObserved {
        from: Moment,
        to: Stamp,
        /// How many checks were scheduled but not run.
        missed: u64,
    },
    /// Checks ran, but the queue was full, so their events were dropped.
    RecordsLost { from: Moment, to: Stamp, count: u64 },
    /// A signal ended the run.
    Stopped {
        signal: Signal,
        at: Stamp,
        /// How many checks it interrupted.
        unfinished: u64,
    },
    /// The schedule is finished.
    AllFinished { at: Stamp },
    /// `dbs` checked all databases, or was stopped.
    ScanFinished(Scan),
    /// From the history: the first failed check of a subject in this run, or after a check that passed.
    OutageBegan {
        subject: Subject,
        /// The start of that check.
        at: Stamp,
        kind: Kind,
        /// How far into the check its failing phase began.
        onset: Duration,
    },
    /// From the history: a subject passed again.
    OutageEnded {
        subject: Subject,
        /// The end of the check that passed.
        at: Stamp,
        /// The start of the first failed check.
        first_failure: Stamp,
        at_least: Duration,
        at_most: Option<Duration>,
    },
    /// From the history: a property of a target differs from the previous check.
    Changed(Changed),
}

/// The result for one database of a target.
#[derive(Clone, Debug)]
pub struct CheckFinished {
    pub subject: Subject,
    pub tick: Tick,
    pub outcome: Outcome,
    /// The lowest number of a check of the same target that is still running. Checks overlap and end in any order, but
    /// the history processes them in the order in which they began.
    pub oldest: u64,
}

/// One scan of all databases by `dbs`.
#[derive(Clone, Debug)]
pub struct Scan {
    pub at: Stamp,
    pub checks: Vec<CheckResult>,
    pub took: Duration,
    /// Each check wrote a canary too.
    pub canary: bool,
    /// The signal that ended the scan early, and when.
    pub stopped: Option<(Signal, Stamp)>,
    /// How many databases were not checked because of the signal, if the number of databases is known.
    pub unchecked: Option<u64>,
}

impl Event {
    /// Whether there are several at each tick. Only these may be dropped when the recorder is too slow: the marks that
    /// tell what is missing must not be missing too.
    pub fn is_frequent(&self) -> bool {
        matches!(self, Event::TickStarted(_) | Event::CheckFinished(_) | Event::CheckEnded { .. })
    }

    /// Whether no other event follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Stopped { .. } | Event::AllFinished { .. } | Event::ScanFinished(_))
    }

    /// How many log records it becomes.
    pub fn records(&self) -> u64 {
        match self {
            Event::RunStarted { .. }
            | Event::TickStarted(_)
            | Event::CheckEnded { .. }
            | Event::TopologyChanged { .. } => 0,
            Event::CycleStarted { writes: true, .. } => 2,
            Event::ScanFinished(scan) => 1 + scan.checks.iter().filter(|check| check.result.is_err()).count() as u64,
            _ => 1,
        }
    }
}

/// A consumer of the events of a run. Sinks do not depend on each other or on the checks.
pub trait Sink: Send {
    /// Processes the next event.
    fn take(&mut self, event: &Event);

    /// Called after each batch of events.
    fn flush(&mut self) {}
}

/// Sends an event to the recorder. It must not block.
pub type SendEvent = Arc<dyn Fn(Event) + Send + Sync>;
