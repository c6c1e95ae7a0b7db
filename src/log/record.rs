//! Records, as they are written, and entries, as lines are read back.

use std::time::Duration;

use crate::model::change::Change;
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, ConnectionInfo, Details};
pub use crate::model::run::{Mode, Run};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// One record: a line, or a whole block of `dbs`.
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
        /// When the check began, as time since the run began, from the monotonic clock. Only JSON lines contain it: their
        /// times stay true if the wall clock is set. None for `dbs`, whose checks all begin with the run.
        since_start: Option<Duration>,
        subject: Subject,
        /// Numbers the checks of this subject over the whole run from 1, failed ones included.
        number: u64,
        result: Result<(), Failure>,
        details: Details,
        /// The check included a canary write. Only JSON lines contain it.
        wrote: bool,
    },
    /// Any other event of a run.
    Mark(Mark),
}

/// An event of a run: a line `=== … ===` in the classic format.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// The header of a run. It precedes the records of the run in each of its files: at the beginning of the run, in each
    /// new file after a rotation, and again where the wall clock or its offset from UTC changed. All records after it in
    /// that file, up to the next header, belong to the run and have its clock.
    ///
    /// The log writer adds it when it is needed; it is not a record of its own and does not count as one. In the error log
    /// the run's failures come after it; those of `dbs` are the lines that have the time of its beginning.
    RunStarted {
        run: Run,
        /// The time of the record that follows, by the wall clock. Its offset from UTC is that of all following records.
        at: Stamp,
        /// That same moment as time since the run began, from the monotonic clock. The difference between the two holds
        /// for all records up to the next header, within [`MAX_CLOCK_ERROR`].
        since_start: Duration,
    },
    CycleStarted {
        cycle: u32,
        at: Stamp,
    },
    CycleCompleted {
        cycle: u32,
        /// How long the following break is.
        break_duration: Duration,
        at: Stamp,
        /// False if it was read from a classic line, which does not contain the time: `at` is that of the previous line.
        is_exact: bool,
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
    /// Records could not be written, so the results of the checks in this time are unknown.
    RecordsLost {
        from: Stamp,
        to: Stamp,
        count: u64,
    },
    /// A property of the target differs from the previous check.
    Changed {
        target: Target,
        at: Stamp,
        change: Change,
    },
    /// Not logged for an outage that began before the run.
    OutageBegan {
        subject: Subject,
        /// The start of the first failed check, with milliseconds if `onset` is known.
        at: Stamp,
        /// How far into that check its failing phase began. None in old logs.
        onset: Option<Duration>,
    },
    OutageEnded {
        subject: Subject,
        /// The end of the check that passed.
        at: Stamp,
        /// The start of the first failed check, with milliseconds: which outage ended. An outage is identified by its
        /// subject and this time. None in old logs.
        first_failure: Option<Stamp>,
        /// The bounds of its duration.
        at_least: Duration,
        /// None if the beginning was not observed.
        at_most: Option<Duration>,
    },
}

/// A header is repeated if the wall clock has moved by more than this against the monotonic clock.
pub const MAX_CLOCK_ERROR: Duration = Duration::from_millis(500);

impl Mark {
    /// When it happened. For a range of time: its end.
    pub fn at(&self) -> Stamp {
        match self {
            Mark::RunStarted { at, .. }
            | Mark::CycleStarted { at, .. }
            | Mark::CycleCompleted { at, .. }
            | Mark::AllFinished { at }
            | Mark::Stopped { at, .. }
            | Mark::Canary { at }
            | Mark::NotObserved { to: at, .. }
            | Mark::RecordsLost { to: at, .. }
            | Mark::Changed { at, .. }
            | Mark::OutageBegan { at, .. }
            | Mark::OutageEnded { at, .. } => *at,
        }
    }

    /// Whether it tells of a time without checks, or of another run: the time to the next check is not an interval.
    pub fn interrupts_checks(&self) -> bool {
        match self {
            Mark::CycleStarted { .. }
            | Mark::CycleCompleted { .. }
            | Mark::AllFinished { .. }
            | Mark::Stopped { .. }
            | Mark::NotObserved { .. }
            | Mark::RecordsLost { .. } => true,
            Mark::RunStarted { .. }
            | Mark::Canary { .. }
            | Mark::Changed { .. }
            | Mark::OutageBegan { .. }
            | Mark::OutageEnded { .. } => false,
        }
    }
}

/// The log file that a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Blocks of `dbs`.
    Health,
    /// Successes and marks of `cycles`.
    Success,
    /// Failures, and marks where outages began and ended.
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
    /// Classic text lines, as written by the scripts that this tool replaces: `2025-08-27 07:35:01 SUCCESS 1`.
    #[default]
    Classic,
    /// One JSON object per line.
    Json,
}

impl Record {
    /// When it happened: the time whose offset from UTC the line has.
    pub fn at(&self) -> Stamp {
        match self {
            Record::Scan { at, .. } | Record::Check { at, .. } => *at,
            Record::Mark(mark) => mark.at(),
        }
    }

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

/// The content of one log line, as read back. A block of `dbs` has several lines, and so several entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    BlockBegan(Stamp),
    /// One database of the current block.
    CheckResult {
        subject: Subject,
        result: Result<(), Failure>,
        /// How long the check took; if it failed, the time before its failing phase. None if the line does not contain it.
        took: Option<Duration>,
        /// The server that answered, if the line contains it.
        connection: Option<Box<ConnectionInfo>>,
    },
    /// Each check of the block also wrote a canary key.
    BlockWrites,
    BlockEnded,
    Check {
        at: Stamp,
        /// None if the line does not contain it.
        mode: Option<Mode>,
        /// Time since the run began, from the monotonic clock. None if the line does not contain it.
        since_start: Option<Duration>,
        subject: Subject,
        result: Result<(), Failure>,
        /// How long the check took; if it failed, the time before its failing phase. None if the line does not contain it.
        took: Option<Duration>,
        /// Whether the check included a canary write. None if the line does not contain it.
        wrote: Option<bool>,
    },
    Mark(Mark),
}

/// A line in an unknown format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a health log")]
pub struct Unreadable;
