//! Asking a cluster for its topology: at the endpoint, or at any node that is known already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;
use tracing::debug;

use crate::cluster::topology::{self, Dialled, Topology};
use crate::model::failure::{Failure, Kind, Phase};
use crate::model::outcome::Outcome;
use crate::model::outcome::{ConnectionInfo, Details};
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;
use crate::probe::connection::{Connection, unexpected};
use crate::probe::deadline::Deadline;

/// The most bytes that a reply about the topology may have: 500 nodes take some 150,000, and slots that lie scattered
/// as many again.
const MAX_TOPOLOGY: usize = 4 << 20;

/// Asks a cluster for its topology.
#[derive(Debug)]
pub struct Discovery {
    scanner: Arc<Checker>,
    /// A node did not know CLUSTER SHARDS: an engine before 7.0.
    asks_slots: AtomicBool,
}

/// What a look came to.
#[derive(Debug)]
pub struct Discovered {
    /// Whether the cluster as a whole is served.
    pub outcome: Outcome,
    pub topology: Option<Topology>,
}

impl Discovery {
    /// A scout that asks the endpoint of `scanner` first.
    pub fn new(scanner: Arc<Checker>) -> Self {
        Discovery { scanner, asks_slots: AtomicBool::new(false) }
    }

    /// Asks the endpoint, and when it cannot be asked one of the nodes that are known already. Each may take half of the
    /// time that is left, so that one which hangs does not hide the next.
    ///
    /// Where slots have no primary at all, another node is asked too: one that was started anew knows of none.
    pub async fn look(&self, known: Vec<ConnectOptions>) -> Discovered {
        let start = Instant::now();
        let left = || self.scanner.timeout.saturating_sub(start.elapsed());
        let share = |is_last| if is_last { left() } else { left() / 2 };
        let mut best = self.ask(&self.scanner.target, start, share(known.is_empty())).await;
        let mut rest = known.iter();
        while !best.topology.as_ref().is_some_and(Topology::is_whole) && !left().is_zero() {
            let Some(target) = rest.next() else { break };
            let is_second_opinion = best.topology.is_some();
            let sight = self.ask(target, start, share(rest.len() == 0)).await;
            if sight.topology.as_ref().is_some_and(|found| !is_second_opinion || found.is_whole()) {
                best = sight;
            } else if is_second_opinion && sight.topology.is_some() {
                break;
            }
        }
        best
    }

    async fn ask(&self, target: &ConnectOptions, start: Instant, limit: Duration) -> Discovered {
        // It names the user's limit, whatever share of that this is.
        let deadline =
            Deadline::at(start + self.scanner.timeout, self.scanner.timeout).no_later_than(Instant::now() + limit);
        let mut contact = ConnectionInfo::default();
        let asked = async {
            let mut connection = Connection::open(target, &self.scanner.resolver, deadline, &mut contact).await?;
            connection.allow(MAX_TOPOLOGY);
            let host = contact.peer.map_or("127.0.0.1".to_owned(), |peer| peer.ip().to_string());
            self.topology(&mut connection, Dialled { host: &host, tls: target.tls.is_some() }, deadline).await
        };
        let (topology, result) = match asked.await {
            Ok((topology, result)) => (Some(topology), result),
            Err(failure) => {
                debug!("the topology cannot be had from {}: {failure}", target.endpoint);
                (None, Err(failure))
            }
        };
        let details = Details { elapsed: start.elapsed(), connection: Arc::new(contact), ..Details::default() };
        Discovered { outcome: Outcome { db: 0, write: false, result, details }, topology }
    }

    /// Asks over an open connection: the nodes and the state, in one round trip, or in two where the engine turns out to be
    /// an old one.
    async fn topology(
        &self,
        connection: &mut Connection,
        dialled: Dialled<'_>,
        deadline: Deadline,
    ) -> Result<(Topology, Result<(), Failure>), Failure> {
        let known_as_old = self.asks_slots.load(Ordering::Relaxed);
        let (mut shards, mut old) = (None, None);
        let info = if known_as_old {
            let [slots, nodes, info] = asked(connection, ["SLOTS", "NODES", "INFO"], deadline).await?;
            old = Some((slots, nodes));
            info
        } else {
            let [reply, info] = asked(connection, ["SHARDS", "INFO"], deadline).await?;
            if lacks_shards(&reply) {
                self.asks_slots.store(true, Ordering::Relaxed);
                let [slots, nodes] = asked(connection, ["SLOTS", "NODES"], deadline).await?;
                old = Some((slots, nodes));
            }
            shards = Some(reply);
            info
        };
        let topology = match (&old, &shards) {
            (Some((slots, nodes)), _) => {
                Topology::from_slots(slots, nodes, dialled).ok_or_else(|| refused("CLUSTER SLOTS", slots))
            }
            (None, Some(reply)) => {
                Topology::from_shards(reply, dialled).ok_or_else(|| refused("CLUSTER SHARDS", reply))
            }
            (None, None) => Err(Failure::new(Kind::Protocol, "no reply about the topology")),
        }?;
        let verdict = match topology::text(&info) {
            Some(info) => topology.verdict(info),
            // That slots are not served is worse than that the state cannot be known.
            None => topology.verdict("").and_then(|()| Err(refused("CLUSTER INFO", &info))),
        };
        Ok((topology, verdict))
    }
}

/// Sends CLUSTER with each of these subcommands, in one write, and reads the replies.
async fn asked<const N: usize>(
    connection: &mut Connection,
    subcommands: [&'static str; N],
    deadline: Deadline,
) -> Result<[Value; N], Failure> {
    let mut commands = Vec::new();
    for subcommand in subcommands {
        redis::cmd("CLUSTER").arg(subcommand).write_packed_command(&mut commands);
    }
    connection.send(&commands).await;
    let mut replies = [const { Value::Nil }; N];
    for (reply, subcommand) in replies.iter_mut().zip(subcommands) {
        let phase = || {
            Phase::Reply(match subcommand {
                "SHARDS" => "CLUSTER SHARDS",
                "SLOTS" => "CLUSTER SLOTS",
                "NODES" => "CLUSTER NODES",
                _ => "CLUSTER INFO",
            })
        };
        *reply = deadline.bound(phase, connection.reply()).await?;
    }
    Ok(replies)
}

/// The failure that a reply is, and what to do about it.
fn refused(command: &str, reply: &Value) -> Failure {
    let failure = unexpected(command, reply);
    let text = failure.detail.to_lowercase();
    match failure.kind {
        Kind::NoPerm => failure.with_advice("grant +cluster"),
        Kind::Error if text.contains("cluster support disabled") || text.contains("unknown command") => {
            failure.with_advice("not a cluster? leave out --cluster")
        }
        _ => failure,
    }
}

/// Engines before 7.0 do not know the subcommand, and word that differently.
fn lacks_shards(reply: &Value) -> bool {
    let failure = unexpected("CLUSTER SHARDS", reply);
    failure.kind == Kind::Error && failure.detail.to_lowercase().contains("subcommand")
}
