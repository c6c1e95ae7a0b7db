//! `--held`: a persistent connection, checked on the same schedule as fresh connections.
//!
//! It shows what an application with a connection pool sees: after a failover, a fresh connection resolves the name and
//! reaches the new primary, while a persistent connection stays on the old one.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::model::failure::Failure;
use crate::model::outcome::{ConnectionInfo, Details, Outcome, Timings};
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;

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
        let db = self.checker.databases.first();

        let ready = match current.take() {
            Some(open) => self.reauthenticate(open, deadline).await,
            None => self.open(deadline).await,
        };
        let OpenConnection { mut connection, info } = match ready {
            Ok(ready) => ready,
            Err((failure, connection)) => {
                debug!("DB {db}: {failure}");
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
            *current = Some(OpenConnection { connection, info });
        }
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
