//! `--cluster`: the known nodes of a cluster, each with its own checker.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::shards::{KnownNodes, Route, Shard, ShardChange, ShardUpdate};
use crate::cluster::topology::{MAX_NODES, Node, Topology};
use crate::model::change::TopologyChange;
use crate::model::endpoint::Endpoint;
use crate::model::subject::Target;
use crate::model::text::Printable;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;

/// The most nodes and shards that are checked in the course of a run.
const MAX_EVER: usize = 2 * MAX_NODES;

/// A node, and its checker.
#[derive(Clone, Debug)]
pub struct Member {
    node: Node,
    pub checker: Arc<Checker>,
}

impl Member {
    /// The target of its checks.
    pub fn target(&self) -> Target {
        Target::Node(self.node.name.clone())
    }

    /// Whether a check at `address` is the same as this node's own check. It is not if the node announces a host name
    /// and TLS is used, because its certificate is then verified for that name.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let own_name = self.checker.connect.tls.is_some() && self.node.hostname.is_some();
        !own_name && self.node.port == address.port() && self.node.host.parse() == Ok(address.ip())
    }
}

/// The known nodes and shards.
#[derive(Debug)]
pub struct Nodes {
    /// The checker of the endpoint, whose settings the nodes' checkers share.
    checker: Arc<Checker>,
    /// The user set the TLS server name with `--sni`.
    keep_name: bool,
    members: Vec<Member>,
    /// The shards, for writes. Empty without `--canary`.
    shards: Vec<Shard>,
    /// The tick of the discovery that `members` is from.
    as_of: Option<u64>,
    /// All nodes and shards that were ever checked. Each has a history, which is kept until the end of the run.
    ever: HashSet<Target>,
}

/// What a discovery changed.
#[derive(Debug, Default)]
pub struct TopologyUpdate {
    /// Nodes that were not known before.
    pub added: Vec<Member>,
    /// Nodes and shards that no longer belong to the cluster.
    pub removed: Vec<Target>,
    pub new_shards: Vec<Shard>,
    /// Shards with a new primary, with the names of the old and the new one.
    pub moved: Vec<(Target, Printable, Printable)>,
    /// No node was known before.
    pub is_first: bool,
    /// What is not checked because there is too much of it.
    pub cut: Option<String>,
}

impl TopologyUpdate {
    /// The change as an event.
    pub fn change(&self) -> TopologyChange {
        let nodes = self.added.iter().map(Member::target);
        TopologyChange {
            added: nodes.chain(self.new_shards.iter().map(Shard::target)).collect(),
            removed: self.removed.clone(),
            moved: self.moved.clone(),
            is_first: self.is_first,
        }
    }
}

impl Nodes {
    /// Starts with no known nodes. `checker` checks the endpoint. With `keep_name`, the certificates of all nodes must
    /// be valid for the endpoint's TLS server name, even if a node announces a host name.
    pub fn new(checker: Arc<Checker>, keep_name: bool) -> Self {
        Nodes { checker, keep_name, members: Vec::new(), shards: Vec::new(), as_of: None, ever: HashSet::new() }
    }

    /// The nodes, sorted by address.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The shards, sorted by their slots.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// A route to the endpoint itself, while no node is known.
    pub fn endpoint(&self) -> Route {
        let known_nodes = KnownNodes { endpoint: self.checker.connect.clone(), known: Vec::new() };
        Route { checker: self.checker.clone(), others: Vec::new(), known_nodes: Arc::new(known_nodes) }
    }

