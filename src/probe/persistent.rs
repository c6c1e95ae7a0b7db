//! `--held`: one connection that is kept open and checked on the same schedule as fresh connections.
//!
//! It shows what the connection pool of an application sees: a fresh connection resolves the name and reaches the new
//! primary, while a kept one stays with the old.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::failure::Failure;
use crate::model::outcome::{ConnectionInfo, Details, Outcome, Timings};
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;

/// The kept connection.
pub struct PersistentConnection {
    checker: Arc<Checker>,
    /// None before the first check, and after the connection broke.
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    connection: Connection,
    info: Arc<ConnectionInfo>,
}

impl PersistentConnection {
    pub fn new(checker: Arc<Checker>) -> Self {
        PersistentConnection { checker, kept: Mutex::new(None) }
    }

    /// Checks over the kept connection. If that broke, a new one is opened and kept.
    ///
    /// While an earlier check still waits for its reply, nothing is sent and nothing emitted.
    pub async fn check(&self, emit: Emit<'_>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        let start = Instant::now();
        let deadline = Deadline::after(self.checker.timeout);
        let db = self.checker.databases.first();

        let ready = match kept.take() {
            Some(kept) => self.reauthenticate(kept, deadline).await,
            None => self.open(deadline).await,
        };
        let Kept { mut connection, info } = match ready {
            Ok(ready) => ready,
            Err((failure, connection)) => {
                let details = Details { elapsed: start.elapsed(), connection, ..Details::default() };
                return emit(Outcome { db, write: false, result: Err(failure), details });
            }
        };

        let opening = start.elapsed();
        let mut emit = |mut outcome: Outcome| {
            outcome.details.elapsed += opening;
            emit(outcome);
        };
        if self.checker.ask_one(&mut connection, info.clone(), db, deadline, &mut emit).await {
            // Only this check includes the time for opening the connection.
            let info = Arc::new(ConnectionInfo { timings: Timings::default(), ..ConnectionInfo::clone(&info) });
            *kept = Some(Kept { connection, info });
        }
    }

    /// Presents credentials that are newer than the connection, as pools with long connections do.
    async fn reauthenticate(&self, mut kept: Kept, deadline: Deadline) -> Result<Kept, (Failure, Arc<ConnectionInfo>)> {
        let Some(login) = &self.checker.target.login else { return Ok(kept) };
        match kept.connection.reauthenticate(login, deadline).await {
            Ok(()) => Ok(kept),
            Err(failure) => Err((failure, kept.info)),
        }
    }

    async fn open(&self, deadline: Deadline) -> Result<Kept, (Failure, Arc<ConnectionInfo>)> {
        let mut info = ConnectionInfo::default();
        match Connection::open(&self.checker.target, &self.checker.resolver, deadline, &mut info).await {
            Ok(connection) => Ok(Kept { connection, info: Arc::new(info) }),
            Err(failure) => Err((failure, Arc::new(info))),
        }
    }
}
