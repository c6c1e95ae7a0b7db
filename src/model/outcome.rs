//! The result of a check.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::model::failure::{Failure, Kind};
use crate::model::server::Identity;
use crate::model::subject::Subject;

/// What a check says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    Passed,
    Failed(&'a Failure),
    /// The check could not be made for a reason on our side. It counts neither as passed nor as failed, and neither
    /// begins nor ends an outage.
    NotObserved(&'a Failure),
}

impl<'a> Verdict<'a> {
    /// The verdict of a result. An error of kind `local` is not observed; every other one is a failure.
    pub fn of(result: &'a Result<(), Failure>) -> Self {
        result.as_ref().copied().into()
    }
}

impl<'a> From<Result<(), &'a Failure>> for Verdict<'a> {
    fn from(result: Result<(), &'a Failure>) -> Self {
        match result {
            Ok(()) => Verdict::Passed,
            Err(failure) if failure.is_local() => Verdict::NotObserved(failure),
            Err(failure) => Verdict::Failed(failure),
        }
    }
}

/// How many checks of a run did not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub failures: u64,
    /// Checks that could not be made for a reason on our side.
    pub not_observed: u64,
}

/// The result of checking one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub db: u32,
    /// SELECT and PING passed, but the canary write failed.
    pub write: bool,
    pub result: Result<(), Failure>,
    pub details: Details,
}

impl Outcome {
    /// What the check says about the server.
    pub fn verdict(&self) -> Verdict<'_> {
        Verdict::of(&self.result)
    }

    /// The same outcome, over a connection that replaced an earlier one.
    #[must_use]
    pub fn with_replaced(mut self, replaced: Option<Replaced>) -> Self {
        if replaced.is_some() {
            Arc::make_mut(&mut self.details.connection).replaced = replaced;
        }
        self
    }

    /// How long the check took. For a failed check: the time elapsed before the failing phase.
    pub fn took(&self) -> Duration {
        if self.result.is_ok() { self.details.elapsed } else { self.details.onset }
    }
}

/// How long each phase of opening a connection took. Zero for a phase that was not needed or not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub resolve: Duration,
    pub connect: Duration,
    pub tls: Duration,
    pub auth: Duration,
}

/// Details of a check besides its result. Classic lines do not contain them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// From the start of the check to the result of this database. If a check covers several databases, all are
    /// measured from its start.
    pub elapsed: Duration,
    /// From the start of the check to the beginning of the phase that failed: see [`onset`]. Without meaning if it passed.
    pub onset: Duration,
    /// The time spent waiting for the replies to SELECT, PING and the canary's commands.
    pub select: Duration,
    pub ping: Duration,
    pub write: Duration,
    /// The connection, shared by all results over it.
    pub connection: Arc<ConnectionInfo>,
}

impl Details {
    /// The check that these details are of began earlier, by this time.
    pub fn begin_earlier(&mut self, by: Duration) {
        self.elapsed += by;
        self.onset += by;
    }
}

/// When the failing phase of a check began, as time since the check began. The server may have been healthy until then.
///
/// A client that waits is not served, so a timeout counts from when the wait began: the question `asked` on the connection
/// that failed, or the attempt to connect. Any other failure counts from when it was `noticed`.
pub fn onset(failure: &Failure, asked: Duration, noticed: Duration) -> Duration {
    if failure.kind == Kind::Timeout { asked } else { noticed }
}

/// What is known about a connection, even if it failed to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub timings: Timings,
    /// The address that accepted the connection, or was tried last. None for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// All addresses that the name resolved to.
    pub addresses: Vec<IpAddr>,
    pub identity: Identity,
    /// The persistent connection was replaced by this one.
    pub replaced: Option<Replaced>,
}

/// Why a persistent connection was replaced, although no check failed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The server, or something between, closed or reset it.
    Closed,
    /// No reply came over it.
    Silent,
}

/// One database in a block of `dbs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    pub details: Details,
    /// The check includes a canary write.
    pub writes: bool,
}

impl CheckResult {
    /// What the check says about the server.
    pub fn verdict(&self) -> Verdict<'_> {
        Verdict::of(&self.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_counts_from_the_question_and_an_error_from_its_receipt() {
        let millis = Duration::from_millis;
        let (asked, noticed) = (millis(40), millis(2_040));
        assert_eq!(onset(&Failure::new(Kind::Timeout, ""), asked, noticed), asked);
        assert_eq!(onset(&Failure::new(Kind::Reset, ""), asked, noticed), noticed);

        let details = Details { elapsed: millis(100), onset: millis(25), ..Details::default() };
        let took = |result| Outcome { db: 0, write: false, result, details: details.clone() }.took();
        assert_eq!(took(Ok(())), millis(100));
        assert_eq!(took(Err(Failure::new(Kind::Loading, ""))), millis(25));
    }
}