    /// Nodes other than the endpoint that can be asked for the topology, the most suitable first.
    pub fn sources(&self) -> Vec<ConnectOptions> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|member| (member.node.failing, !member.node.primary));
        let sources = members.into_iter().map(|member| member.checker.connect.clone());
        sources.filter(|connect| connect.endpoint != self.checker.connect.endpoint).collect()
    }

    /// Applies the topology found by the discovery of tick `number`. Discoveries overlap, so one that began before the
    /// last applied one is ignored.
    ///
    /// Nodes are removed only if every slot has a primary, because a restarted node does not know the others. A node
    /// that only fails stays in the topology.
    pub fn take(&mut self, number: u64, topology: Topology, now: Instant) -> TopologyUpdate {
        if self.as_of.is_some_and(|as_of| number <= as_of) {
            return TopologyUpdate::default();
        }
        let mut found = TopologyUpdate { is_first: self.as_of.replace(number).is_none(), ..TopologyUpdate::default() };
        let whole = topology.is_whole();

        let before = std::mem::take(&mut self.members);
        let mut before: BTreeMap<_, _> = before.into_iter().map(|member| (member.node.name.clone(), member)).collect();
        self.update_shards(&topology, now, &mut found);
        found.cut = found.cut.or(topology.cut);

        for node in topology.nodes {
            let known = before.remove(&node.name);
            let is_new = known.is_none();
            if is_new && !self.admit(Target::Node(node.name.clone())) {
                found.cut = Some(too_many());
                continue;
            }
            let member = self.member(node, known);
            found.added.extend(is_new.then(|| member.clone()));
            self.members.push(member);
        }

        // A hostile server may list other nodes each time.
        let kept = if whole { 0 } else { MAX_NODES.saturating_sub(self.members.len()) };
        let mut before = before.into_values();
        self.members.extend(before.by_ref().take(kept));
        found.removed.extend(before.map(|member| member.target()));
        found
    }

    fn update_shards(&mut self, topology: &Topology, now: Instant, found: &mut TopologyUpdate) {
        if self.checker.canary.is_none() {
            return;
        }
        let mut shards = std::mem::take(&mut self.shards);
        let known = topology.nodes.iter().map(|node| self.connect_options(node)).collect();
        let known_nodes = Arc::new(KnownNodes { endpoint: self.checker.connect.clone(), known });
        let connect_options = |node: &Node| self.connect_options(node);

        let shard_update = ShardUpdate {
            topology,
            connect_options: &connect_options,
            known_nodes: &known_nodes,
            checker: &self.checker,
            now,
        };
        let ShardChange { added, removed, moved } = shard_update.apply(&mut shards);

        self.shards = shards.into_iter().filter(|shard| self.admit(shard.target())).collect();
        found.new_shards = added.into_iter().filter(|shard| self.admit(shard.target())).collect();
        found.moved = moved;
        found.removed.extend(removed);
    }

    /// Whether a node or shard may be checked: one that was checked before, or one of the first [`MAX_EVER`].
    fn admit(&mut self, target: Target) -> bool {
        self.ever.contains(&target) || (self.ever.len() < MAX_EVER && self.ever.insert(target))
    }

    fn member(&self, node: Node, known: Option<Member>) -> Member {
        match known {
            Some(known) if known.node.hostname == node.hostname => Member { node, ..known },
            _ => {
                // Nodes get no canary: replicas reject writes, and the primary may change. Writes go to shards.
                let checker = Arc::new(self.checker.for_server(self.connect_options(&node), None));
                Member { node, checker }
            }
        }
    }

    fn connect_options(&self, node: &Node) -> ConnectOptions {
        let ConnectOptions { tls, credentials, .. } = &self.checker.connect;
        let tls = tls
            .as_ref()
            .map(|tls| if self.keep_name { tls.clone() } else { tls.for_server(node.hostname.as_deref(), &node.host) });
        let endpoint = Endpoint::Tcp { host: node.host.clone(), port: node.port };
        ConnectOptions { endpoint, tls, credentials: credentials.clone() }
    }
}

