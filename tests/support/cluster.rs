//! A real cluster: three primaries with a replica each.

use std::path::Path;

use super::real::Real;
use super::scripted::{LIMIT, eventually};

/// The slots of the three primaries.
pub const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// Six nodes: `nodes[n + 3]` replicates `nodes[n]`.
pub struct Cluster {
    pub nodes: Vec<Real>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts each node with more arguments, by its place.
    pub fn start_with(more: impl Fn(usize) -> Vec<String>) -> Self {
        let nodes: Vec<_> = (0..6).map(|place| node(&more(place))).collect();
        let cluster = Cluster { nodes };
        for (place, (from, to)) in SLOTS.iter().enumerate() {
            let node = &cluster.nodes[place];
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]), "+OK");
            assert_eq!(node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]), "+OK");
        }
        cluster.nodes[1..].iter().for_each(|node| cluster.meet(node));
        cluster.all_know(6);
        for (primary, replica) in (0..3).zip(3..6) {
            let id = cluster.id(primary);
            let replicate = || cluster.nodes[replica].command(&["CLUSTER", "REPLICATE", &id]) == "+OK";
            assert!(eventually(LIMIT, replicate), "{replica} does not replicate {primary}");
        }
        for node in &cluster.nodes {
            // A replica that is still loading is asked in vain for its part, and left out by CLUSTER SLOTS.
            let complete = || {
                let shards = node.command(&["CLUSTER", "NODES"]);
                state(node) == "ok" && shards.matches("slave").count() == 3 && shards.matches(" connected").count() == 6
            };
            assert!(eventually(LIMIT, complete), "{}", node.command(&["CLUSTER", "NODES"]));
        }
        for replica in &cluster.nodes[3..] {
            let linked = || replica.command(&["INFO", "replication"]).contains("master_link_status:up");
            assert!(eventually(LIMIT, linked), "a replica is not in step");
        }
        cluster
    }

    /// As redis-health names the node.
    pub fn name(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[place].port())
    }

    pub fn port(&self, place: usize) -> String {
        self.nodes[place].port().to_string()
    }

    pub fn id(&self, place: usize) -> String {
        self.nodes[place].command(&["CLUSTER", "MYID"])
    }

    /// Has the first node meet another one.
    pub fn meet(&self, node: &Real) {
        assert_eq!(self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string()]), "+OK");
    }

    /// Waits until all nodes know so many.
    pub fn all_know(&self, count: usize) {
        for node in &self.nodes {
            let known = || node.command(&["CLUSTER", "INFO"]).contains(&format!("cluster_known_nodes:{count}\r"));
            assert!(eventually(LIMIT, known), "{}", node.command(&["CLUSTER", "NODES"]));
        }
    }
}

/// A node that knows nobody. Its second port, ten thousand above the first, has to be free too: where it is not, the
/// server ends at once and another port is tried.
pub fn node(more: &[String]) -> Real {
    let mut arguments = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    arguments.extend(["--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"]);
    arguments.extend(["--cluster-allow-replica-migration", "no"]);
    arguments.extend(more.iter().map(String::as_str));
    Real::start(&arguments)
}

/// A cluster of one node of a given engine.
pub fn alone(engine: &Path, more: &[&str]) -> Real {
    let node = Real::start_binary(engine, &[&["--cluster-enabled", "yes"], more].concat());
    // ADDSLOTSRANGE is younger than some engines.
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let command: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    assert_eq!(node.command(&command), "+OK");
    assert!(eventually(LIMIT, || state(&node) == "ok"), "{}", node.command(&["CLUSTER", "INFO"]));
    node
}

/// What a node thinks of the cluster: `ok` or `fail`.
pub fn state(node: &Real) -> String {
    let info = node.command(&["CLUSTER", "INFO"]);
    info.lines().find_map(|line| line.strip_prefix("cluster_state:")).unwrap_or_default().to_owned()
}
