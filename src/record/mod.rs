//! What goes into the logs: records, their line format, and the files that they go to.

mod classic;
mod file;
mod log;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Stamp;
use crate::connect::Timings;
use crate::failure::Failure;
use crate::identity::{Change, Identity};
use crate::signal::Signal;

pub use classic::seconds;
pub use file::{Rotate, Rotation};
pub use log::{Log, LogFiles};

/// What a check was of: the part of a line between the time and the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// One node of a cluster, as `host:port`; none for the endpoint that was asked for.
    pub node: Option<Arc<str>>,
    /// The logical database; none where a run checks a single one and its lines do not name it.
    pub db: Option<u32>,
}

impl Subject {
    pub fn db(db: u32) -> Self {
        Subject { db: Some(db), ..Subject::default() }
    }
}

/// What is known of a check beyond its verdict. The classic lines leave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// From the check's start to its verdict.
    pub elapsed: Duration,
    pub timings: Timings,
    /// Waiting for the reply to SELECT, and then for the reply to PING.
    pub select: Duration,
    pub ping: Duration,
    /// The address that was asked; none for a Unix socket, and when no connection opened.
    pub peer: Option<SocketAddr>,
    pub identity: Identity,
}

/// One database in a block of `dbs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    /// From the scan's start to this verdict.
    pub elapsed: Duration,
}

/// One record: a line, or a whole block of `dbs`. It is written with one `write(2)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The block of one scan by `dbs`.
    Scan {
        at: Stamp,
        checks: Vec<Verdict>,
        /// Of the scan's first connection.
        details: Details,
        /// The signal that ended the scan before it was through.
        stopped: Option<(Signal, Stamp)>,
    },
    /// One check of one database.
    Check {
        /// When the check began.
        at: Stamp,
        subject: Subject,
        /// Counts the checks of this subject over the whole run from 1, failed ones too.
        count: u64,
        result: Result<(), Failure>,
        details: Details,
    },
    /// Anything else that is worth a line.
    Mark(Mark),
}

/// A line `=== … ===`.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    CycleStarted {
        cycle: u32,
        at: Stamp,
    },
    CycleCompleted {
        cycle: u32,
        pause: Duration,
    },
    AllFinished {
        at: Stamp,
    },
    Stopped {
        signal: Signal,
        at: Stamp,
    },
    /// No check was made, although some were due, because this process or its machine did not run.
    NotObserved {
        from: Stamp,
        to: Stamp,
        missed: u64,
    },
    /// Something about the endpoint, or about one node of it, is not as it was at the check before.
    Changed {
        node: Option<Arc<str>>,
        at: Stamp,
        change: Change,
    },
    OutageBegan {
        subject: Subject,
        at: Stamp,
    },
    OutageEnded {
        subject: Subject,
        at: Stamp,
        at_least: Duration,
        at_most: Option<Duration>,
    },
}

/// The file that a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    Health,
    Success,
    Error,
}

impl Destination {
    /// The name inside the log folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Destination::Health => "redis_db_health.log",
            Destination::Success => "redis_success.log",
            Destination::Error => "redis_error.log",
        }
    }
}

impl Record {
    pub fn destination(&self) -> Destination {
        match self {
            Record::Scan { .. } => Destination::Health,
            Record::Check { result: Ok(()), .. } => Destination::Success,
            Record::Check { result: Err(_), .. } => Destination::Error,
            Record::Mark(Mark::OutageBegan { .. } | Mark::OutageEnded { .. }) => Destination::Error,
            Record::Mark(_) => Destination::Success,
        }
    }
}

/// The classic lines, without the last line's end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        classic::write(self, f)
    }
}
