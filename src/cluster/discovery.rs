//! Queries the topology of a cluster, at the endpoint or at any known node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::cluster::topology::{Dialled, Topology};
use crate::model::failure::{Failure, Kind};
use crate::model::outcome::{ConnectionInfo, Details, Outcome, onset};
use crate::probe::checker::Checker;
use crate::probe::connection::{ConnectOptions, Connection};
use crate::probe::deadline::Deadline;
use crate::probe::large_reply::{LargeReply, Turn};
use crate::probe::resp::{self, unexpected};

/// The largest accepted reply about the topology, in bytes. A cluster of 500 nodes needs about 150,000, or twice that
/// if its slots are fragmented.
const MAX_TOPOLOGY: usize = 4 << 20;

/// Queries the topology of a cluster.
#[derive(Debug)]
pub struct Discovery {
    checker: Arc<Checker>,
    /// A node did not know CLUSTER SHARDS, so its engine is older than Redis 7.0.
    lacks_shards: AtomicBool,
}

/// The result of a discovery.
#[derive(Debug)]
pub struct Discovered {
    /// Whether every slot of the cluster is served.
    pub outcome: Outcome,
    pub topology: Option<Topology>,
}

impl Discovery {
    /// A discovery that queries the endpoint of `checker` first.
    pub fn new(checker: Arc<Checker>) -> Self {
        Discovery { checker, lacks_shards: AtomicBool::new(false) }
    }

    /// Queries the endpoint and, if that fails, the nodes in `known`, one after the other. Each may use half of the
    /// remaining time, so that one that hangs does not prevent asking the next.
    ///
    /// If slots have no owner in the reply, another node is asked too: a restarted node may not know the others.
    pub async fn discover(&self, known: Vec<ConnectOptions>) -> Discovered {
        let start = Instant::now();
        let left = || self.checker.timeout.saturating_sub(start.elapsed());
        let share = |is_last| if is_last { left() } else { left() / 2 };

        let mut best = self.ask(&self.checker.connect, start, share(known.is_empty())).await;
        let mut rest = known.iter();
        while !best.topology.as_ref().is_some_and(Topology::is_whole) && !left().is_zero() {
            let Some(connect) = rest.next() else { break };
            let is_second_opinion = best.topology.is_some();
            let next = self.ask(connect, start, share(rest.len() == 0)).await;
            if next.topology.as_ref().is_some_and(|found| !is_second_opinion || found.is_whole()) {
                best = next;
            } else if is_second_opinion && next.topology.is_some() {
                break;
            }
        }
        best
    }

    async fn ask(&self, connect: &ConnectOptions, start: Instant, limit: Duration) -> Discovered {
        // A timeout names the user's limit, not this node's share of it.
        let timeout = self.checker.timeout;
        let deadline = Deadline::at(start + timeout, timeout).no_later_than(Instant::now() + limit);
        let mut info = ConnectionInfo::default();
        let begun = start.elapsed();

        let asked = async {
            let mut connection = Connection::open(connect, &self.checker.resolver, deadline, &mut info).await?;
            let host = info.peer.map_or("127.0.0.1".to_owned(), |peer| peer.ip().to_string());
            self.topology(&mut connection, &host, connect.tls.is_some(), deadline).await
        };
        let (topology, result) = match asked.await {
            Ok((topology, result)) => {
                if let Err(failure) = &result {
                    debug!("topology from {}: {failure}", connect.endpoint);
                }
                (Some(topology), result)
            }
            Err(failure) => {
                debug!("no topology from {}: {failure}", connect.endpoint);
                (None, Err(failure))
            }
        };

        let elapsed = start.elapsed();
        let onset = result.as_ref().err().map_or(Duration::ZERO, |failure| onset(failure, begun, elapsed));
        let details = Details { elapsed, onset, connection: Arc::new(info), ..Details::default() };
        Discovered { outcome: Outcome { db: 0, write: false, result, details }, topology }
    }

