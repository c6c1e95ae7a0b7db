//! One pass over logical databases on one connection: SELECT n and PING for each index, pipelined.
//!
//! A checker must not load the server that is being upgraded, so all indexes share a connection for as long as it
//! holds. Each index is settled by its own two replies, as they come. A connection that breaks or stalls fails the
//! first index it left unanswered, and the rest go on over a new one; a connection that answered nothing at all settles
//! all remaining indexes. So a hung endpoint costs one timeout for any number of databases, a mid-scan stall two.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;
use tracing::debug;

use crate::connect::{Connection, Deadline, Timings, unexpected};
use crate::failure::{Failure, Kind, Phase};
use crate::identity::{Identity, Role};
use crate::record::Details;
use crate::resolve::Resolver;
use crate::target::Target;

/// The highest index that can be asked for: engines before 6.0 allowed 1.2 million databases on ElastiCache.
pub const MAX_INDEX: u32 = 1_199_999;

/// How many SELECT and PING pairs are sent ahead of their replies: few enough for any socket buffer, enough that a
/// round trip is shared by many.
const CHUNK: u32 = 1024;

/// How many indexes are first asked for when their number is unknown; it doubles from there.
const FIRST_CHUNK: u32 = 32;

/// Which logical databases to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Databases {
    /// This index alone.
    One(u32),
    /// 0 up to and including this index.
    UpTo(u32),
    /// 0 up to the last index that the server has. SELECT is how to find it: CONFIG is forbidden on ElastiCache.
    Auto,
}

impl Databases {
    /// How many there are, where that is known.
    pub fn count(self) -> Option<u64> {
        let range = self.range();
        (self != Databases::Auto).then(|| u64::from(range.end() - range.start()) + 1)
    }

    fn range(self) -> RangeInclusive<u32> {
        match self {
            Databases::One(db) => db..=db,
            Databases::UpTo(last) => 0..=last,
            Databases::Auto => 0..=MAX_INDEX,
        }
    }
}

/// What came of the check of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub db: u32,
    pub result: Result<(), Failure>,
    /// From the start of the scan until this index was settled.
    pub elapsed: Duration,
    /// Waiting for the reply to SELECT, and then for the reply to PING.
    pub select: Duration,
    pub ping: Duration,
}

/// What a scan saw, also when it was cut short.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    pub outcomes: Vec<Outcome>,
    /// The address that answered last.
    pub peer: Option<SocketAddr>,
    /// The phases of the first connection that opened.
    pub timings: Timings,
    /// What the server told of itself, if it was asked and the user may ask.
    pub identity: Identity,
}

impl Scan {
    /// What is known of one of its checks.
    pub fn details(&self, outcome: &Outcome) -> Details {
        Details {
            elapsed: outcome.elapsed,
            timings: self.timings,
            select: outcome.select,
            ping: outcome.ping,
            peer: self.peer,
            identity: self.identity.clone(),
        }
    }

    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err()).count()
    }
}

/// How to scan.
#[derive(Debug)]
pub struct Scanner {
    pub target: Target,
    pub resolver: Resolver,
    pub databases: Databases,
    /// The time that one check may take, from name look-up to the last reply.
    pub timeout: Duration,
    /// The time that the whole scan may take.
    pub deadline: Duration,
    pub identify: Identify,
    /// How many indexes were settled over all scans, for whoever watches.
    pub settled: AtomicU64,
}

/// Whether to ask servers who they are: in the check's own round trip, and no more once a server forbade it, since each
/// refusal enters its ACL LOG.
#[derive(Debug, Default)]
pub struct Identify {
    pub wanted: bool,
    forbidden: AtomicBool,
}

impl Identify {
    pub fn new(wanted: bool) -> Self {
        Identify { wanted, forbidden: AtomicBool::new(false) }
    }

    fn is_on(&self) -> bool {
        self.wanted && !self.forbidden.load(Ordering::Relaxed)
    }
}

/// How one connection's turn ended.
enum Turn {
    /// Every index is settled, or the server's last database was found.
    Finished,
    /// The connection is of no use any more; `answered` tells whether it had been of any.
    Broke { failure: Failure, answered: bool },
}

impl Scanner {
    /// Checks every database once. Outcomes are in `scan` as soon as they are known, so that a caller who drops this
    /// future loses none.
    pub async fn run(&self, scan: &mut Scan) {
        let start = Instant::now();
        let end = start + self.deadline;
        let (mut next, last) = self.databases.range().into_inner();
        while next <= last {
            if Instant::now() >= end {
                let limit = humantime::format_duration(self.deadline);
                let text = format!("not reached within the scan's deadline of {limit}");
                self.settle_rest(scan, next, &Failure::new(Kind::Timeout, text), start);
                return;
            }
            match self.one_connection(scan, &mut next, start, end).await {
                Turn::Finished => return,
                Turn::Broke { failure, answered } => {
                    debug!("DB {next}: {failure}");
                    // Only the first index had its whole time when the scan's own deadline is what passed.
                    if Instant::now() >= end && !scan.outcomes.is_empty() {
                        continue;
                    }
                    if !answered {
                        self.settle_rest(scan, next, &failure, start);
                        return;
                    }
                    self.settle(scan, next, Err(failure), start);
                    next += 1;
                }
            }
        }
    }

