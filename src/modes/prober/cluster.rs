//! The checks of a cluster: which ones a tick starts, and which ones a discovery adds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

// These are the methods of `Prober` for a cluster, so this module and its parent import each other.
use super::Prober;
use super::lane::Reporter;
use crate::cluster::discovery::{Discovered, Discovery};
use crate::cluster::nodes::{Member, Nodes};
use crate::cluster::shards::Route;
use crate::cluster::topology::Topology;
use crate::model::change::TopologyChange;
use crate::model::clock::Moment;
use crate::model::event::{Event, Tick};
use crate::model::notify::Notify;
use crate::model::outcome::Outcome;
use crate::model::subject::Target;
use crate::probe::checker::Checker;

/// The nodes of a cluster, and how they are discovered.
pub struct Cluster {
    nodes: Nodes,
    discovery: Arc<Discovery>,
    /// Checks of the endpoint itself, by tick, while no node is known. The target that they report as depends on the
    /// discovery.
    undecided: BTreeMap<u64, oneshot::Sender<Decision>>,
    /// Tells the user what is not checked. None once that was told.
    notify: Option<Notify>,
}

/// The result of a discovery.
pub struct TopologyFound {
    tick: Tick,
    /// When the tick's checks began.
    started: Instant,
    /// The address of the node that answered.
    asked: Option<SocketAddr>,
    /// None if no node reported a topology.
    topology: Option<Topology>,
}

/// The target that the endpoint's own check reports as.
enum Decision {
    /// No node reported a topology.
    AsEndpoint,
    /// The endpoint is this node, if the check used the same address. Otherwise the node is checked now.
    AsNode(Reporter, SocketAddr, Arc<Checker>),
}

impl Cluster {
    /// Starts with no known nodes; see [`Nodes::new`]. `notify` is told if there is too much to check.
    pub fn new(checker: &Arc<Checker>, keep_name: bool, notify: Notify) -> Self {
        Cluster {
            nodes: Nodes::new(checker.clone(), keep_name),
            discovery: Arc::new(Discovery::new(checker.clone())),
            undecided: BTreeMap::new(),
            notify: Some(notify),
        }
    }

    /// The nodes sorted by address, followed by the shards sorted by their slots.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let nodes = self.nodes.members().iter().map(Member::target);
        nodes.chain(self.nodes.shards().iter().map(|shard| shard.target()))
    }
}

impl Prober {
    /// Starts the checks of all known nodes and shards, and a discovery.
    pub(super) fn start_cluster(&mut self, tick: Tick, started: Instant) {
        let Some(Cluster { nodes, discovery, .. }) = &self.cluster else { return };
        let (known, shards, sources) = (nodes.members().to_vec(), nodes.shards().to_vec(), nodes.sources());
        let (discovery, endpoint) = (discovery.clone(), nodes.endpoint());
        let is_unknown = known.is_empty();

        for member in known {
            self.launch_node(member, tick, started);
        }
        for shard in shards {
            self.launch_route(shard.target(), shard.route, tick, started);
        }
        if is_unknown {
            self.launch_undecided(endpoint, tick, started);
        }
        self.launch_with_result(Target::Cluster, tick, move |report| async move {
            let Discovered { outcome, topology } = discovery.discover(sources).await;
            let asked = outcome.details.connection.peer;
            report.outcome(outcome);
            Some(TopologyFound {
                tick,
                started,
                asked,
                topology: topology.filter(|topology| !topology.nodes.is_empty()),
            })
        });
    }

