//! A run's nodes: how the checks of a whole cluster start, and what happens when nodes come and go.

use super::{News, Run, Tick, What};
use crate::cluster::Topology;
use crate::fleet::{Movement, Sight};
use crate::identity::{Aspect, Change};
use crate::outage::Moment;
use crate::record::Who;

impl Run {
    /// Starts the checks of all nodes that are known, and beside them a look at who else there is.
    pub(super) fn launch_nodes(&mut self, tick: Tick) {
        let Some((fleet, scout)) = &self.cluster else { return };
        let (members, sources, scout) = (fleet.members().to_vec(), fleet.sources(), scout.clone());
        for member in members {
            let tick = Tick { writes: member.writes(), ..tick };
            self.launch_scan(member.who(), tick, member.scanner);
        }
        let sender = self.sender.clone();
        let tick = Tick { writes: false, ..tick };
        self.launch(Who::Cluster, tick, |mut tell| async move {
            let Sight { outcome, topology } = scout.look(sources).await;
            tell(outcome);
            if let Some(topology) = topology {
                // The receiver is gone only when the run is over.
                let _ = sender.send(News { who: Who::Cluster, tick, what: What::Nodes(topology) });
            }
        });
    }

    /// Takes the nodes that a look found: those who are new are checked at once.
    pub(super) fn meet(&mut self, tick: Tick, topology: Topology) {
        let Some((fleet, _)) = &mut self.cluster else { return };
        let Movement { come, gone, first } = fleet.take(tick.number, topology);
        for who in gone {
            if let Some(metrics) = &mut self.metrics {
                metrics.forget(&who);
            }
            self.note_change(who, tick, membership("present", "absent"));
        }
        // Their lines belong to the tick; how long they last is measured from now.
        let at = Moment { since: self.now().since, ..tick.at };
        for member in come {
            let who = member.who();
            if !first {
                self.note_change(who.clone(), tick, membership("absent", "present"));
            }
            // A node that looks told of in turns may have been checked at this tick already.
            if self.lane(&who).begun < tick.number {
                self.launch_scan(who, Tick { at, writes: member.writes(), ..tick }, member.scanner);
            }
        }
    }

    /// Whether more checks of it are to come: a node that left the cluster may have been down, and nobody will see it up.
    pub(super) fn is_checked(&self, who: &Who) -> bool {
        match (&self.cluster, who) {
            (Some((fleet, _)), Who::Node(_)) => fleet.has(who),
            _ => true,
        }
    }
}

fn membership(from: &str, to: &str) -> Change {
    Change { aspect: Aspect::Member, from: from.to_owned(), to: to.to_owned() }
}
