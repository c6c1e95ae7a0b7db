//! Checks logical databases over one connection: SELECT n and PING for each index, pipelined.
//!
//! A check must not put load on a server that is being upgraded, so all indexes share one connection while it works.
//! Each index gets its result from its own replies, as soon as they are received. If the connection breaks or stalls,
//! the first unanswered index fails, and the remaining ones are checked over a new connection. If the connection
//! answered nothing at all, all remaining indexes fail. So a server that hangs costs one timeout for any number of
//! databases, and a stall in the middle costs two.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::model::databases::Databases;
use crate::model::duration::brief;
use crate::model::failure::{Failure, Kind};
use crate::model::outcome::{ConnectionInfo, Details, Outcome, onset};
use crate::model::server::Role;
use crate::probe::canary::{Canary, PendingWrite};
use crate::probe::connection::{ConnectOptions, Connection};
use crate::probe::deadline::Deadline;
use crate::probe::resolve::Resolver;
use crate::probe::resp::{self, Reply, unexpected};
use crate::probe::server_info::{InfoQueries, ServerInfo};

/// How many indexes may wait for their replies: few enough for any socket buffer, enough that many share a round trip.
const MAX_WAITING: u32 = 1024;

/// How many indexes are sent at once. The server processes one half of the waiting indexes while we read the replies to
/// the other.
const CHUNK: u32 = MAX_WAITING / 2;

/// How many indexes are sent first if the number of databases is unknown. Each further chunk is twice as large.
const FIRST_CHUNK: u32 = 32;

/// What to check, and how.
#[derive(Debug)]
pub struct Checker {
    pub connect: ConnectOptions,
    pub resolver: Resolver,
    pub databases: Databases,
    /// How long one check may take, from the name lookup to the last reply.
    pub timeout: Duration,
    /// How long the checks of all databases may take.
    pub deadline: Duration,
    pub server_info: ServerInfo,
    /// The role that the server must have for a check to pass.
    pub expect_role: Option<Role>,
    /// The write that is part of each check, with `--canary`.
    pub canary: Option<Canary>,
    /// With `--cluster`. Otherwise a failure that only a cluster's node has suggests the flag.
    pub in_cluster: bool,
    /// How many indexes have a result so far, for the progress bar.
    pub settled: AtomicU64,
    /// The highest index that the server has selected so far. With `--max-db auto` it fails too if the server is down, or
    /// has fewer databases after a restart.
    pub highest: AtomicU32,
}

/// Receives each outcome as soon as it is known.
pub type Emit<'a> = &'a mut (dyn FnMut(Outcome) + Send);

/// The progress of one check of all databases.
struct Progress<'a> {
    emit: Emit<'a>,
    start: Instant,
    /// When all indexes must have a result.
    end: Instant,
    /// The first index without a result, and the last index to check.
    next: u32,
    last: u32,
    /// Whether any index has a result.
    settled: bool,
    /// The current connection.
    connection: Arc<ConnectionInfo>,
    /// When the last index got its result, or the connection was opened.
    since: Instant,
    /// Set if a write timed out: no more writes are tried, because they would time out too.
    unwritable: Option<Failure>,
}

impl Progress<'_> {
    /// When the next index was asked on the current connection: when the one before it was answered there, or when it was
    /// opened. While it is being opened: when that began.
    fn asked(&self) -> Instant {
        self.since
    }
}

/// Why a connection is no longer used.
enum ConnectionEnd {
    /// Every index has a result, or the last database of the server was found.
    Finished,
    /// The last index failed and broke the connection. The next index uses a new one.
    Lost,
    /// The connection broke, which fails the next index. `answered` is whether any index was answered over it.
    Broke { failure: Failure, answered: bool },
}

/// Commands that were sent over a connection and whose replies are read one index at a time.
struct Pipeline<'c> {
    connection: &'c mut Connection,
    /// When the next index must have its result.
    deadline: Deadline,
    commands: Vec<u8>,
    /// SELECT is sent for each index.
    selects: bool,
    /// The first index that was not sent yet.
    unsent: u32,
    /// How many indexes are sent at once, and how many may wait for their replies after that.
    chunk: u32,
    may_wait: u32,
    /// The queries about the server itself, sent after the first index. Empty once they are answered.
    queries: InfoQueries,
    /// Writes that were sent, in order of their indexes.
    writes: VecDeque<PendingWrite>,
    /// Whether the server has the expected role. It applies to all indexes.
    role: Result<(), Failure>,
    /// A reply proved that the server serves this connection.
    answered: bool,
}

