//! `--held`: one connection that is kept open and asked on the schedule of the fresh ones. It sees what the pool of an
//! application sees: a fresh connection looks the name up and meets the new primary, a kept one stays with the old.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connect::{Connection, Deadline, Timings};
use crate::record::Details;
use crate::scan::{Emit, Outcome, Scanner};

/// The kept connection.
pub struct Held {
    scanner: Arc<Scanner>,
    /// None before the first check, and after it broke.
    kept: Mutex<Option<Connection>>,
}

impl Held {
    pub fn new(scanner: Arc<Scanner>) -> Self {
        Held { scanner, kept: Mutex::new(None) }
    }

    /// Asks over the kept connection, or over a new one that is kept from then on when the last one broke.
    ///
    /// While an earlier question still waits for its reply nothing is asked, and nothing emitted.
    pub async fn check(&self, emit: Emit<'_>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        let start = Instant::now();
        let deadline = Deadline::after(self.scanner.timeout);
        let db = self.scanner.databases.first();
        let opened = match kept.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.scanner.target, &self.scanner.resolver, deadline).await,
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(failure) => {
                let details = Details { elapsed: start.elapsed(), ..Details::default() };
                return emit(Outcome { db, write: false, result: Err(failure), details });
            }
        };
        let opening = start.elapsed();
        let mut emit = |mut outcome: Outcome| {
            outcome.details.elapsed += opening;
            emit(outcome);
        };
        if self.scanner.ask_one(&mut connection, db, deadline, &mut emit).await {
            // Opening it was part of this check alone.
            connection.timings = Timings::default();
            *kept = Some(connection);
        }
    }
}
