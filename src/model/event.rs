//! The interface between those who check and those who record.
//!
//! The probe thread sends events in the order in which things happened, and the recorder hands each of them to its
//! sinks: log, history, metrics, console. Nothing flows back. The history answers with events of its own, for the sinks
//! behind it: an outage began or ended, something changed.

use std::time::Duration;

use crate::model::change::{Changed, TopologyChange};
use crate::model::clock::{Moment, Stamp};
use crate::model::failure::Kind;
use crate::model::outcome::{CheckResult, Outcome};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// When checks began, and their number: the same for all targets that are checked at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Counts the ticks of a run from 1.
    pub number: u64,
    pub at: Moment,
    /// How often observation had been interrupted before.
    pub gaps: u64,
    /// A canary write is part of the check, and told apart from its reads.
    pub writes: bool,
}

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A cycle begins.
    CycleStarted {
        /// Counts from 1.
        cycle: u32,
        at: Stamp,
        /// Each check writes a canary too.
        writes: bool,
    },
    /// A cycle is over, and another one follows after a break.
    CycleCompleted { cycle: u32, at: Moment, break_duration: Duration },
    /// The checks of a tick begin.
    TickStarted(Tick),
    /// One database of a target was checked.
    CheckFinished(CheckFinished),
    /// A check ended after a later one of the same target had finished; those up to `oldest` are in order now.
    CheckEnded {
        target: Target,
        /// The lowest number of a check of the target that is still under way; `u64::MAX` where there is none.
        oldest: u64,
    },
    /// Nodes or shards of a cluster came, went, or changed places.
    TopologyChanged { tick: Tick, change: TopologyChange },
    /// No check was made, although some were scheduled, because this process or its machine did not run.
    NotObserved {
        from: Moment,
        to: Stamp,
        /// How many checks were scheduled but not run.
        missed: u64,
    },
    /// Checks were made whose events found no room in the queue.
    RecordsLost { from: Moment, to: Stamp, count: u64 },
    /// A signal ended the run.
    Stopped {
        signal: Signal,
        at: Stamp,
        /// How many checks it cut off.
        unfinished: u64,
    },
    /// The schedule is through.
    AllFinished { at: Stamp },
    /// `dbs` has checked all databases, or was stopped.
    ScanFinished(Scan),
    /// From the history: a subject failed for the first time after it had passed, or in the run.
    OutageBegan { subject: Subject, at: Stamp, kind: Kind },
    /// From the history: a subject passed again.
    OutageEnded { subject: Subject, at: Stamp, at_least: Duration, at_most: Option<Duration> },
    /// From the history: something about a target is not as it was at the check before.
    Changed(Changed),
}

/// What came of the check of one database of a target.
#[derive(Clone, Debug)]
pub struct CheckFinished {
    pub subject: Subject,
    pub tick: Tick,
    pub outcome: Outcome,
    /// The lowest number of a check of the same target that is still under way. Checks overlap and end in any order;
    /// outages are folded in the order in which the checks began.
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
    /// The signal that ended the scan before it was through, and how many databases it left unchecked, where their
    /// number is known.
    pub stopped: Option<(Signal, Stamp)>,
    pub unchecked: Option<u64>,
}

impl Event {
    /// Whether no other event follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Stopped { .. } | Event::AllFinished { .. } | Event::ScanFinished(_))
    }

    /// How many records the log gets of it.
    pub fn records(&self) -> u64 {
        match self {
            Event::TickStarted(_) | Event::CheckEnded { .. } => 0,
            Event::TopologyChanged { .. } => 0,
            Event::CycleStarted { writes: true, .. } => 2,
            Event::ScanFinished(scan) => 1 + scan.checks.iter().filter(|check| check.result.is_err()).count() as u64,
            _ => 1,
        }
    }
}

/// One of those that take the events of a run: they know nothing of each other, nor of who checks.
pub trait Sink: Send {
    /// Takes the next event.
    fn take(&mut self, event: &Event);

    /// All events that came together were taken.
    fn flush(&mut self) {}
}