impl Checker {
    /// Checks every database once before `end`. Each outcome is emitted as soon as it is known, so that none is lost if
    /// this future is dropped. The text of a timeout names the user's limits, even if `end` comes earlier.
    pub async fn run_until(&self, end: Instant, emit: Emit<'_>) {
        let mut progress = Progress { end, ..self.begin(self.databases, emit) };
        while progress.next <= progress.last {
            if Instant::now() >= progress.end {
                let limit = humantime::format_duration(self.deadline);
                let text = format!("not reached within the scan's deadline of {limit}");
                // These indexes were not asked.
                progress.since = Instant::now();
                return self.fail_rest(&mut progress, &Failure::new(Kind::Timeout, text));
            }

            match self.connect_and_ask(&mut progress).await {
                ConnectionEnd::Finished => return,
                ConnectionEnd::Lost => {}
                ConnectionEnd::Broke { failure, answered } => {
                    // If the deadline for all databases passed, only the first index had the full timeout.
                    if Instant::now() >= progress.end && progress.settled {
                        debug!("DB {}: {failure}", progress.next);
                        continue;
                    }
                    if !answered {
                        return self.fail_rest(&mut progress, &failure);
                    }
                    let failed = Settled::failed(failure, progress.asked());
                    self.settle(&mut progress, failed);
                }
            }
        }
    }

    /// Reports that no check was begun, for this reason: of all databases, or of the target as a whole.
    pub fn skip(&self, has_dbs: bool, reason: &Failure, emit: Emit<'_>) {
        let databases = if has_dbs { self.databases } else { Databases::One(0) };
        self.fail_rest(&mut self.begin(databases, emit), reason);
    }

    async fn connect_and_ask(&self, progress: &mut Progress<'_>) -> ConnectionEnd {
        let deadline = Deadline::after(self.timeout).no_later_than(progress.end);
        let mut info = ConnectionInfo::default();
        let opened = Connection::open(&self.connect, &self.resolver, deadline, &mut info).await;
        progress.connection = Arc::new(info);

        match opened {
            Ok(mut connection) => self.ask_all(progress, &mut connection, deadline).await,
            Err(failure) => ConnectionEnd::Broke { failure, answered: false },
        }
    }

    /// A checker with the same settings for another server, with that server's canary.
    pub fn for_server(&self, connect: ConnectOptions, canary: Option<Canary>) -> Self {
        Checker {
            connect,
            resolver: self.resolver.clone(),
            databases: self.databases,
            timeout: self.timeout,
            deadline: self.deadline,
            server_info: ServerInfo::new(self.server_info.wanted),
            expect_role: self.expect_role,
            canary,
            in_cluster: self.in_cluster,
            settled: AtomicU64::new(0),
            highest: AtomicU32::new(0),
        }
    }

    /// Checks one database before `deadline` over an open connection. Also returns whether the connection can be used
    /// again.
    pub async fn ask_one(
        &self,
        connection: &mut Connection,
        info: Arc<ConnectionInfo>,
        db: u32,
        deadline: Deadline,
    ) -> (Outcome, bool) {
        let mut last = None;
        let mut emit = |outcome| last = Some(outcome);
        let mut progress = self.begin(Databases::One(db), &mut emit);
        progress.connection = info.clone();
        let end = self.ask_all(&mut progress, connection, deadline).await;
        let is_usable = matches!(end, ConnectionEnd::Finished);
        if let ConnectionEnd::Broke { failure, .. } = end {
            let failed = Settled::failed(failure, progress.asked());
            self.settle(&mut progress, failed);
        }

        let no_result = || {
            let details = Details { connection: info, ..Details::default() };
            Outcome { db, write: false, result: Err(Failure::new(Kind::Error, "no result")), details }
        };
        (last.unwrap_or_else(no_result), is_usable)
    }