fn too_many() -> String {
    format!("more than {MAX_EVER} different nodes and shards in this run: further ones are not checked")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::time::Duration;

    use super::*;
    use crate::cluster::slots;
    use crate::model::databases::Databases;
    use crate::probe::canary::Canary;
    use crate::probe::resolve::Resolver;
    use crate::probe::server_info::ServerInfo;

    fn no_nodes() -> Nodes {
        let timeout = Duration::from_secs(1);
        let endpoint = Endpoint::Tcp { host: "cluster.example".into(), port: 6379 };
        let checker = Checker {
            connect: ConnectOptions { endpoint, tls: None, credentials: None },
            resolver: Resolver::new(),
            databases: Databases::One(0),
            timeout,
            deadline: timeout,
            server_info: ServerInfo::new(true),
            expect_role: None,
            canary: Some(Canary::new()),
            in_cluster: true,
            settled: AtomicU64::new(0),
            highest: AtomicU32::new(0),
        };
        Nodes::new(Arc::new(checker), false)
    }

    /// Primaries with their slots, and replicas without slots.
    fn topology(nodes: &[(&str, Option<(u16, u16)>)]) -> Topology {
        let node = |(name, slots): &(&str, Option<(u16, u16)>)| Node {
            name: format!("{name}:1").into(),
            host: (*name).to_owned(),
            port: 1,
            hostname: None,
            primary: slots.is_some(),
            failing: false,
            slots: slots.map(|(from, to)| from..=to).into_iter().collect(),
            replicates: None,
        };
        Topology::of(nodes.iter().map(node).collect())
    }

    fn names(found: &TopologyUpdate) -> (Vec<String>, Vec<String>) {
        let added = found.added.iter().map(|member| member.target().to_string()).collect();
        (added, found.removed.iter().map(Target::to_string).collect())
    }

    /// The shards, with their primaries and hash tags.
    fn writing(nodes: &Nodes) -> Vec<(String, String, String)> {
        let shown = |shard: &Shard| {
            let Route { checker, .. } = &shard.route;
            let tag = checker.canary.as_ref().unwrap().to_string();
            let tag = tag.split_once('{').unwrap().1.trim_end_matches(['}', '*']).to_owned();
            (shard.target().to_string(), checker.connect.endpoint.to_string(), tag)
        };
        nodes.shards().iter().map(shown).collect()
    }

    #[test]
    fn discoveries_are_applied_in_the_order_in_which_they_began() {
        const ALL: Option<(u16, u16)> = Some((0, 16_383));
        let mut nodes = no_nodes();
        let first = nodes.take(1, topology(&[("a", ALL), ("b", None)]), Instant::now());
        assert_eq!((names(&first), first.is_first), ((vec!["NODE a:1".into(), "NODE b:1".into()], vec![]), true));
        let third = nodes.take(3, topology(&[("a", ALL), ("c", None)]), Instant::now());
        assert_eq!((names(&third), third.is_first), ((vec!["NODE c:1".into()], vec!["NODE b:1".into()]), false));
        // A discovery that began before the last one and ended after it.
        let second = nodes.take(2, topology(&[("a", ALL), ("b", None)]), Instant::now());
        assert_eq!(names(&second), (vec![], vec![]));
        // A restarted node knows only itself, and no slots.
        let alone = nodes.take(4, topology(&[("a", None)]), Instant::now());
        assert_eq!(names(&alone), (vec![], vec![]));
        assert_eq!(nodes.members().len(), 2);
        let names: Vec<_> = nodes.members().iter().map(Member::target).collect();
        assert_eq!(names, [Target::Node("a:1".into()), Target::Node("c:1".into())]);
    }

    #[test]
    fn a_shard_follows_its_slots() {
        let mut nodes = no_nodes();
        let first = nodes.take(
            1,
            topology(&[("a", Some((0, 8191))), ("b", Some((8192, 16_383))), ("c", None)]),
            Instant::now(),
        );
        assert!(nodes.members().iter().all(|member| member.checker.canary.is_none()));
        let before = writing(&nodes);
        let target = |place: usize| (before[place].0.as_str(), before[place].1.as_str());
        assert_eq!((target(0), target(1)), (("SHARD 0-8191", "a:1"), ("SHARD 8192-16383", "b:1")));
        assert_eq!((first.new_shards.len(), first.moved.len()), (2, 0));
        let checker = nodes.shards()[0].route.checker.clone();
        // Slots moved, but not the one that is written to.
        let slot = slots::slot(before[0].2.as_bytes());
        nodes.take(2, topology(&[("a", Some((slot, slot))), ("b", Some((8192, 16_383))), ("c", None)]), Instant::now());
        assert_eq!(writing(&nodes), before);
        assert!(Arc::ptr_eq(&checker, &nodes.shards()[0].route.checker));
        // After a promotion the shard stays and its primary changes.
        let third = nodes.take(
            3,
            topology(&[("a", None), ("b", Some((8192, 16_383))), ("c", Some((0, 8191)))]),
            Instant::now(),
        );
        let at_c = (before[0].0.clone(), "c:1".to_owned(), before[0].2.clone());
        assert_eq!(writing(&nodes), [at_c.clone(), before[1].clone()]);
        assert_eq!(third.moved, [(Target::Shard("0-8191".into()), "a:1".into(), "c:1".into())]);
        assert!(third.new_shards.is_empty() && third.removed.is_empty());
        // A discovery without all slots removes nothing. One with all slots adds and removes shards.
        nodes.take(4, topology(&[("c", Some((0, 8191)))]), Instant::now());
        assert_eq!(writing(&nodes), [at_c, before[1].clone()]);
        let fifth = nodes.take(
            5,
            topology(&[("a", Some((4000, 8191))), ("c", Some((0, 3999))), ("b", Some((8192, 16_383)))]),
            Instant::now(),
        );
        assert_eq!(fifth.new_shards.iter().map(Shard::target).collect::<Vec<_>>(), [Target::Shard("4000-8191".into())]);
        let sixth = nodes.take(6, topology(&[("a", Some((0, 8191))), ("b", Some((8192, 16_383)))]), Instant::now());
        assert!(sixth.removed.contains(&Target::Shard("0-8191".into())), "{sixth:?}");
    }

    #[test]
    fn a_shard_is_renamed_once_its_slots_have_settled() {
        let mut nodes = no_nodes();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let split = |slot: u16| topology(&[("a", Some((0, slot))), ("b", Some((slot + 1, 16_383)))]);
        let shown = |nodes: &Nodes| writing(nodes).into_iter().map(|(name, at, _)| (name, at)).collect::<Vec<_>>();
        let pair = |first: &str, second: &str| {
            [(format!("SHARD {first}"), "a:1".to_owned()), (format!("SHARD {second}"), "b:1".to_owned())]
        };
        nodes.take(1, split(8191), at(0));
        // While slots move, the shards keep their names.
        for moved in 0..30 {
            let found = nodes.take(2 + moved, split(8191 - moved as u16), at(moved));
            assert_eq!((found.new_shards.len(), found.removed.len()), (0, 0));
        }
        assert_eq!(shown(&nodes), pair("0-8191", "8192-16383"));
        // A topology without all slots says nothing.
        nodes.take(50, topology(&[("a", Some((0, 8162)))]), at(45));
        assert_eq!(shown(&nodes), pair("0-8191", "8192-16383"));
        let found = nodes.take(51, split(8162), at(46));
        assert_eq!(shown(&nodes), pair("0-8162", "8163-16383"));
        let names = |shards: Vec<Target>| shards.iter().map(Target::to_string).collect::<Vec<_>>();
        assert_eq!(names(found.removed), ["SHARD 0-8191", "SHARD 8192-16383"]);
        assert_eq!(names(found.new_shards.iter().map(Shard::target).collect()), ["SHARD 0-8162", "SHARD 8163-16383"]);
        assert!(found.moved.is_empty());
    }

    #[test]
    fn slots_without_an_owner_are_a_shard_at_first_sight() {
        let mut nodes = no_nodes();
        nodes.take(1, topology(&[("a", Some((0, 8191))), ("b", None)]), Instant::now());
        let shown: Vec<_> = writing(&nodes).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(shown, ["SHARD 0-8191", "SHARD 8192-16383"]);
        // It ends when the slots have an owner.
        let found = nodes.take(2, topology(&[("a", Some((0, 8191))), ("b", Some((8192, 16_383)))]), Instant::now());
        assert_eq!(found.removed, [Target::Shard("8192-16383".into())]);
        assert_eq!(nodes.shards().len(), 2);
    }

    #[test]
    fn other_nodes_each_time_do_not_add_up() {
        let mut nodes = no_nodes();
        for number in 0..20_u64 {
            let listed: Vec<_> = (0..1000).map(|n| format!("n{number}-{n}")).collect();
            let slot = |n: usize| Some((n as u16, n as u16)).filter(|_| n < 500);
            let listed: Vec<_> = listed.iter().enumerate().map(|(n, name)| (name.as_str(), slot(n))).collect();
            nodes.take(number, topology(&listed), Instant::now());
            assert!(nodes.members().len() <= MAX_NODES && nodes.shards().len() <= MAX_NODES, "{number}");
        }
        assert_eq!(nodes.ever.len(), MAX_EVER);
    }
}
