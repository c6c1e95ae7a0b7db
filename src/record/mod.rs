//! What goes into the logs: records, their two line formats, written and read side by side, and the files that they go
//! to.

mod classic;
mod file;
mod json;
mod legacy;
mod log;
mod stamp;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Stamp;
use crate::connect::Timings;
use crate::failure::Failure;
use crate::identity::{Change, Identity};
use crate::signal::Signal;

pub use classic::{read_success, seconds};
pub use file::{Rotate, Rotation};
pub use log::{Log, LogFiles};
pub use stamp::Zone;

/// Who was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The endpoint that was asked for, over a fresh connection.
    #[default]
    Endpoint,
    /// The endpoint, over the connection that is kept.
    Held,
    /// A cluster as a whole: whether every slot is served.
    Cluster,
    /// One node of a cluster, as `host:port`.
    Node(Arc<str>),
    /// One shard of a cluster, by the slots that it had when it was first seen: `0-5460`. Its check is a write.
    Shard(Arc<str>),
}

impl Who {
    /// With `--canary` its checks read and then write, and which of the two failed is told apart. Nodes are only read, and
    /// shards are there to be written to.
    pub fn reads_and_writes(&self) -> bool {
        matches!(self, Who::Endpoint | Who::Held)
    }
}

/// What a check was of: the part of a line between the time and the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub who: Who,
    /// The logical database; none where a run checks a single one and its lines do not name it.
    pub db: Option<u32>,
    /// The canary write alone, where SELECT and PING passed.
    pub write: bool,
}

impl Subject {
    pub fn db(db: u32) -> Self {
        Subject { db: Some(db), ..Subject::default() }
    }

    pub fn of(who: Who, db: Option<u32>) -> Self {
        Subject { who, db, write: false }
    }

    /// Whether `next` is the same but for its database, which is the next one.
    pub fn is_before(&self, next: &Subject) -> bool {
        let neighbours = self.db.zip(next.db).is_some_and(|(db, next)| next == db + 1);
        neighbours && (&self.who, self.write) == (&next.who, next.write)
    }

    /// Neighbours as one name: `DB 0-15`.
    pub fn range<'s>(subjects: impl IntoIterator<Item = &'s Subject>) -> String {
        let mut subjects = subjects.into_iter();
        let Some(first) = subjects.next() else { return String::new() };
        match subjects.last().and_then(|last| last.db) {
            Some(last) => {
                let write = if first.write { " WRITE" } else { "" };
                format!("{}-{last}{write}", first.writing(false))
            }
            None => first.to_string(),
        }
    }

    /// The same subject's reads, or its writes.
    #[must_use]
    pub fn writing(&self, write: bool) -> Self {
        Subject { write, ..self.clone() }
    }
}

/// What is known of a check beyond its verdict. The classic lines leave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// From the check's start to its verdict; for one of several databases from the scan's start.
    pub elapsed: Duration,
    /// Waiting for the replies to SELECT, then to PING, then to the canary's commands.
    pub select: Duration,
    pub ping: Duration,
    pub write: Duration,
    /// The connection that the check was made over; shared by all that were.
    pub connection: Arc<Contact>,
}

/// What is known of a connection, also of one that did not open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    pub timings: Timings,
    /// The address that answered, or was tried last; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// All addresses that the name had.
    pub addresses: Vec<IpAddr>,
    pub identity: Identity,
}

/// Which of the tool's modes made a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Dbs,
    Cycles,
}

/// One database in a block of `dbs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    pub details: Details,
    /// A canary write was part of it, unless it failed before.
    pub writes: bool,
}

/// One record: a line, or a whole block of `dbs`. It is written with one `write(2)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The block of one scan by `dbs`.
    Scan {
        at: Stamp,
        checks: Vec<Verdict>,
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
    /// Something about who is checked is not as it was at the check before.
    Changed {
        who: Who,
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
                match self.1 {
                    Format::Classic => classic::write(self.0, f),
                    Format::Json => json::write(self.0, f),
                }
            }
        }
        Formatted(self, format)
    }
}

/// The classic lines, without the last line's end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        classic::write(self, f)
    }
}

/// What one line of a log says when it is read back. A block of `dbs` is several lines, and several entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    BlockBegan(Stamp),
    /// One database of the block that began last.
    Verdict {
        subject: Subject,
        result: Result<(), Failure>,
        /// None where the line does not tell.
        elapsed: Option<Duration>,
        /// Whom it was asked of, where the line tells.
        contact: Option<Box<Contact>>,
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

/// Reads one line, without its end, in whichever format it is. Its stamps are resolved by `zone`, and its entries go to
/// `emit`; a line that cannot be read gives none.
///
/// # Errors
/// The line cannot be read.
pub fn read_line(line: &str, zone: &mut Zone, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    if line.starts_with('{') { json::read(line, zone, emit) } else { classic::read(line, zone).map(emit) }
}

/// A line that is in no format that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a health log")]
pub struct Unreadable;
