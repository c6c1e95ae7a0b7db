//! `--cluster`: all nodes of a cluster, each checked by connections of its own, all at the same time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::discovery::{Discovered, Discovery};
use crate::cluster::shards::{self, KnownNodes, Route, Shard, ShardChange};
use crate::cluster::topology::{Node, Topology};
use crate::model::endpoint::Endpoint;
use crate::model::outcome::Outcome;
use crate::model::subject::Target;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;

/// One node that is checked.
#[derive(Clone, Debug)]
pub struct Member {
    node: Node,
    pub scanner: Arc<Checker>,
}

impl Member {
    pub fn who(&self) -> Target {
        Target::Node(self.node.name.clone())
    }

    /// It was this address that was asked, as its own checks ask it: a host name of its own asks for another certificate.
    fn is_at(&self, address: Option<SocketAddr>) -> bool {
        let own_name = self.scanner.target.tls.is_some() && self.node.hostname.is_some();
        address.is_some_and(|address| {
            !own_name && self.node.port == address.port() && self.node.host.parse() == Ok(address.ip())
        })
    }
}

/// The nodes that are known.
#[derive(Debug)]
pub struct Nodes {
    /// Checks the endpoint; the checks of the nodes are like its own.
    scanner: Arc<Checker>,
    /// The user named the name that certificates are for.
    keep_name: bool,
    members: Vec<Member>,
    /// Those that are written to; none when nothing is.
    shards: Vec<Shard>,
    /// The number of the look that the members are from.
    as_of: Option<u64>,
}

/// What a look at the topology changed.
#[derive(Debug, Default)]
pub struct TopologyChange {
    /// Nodes that were not known before.
    pub come: Vec<Member>,
    /// Nodes and shards that no longer belong to the cluster.
    pub gone: Vec<Target>,
    pub new_shards: Vec<Shard>,
    /// Shards that have another primary, and the names of the old one and the new.
    pub moved: Vec<(Target, Arc<str>, Arc<str>)>,
    /// No node was known before at all.
    pub first: bool,
}

impl Nodes {
    /// A fleet without nodes. `scanner` checks the endpoint; `keep_name` says that its certificate's name is every
    /// node's, whatever host name it announces.
    pub fn new(scanner: Arc<Checker>, keep_name: bool) -> Self {
        Nodes { scanner, keep_name, members: Vec::new(), shards: Vec::new(), as_of: None }
    }

    /// The nodes, by address.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The shards that are written to, by their slots.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub fn has(&self, who: &Target) -> bool {
        self.members.iter().any(|member| member.who() == *who) || self.shards.iter().any(|shard| shard.who() == *who)
    }

    /// The way to the endpoint alone, where no node is known.
    pub fn endpoint(&self) -> Route {
        let directory = KnownNodes { endpoint: self.scanner.target.clone(), known: Vec::new() };
        Route { scanner: self.scanner.clone(), others: Vec::new(), directory: Arc::new(directory) }
    }

    /// Where else than at the endpoint the topology can be had, the best place first.
    pub fn sources(&self) -> Vec<ConnectOptions> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|member| (member.node.failing, !member.node.primary));
        let targets = members.into_iter().map(|member| member.scanner.target.clone());
        targets.filter(|target| target.endpoint != self.scanner.target.endpoint).collect()
    }

    /// Takes the topology that a look found. Looks overlap, and one that began before the last that was taken changes
    /// nothing.
    ///
    /// Nodes are taken to be gone only when every slot has a primary: one that was started anew knows none of the
    /// others. A node that merely fails stays in the topology.
    pub fn take(&mut self, number: u64, topology: Topology) -> TopologyChange {
        if self.as_of.is_some_and(|as_of| number <= as_of) {
            return TopologyChange::default();
        }
        let mut movement = TopologyChange { first: self.as_of.replace(number).is_none(), ..TopologyChange::default() };
        let whole = topology.is_whole();
        let before = std::mem::take(&mut self.members);
        let mut before: BTreeMap<_, _> = before.into_iter().map(|member| (member.node.name.clone(), member)).collect();
        self.divide(&topology.nodes, whole, &mut movement);
        for node in topology.nodes {
            let known = before.remove(&node.name);
            let is_new = known.is_none();
            let member = self.member(node, known);
            movement.come.extend(is_new.then(|| member.clone()));
            self.members.push(member);
        }
        match whole {
            true => movement.gone.extend(before.into_values().map(|member| member.who())),
            false => self.members.extend(before.into_values()),
        }
        movement
    }

    fn divide(&mut self, nodes: &[Node], whole: bool, movement: &mut TopologyChange) {
        if self.scanner.canary.is_none() {
            return;
        }
        let mut shards = std::mem::take(&mut self.shards);
        let known = nodes.iter().map(|node| self.target(node)).collect();
        let directory = Arc::new(KnownNodes { endpoint: self.scanner.target.clone(), known });
        let target = |node: &Node| self.target(node);
        let ShardChange { come, gone, moved } =
            shards::divide(&mut shards, nodes, whole, &target, &directory, &self.scanner);
        (self.shards, movement.new_shards, movement.moved) = (shards, come, moved);
        movement.gone.extend(gone);
    }

    fn member(&self, node: Node, known: Option<Member>) -> Member {
        match known {
            Some(known) if known.node.hostname == node.hostname => Member { node, ..known },
            _ => {
                // Replicas take no writes, and which node is a primary changes: shards are written to.
                let scanner = Arc::new(self.scanner.elsewhere(self.target(&node), None));
                Member { node, scanner }
            }
        }
    }

    fn target(&self, node: &Node) -> ConnectOptions {
        let ConnectOptions { tls, login, .. } = &self.scanner.target;
        let tls = tls.clone().map(|tls| match &node.hostname {
            Some(name) if !self.keep_name => tls.named(name),
            _ => tls,
        });
        let endpoint = Endpoint::Tcp { host: node.host.clone(), port: node.port };
        ConnectOptions { endpoint, tls, login: login.clone() }
    }
}