    /// Checks the endpoint itself before it is known whether it is a node. It mostly is, so its check need not wait for
    /// the discovery. Nothing is written before that is known, because nodes are only read.
    fn launch_undecided(&mut self, endpoint: Route, tick: Tick, started: Instant) {
        let (sender, decision) = oneshot::channel();
        if let Some(cluster) = &mut self.cluster {
            cluster.undecided.insert(tick.number, sender);
        }
        let reader = self.checker.for_server(self.checker.connect.clone(), None);
        self.launch(Target::Endpoint, tick, move |as_endpoint| async move {
            let end = started + reader.deadline;
            let mut outcomes = Vec::new();
            reader.run_until(end, &mut |outcome| outcomes.push(outcome)).await;

            let report = match decision.await {
                Ok(Decision::AsEndpoint) if endpoint.checker.canary.is_some() && any_passed(&outcomes) => {
                    return write_to_endpoint(&endpoint, started, &as_endpoint).await;
                }
                Ok(Decision::AsEndpoint) => as_endpoint,
                Ok(Decision::AsNode(as_node, asked, _)) if was_made_at(&outcomes, asked) => as_node,
                Ok(Decision::AsNode(as_node, _, checker)) => {
                    return checker.run_until(end, &mut |outcome| as_node.outcome(outcome)).await;
                }
                // The nodes are checked instead, at this tick, or at the next one if another discovery was faster.
                Err(_) => return,
            };
            outcomes.into_iter().for_each(|outcome| report.outcome(outcome));
        });
    }

    /// Processes the result of a discovery: new nodes and shards are checked at once.
    pub(super) fn take_topology(&mut self, TopologyFound { tick, started, asked, topology }: TopologyFound) {
        let Some(cluster) = &mut self.cluster else { return };
        let mut undecided = cluster.undecided.remove(&tick.number);
        let Some(topology) = topology else {
            if let Some(undecided) = undecided {
                // This fails only if the task was aborted at the end of the run.
                let _ = undecided.send(Decision::AsEndpoint);
            }
            return;
        };

        let found = cluster.nodes.take(tick.number, topology, Instant::now());
        if let Some(cut) = &found.cut
            && let Some(notify) = cluster.notify.take()
        {
            notify(&format!("--cluster: {cut}"));
        }
        let change = found.change();
        if change != TopologyChange::default() {
            (self.send)(Event::TopologyChanged { tick, change });
        }

        // New checks belong to the tick, but their time is measured from now.
        let now = Moment { since: tick.at.since + started.elapsed(), ..tick.at };
        let late = Tick { at: now, ..tick };
        for member in found.added {
            let is_asked = asked.is_some_and(|asked| member.is_at(asked));
            match asked.zip(undecided.take_if(|_| is_asked)) {
                Some((asked, undecided)) => {
                    let report = self.reporter(member.target(), tick);
                    // This fails only if the task was aborted at the end of the run.
                    let _ = undecided.send(Decision::AsNode(report, asked, member.checker));
                }
                None => self.launch_node(member, late, started),
            }
        }
        for shard in found.new_shards {
            self.launch_route(shard.target(), shard.route, late, started);
        }
    }

    fn launch_node(&mut self, member: Member, tick: Tick, started: Instant) {
        self.launch(member.target(), tick, move |report| async move {
            member.checker.run_until(started + member.checker.deadline, &mut |outcome| report.outcome(outcome)).await;
        });
    }

    /// Starts a check of the node that accepts writes.
    fn launch_route(&mut self, target: Target, route: Route, tick: Tick, started: Instant) {
        self.launch(target, tick, move |report| async move {
            route.check_until(started + route.checker.deadline, &mut |outcome| report.outcome(outcome)).await;
        });
    }
}

/// Checks the endpoint again, with the write that belongs to its check if no node reported a topology.
async fn write_to_endpoint(endpoint: &Route, started: Instant, report: &Reporter) {
    let before = started.elapsed();
    let mut emit = |mut outcome: Outcome| {
        outcome.details.begin_earlier(before);
        report.outcome(outcome);
    };
    endpoint.check_until(started + endpoint.checker.deadline, &mut emit).await;
}

fn any_passed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().any(|outcome| outcome.result.is_ok())
}

fn was_made_at(outcomes: &[Outcome], address: SocketAddr) -> bool {
    outcomes.first().is_some_and(|outcome| outcome.details.connection.peer == Some(address))
}
