//! One pass over logical databases on one connection: SELECT n and PING for each index, pipelined.
//!
//! A checker must not load the server that is being upgraded, so all indexes share a connection for as long as it
//! holds. Each index is settled by its own replies, as they come. A connection that breaks or stalls fails the
//! first index it left unanswered, and the rest go on over a new one; a connection that answered nothing at all settles
//! all remaining indexes. So a hung endpoint costs one timeout for any number of databases, a mid-scan stall two.

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;
use tracing::debug;

use crate::canary::Canary;
use crate::connect::{Connection, unexpected};
use crate::deadline::Deadline;
use crate::failure::{Failure, Kind, Phase};
use crate::identity::Role;
use crate::questions::Identify;
use crate::record::{Contact, Details};
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

    /// The first index to check.
    pub fn first(self) -> u32 {
        *self.range().start()
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
    /// The canary write failed, after SELECT and PING had passed.
    pub write: bool,
    pub result: Result<(), Failure>,
    pub details: Details,
}

impl Outcome {
    /// How long the check took; of one that failed, how long it was under way before it met the failure, as far as that is
    /// known. The wait for a reply that is an error belongs to the failure: whoever waits is not served.
    pub fn took(&self) -> Duration {
        let Details { elapsed, select, ping, write, .. } = self.details;
        match &self.result {
            Ok(()) => elapsed,
            Err(_) if self.write => elapsed.saturating_sub(write),
            // Which phase it was that ran out, and when that began, is in the text alone.
            Err(failure) if failure.kind == Kind::Timeout => Duration::ZERO,
            Err(_) => elapsed.saturating_sub(select + ping + write),
        }
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
    /// The role that the server must have for a check to pass.
    pub expect_role: Option<Role>,
    /// The write that is part of each check.
    pub canary: Option<Canary>,
    /// How many indexes were settled over all scans, for whoever watches.
    pub settled: AtomicU64,
}

/// Where the outcomes of a scan go, as soon as each is known.
pub type Emit<'a> = &'a mut (dyn FnMut(Outcome) + Send);

/// How far a scan is.
struct Pass<'a> {
    emit: Emit<'a>,
    start: Instant,
    /// When the scan has to be over.
    end: Instant,
    next: u32,
    last: u32,
    /// Whether an index was settled already.
    settled: bool,
    /// The present connection.
    contact: Arc<Contact>,
    /// When the last index was settled, or the connection opened.
    since: Instant,
    /// Why no more writes are tried: one of them ran out of time, and the next would too.
    unwritable: Option<Failure>,
}

/// How one connection's turn ended.
enum Turn {
    /// Every index is settled, or the server's last database was found.
    Finished,
    /// The connection is of no use any more, and the next index goes on over another one.
    Lost,
    /// The connection broke and that fails the next index; `answered` tells whether it had been of any use.
    Broke { failure: Failure, answered: bool },
}

impl Scanner {
    /// Checks every database once. Each outcome is emitted as soon as it is known, so that a caller who drops this
    /// future loses none.
    pub async fn run(&self, emit: Emit<'_>) {
        self.run_until(Instant::now() + self.deadline, emit).await;
    }

    /// The same, as a part of something that has to be over at `end`. What runs out of time names the user's limits.
    pub async fn run_until(&self, end: Instant, emit: Emit<'_>) {
        let mut pass = Pass { end, ..self.pass(self.databases, emit) };
        while pass.next <= pass.last {
            if Instant::now() >= pass.end {
                let limit = humantime::format_duration(self.deadline);
                let text = format!("not reached within the scan's deadline of {limit}");
                return self.settle_rest(&mut pass, &Failure::new(Kind::Timeout, text));
            }
            let deadline = self.deadline_of(&pass);
            let mut contact = Contact::default();
            let opened = Connection::open(&self.target, &self.resolver, deadline, &mut contact).await;
            pass.contact = Arc::new(contact);
            let turn = match opened {
                Ok(mut connection) => self.ask_all(&mut pass, &mut connection, deadline).await,
                Err(failure) => Turn::Broke { failure, answered: false },
            };
            match turn {
                Turn::Finished => return,
                Turn::Lost => {}
                Turn::Broke { failure, answered } => {
                    debug!("DB {}: {failure}", pass.next);
                    // Only the first index had its whole time when the scan's own deadline is what passed.
                    if Instant::now() >= pass.end && pass.settled {
                        continue;
                    }
                    if !answered {
                        return self.settle_rest(&mut pass, &failure);
                    }
                    self.settle(&mut pass, Settled::failed(failure));
                }
            }
        }
    }

