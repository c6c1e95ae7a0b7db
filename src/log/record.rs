//! A record, as it is written, and an entry, as one line of it is read back.

use std::fmt;
use std::time::Duration;

use crate::log::format;
use crate::model::change::Change;
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, ConnectionInfo, Details};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// The command that made a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Dbs,
    Cycles,
}

/// One record: a line, or a whole block of `dbs`. It is never split over two calls of `write(2)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The block of one scan by `dbs`.
    Scan {
        at: Stamp,
        checks: Vec<CheckResult>,
        /// How long the whole scan took.
        took: Duration,
        /// Each check also wrote a canary key.
        canary: bool,
        /// The signal that ended the scan early, and when.
        stopped: Option<(Signal, Stamp)>,
    },
    /// One check of one database.
    Check {
        /// When the check began.
        at: Stamp,
        mode: Mode,
        subject: Subject,
        /// Numbers the checks of this subject over the whole run from 1, failed ones included.
        number: u64,
        result: Result<(), Failure>,
        details: Details,
    },
    /// Any other event of a run.
    Mark(Mark),
}

/// An event of a run, in the classic format a line `=== … ===`.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    CycleStarted {
        cycle: u32,
        at: Stamp,
    },
    CycleCompleted {
        cycle: u32,
        /// How long the break is that follows.
        break_duration: Duration,
        /// The classic line does not tell; read back, it is that of the line before.
        at: Stamp,
    },
    AllFinished {
        at: Stamp,
    },
    Stopped {
        signal: Signal,
        at: Stamp,
    },
    /// From here on, each check also writes a canary key.
    Canary {
        at: Stamp,
    },
    /// Checks were scheduled but not run, because this process or its machine was suspended.
    NotObserved {
        from: Stamp,
        to: Stamp,
        missed: u64,
    },
    /// Records could not be written, so the results of checks in this time are not known.
    RecordsLost {
        from: Stamp,
        to: Stamp,
        count: u64,
    },
    /// The target is not as it was at the check before.
    Changed {
        target: Target,
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
        /// Bounds of its length.
        at_least: Duration,
        /// None where the beginning was not observed.
        at_most: Option<Duration>,
    },
}

/// The log file that a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Blocks of `dbs`.
    Health,
    /// Successes and marks of `cycles`.
    Success,
    /// Failures, and where outages began and ended.
    Error,
}

impl Destination {
    pub const ALL: [Destination; 3] = [Destination::Health, Destination::Success, Destination::Error];

    /// The file's name in the log folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Destination::Health => "redis_db_health.log",
            Destination::Success => "redis_success.log",
            Destination::Error => "redis_error.log",
        }
    }
}

/// The format in which records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The lines of the scripts that this tool replaces: `2025-08-27 07:35:01 SUCCESS 1`.
    #[default]
    Classic,
    /// One JSON object a line.
    Json,
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

    /// Displays the record in a format, without the last line's end.
    pub fn in_format(&self, format: Format) -> impl fmt::Display {
        struct Formatted<'a>(&'a Record, Format);
        impl fmt::Display for Formatted<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format::write(self.0, self.1, f)
            }
        }
        Formatted(self, format)
    }
}

/// Displays the classic lines, without the last line's end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format::write(self, Format::Classic, f)
    }
}

/// What one line of a log says when it is read back. A block of `dbs` is several lines, and so several entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    BlockBegan(Stamp),
    /// One database of the block that began last.
    CheckResult {
        subject: Subject,
        result: Result<(), Failure>,
        /// None where the line does not tell.
        elapsed: Option<Duration>,
        /// The server that answered, where the line tells.
        connection: Option<Box<ConnectionInfo>>,
    },
    /// Each check of the block also wrote a canary key.
    BlockWrites,
    BlockEnded,
    Check {
        at: Stamp,
        /// None where the line does not tell.
        mode: Option<Mode>,
        subject: Subject,
        result: Result<(), Failure>,
        elapsed: Option<Duration>,
    },
    Mark(Mark),
}

/// A line that is in no known format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a health log")]
pub struct Unreadable;