    /// Queries an open connection to `host`. Returns the topology, and whether every slot is served.
    async fn topology(
        &self,
        connection: &mut Connection,
        host: &str,
        tls: bool,
        deadline: Deadline,
    ) -> Result<(Topology, Result<(), Failure>), Failure> {
        let mut turn = Turn::default();
        let (nodes, info) = self.ask_nodes_and_state(connection, &mut turn, deadline).await?;
        let intake = connection.intake();
        let topology = nodes.topology(Dialled { host, tls, intake })?;

        let verdict = match info.root().text() {
            Some(info) => topology.verdict(info, intake),
            // Unserved slots take precedence over an unknown state.
            None => topology.verdict("", intake).and_then(|()| Err(refused("CLUSTER INFO", &info))),
        };
        Ok((topology, verdict))
    }

    /// Queries the nodes and CLUSTER INFO: in one round trip, or in two if the engine turns out to be old.
    async fn ask_nodes_and_state(
        &self,
        connection: &mut Connection,
        turn: &mut Turn,
        deadline: Deadline,
    ) -> Result<(NodeReplies, LargeReply), Failure> {
        if self.lacks_shards.load(Ordering::Relaxed) {
            let commands = ["CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER INFO"];
            let [slots, nodes, info] = ask(connection, commands, turn, deadline).await?;
            return Ok((NodeReplies::Slots { slots, nodes }, info));
        }

        let [shards, info] = ask(connection, ["CLUSTER SHARDS", "CLUSTER INFO"], turn, deadline).await?;
        if !is_unknown_subcommand(&shards) {
            return Ok((NodeReplies::Shards(shards), info));
        }

        self.lacks_shards.store(true, Ordering::Relaxed);
        let [slots, nodes] = ask(connection, ["CLUSTER SLOTS", "CLUSTER NODES"], turn, deadline).await?;
        Ok((NodeReplies::Slots { slots, nodes }, info))
    }
}

/// The replies that list the nodes.
enum NodeReplies {
    /// To CLUSTER SHARDS.
    Shards(LargeReply),
    /// To CLUSTER SLOTS and CLUSTER NODES, of engines before Redis 7.0.
    Slots { slots: LargeReply, nodes: LargeReply },
}

impl NodeReplies {
    fn topology(&self, dialled: Dialled<'_>) -> Result<Topology, Failure> {
        match self {
            NodeReplies::Shards(shards) => {
                Topology::from_shards(shards.root(), dialled).ok_or_else(|| refused("CLUSTER SHARDS", shards))
            }
            NodeReplies::Slots { slots, nodes } => {
                let nodes = nodes.root().text().unwrap_or_default();
                Topology::from_slots(slots.root(), nodes, dialled).ok_or_else(|| refused("CLUSTER SLOTS", slots))
            }
        }
    }
}

/// Sends commands of two words in one write and reads the replies.
async fn ask<const N: usize>(
    connection: &mut Connection,
    commands: [&'static str; N],
    turn: &mut Turn,
    deadline: Deadline,
) -> Result<[LargeReply; N], Failure> {
    let mut packed = Vec::new();
    for command in commands {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        resp::pack(&mut packed, &words);
    }
    connection.send(&packed, commands.first().unwrap_or(&"CLUSTER"), deadline).await?;

    let mut replies = [(); N].map(|()| LargeReply::default());
    for (reply, command) in replies.iter_mut().zip(commands) {
        *reply = connection.large_reply(command, MAX_TOPOLOGY, turn, deadline).await?;
    }
    Ok(replies)
}

/// The failure for an unexpected reply, with advice for the user.
fn refused(command: &str, reply: &LargeReply) -> Failure {
    let failure = unexpected(command, &reply.root().summary());
    let text = failure.detail.to_lowercase();
    match failure.kind {
        Kind::NoPerm => failure.with_advice("grant +cluster"),
        Kind::Error if text.contains("cluster support disabled") || text.contains("unknown command") => {
            failure.with_advice("not a cluster? leave out --cluster")
        }
        _ => failure,
    }
}

/// Engines before Redis 7.0 do not know CLUSTER SHARDS, and their error texts differ.
fn is_unknown_subcommand(reply: &LargeReply) -> bool {
    let failure = unexpected("CLUSTER SHARDS", &reply.root().summary());
    failure.kind == Kind::Error && failure.detail.to_lowercase().contains("subcommand")
}