    /// The same checks for another server, with the writes that fit there.
    pub fn elsewhere(&self, target: Target, canary: Option<Canary>) -> Self {
        Scanner {
            target,
            resolver: Resolver::new(self.timeout),
            databases: self.databases,
            timeout: self.timeout,
            deadline: self.deadline,
            identify: Identify::new(self.identify.wanted),
            expect_role: self.expect_role,
            canary,
            settled: AtomicU64::new(0),
        }
    }

    /// Checks one database before `deadline` over a connection that is open already, and says whether it can be used
    /// again.
    pub async fn ask_one(
        &self,
        connection: &mut Connection,
        contact: Arc<Contact>,
        db: u32,
        deadline: Deadline,
        emit: Emit<'_>,
    ) -> bool {
        let mut pass = self.pass(Databases::One(db), emit);
        pass.contact = contact;
        match self.ask_all(&mut pass, connection, deadline).await {
            Turn::Finished => true,
            Turn::Lost => false,
            Turn::Broke { failure, .. } => {
                self.settle(&mut pass, Settled::failed(failure));
                false
            }
        }
    }

    fn pass<'a>(&self, databases: Databases, emit: Emit<'a>) -> Pass<'a> {
        let start = Instant::now();
        let (next, last) = databases.range().into_inner();
        Pass {
            emit,
            start,
            end: start + self.deadline,
            next,
            last,
            settled: false,
            contact: Arc::default(),
            since: start,
            unwritable: None,
        }
    }

    fn deadline_of(&self, pass: &Pass<'_>) -> Deadline {
        Deadline::after(self.timeout).no_later_than(pass.end)
    }

    /// Settles the next index.
    fn settle(&self, pass: &mut Pass<'_>, Settled { write, result, waits, at }: Settled) {
        debug!("DB {}: SELECT after {:?}, PING after {:?}, {:?}", pass.next, waits.select, waits.ping, result);
        let details = Details {
            elapsed: at - pass.start,
            select: waits.select,
            ping: waits.ping,
            write: waits.write,
            connection: pass.contact.clone(),
        };
        pass.since = at;
        (pass.emit)(Outcome { db: pass.next, write, result, details });
        pass.next += 1;
        pass.settled = true;
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails all that is left. Where the number of databases is not known, that is one.
    fn settle_rest(&self, pass: &mut Pass<'_>, failure: &Failure) {
        let last = if self.databases == Databases::Auto { pass.next } else { pass.last };
        while pass.next <= last {
            self.settle(pass, Settled::failed(failure.clone()));
        }
    }

    /// Settles indexes over a connection for as long as it lasts.
    async fn ask_all(&self, pass: &mut Pass<'_>, connection: &mut Connection, mut deadline: Deadline) -> Turn {
        pass.since = Instant::now();
        let auto = self.databases == Databases::Auto;
        let mut chunk = match (auto, &self.canary) {
            (false, _) => CHUNK,
            (true, None) => FIRST_CHUNK,
            // Past the last database SELECT fails, and a write sent along would go to that last one.
            (true, Some(_)) => 1,
        };
        let mut questions = self.identify.questions(self.expect_role);
        let mut role = Ok(());
        let mut answered = false;
        let mut commands = Vec::new();
        let mut writes = VecDeque::new();
        // The first index that was not asked for yet.
        let mut unasked = pass.next;
        while pass.next <= pass.last {
            // Where the number is known, the server goes on while half of the replies are read.
            if unasked - pass.next <= if auto { 0 } else { CHUNK / 2 } && unasked <= pass.last {
                let chunk_last = pass.last.min(pass.next + (chunk - 1));
                commands.clear();
                for db in unasked..=chunk_last {
                    pack_check(&mut commands, db);
                    if db == pass.next {
                        questions.pack(&mut commands);
                    }
                    if let Some(canary) = self.canary.as_ref().filter(|_| pass.unwritable.is_none()) {
                        writes.push_back(canary.pack(&mut commands));
                    }
                }
                unasked = chunk_last + 1;
                if chunk > 1 {
                    chunk = CHUNK.min(chunk * 2);
                }
                if let Err(failure) = deadline.bound(|| Phase::Reply("SELECT"), sent(connection, &commands)).await {
                    return Turn::Broke { failure, answered };
                }
            }
            let replies = two_replies(connection, deadline, pass.since, &mut answered).await;
            let Replies { select, ping, mut waits, mut at } = match replies {
                Ok(replies) => replies,
                Err(failure) => return Turn::Broke { failure, answered },
            };
            let end_of_range = auto && select.as_ref().is_err_and(|failure| !speaks_of_one_index(failure));
            let beyond = pass.next > 0 && select.as_ref().is_err_and(|failure| failure.kind == Kind::NoSuchDb);
            if end_of_range && beyond {
                return Turn::Finished;
            }
            if questions.any() {
                let asked = std::mem::take(&mut questions);
                let (identity, verdict) = self.identify.learn(asked, connection, deadline).await;
                role = verdict;
                if let Some(identity) = identity {
                    Arc::make_mut(&mut pass.contact).identity = identity;
                }
            }
            // A PING after a failed SELECT is answered by the database before it, and proves nothing.
            let read = select.and(ping).and_then(|()| role.clone());
            let written = match writes.pop_front() {
                Some(write) => {
                    let written = write.confirm(connection, deadline).await;
                    waits.write = at.elapsed();
                    at += waits.write;
                    written
                }
                None => Ok(pass.unwritable.clone().map_or(Ok(()), Err)),
            };
            let (write, result) = match (read, &written) {
                (Ok(()), Ok(Ok(()))) => (false, Ok(())),
                (Ok(()), Ok(Err(failure)) | Err(failure)) => (true, Err(failure.clone())),
                (Err(failure), _) => (false, Err(failure)),
            };
            self.settle(pass, Settled { write, result, waits, at });
            if let Err(failure) = written {
                pass.unwritable = Some(failure).filter(|failure| failure.kind == Kind::Timeout);
                return Turn::Lost;
            }
            if end_of_range {
                return Turn::Finished;
            }
            deadline = Deadline::at(at + self.timeout, self.timeout).no_later_than(pass.end);
        }
        Turn::Finished
    }
}