    fn begin<'a>(&self, databases: Databases, emit: Emit<'a>) -> Progress<'a> {
        let start = Instant::now();
        let (next, last) = databases.range().into_inner();
        Progress {
            emit,
            start,
            end: start + self.deadline,
            next,
            last,
            settled: false,
            connection: Arc::default(),
            since: start,
            unwritable: None,
        }
    }

    /// Reports the result of the next index.
    fn settle(&self, progress: &mut Progress<'_>, Settled { write, result, waits, at, onset }: Settled) {
        trace_result(progress.next, waits, result.as_ref());
        let details = Details {
            elapsed: at - progress.start,
            onset: onset.map(|onset| onset - progress.start).unwrap_or_default(),
            select: waits.select,
            ping: waits.ping,
            write: waits.write,
            connection: progress.connection.clone(),
        };
        (progress.emit)(Outcome { db: progress.next, write, result, details });

        progress.since = at;
        progress.next += 1;
        progress.settled = true;
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Fails all remaining indexes. If the number of databases is unknown: those that the server has had, but at least
    /// the next one.
    fn fail_rest(&self, progress: &mut Progress<'_>, failure: &Failure) {
        let last = if self.databases == Databases::Auto {
            progress.last.min(progress.next.max(self.highest.load(Ordering::Relaxed)))
        } else {
            progress.last
        };
        let asked = progress.asked();
        while progress.next <= last {
            self.settle(progress, Settled::failed(failure.clone(), asked));
        }
    }

    /// Checks indexes over a connection until it breaks or all have a result.
    async fn ask_all(
        &self,
        progress: &mut Progress<'_>,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> ConnectionEnd {
        progress.since = Instant::now();
        let mut pipeline = self.pipeline(progress.next, connection, deadline);

        while progress.next <= progress.last {
            match self.ask_next(progress, &mut pipeline).await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(end)) => return end,
                Err(failure) => return ConnectionEnd::Broke { failure, answered: pipeline.answered },
            }
        }
        ConnectionEnd::Finished
    }

    fn pipeline<'c>(&self, first: u32, connection: &'c mut Connection, deadline: Deadline) -> Pipeline<'c> {
        let (chunk, may_wait) = match (self.databases == Databases::Auto, &self.canary) {
            (false, _) => (CHUNK, MAX_WAITING),
            // Commands beyond the last database would be wasted.
            (true, None) => (FIRST_CHUNK, 0),
            // SELECT fails there, and a pipelined write would go to the previous database.
            (true, Some(_)) => (1, 0),
        };
        Pipeline {
            connection,
            deadline,
            commands: Vec::new(),
            selects: self.databases.selects(),
            unsent: first,
            chunk,
            may_wait,
            queries: self.server_info.queries(self.expect_role),
            writes: VecDeque::new(),
            role: Ok(()),
            answered: false,
        }
    }

    /// Checks the next index over the connection.
    ///
    /// # Errors
    /// The connection broke or stalled before the replies to SELECT and PING.
    async fn ask_next(
        &self,
        progress: &mut Progress<'_>,
        pipeline: &mut Pipeline<'_>,
    ) -> Result<ControlFlow<ConnectionEnd>, Failure> {
        while pipeline.has_room(progress) {
            self.pack_chunk(progress, pipeline);
            pipeline.send().await?;
        }

        let Replies { select, ping, mut waits, mut at } = pipeline.replies(progress.since).await?;
        let select = select.map_err(|failure| self.advise(failure));
        if select.is_ok() {
            self.highest.fetch_max(progress.next, Ordering::Relaxed);
        }
        let is_range_end = self.is_range_end(progress.next, &select);
        if is_range_end
            && self.is_new(progress.next)
            && select.as_ref().is_err_and(|failure| failure.kind == Kind::NoSuchDb)
        {
            return Ok(ControlFlow::Break(ConnectionEnd::Finished));
        }

        if pipeline.queries.any() {
            self.read_server_info(progress, pipeline).await;
        }
        // After a failed SELECT the previous database answers the PING, which proves nothing.
        let read = select.and(ping).and_then(|()| pipeline.role.clone());

        let written = match pipeline.writes.pop_front() {
            Some(write) => {
                let written = write.confirm(pipeline.connection, pipeline.deadline).await;
                waits.write = at.elapsed();
                at += waits.write;
                written
            }
            None => Ok(progress.unwritable.clone().map_or(Ok(()), Err)),
        };
        let (write, result) = match (read, &written) {
            (Ok(()), Ok(Ok(()))) => (false, Ok(())),
            (Ok(()), Ok(Err(failure)) | Err(failure)) => (true, Err(failure.clone())),
            (Err(failure), _) => (false, Err(failure)),
        };
        // Waiting for an error reply counts as part of the failure, because a client is not served meanwhile.
        let waited = if write { waits.write } else { waits.select + waits.ping + waits.write };
        let onset = result.is_err().then(|| at - waited);
        self.settle(progress, Settled { write, result, waits, at, onset });

        if let Err(failure) = written {
            progress.unwritable = Some(failure).filter(|failure| failure.kind == Kind::Timeout);
            return Ok(ControlFlow::Break(ConnectionEnd::Lost));
        }
        if is_range_end {
            return Ok(ControlFlow::Break(ConnectionEnd::Finished));
        }
        pipeline.deadline = Deadline::at(at + self.timeout, self.timeout).no_later_than(progress.end);
        Ok(ControlFlow::Continue(()))
    }

    /// Whether `--max-db auto` goes no further than this index. It goes on to the highest index that the server has had.
    fn is_range_end(&self, db: u32, select: &Result<(), Failure>) -> bool {
        self.databases == Databases::Auto
            && db >= self.highest.load(Ordering::Relaxed)
            && select.as_ref().is_err_and(|failure| !is_per_database_error(failure))
    }

    /// Whether the server has never had this index. It must have DB 0.
    fn is_new(&self, db: u32) -> bool {
        db > self.highest.load(Ordering::Relaxed)
    }

    /// Suggests `--cluster` if the server turns out to be a cluster's node. Before Valkey 9, such a node has only DB 0.
    fn advise(&self, failure: Failure) -> Failure {
        let is_node = failure.kind == Kind::NoSuchDb && failure.detail.contains("not allowed in cluster mode");
        if is_node && !self.in_cluster { failure.with_advice("a cluster: use --cluster") } else { failure }
    }

    /// Packs the commands of the next indexes, to be sent in one write.
    fn pack_chunk(&self, progress: &Progress<'_>, pipeline: &mut Pipeline<'_>) {
        let Pipeline { commands, unsent, chunk, may_wait, queries, writes, .. } = pipeline;
        let is_first = commands.is_empty();
        let last = progress.last.min(*unsent + (*chunk - 1));

        commands.clear();
        commands.reserve((last - *unsent + 1) as usize * CHECK_LENGTH);
        for db in *unsent..=last {
            pack_check(commands, self.databases.selects().then_some(db));
            if is_first && db == *unsent {
                queries.pack(commands);
            }
            if let Some(canary) = self.canary.as_ref().filter(|_| progress.unwritable.is_none()) {
                writes.push_back(canary.pack(commands));
            }
        }
        *unsent = last + 1;
        if *may_wait == 0 && *chunk > 1 {
            *chunk = MAX_WAITING.min(*chunk * 2);
        }
    }

    /// Reads the server's identity, and whether it has the expected role.
    async fn read_server_info(&self, progress: &mut Progress<'_>, pipeline: &mut Pipeline<'_>) {
        let queries = std::mem::take(&mut pipeline.queries);
        let (identity, role) = self.server_info.read(queries, pipeline.connection, pipeline.deadline).await;
        pipeline.role = role;
        if let Some(identity) = identity {
            Arc::make_mut(&mut progress.connection).identity = identity;
        }
    }
}