/// One check of a scan of a cluster.
#[derive(Debug)]
pub struct Checked {
    pub who: Target,
    /// Where its line stands: nodes by address, then shards, the cluster last.
    pub place: usize,
    pub outcome: Outcome,
}

/// Checks a cluster, its nodes and its shards once, within the time of one scan; the endpoint alone where nobody tells of
/// nodes. Each outcome is emitted as soon as it is known.
pub async fn scan(scanner: Checker, keep_name: bool, emit: &mut (dyn FnMut(Checked) + Send)) {
    let end = Instant::now() + scanner.deadline;
    let scanner = Arc::new(scanner);
    // Dropped, it ends its tasks.
    let mut tasks = JoinSet::new();
    // The endpoint is a node as well, mostly, and need not wait until it has told of the others.
    let (sender, outcomes) = unbounded_channel();
    let first = scanner.elsewhere(scanner.target.clone(), None);
    tasks.spawn(async move { first.run_until(end, &mut |outcome| drop(sender.send(outcome))).await });
    let mut early = Some(outcomes);
    let Discovered { outcome, topology } = Discovery::new(scanner.clone()).discover(Vec::new()).await;
    let asked = outcome.details.connection.peer;
    emit(Checked { who: Target::Cluster, place: usize::MAX, outcome });
    let mut fleet = Nodes::new(scanner.clone(), keep_name);
    let Some(topology) = topology.filter(|topology| !topology.nodes.is_empty()) else {
        let mut emit = |outcome| emit(Checked { who: Target::Endpoint, place: 0, outcome });
        match early.filter(|_| scanner.canary.is_none()) {
            Some(mut early) => {
                while let Some(outcome) = early.recv().await {
                    emit(outcome);
                }
            }
            None => fleet.endpoint().check_until(end, &mut emit).await,
        }
        return;
    };
    fleet.take(1, topology);
    let (sender, mut checks) = unbounded_channel();
    for (place, member) in fleet.members().iter().cloned().enumerate() {
        let sender = sender.clone();
        let early = if member.is_at(asked) { early.take() } else { None };
        tasks.spawn(async move {
            let who = member.who();
            let mut tell = |outcome| drop(sender.send(Checked { who: who.clone(), place, outcome }));
            if let Some(mut early) = early
                && let Some(first) = early.recv().await.filter(|outcome| outcome.details.connection.peer == asked)
            {
                tell(first);
                while let Some(outcome) = early.recv().await {
                    tell(outcome);
                }
                return;
            }
            member.scanner.run_until(end, &mut tell).await;
        });
    }
    for (place, shard) in (fleet.members().len()..).zip(fleet.shards().iter().cloned()) {
        let sender = sender.clone();
        tasks.spawn(async move {
            let who = shard.who();
            let mut tell = |outcome| drop(sender.send(Checked { who: who.clone(), place, outcome }));
            shard.route.check_until(end, &mut tell).await;
        });
    }
    drop(sender);
    while let Some(checked) = checks.recv().await {
        emit(checked);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;
    use crate::cluster::topology;
    use crate::model::databases::Databases;
    use crate::probe::canary::Canary;
    use crate::probe::resolve::Resolver;
    use crate::probe::server_info::ServerInfo;

    fn fleet() -> Nodes {
        let timeout = Duration::from_secs(1);
        let endpoint = Endpoint::Tcp { host: "cluster.example".into(), port: 6379 };
        let scanner = Checker {
            target: ConnectOptions { endpoint, tls: None, login: None },
            resolver: Resolver::new(timeout),
            databases: Databases::One(0),
            timeout,
            deadline: timeout,
            identify: ServerInfo::new(true),
            expect_role: None,
            canary: Some(Canary::new()),
            settled: AtomicU64::new(0),
        };
        Nodes::new(Arc::new(scanner), false)
    }

    /// Primaries with their slots, and replicas with none.
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
        Topology { nodes: nodes.iter().map(node).collect() }
    }

    fn names(movement: &TopologyChange) -> (Vec<String>, Vec<String>) {
        let come = movement.come.iter().map(|member| member.who().to_string()).collect();
        (come, movement.gone.iter().map(Target::to_string).collect())
    }

    /// Who is written to: shard, primary and tag.
    fn writing(fleet: &Nodes) -> Vec<(String, String, String)> {
        let shown = |shard: &Shard| {
            let Route { scanner, .. } = &shard.route;
            let tag = scanner.canary.as_ref().unwrap().to_string();
            let tag = tag.split_once('{').unwrap().1.trim_end_matches(['}', '*']).to_owned();
            (shard.who().to_string(), scanner.target.endpoint.to_string(), tag)
        };
        fleet.shards().iter().map(shown).collect()
    }

    #[test]
    fn nodes_come_and_go_in_the_order_of_the_looks() {
        const ALL: Option<(u16, u16)> = Some((0, 16_383));
        let mut fleet = fleet();
        let first = fleet.take(1, topology(&[("a", ALL), ("b", None)]));
        assert_eq!((names(&first), first.first), ((vec!["NODE a:1".into(), "NODE b:1".into()], vec![]), true));
        let third = fleet.take(3, topology(&[("a", ALL), ("c", None)]));
        assert_eq!((names(&third), third.first), ((vec!["NODE c:1".into()], vec!["NODE b:1".into()]), false));
        // A look that began before the last one ended late.
        let second = fleet.take(2, topology(&[("a", ALL), ("b", None)]));
        assert_eq!(names(&second), (vec![], vec![]));
        // A node that was started anew knows itself and no slot.
        let alone = fleet.take(4, topology(&[("a", None)]));
        assert_eq!(names(&alone), (vec![], vec![]));
        assert_eq!(fleet.members().len(), 2);
        assert!(fleet.has(&Target::Node("c:1".into())) && !fleet.has(&Target::Node("b:1".into())));
    }

    #[test]
    fn a_shard_is_written_to_wherever_its_slots_are() {
        let mut fleet = fleet();
        let first = fleet.take(1, topology(&[("a", Some((0, 8191))), ("b", Some((8192, 16_383))), ("c", None)]));
        assert!(fleet.members().iter().all(|member| member.scanner.canary.is_none()));
        let before = writing(&fleet);
        let who = |place: usize| (before[place].0.as_str(), before[place].1.as_str());
        assert_eq!((who(0), who(1)), (("SHARD 0-8191", "a:1"), ("SHARD 8192-16383", "b:1")));
        assert_eq!((first.new_shards.len(), first.moved.len()), (2, 0));
        let scanner = fleet.shards()[0].route.scanner.clone();
        // Slots moved, and not the one that is written to.
        let slot = topology::slot(before[0].2.as_bytes());
        fleet.take(2, topology(&[("a", Some((slot, slot))), ("b", Some((8192, 16_383))), ("c", None)]));
        assert_eq!(writing(&fleet), before);
        assert!(Arc::ptr_eq(&scanner, &fleet.shards()[0].route.scanner));
        // A promotion: the shard stays, the node changes.
        let third = fleet.take(3, topology(&[("a", None), ("b", Some((8192, 16_383))), ("c", Some((0, 8191)))]));
        let at_c = (before[0].0.clone(), "c:1".to_owned(), before[0].2.clone());
        assert_eq!(writing(&fleet), [at_c.clone(), before[1].clone()]);
        assert_eq!(third.moved, [(Target::Shard("0-8191".into()), "a:1".into(), "c:1".into())]);
        assert!(third.new_shards.is_empty() && third.gone.is_empty());
        // A look that does not see all slots takes nobody away; one that does tells who has come and who has gone.
        fleet.take(4, topology(&[("c", Some((0, 8191)))]));
        assert_eq!(writing(&fleet), [at_c, before[1].clone()]);
        let fifth =
            fleet.take(5, topology(&[("a", Some((4000, 8191))), ("c", Some((0, 3999))), ("b", Some((8192, 16_383)))]));
        assert_eq!(fifth.new_shards.iter().map(Shard::who).collect::<Vec<_>>(), [Target::Shard("4000-8191".into())]);
        let sixth = fleet.take(6, topology(&[("a", Some((0, 8191))), ("b", Some((8192, 16_383)))]));
        assert!(sixth.gone.contains(&Target::Shard("0-8191".into())), "{sixth:?}");
    }
}
