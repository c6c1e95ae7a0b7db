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

    /// How long the check took. For a failed check: the time elapsed before the failing phase, as far as it is known.
    /// Waiting for an error reply counts as part of the failure, because a client is not served meanwhile.
    pub fn took(&self) -> Duration {
        let Details { elapsed, select, ping, write, .. } = self.details;
        match &self.result {
            Ok(()) => elapsed,
            Err(_) if self.write => elapsed.saturating_sub(write),
            // Only the text names the phase that timed out, and when it began is not recorded.
            Err(failure) if failure.kind == Kind::Timeout => Duration::ZERO,
            Err(_) => elapsed.saturating_sub(select + ping + write),
        }
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
    /// The time spent waiting for the replies to SELECT, PING and the canary's commands.
    pub select: Duration,
    pub ping: Duration,
    pub write: Duration,
    /// The connection, shared by all results over it.
    pub connection: Arc<ConnectionInfo>,
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
    fn waiting_for_an_error_reply_does_not_count_as_time_before_the_failure() {
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