impl Pipeline<'_> {
    /// Whether to send more indexes before the next replies are read.
    fn has_room(&self, progress: &Progress<'_>) -> bool {
        let waiting = self.unsent - progress.next;
        self.unsent <= progress.last && (waiting == 0 || waiting + self.chunk <= self.may_wait)
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let first = if self.selects { "SELECT" } else { "PING" };
        self.connection.send(&self.commands, first, self.deadline).await
    }

    /// Reads the replies to SELECT and PING. The wait for them began at `start`.
    ///
    /// Sets `answered` at the first reply that is not an error, or at the second reply of any kind. A single error
    /// before the connection ends is about the connection, not about an index.
    ///
    /// # Errors
    /// The connection broke or stalled.
    async fn replies(&mut self, start: Instant) -> Result<Replies, Failure> {
        let reads = self.connection.reads();

        let (mut select, mut selected) = (Ok(()), start);
        if self.selects {
            select = match self.connection.reply("SELECT", self.deadline).await? {
                Reply::Ok => Ok(()),
                other => Err(select_failure(&other)),
            };
            self.answered |= select.is_ok();
            selected = self.received_at(reads, start);
        }

        let ping = match self.connection.reply("PING", self.deadline).await {
            Ok(Reply::Pong) => Ok(()),
            Ok(other) => Err(unexpected("PING", &other)),
            Err(broken) => return Err(select.err().unwrap_or(broken)),
        };
        self.answered = true;
        let at = self.received_at(reads, start);

        let waits = Waits { select: selected - start, ping: at - selected, write: Duration::ZERO };
        Ok(Replies { select, ping, waits, at })
    }

    /// Now if the connection was read since `reads` was taken, otherwise `start`: a reply that was received together
    /// with earlier ones was not waited for. So the clock is read once per read, not for each of 20,000 replies.
    fn received_at(&self, reads: u64, start: Instant) -> Instant {
        if self.connection.reads() == reads { start } else { Instant::now() }
    }
}