    fn settle(&self, scan: &mut Scan, db: u32, result: Result<(), Failure>, start: Instant) {
        let elapsed = start.elapsed();
        scan.outcomes.push(Outcome { db, result, elapsed, select: Duration::ZERO, ping: Duration::ZERO });
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails all that is left. Where the number of databases is not known, that is one.
    fn settle_rest(&self, scan: &mut Scan, next: u32, failure: &Failure, start: Instant) {
        let last = match self.databases {
            Databases::Auto => next,
            known => *known.range().end(),
        };
        for db in next..=last {
            self.settle(scan, db, Err(failure.clone()), start);
        }
    }

    /// Opens a connection and settles indexes from `next` on for as long as it lasts.
    async fn one_connection(&self, scan: &mut Scan, next: &mut u32, start: Instant, end: Instant) -> Turn {
        let mut deadline = Deadline::after(self.timeout).no_later_than(end);
        let mut connection = match Connection::open(&self.target, &self.resolver, deadline).await {
            Ok(connection) => connection,
            Err(failure) => return Turn::Broke { failure, answered: false },
        };
        scan.peer = connection.peer;
        if scan.outcomes.is_empty() {
            scan.timings = connection.timings;
        }

        let last = *self.databases.range().end();
        let auto = self.databases == Databases::Auto;
        let mut chunk = if auto { FIRST_CHUNK } else { CHUNK };
        let mut answered = false;
        let mut identify = self.identify.is_on();
        let mut commands = Vec::new();
        while *next <= last {
            let chunk_last = last.min(*next + (chunk - 1));
            commands.clear();
            for db in *next..=chunk_last {
                pack_check(&mut commands, db);
                if identify && db == *next {
                    commands.extend_from_slice(&redis::cmd("INFO").arg("server").get_packed_command());
                    commands.extend_from_slice(&redis::cmd("ROLE").get_packed_command());
                }
            }
            chunk = CHUNK.min(chunk * 2);
            if let Err(failure) = deadline.bound(|| Phase::Reply("SELECT"), sent(&mut connection, &commands)).await {
                return Turn::Broke { failure, answered };
            }
            while *next <= chunk_last {
                let Replies { select, ping, waits } = match two_replies(&mut connection, deadline, &mut answered).await
                {
                    Ok(replies) => replies,
                    Err(failure) => return Turn::Broke { failure, answered },
                };
                let end_of_range = auto && select.as_ref().is_err_and(|failure| !speaks_of_one_index(failure));
                let beyond = *next > 0 && select.as_ref().is_err_and(|failure| failure.kind == Kind::NoSuchDb);
                if end_of_range && beyond {
                    return Turn::Finished;
                }
                // A PING after a failed SELECT is answered by the database before it, and proves nothing.
                self.settle(scan, *next, select.and(ping), start);
                if let Some(outcome) = scan.outcomes.last_mut() {
                    (outcome.select, outcome.ping) = waits;
                }
                if std::mem::take(&mut identify) {
                    // What it says of itself is no part of the verdict, which is settled; a connection that breaks here
                    // fails the next index.
                    self.identify(&mut connection, deadline, scan).await;
                }
                if end_of_range {
                    return Turn::Finished;
                }
                *next += 1;
                deadline = Deadline::after(self.timeout).no_later_than(end);
            }
        }
        Turn::Finished
    }

    /// Reads the replies to INFO and ROLE.
    async fn identify(&self, connection: &mut Connection, deadline: Deadline, scan: &mut Scan) {
        let mut reply = async || deadline.bound(|| Phase::Reply("INFO"), connection.reply()).await;
        let Ok(info) = reply().await else { return };
        scan.identity.read_info(&info);
        let Ok(role) = reply().await else { return };
        scan.identity.role = Role::from_reply(&role);
        if [info, role].iter().all(|reply| unexpected("", reply).kind == Kind::NoPerm) {
            self.identify.forbidden.store(true, Ordering::Relaxed);
        }
    }
}

/// What the two commands of one index came to, and how long each reply was waited for.
struct Replies {
    select: Result<(), Failure>,
    ping: Result<(), Failure>,
    waits: (Duration, Duration),
}

/// Reads the two replies of one index.
///
/// # Errors
/// The connection broke or stalled. `answered` becomes true with the first reply that is not an error, or with the
/// second of any kind: a lone error before the end of a connection was meant for the connection, not for an index.
async fn two_replies(connection: &mut Connection, deadline: Deadline, answered: &mut bool) -> Result<Replies, Failure> {
    let start = Instant::now();
    let select = match deadline.bound(|| Phase::Reply("SELECT"), connection.reply()).await? {
        Value::Okay => Ok(()),
        other => Err(unexpected("SELECT", &other)),
    };
    *answered |= select.is_ok();
    let selected = Instant::now();
    match deadline.bound(|| Phase::Reply("PING"), connection.reply()).await {
        Ok(reply) => {
            *answered = true;
            let ping = match reply {
                Value::SimpleString(text) if text == "PONG" => Ok(()),
                other => Err(unexpected("PING", &other)),
            };
            Ok(Replies { select, ping, waits: (selected - start, selected.elapsed()) })
        }
        Err(broken) => Err(select.err().unwrap_or(broken)),
    }
}

async fn sent(connection: &mut Connection, commands: &[u8]) -> Result<(), Failure> {
    connection.send(commands).await;
    Ok(())
}

/// Appends SELECT and PING as a client sends them.
fn pack_check(commands: &mut Vec<u8>, db: u32) {
    redis::cmd("SELECT").arg(db).write_packed_command(commands);
    redis::cmd("PING").write_packed_command(commands);
}

/// Whether the next index may fare better. A server that refuses everything would otherwise be asked for a million.
fn speaks_of_one_index(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::NoPerm) && failure.detail.contains("database")
}
