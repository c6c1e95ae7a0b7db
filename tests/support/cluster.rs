//! A real cluster of three primaries with one replica each.

use std::net::Ipv4Addr;
use std::path::Path;

use super::real::{Real, free_port};
use super::scripted::{LIMIT, eventually};

/// The slots of the three primaries.
pub const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// Six nodes: `nodes[n + 3]` replicates `nodes[n]`.
pub struct Cluster {
    pub nodes: Vec<Real>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// Starts the nodes. `more` returns further arguments for the node with this index.
    pub fn start_with(more: impl Fn(usize) -> String) -> Self {
        let cluster = Cluster { nodes: (0..6).map(|place| node(&more(place))).collect() };

        for (place, (from, to)) in SLOTS.iter().enumerate() {
            let node = &cluster.nodes[place];
            assert_eq!(node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")), "+OK");
            assert_eq!(node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", place + 1)), "+OK");
        }

        cluster.nodes[1..].iter().for_each(|node| cluster.meet(node));
        cluster.all_know(6);

        for (primary, replica) in (0..3).zip(3..6) {
            let id = cluster.id(primary);
            let replicate = || cluster.nodes[replica].command(&format!("CLUSTER REPLICATE {id}")) == "+OK";
            assert!(eventually(LIMIT, replicate), "{replica} does not replicate {primary}");
        }

        for node in &cluster.nodes {
            // CLUSTER SLOTS leaves out a replica that is still loading.
            let complete = || {
                let shards = node.command("CLUSTER NODES");
                state(node) == "ok" && shards.matches("slave").count() == 3 && shards.matches(" connected").count() == 6
            };
            assert!(eventually(LIMIT, complete), "{}", node.command("CLUSTER NODES"));
        }

        cluster.nodes[3..].iter().for_each(Real::wait_in_sync);
        cluster
    }

    /// The name of the node in redis-health's output.
    pub fn name(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[place].port())
    }

    pub fn port(&self, place: usize) -> u16 {
        self.nodes[place].port()
    }

    pub fn id(&self, place: usize) -> String {
        self.nodes[place].command("CLUSTER MYID")
    }

    /// Makes the first node meet another one.
    pub fn meet(&self, node: &Real) {
        assert_eq!(self.nodes[0].command(&format!("CLUSTER MEET 127.0.0.1 {}", node.port())), "+OK");
    }

    /// Waits until every node knows `count` nodes.
    pub fn all_know(&self, count: usize) {
        for node in &self.nodes {
            let known = || node.info("CLUSTER INFO", "cluster_known_nodes") == count.to_string();
            assert!(eventually(LIMIT, known), "{}", node.command("CLUSTER NODES"));
        }
    }
}

/// A node that knows no other node. The cluster bus uses the port plus 10,000: if that one is taken, the server exits
/// at once and another port is tried.
pub fn node(more: &str) -> Real {
    Real::start(&format!(
        "--cluster-enabled yes --cluster-node-timeout 1000 --cluster-allow-replica-migration no \
         --cluster-replica-validity-factor 0 --repl-diskless-sync-delay 0 {more}"
    ))
}

/// A cluster of a single node of this engine.
pub fn alone(engine: &Path, more: &str) -> Real {
    let node = Real::start_binary(engine, &format!("--cluster-enabled yes {more}"));

    // Engines before 7.0 do not have ADDSLOTSRANGE.
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    assert_eq!(node.command(&format!("CLUSTER ADDSLOTS {}", slots.join(" "))), "+OK");

    wait_ok(&node);
    node
}

/// Waits until a node reports the cluster state `ok`.
pub fn wait_ok(node: &Real) {
    assert!(eventually(LIMIT, || state(node) == "ok"), "{}", node.command("CLUSTER INFO"));
}

/// The cluster state that a node reports: `ok` or `fail`.
pub fn state(node: &Real) -> String {
    node.info("CLUSTER INFO", "cluster_state")
}

/// A cluster of primaries without replicas, which share the slots equally. The engine must be Redis 7.0 or newer.
pub struct Primaries {
    pub nodes: Vec<Real>,
}

impl Primaries {
    pub fn start(engine: &Path, count: usize) -> Self {
        Self::formed((0..count).map(|_| Real::start_binary(engine, Self::SETTINGS)).collect())
    }

    /// Starts nodes that have the same port, each on an address of its own.
    pub fn start_on_one_port(engine: &Path, count: u8) -> Self {
        for _ in 0..10 {
            let port = free_port();
            let start = |n| {
                let address = Ipv4Addr::new(127, 0, 7, n + 1);
                // The nodes learn each other's addresses from their connections.
                Real::start_at(engine, address, port, &format!("{} --bind-source-addr {address}", Self::SETTINGS))
            };
            if let Some(nodes) = (0..count).map(start).collect() {
                return Self::formed(nodes);
            }
        }
        panic!("no port is free on {count} addresses");
    }

    const SETTINGS: &str = "--cluster-enabled yes --cluster-node-timeout 5000 --cluster-allow-replica-migration no";

    fn formed(nodes: Vec<Real>) -> Self {
        let count = nodes.len();
        for (place, node) in nodes.iter().enumerate() {
            let (from, to) = Self::slots(place, count);
            assert_eq!(node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")), "+OK");
            assert_eq!(node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", place + 1)), "+OK");
            assert_eq!(nodes[0].command(&format!("CLUSTER MEET {} {}", node.address(), node.port())), "+OK");
        }

        let primaries = Primaries { nodes };
        for node in &primaries.nodes {
            let complete =
                || state(node) == "ok" && node.command("CLUSTER NODES").matches(" connected").count() == count;
            assert!(eventually(LIMIT, complete), "{}", node.command("CLUSTER NODES"));
        }
        primaries
    }

    /// The slots of one of `count` primaries when the cluster starts.
    pub fn slots(place: usize, count: usize) -> (usize, usize) {
        (place * 16_384 / count, (place + 1) * 16_384 / count - 1)
    }

    pub fn id(&self, place: usize) -> String {
        self.nodes[place].command("CLUSTER MYID")
    }

    /// Begins to migrate slots from one node to another.
    pub fn begin_migration(&self, slots: (usize, usize), from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        self.set_slots(to, slots, &format!("IMPORTING {source}"));
        self.set_slots(from, slots, &format!("MIGRATING {target}"));
    }

    /// Ends the migration of slots without keys to a node.
    pub fn end_migration(&self, slots: (usize, usize), from: usize, to: usize) {
        let target = self.id(to);
        self.set_slots(to, slots, &format!("NODE {target}"));
        self.set_slots(from, slots, &format!("NODE {target}"));
    }

    fn set_slots(&self, place: usize, (first, last): (usize, usize), state: &str) {
        let commands: Vec<_> = (first..=last).map(|slot| format!("CLUSTER SETSLOT {slot} {state}")).collect();
        let replies = self.nodes[place].talk(&commands);
        assert_eq!(replies.matches("+OK").count(), commands.len() + 1, "{state}: {replies}");
    }
}
