//! What goes into the logs, and what one line says when it is read back.

use std::fmt;
use std::time::Duration;

use crate::log::format;
use crate::model::change::Change;
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, ConnectionInfo, Details};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// Which of the tool's modes made a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Dbs,
    Cycles,
}

/// One record: a line, or a whole block of `dbs`. It is written with one `write(2)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The block of one scan by `dbs`.
    Scan {
        at: Stamp,
        checks: Vec<CheckResult>,
        /// How long the whole scan took.
        took: Duration,
        /// Each check wrote a canary too.
        canary: bool,
        /// The signal that ended the scan before it was through.
        stopped: Option<(Signal, Stamp)>,
    },
    /// One check of one database.
    Check {
        /// When the check began.
        at: Stamp,
        mode: Mode,
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
        /// The classic line does not give it; read back it is that of the line before.
        at: Stamp,
    },
    AllFinished {
        at: Stamp,
    },
    Stopped {
        signal: Signal,
        at: Stamp,
    },
    /// From here on each check writes a canary too.
    Canary {
        at: Stamp,
    },
    /// No check was made, although some were due, because this process or its machine did not run.
    NotObserved {
        from: Stamp,
        to: Stamp,
        missed: u64,
    },
    /// Records of this time could not be written, so what they told is not known.
    RecordsLost {
        from: Stamp,
        to: Stamp,
        count: u64,
    },
    /// Something about who is checked is not as it was at the check before.
    Changed {
        who: Target,
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
    pub const ALL: [Destination; 3] = [Destination::Health, Destination::Success, Destination::Error];

    /// The name inside the log folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Destination::Health => "redis_db_health.log",
            Destination::Success => "redis_success.log",
            Destination::Error => "redis_error.log",
        }
    }
}

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The lines of the scripts that this tool replaces.
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

    /// The record in a format, without the last line's end.
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

/// The classic lines, without the last line's end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format::write(self, Format::Classic, f)
    }
}

/// What one line of a log says when it is read back. A block of `dbs` is several lines, and several entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    BlockBegan(Stamp),
    /// One database of the block that began last.
    CheckResult {
        subject: Subject,
        result: Result<(), Failure>,
        /// None where the line does not tell.
        elapsed: Option<Duration>,
        /// Whom it was asked of, where the line tells.
        contact: Option<Box<ConnectionInfo>>,
    },
    /// Each check of the block wrote a canary too.
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

/// A line that is in no format that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a health log")]
pub struct Unreadable;
