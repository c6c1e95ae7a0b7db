//! What came of a check.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::model::failure::{Failure, Kind};
use crate::model::server::Identity;
use crate::model::subject::Subject;

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

/// How long each phase of opening a connection took. A phase that was not needed, or not reached, took no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub resolve: Duration,
    pub connect: Duration,
    pub tls: Duration,
    pub auth: Duration,
}

/// What is known of a check beyond its verdict. The classic lines leave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// From the check's start to its verdict; for one of several databases from the scan's start.
    pub elapsed: Duration,
    /// Waiting for the replies to SELECT, then to PING, then to the canary's commands.
    pub select: Duration,
    pub ping: Duration,
    pub write: Duration,
    /// The connection that the check was made over; shared by all that were.
    pub connection: Arc<ConnectionInfo>,
}

/// What is known of a connection, also of one that did not open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub timings: Timings,
    /// The address that answered, or was tried last; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// All addresses that the name had.
    pub addresses: Vec<IpAddr>,
    pub identity: Identity,
}

/// One database in a block of `dbs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    pub details: Details,
    /// A canary write was part of it, unless it failed before.
    pub writes: bool,
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
