//! `--held`: a persistent connection, checked on the same schedule as fresh connections.
//!
//! It shows what an application with a connection pool sees: after a failover, a fresh connection resolves the name and
//! reaches the new primary, while a persistent connection stays on the old one.
//!
//! It treats a broken connection as the pools of common clients do (redis-py, valkey-py, valkey-glide, node-redis,
//! ioredis and iovalkey with their default settings): a connection that was closed while idle is replaced, and a command
//! whose connection breaks, or cannot be opened, is tried again. The application sees an error only if this does not
//! help in time, and only then the check fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::model::duration::brief;
use crate::model::failure::{Failure, Kind};
use crate::model::outcome::{ConnectionInfo, Details, Outcome, Replaced, Timings, onset};
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;

/// How often a check tries again over new connections, if its time limit allows that: as often as redis-py 8 does by
/// default, which takes it about four seconds.
const RETRIES: u32 = 10;

/// How long to wait before the first retry. Each wait is twice as long as the one before, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(10);

const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The persistent connection.
pub struct PersistentConnection {
    checker: Arc<Checker>,
    /// None before the first check, and after the connection broke.
    current: Mutex<Option<OpenConnection>>,
}

struct OpenConnection {
    connection: Connection,
    info: Arc<ConnectionInfo>,
}

/// The result of one attempt, and the connection if it can be used again.
struct Attempt {
    outcome: Outcome,
    open: Option<OpenConnection>,
}

impl PersistentConnection {
    pub fn new(checker: Arc<Checker>) -> Self {
        PersistentConnection { checker, current: Mutex::new(None) }
    }

    /// Checks over the persistent connection. If it broke, a new one replaces it.
    ///
    /// If an earlier check is still waiting for its reply, this does nothing.
    pub async fn check(&self, emit: Emit<'_>) {
        let Ok(mut current) = self.current.try_lock() else { return };
        let start = Instant::now();
        let deadline = Deadline::after(self.checker.timeout);
        let mut replaced = None;
        let mut open = current.take();

        if let Some(idle) = &mut open
            && let Some(end) = idle.connection.end_while_idle().await
        {
            debug!("the connection ended while it was idle: {end}");
            (open, replaced) = (None, Some(Replaced::Closed));
        }

        let mut waits = (0..RETRIES).map(|retry| LONGEST_WAIT.min(FIRST_WAIT * 2_u32.pow(retry)));
        loop {
            let is_old = open.is_some();
            // If no reply comes over an old connection, half of the time is left for a new one.
            let end = if is_old { deadline.no_later_than(Instant::now() + deadline.left() / 2) } else { deadline };
            let attempt = self.attempt(open.take(), start, end).await;

            let failure = attempt.outcome.result.as_ref().err();
            if is_old {
                replaced = failure.and_then(why_replaced).or(replaced);
            }
            let is_worth_it = failure.is_some_and(|failure| is_tried_again(failure, is_old));
            // A new connection is no retry if it replaces an old one.
            let wait = if is_old { Some(Duration::ZERO) } else { waits.next() };
            let Some(wait) = wait.filter(|wait| is_worth_it && deadline.left() > *wait) else {
                *current = attempt.open.map(OpenConnection::after_check);
                return emit(attempt.outcome.with_replaced(replaced));
            };

            debug!("trying again after {}", brief(wait));
            sleep(wait).await;
        }
    }

    /// Checks once, over an open connection or a new one. Times are measured from `start`.
    async fn attempt(&self, open: Option<OpenConnection>, start: Instant, deadline: Deadline) -> Attempt {
        let db = self.checker.databases.first();
        let begun = start.elapsed();
        let ready = match open {
            Some(open) => self.reauthenticate(open, deadline).await,
            None => self.open(deadline).await,
        };
        let OpenConnection { mut connection, info } = match ready {
            Ok(ready) => ready,
            Err((failure, connection)) => {
                debug!("DB {db}: {failure}");
                let elapsed = start.elapsed();
                let onset = onset(&failure, begun, elapsed);
                let details = Details { elapsed, onset, connection, ..Details::default() };
                return Attempt { outcome: Outcome { db, write: false, result: Err(failure), details }, open: None };
            }
        };

        let before = start.elapsed();
        let (mut outcome, is_usable) = self.checker.ask_one(&mut connection, info.clone(), db, deadline).await;
        outcome.details.begin_earlier(before);
        // The outcome's connection includes what the server said about itself.
        Attempt { outcome, open: is_usable.then_some(OpenConnection { connection, info }) }
    }

    /// Authenticates again if the credentials were renewed, as connection pools do.
    async fn reauthenticate(
        &self,
        mut open: OpenConnection,
        deadline: Deadline,
    ) -> Result<OpenConnection, (Failure, Arc<ConnectionInfo>)> {
        let Some(provider) = &self.checker.connect.credentials else { return Ok(open) };
        match open.connection.reauthenticate(provider, deadline).await {
            Ok(()) => Ok(open),
            Err(failure) => Err((failure, open.info)),
        }
    }

    async fn open(&self, deadline: Deadline) -> Result<OpenConnection, (Failure, Arc<ConnectionInfo>)> {
        let mut info = ConnectionInfo::default();
        match Connection::open(&self.checker.connect, &self.checker.resolver, deadline, &mut info).await {
            Ok(connection) => Ok(OpenConnection { connection, info: Arc::new(info) }),
            Err(failure) => Err((failure, Arc::new(info))),
        }
    }
}

impl OpenConnection {
    /// Only the check that opened the connection includes the time for it.
    fn after_check(self) -> Self {
        let info = ConnectionInfo { timings: Timings::default(), ..ConnectionInfo::clone(&self.info) };
        OpenConnection { info: Arc::new(info), ..self }
    }
}

/// Why a connection that a check could use before is replaced after this failure.
fn why_replaced(failure: &Failure) -> Option<Replaced> {
    match failure.kind {
        Kind::Reset | Kind::Closed => Some(Replaced::Closed),
        Kind::Timeout => Some(Replaced::Silent),
        _ => None,
    }
}

/// Whether common clients try again after this failure: if the connection broke or cannot be opened, or if the server is
/// not ready. Silence is waited for to the end, except over a connection that may be dead.
fn is_tried_again(failure: &Failure, is_old: bool) -> bool {
    match failure.kind {
        Kind::Dns
        | Kind::Refused
        | Kind::Unreachable
        | Kind::Reset
        | Kind::Closed
        | Kind::Loading
        | Kind::MaxClients => true,
        Kind::Timeout => is_old,
        _ => false,
    }
}
