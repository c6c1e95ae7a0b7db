//! A run's nodes and shards: how the checks of a whole cluster start, and what happens when they come and go.

use tokio::sync::oneshot;

use super::{News, Run, Tick, What};
use crate::cluster::discovery::Discovered;
use crate::cluster::nodes::TopologyChange;
use crate::cluster::shards::Route;
use crate::cluster::topology::Topology;
use crate::model::change::{Aspect, Change};
use crate::model::clock::Moment;
use crate::model::subject::Target;

impl Run {
    /// Starts the checks of all nodes and shards that are known, and beside them a look at who else there is.
    pub(super) fn launch_nodes(&mut self, tick: Tick) {
        let Some((fleet, scout)) = &self.cluster else { return };
        let (members, shards, sources) = (fleet.members().to_vec(), fleet.shards().to_vec(), fleet.sources());
        let (scout, endpoint) = (scout.clone(), fleet.endpoint());
        let nobody = members.is_empty();
        for member in members {
            self.launch_scan(member.who(), tick, member.scanner);
        }
        for shard in shards {
            self.launch_route(shard.who(), tick, shard.route);
        }
        let (told, nodes) = oneshot::channel();
        let sender = self.sender.clone();
        self.launch(Target::Cluster, tick, |mut tell| async move {
            let Discovered { outcome, topology } = scout.discover(sources).await;
            tell(outcome);
            let topology = topology.filter(|topology| !topology.nodes.is_empty());
            // Who waits for it is gone only when the run is over, or was never there.
            let _ = told.send(topology.is_some());
            if let Some(topology) = topology {
                let _ = sender.send(News { who: Target::Cluster, tick, what: What::Nodes(topology) });
            }
        });
        if nobody {
            // Where nobody tells of nodes the endpoint is checked in their place; until that is known, its check is held.
            self.launch(Target::Endpoint, tick, |mut tell| async move {
                let mut held = Vec::new();
                endpoint.check(&mut |outcome| held.push(outcome)).await;
                if nodes.await == Ok(false) {
                    held.into_iter().for_each(&mut *tell);
                }
            });
        }
    }

    /// Starts a check of whoever takes the writes.
    fn launch_route(&mut self, who: Target, tick: Tick, route: Route) {
        self.launch(who, tick, |mut tell| async move { route.check(&mut *tell).await });
    }

    /// Takes the nodes that a look found: those who are new are checked at once.
    pub(super) fn meet(&mut self, tick: Tick, topology: Topology) {
        let Some((fleet, _)) = &mut self.cluster else { return };
        let TopologyChange { come, gone, new_shards, moved, first } = fleet.take(tick.number, topology);
        if first && let Some(metrics) = &mut self.metrics {
            metrics.forget(&Target::Endpoint);
        }
        for who in gone {
            if let Some(metrics) = &mut self.metrics {
                metrics.forget(&who);
            }
            self.note_change(who, tick, change(Aspect::Member, "present", "absent"));
        }
        for (who, from, to) in moved {
            self.note_change(who, tick, change(Aspect::Address, &from, &to));
        }
        // Their lines belong to the tick; how long they last is measured from now.
        let at = Moment { since: self.now().since, ..tick.at };
        for member in come {
            let who = member.who();
            if !first {
                self.note_change(who.clone(), tick, change(Aspect::Member, "absent", "present"));
            }
            // A node that looks told of in turns may have been checked at this tick already.
            if self.lane(&who).begun < tick.number {
                self.launch_scan(who, Tick { at, ..tick }, member.scanner);
            }
        }
        for shard in new_shards {
            let who = shard.who();
            if !first {
                self.note_change(who.clone(), tick, change(Aspect::Member, "absent", "present"));
            }
            if self.lane(&who).begun < tick.number {
                self.launch_route(who, Tick { at, ..tick }, shard.route);
            }
        }
    }

    /// Whether more checks of it are to come: a node that left the cluster may have been down, and nobody will see it up.
    pub(super) fn is_checked(&self, who: &Target) -> bool {
        match (&self.cluster, who) {
            (Some((fleet, _)), Target::Node(_) | Target::Shard(_)) => fleet.has(who),
            (Some((fleet, _)), Target::Endpoint) => fleet.members().is_empty(),
            _ => true,
        }
    }
}

fn change(aspect: Aspect, from: &str, to: &str) -> Change {
    Change { aspect, from: from.to_owned(), to: to.to_owned() }
}