/// What the commands of one index came to.
struct Settled {
    write: bool,
    result: Result<(), Failure>,
    waits: Waits,
    at: Instant,
}

impl Settled {
    fn failed(failure: Failure) -> Self {
        Settled { write: false, result: Err(failure), waits: Waits::default(), at: Instant::now() }
    }
}

/// How long the replies to SELECT, PING and the canary's commands were waited for.
#[derive(Clone, Copy, Default)]
struct Waits {
    select: Duration,
    ping: Duration,
    write: Duration,
}

/// What SELECT and PING came to.
struct Replies {
    select: Result<(), Failure>,
    ping: Result<(), Failure>,
    waits: Waits,
    /// When the second came.
    at: Instant,
}

/// Reads the replies to SELECT and PING, which are waited for since `start`.
///
/// # Errors
/// The connection broke or stalled. `answered` becomes true with the first reply that is not an error, or with the
/// second of any kind: a lone error before the end of a connection was meant for the connection, not for an index.
async fn two_replies(
    connection: &mut Connection,
    deadline: Deadline,
    start: Instant,
    answered: &mut bool,
) -> Result<Replies, Failure> {
    if connection.take_healthy_pair() {
        *answered = true;
        let at = Instant::now();
        let waits = Waits { select: at - start, ..Waits::default() };
        return Ok(Replies { select: Ok(()), ping: Ok(()), waits, at });
    }
    let select = match deadline.bound(|| Phase::Reply("SELECT"), connection.reply()).await? {
        Value::Okay => Ok(()),
        other => Err(unexpected("SELECT", &connection.discreet(other))),
    };
    *answered |= select.is_ok();
    let selected = Instant::now();
    match deadline.bound(|| Phase::Reply("PING"), connection.reply()).await {
        Ok(reply) => {
            *answered = true;
            let ping = match reply {
                Value::SimpleString(text) if text == "PONG" => Ok(()),
                other => Err(unexpected("PING", &connection.discreet(other))),
            };
            let at = Instant::now();
            let waits = Waits { select: selected - start, ping: at - selected, ..Waits::default() };
            Ok(Replies { select, ping, waits, at })
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
    // By hand, since each `redis::cmd` makes buffers of its own, and there may be a million of them.
    let digits = db.checked_ilog10().unwrap_or(0) + 1;
    let _ = write!(commands, "*2\r\n$6\r\nSELECT\r\n${digits}\r\n{db}\r\n*1\r\n$4\r\nPING\r\n");
}

/// Whether the next index may fare better. A server that refuses everything would otherwise be asked for a million.
fn speaks_of_one_index(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::NoPerm) && failure.detail.contains("database")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_an_error_belongs_to_the_failure() {
        let millis = Duration::from_millis;
        let details = Details {
            elapsed: millis(100),
            select: millis(10),
            ping: millis(5),
            write: millis(60),
            ..Details::default()
        };
        let took = |write, kind: Option<Kind>| {
            let result = kind.map_or(Ok(()), |kind| Err(Failure::new(kind, "")));
            Outcome { db: 0, write, result, details: details.clone() }.took()
        };
        assert_eq!(took(false, None), millis(100));
        assert_eq!(took(false, Some(Kind::Loading)), millis(25));
        assert_eq!(took(true, Some(Kind::ReadOnly)), millis(40));
        assert_eq!(took(true, Some(Kind::Timeout)), millis(40));
        assert_eq!(took(false, Some(Kind::Timeout)), Duration::ZERO);
    }
}
