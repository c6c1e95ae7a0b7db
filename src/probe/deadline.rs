//! The deadline of a check. It bounds every wait.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::failure::{Failure, Phase};

/// If a timer fires this late, this process was delayed, not the server.
const STALLED: Duration = Duration::from_millis(100);

/// When a check must end, and its time limit.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Deadline { at: Instant::now() + limit, limit }
    }

    /// A deadline at `at`, for a check with the time limit `limit`.
    pub fn at(at: Instant, limit: Duration) -> Self {
        Deadline { at, limit }
    }

    /// The remaining time.
    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// This deadline, or `at` if that is earlier.
    pub fn no_later_than(self, at: Instant) -> Self {
        Deadline { at: self.at.min(at), ..self }
    }

    /// Waits for `work` until the deadline.
    ///
    /// Time in which this process did not run, for example because it was suspended, does not count: if the timer fires
    /// late, the work gets the delay as extra time, but at most the limit.
    ///
    /// # Errors
    /// The failure of `work`, or a `timeout` that names `phase`.
    pub async fn bound<T, E: Into<Failure>>(
        self,
        phase: impl FnOnce() -> Phase,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        // Most replies have been received already. Then creating a timer would take longer than the work.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return done.map_err(Into::into);
        }

        let mut done = tokio::time::timeout_at(self.at, &mut work).await;
        if done.is_err() {
            let late = self.at.elapsed();
            if late > STALLED {
                done = tokio::time::timeout(late.min(self.limit), work).await;
            }
        }

        match done {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(Failure::timeout(&phase(), self.limit)),
        }
    }
}