/// The result of one index.
struct Settled {
    write: bool,
    result: Result<(), Failure>,
    waits: Waits,
    at: Instant,
    /// When the failing phase began. None if the index passed.
    onset: Option<Instant>,
}

impl Settled {
    /// A failure of the connection, on which the index was `asked`.
    fn failed(failure: Failure, asked: Instant) -> Self {
        let at = Instant::now();
        let onset = asked + onset(&failure, Duration::ZERO, at - asked);
        Settled { write: false, result: Err(failure), waits: Waits::default(), at, onset: Some(onset) }
    }
}

/// The time spent waiting for the replies to SELECT, PING and the canary's commands.
#[derive(Clone, Copy, Default)]
struct Waits {
    select: Duration,
    ping: Duration,
    write: Duration,
}

/// The results of SELECT and PING.
struct Replies {
    select: Result<(), Failure>,
    ping: Result<(), Failure>,
    waits: Waits,
    /// When the reply to PING was received.
    at: Instant,
}

/// The failure for a reply to SELECT that is not OK. Sentinels and some proxies do not know the command.
fn select_failure(reply: &Reply) -> Failure {
    let failure = unexpected("SELECT", reply);
    if failure.detail.to_ascii_lowercase().starts_with("err unknown command") {
        return failure.with_advice("a Sentinel or a proxy? give the server's address, or use --no-select");
    }
    failure
}

/// Shows one result with `-v`. The waits are left out if no reply was waited for.
fn trace_result(db: u32, waits: Waits, result: Result<&(), &Failure>) {
    let (select, ping) = (brief(waits.select), brief(waits.ping));
    match result {
        Ok(()) => debug!("DB {db}: SELECT after {select}, PING after {ping}, passed"),
        Err(failure) if (waits.select + waits.ping).is_zero() => debug!("DB {db}: {failure}"),
        Err(failure) => debug!("DB {db}: SELECT after {select}, PING after {ping}, {failure}"),
    }
}

/// The maximum length of SELECT and PING for one index, in bytes.
const CHECK_LENGTH: usize = b"*2\r\n$6\r\nSELECT\r\n$7\r\n1199999\r\n*1\r\n$4\r\nPING\r\n".len();

/// Appends SELECT, if a database is given, and PING.
fn pack_check(commands: &mut Vec<u8>, db: Option<u32>) {
    if let Some(db) = db {
        let mut digits = [0; resp::MAX_DIGITS];
        resp::pack(commands, &[b"SELECT", resp::decimal(&mut digits, db.into())]);
    }
    commands.extend_from_slice(resp::PING);
}

/// Whether a failure is about one index, so that the next one may pass. Any other failed SELECT ends `--max-db auto`;
/// otherwise a server that refuses everything would be asked for a million indexes.
fn is_per_database_error(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::NoPerm) && failure.detail.contains("database")
}
