//! `--held`: one connection that is kept open and asked on the schedule of the fresh ones. It sees what the pool of an
//! application sees: a fresh connection looks the name up and meets the new primary, a kept one stays with the old.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::failure::Failure;
use crate::model::outcome::Outcome;
use crate::model::outcome::Timings;
use crate::model::outcome::{ConnectionInfo, Details};
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;

/// The kept connection.
pub struct PersistentConnection {
    scanner: Arc<Checker>,
    /// None before the first check, and after it broke.
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    connection: Connection,
    contact: Arc<ConnectionInfo>,
}

impl PersistentConnection {
    pub fn new(scanner: Arc<Checker>) -> Self {
        PersistentConnection { scanner, kept: Mutex::new(None) }
    }

    /// Asks over the kept connection, or over a new one that is kept from then on when the last one broke.
    ///
    /// While an earlier question still waits for its reply nothing is asked, and nothing emitted.
    pub async fn check(&self, emit: Emit<'_>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        let start = Instant::now();
        let deadline = Deadline::after(self.scanner.timeout);
        let db = self.scanner.databases.first();
        let ready = match kept.take() {
            Some(kept) => self.log_in_again(kept, deadline).await,
            None => self.open(deadline).await,
        };
        let Kept { mut connection, contact } = match ready {
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
        if self.scanner.ask_one(&mut connection, contact.clone(), db, deadline, &mut emit).await {
            // Opening it was part of this check alone.
            let contact = Arc::new(ConnectionInfo { timings: Timings::default(), ..ConnectionInfo::clone(&contact) });
            *kept = Some(Kept { connection, contact });
        }
    }

    /// Presents credentials that are newer than the connection, as a pool does that keeps its connections.
    async fn log_in_again(&self, mut kept: Kept, deadline: Deadline) -> Result<Kept, (Failure, Arc<ConnectionInfo>)> {
        let Some(login) = &self.scanner.target.login else { return Ok(kept) };
        match kept.connection.log_in_again(login, deadline).await {
            Ok(()) => Ok(kept),
            Err(failure) => Err((failure, kept.contact)),
        }
    }

    async fn open(&self, deadline: Deadline) -> Result<Kept, (Failure, Arc<ConnectionInfo>)> {
        let mut contact = ConnectionInfo::default();
        match Connection::open(&self.scanner.target, &self.scanner.resolver, deadline, &mut contact).await {
            Ok(connection) => Ok(Kept { connection, contact: Arc::new(contact) }),
            Err(failure) => Err((failure, Arc::new(contact))),
        }
    }
}
