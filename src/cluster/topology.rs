//! The topology of a cluster: its nodes, their slots, and whether every slot is served. No I/O.
//!
//! CLUSTER SHARDS (Redis 7.0 and newer) reports all of it. Older engines have CLUSTER SLOTS, which omits replicas that
//! fail or are out of sync, so CLUSTER NODES is read too (redis.io, the commands' pages).

use std::collections::HashMap;
use std::net::IpAddr;

use tracing::debug;

use crate::cluster::slots::{Claims, Owners, Range, SLOTS, append};
use crate::model::failure::{Failure, Kind};
use crate::model::secret::Intake;
use crate::model::text::{MAX_TEXT, Printable};
use crate::probe::large_reply::Item;
use crate::probe::resolve::is_host;

/// The most nodes that are checked. Clusters have up to about 1,000 (redis.io, cluster specification).
pub const MAX_NODES: usize = 2000;

/// The most slot ranges of one node that are kept.
const MAX_RANGES: usize = 4096;

/// A node, as reported by the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `host:port`, to connect to.
    pub name: Printable,
    pub host: String,
    pub port: u16,
    /// The host name that the node announces. Its certificate may be for it.
    pub hostname: Option<String>,
    /// The cluster reports it as the primary of its shard.
    pub primary: bool,
    /// The cluster reports it as failing: the other nodes agree that it does not answer.
    pub failing: bool,
    /// The slots that it owns, in order; no other node owns them. A replica owns none.
    pub slots: Vec<Range>,
    /// For a replica: the node that owns the slots of its shard.
    pub replicates: Option<Printable>,
}

/// The nodes of a cluster, sorted by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub nodes: Vec<Node>,
    /// How many slots have an owner, and how many have one that is not failing.
    owned: u16,
    served: u16,
    /// The slots that none of `nodes` owns.
    pub orphaned: Vec<Range>,
    /// What was left out because there is too much of it.
    pub cut: Option<String>,
}

/// How the answering node was reached. This completes the addresses in its reply.
#[derive(Clone, Copy, Debug)]
pub struct Dialled<'a> {
    /// The host, for nodes that do not know their own address.
    pub host: &'a str,
    /// Whether TLS is used. A node may have another port for TLS.
    pub tls: bool,
    /// Takes in the texts in its reply.
    pub intake: Intake<'a>,
}

impl Topology {
    /// Reads the reply to CLUSTER SHARDS. None if the reply is something else.
    pub fn from_shards(reply: Item<'_>, dialled: Dialled<'_>) -> Option<Self> {
        let mut listing = Listing::new(dialled);
        for shard in reply.items()? {
            let (mut slots, mut nodes) = (None, None);
            for (name, value) in shard.fields()? {
                match name {
                    "slots" => slots = value.items(),
                    "nodes" => nodes = value.items(),
                    _ => {}
                }
            }

            // A failed primary stays in its shard, next to the node that took over its slots (Redis 7.2).
            let (mut owner, mut members) = (None, Vec::new());
            for node in nodes?.filter_map(|node| Announced::from_shard(node, dialled.tls)) {
                let (primary, failing) = (node.primary, node.failing);
                let place = listing.add(node);
                members.extend(place);
                if primary && owner.is_none_or(|(_, is_failing)| is_failing && !failing) {
                    owner = Some((place, failing));
                }
            }
            listing.add_replicas(owner.and_then(|(place, _)| place), &members);
            if let Some((place, failing)) = owner {
                let mut slots = slots?;
                while let (Some(from), Some(to)) = (slots.next(), slots.next()) {
                    listing.add_slots(range(from, to), place, failing);
                }
            }
        }
        Some(listing.topology())
    }

    /// Reads the reply to CLUSTER SLOTS, and the text of that to CLUSTER NODES. None if the first reply is something
    /// else.
    pub fn from_slots(slots: Item<'_>, nodes: &str, dialled: Dialled<'_>) -> Option<Self> {
        let mut listing = Listing::new(dialled);
        for entry in slots.items()? {
            let mut entry = entry.items()?;
            let range = range(entry.next()?, entry.next()?);
            let mut owner = None;
            for (place, server) in entry.enumerate() {
                let known = Announced::from_slots(server, place == 0)?.and_then(|node| listing.add(node));
                if place == 0 {
                    owner = known;
                } else if let Some(known) = known {
                    listing.add_replicas(owner, &[known]);
                }
            }
            listing.add_slots(range, owner, false);
        }

        for line in nodes.lines() {
            listing.add_line(line);
        }
        Some(listing.topology())
    }

    /// Whether every slot has an owner, failing or not. A restarted node that does not know the others reports no
    /// slots.
    pub fn is_whole(&self) -> bool {
        self.owned == SLOTS
    }

    /// Whether every slot is served, according to the nodes and to `info`, the reply to CLUSTER INFO.
    ///
    /// # Errors
    /// A failure with the number of slots that are not served, or with the state that the cluster reports.
    pub fn verdict(&self, info: &str, intake: Intake<'_>) -> Result<(), Failure> {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name: &str| field(name).and_then(|value| value.parse::<u16>().ok());

        // CLUSTER SLOTS does not report failing primaries, and CLUSTER INFO may be forbidden. The larger of the two
        // numbers is used.
        let reported = number("cluster_slots_assigned")
            .map(|assigned| SLOTS.saturating_sub(assigned) + number("cluster_slots_fail").unwrap_or(0).min(SLOTS));
        let unserved = reported.unwrap_or(0).max(SLOTS - self.served);
        if unserved > 0 {
            let plural = if unserved == 1 { "slot" } else { "slots" };
            return Err(Failure::new(Kind::ClusterDown, format!("{unserved} {plural} without a primary")));
        }

        match field("cluster_state") {
            None | Some("ok") => Ok(()),
            Some(state) => {
                let state = intake.text(state, MAX_TEXT);
                Err(Failure::new(Kind::ClusterDown, format!("cluster_state:{state}")))
            }
        }
    }
}

/// The node that a redirection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    pub host: String,
    pub port: u16,
    /// The node is importing the slot, and serves it only after ASKING.
    pub asking: bool,
}

/// Reads the reply `MOVED slot host:port` or `ASK slot host:port` of the node at `here`. An empty host means `here`
/// (redis.io, cluster specification: MOVED and ASK redirection).
pub fn redirection(wire: &str, here: &str) -> Option<Redirection> {
    let (asking, address) = match wire.strip_prefix("MOVED ") {
        Some(address) => (false, address),
        None => (true, wire.strip_prefix("ASK ")?),
    };
    let (host, port) = address.split(' ').nth(1)?.rsplit_once(':')?;
    // The connection has redacted the reply, which is an error.
    let host = if matches!(host, "" | "?") { here } else { host };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_host(host).then(|| Redirection { host: host.to_owned(), port, asking })
}

/// What a reply says about one node.
#[derive(Clone, Debug, Default)]
struct Announced<'r> {
    /// Unlike its address, no other node has it.
    id: Option<&'r str>,
    host: Host<'r>,
    /// Its IP address, if `host` is something else.
    ip: Option<&'r str>,
    hostname: Option<&'r str>,
    port: u16,
    primary: bool,
    failing: bool,
    /// The place of the primary, if the node is a replica.
    replicates: Option<usize>,
}

/// Where a node says that it can be reached.
#[derive(Clone, Copy, Debug, Default)]
enum Host<'r> {
    Named(&'r str),
    /// Null: at the host that was connected to (redis.io, CLUSTER SLOTS).
    #[default]
    Dialled,
    /// `?` or an empty text: it does not know the name or the address that it should announce.
    Unknown,
}

impl<'r> Host<'r> {
    fn of(text: Option<&'r str>) -> Self {
        match text {
            None => Host::Dialled,
            Some("" | "?") => Host::Unknown,
            Some(host) => Host::Named(host),
        }
    }
}

impl<'r> Announced<'r> {
    /// Reads a node in a reply to CLUSTER SHARDS. None if it has no port.
    fn from_shard(node: Item<'r>, tls: bool) -> Option<Self> {
        let mut known = Announced::default();
        let (mut port, mut tls_port, mut endpoint) = (None, None, None);
        for (name, value) in node.fields()? {
            match name {
                "id" => known.id = value.text(),
                "ip" => known.ip = value.text(),
                "hostname" => known.hostname = value.text(),
                "endpoint" => endpoint = Some(Host::of(value.text())),
                "port" => port = value.number(),
                "tls-port" => tls_port = value.number(),
                "role" => known.primary = matches!(value.text(), Some("master" | "primary")),
                "health" => known.failing = value.text().is_some_and(|health| health.starts_with("fail")),
                _ => {}
            }
        }

        known.host = endpoint.unwrap_or(Host::Unknown);
        known.port = if tls { tls_port.or(port) } else { port.or(tls_port) }.filter(|port| *port > 0)?;
        Some(known)
    }

    /// Reads a node in a reply to CLUSTER SLOTS: host, port, id (Redis 4.0 and newer), and other addresses (7.0 and
    /// newer). The outer result is none if it is something else, the inner one if the node has no port.
    fn from_slots(node: Item<'r>, primary: bool) -> Option<Option<Self>> {
        let mut node = node.items()?;
        let (host, port) = (Host::of(node.next()?.text()), node.next()?.number());
        let id = node.next().and_then(Item::text);
        let (mut ip, mut hostname) = (None, None);
        for (name, value) in node.next().and_then(Item::fields).into_iter().flatten() {
            match name {
                "ip" => ip = value.text(),
                "hostname" => hostname = value.text(),
                _ => {}
            }
        }
        let port = port.filter(|port| *port > 0);
        Some(port.map(|port| Announced { id, host, ip, hostname, port, primary, ..Announced::default() }))
    }
}

/// The nodes and slots of a reply, before they are put in order.
struct Listing<'r> {
    dialled: Dialled<'r>,
    nodes: Vec<Announced<'r>>,
    /// The places of nodes by their id, or by their host and port if they have none.
    places: HashMap<(&'r str, u16), usize>,
    /// Slots, and the place of their owner if it is one of `nodes`.
    slots: Vec<(Range, Option<usize>)>,
    /// Slots of failing nodes.
    failing_slots: Vec<(Range, Option<usize>)>,
    has_more: bool,
}

impl<'r> Listing<'r> {
    fn new(dialled: Dialled<'r>) -> Self {
        Listing {
            dialled,
            nodes: Vec::new(),
            places: HashMap::new(),
            slots: Vec::new(),
            failing_slots: Vec::new(),
            has_more: false,
        }
    }

    /// Adds a node, or completes a known one. Returns its place, or none if there are too many.
    fn add(&mut self, node: Announced<'r>) -> Option<usize> {
        let key = match (node.id, node.host) {
            (Some(id), _) => (id, 0),
            (None, Host::Named(host)) => (host, node.port),
            (None, _) => (node.ip.unwrap_or_default(), node.port),
        };
        if let Some(place) = self.places.get(&key).copied() {
            let known = &mut self.nodes[place];
            known.primary |= node.primary;
            known.failing |= node.failing;
            known.hostname = known.hostname.or(node.hostname);
            return Some(place);
        }
        if self.nodes.len() >= MAX_NODES {
            self.has_more = true;
            return None;
        }
        self.places.insert(key, self.nodes.len());
        self.nodes.push(node);
        Some(self.nodes.len() - 1)
    }

    fn add_replicas(&mut self, primary: Option<usize>, members: &[usize]) {
        for member in members.iter().filter(|member| Some(**member) != primary) {
            self.nodes[*member].replicates = primary;
        }
    }

    fn add_slots(&mut self, range: Option<Range>, owner: Option<usize>, failing: bool) {
        let slots = if failing { &mut self.failing_slots } else { &mut self.slots };
        slots.extend(range.map(|range| (range, owner)));
    }

    /// Adds a line of the reply to CLUSTER NODES: `id address flags primary …`, the address as `ip:port@bus-port`, in
    /// newer engines with `,hostname` and other properties.
    fn add_line(&mut self, line: &'r str) -> Option<()> {
        let mut words = line.split(' ');
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let has = |name: &str| flags.split(',').any(|flag| flag == name);
        if let Some(place) = self.places.get(&(id, 0)).copied() {
            self.nodes[place].failing = has("fail");
            return Some(());
        }

        // A node in handshake may never become a member, and one without an address cannot be reached.
        if has("handshake") || has("noaddr") {
            return None;
        }
        let mut parts = address.split(',');
        let (host, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
        self.add(Announced {
            id: Some(id),
            host: Host::of(Some(host)),
            hostname: parts.next(),
            port: port.parse().ok().filter(|port| *port > 0)?,
            primary: has("master"),
            failing: has("fail"),
            ..Announced::default()
        })?;
        Some(())
    }

    fn topology(self) -> Topology {
        let Listing { dialled, nodes, slots, failing_slots, has_more, .. } = self;
        let hosts = hosts(&nodes, dialled);

        // Slots are counted before nodes are merged or left out. A node that is not failing has the first claim.
        let (mut claims, mut serving) = (Claims::new(), Claims::new());
        for (range, owner) in slots.iter().chain(&failing_slots) {
            let place = owner.and_then(|owner| u16::try_from(owner).ok()).unwrap_or(u16::MAX);
            claims.claim(range, place);
        }
        for (range, owner) in &slots {
            if !owner.is_some_and(|owner| nodes[owner].failing) {
                serving.claim(range, 0);
            }
        }
        let (owners, serving) = (claims.into_owners(), serving.into_owners());

        let mut topology = Topology::from_owners(&owners, &serving);
        let names = topology.add_nodes(&nodes, &hosts, dialled.intake);
        topology.add_owned(&owners, &names);
        if has_more {
            topology.cut = Some(format!("more than {MAX_NODES} nodes: only the first {MAX_NODES} are checked"));
        }
        // IP addresses are sorted by value, so that 10.0.1.9 comes before 10.0.1.10.
        topology.nodes.sort_by_cached_key(|node| (node.host.parse::<IpAddr>().ok(), node.host.clone(), node.port));
        topology
    }
}

impl Topology {
    fn from_owners(owners: &Owners, serving: &Owners) -> Self {
        let count = |owners: &Owners| (0..SLOTS).filter(|slot| owners.of(*slot).is_some()).count() as u16;
        Topology { owned: count(owners), served: count(serving), ..Topology::default() }
    }

    /// Adds the nodes that can be reached, each address once. Returns where each announced node is in the topology.
    fn add_nodes(
        &mut self,
        announced: &[Announced<'_>],
        hosts: &[Option<&str>],
        intake: Intake<'_>,
    ) -> Vec<Option<usize>> {
        let mut by_address: HashMap<(&str, u16), usize> = HashMap::new();
        let mut places = Vec::with_capacity(announced.len());
        for (known, host) in announced.iter().zip(hosts) {
            let Some(host) = *host else {
                debug!("a node is left out, because its host is no name or address");
                places.push(None);
                continue;
            };
            let place = *by_address.entry((host, known.port)).or_insert(self.nodes.len());
            places.push(Some(place));
            if let Some(merged) = self.nodes.get_mut(place) {
                debug!("several nodes have the address {}", merged.name);
                merged.primary |= known.primary;
                merged.failing &= known.failing;
                continue;
            }

            let port = known.port;
            let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            self.nodes.push(Node {
                name: name.into(),
                host: host.to_owned(),
                port,
                hostname: known.hostname.filter(|name| is_usable(name, intake)).map(str::to_owned),
                primary: known.primary,
                failing: known.failing,
                slots: Vec::new(),
                replicates: None,
            });
        }

        for (known, place) in announced.iter().zip(&places) {
            let primary = known.replicates.and_then(|primary| places[primary]);
            if let (Some(place), Some(primary)) = (*place, primary)
                && place != primary
            {
                self.nodes[place].replicates = Some(self.nodes[primary].name.clone());
            }
        }
        places
    }

    /// Gives each node the slots that it owns. The owners are announced nodes, which are at `places` in the topology.
    fn add_owned(&mut self, owners: &Owners, places: &[Option<usize>]) {
        for slot in 0..SLOTS {
            let owner = owners.of(slot).and_then(|owner| places.get(usize::from(owner)).copied().flatten());
            match owner {
                Some(owner) => append(&mut self.nodes[owner].slots, slot),
                None => append(&mut self.orphaned, slot),
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.slots.len() > MAX_RANGES) {
            node.slots.truncate(MAX_RANGES);
            self.cut = Some(format!(
                "more than {MAX_RANGES} slot ranges of {}: writes are checked only in the first ones",
                node.name
            ));
        }
    }

    /// A topology of nodes whose slots are disjoint.
    #[cfg(test)]
    pub fn of(nodes: Vec<Node>) -> Self {
        let (mut owners, mut serving) = (Owners::none(), Owners::none());
        for (node, place) in nodes.iter().zip(0..) {
            owners.set(&node.slots, place);
            if !node.failing {
                serving.set(&node.slots, place);
            }
        }
        let orphaned = owners.slots(|owner| owner.is_none());
        Topology { nodes, orphaned, ..Topology::from_owners(&owners, &serving) }
    }
}

/// The host at which each node is reached; none if it has no usable one. If several nodes would be reached at the same
/// address, their IP addresses tell them apart.
fn hosts<'r>(nodes: &[Announced<'r>], dialled: Dialled<'r>) -> Vec<Option<&'r str>> {
    let usable = |host: &'r str| Some(host).filter(|host| is_usable(host, dialled.intake));
    let ip = |node: &Announced<'r>| node.ip.filter(|ip| !matches!(*ip, "" | "?")).and_then(usable);
    let announced = |node: &Announced<'r>| match node.host {
        Host::Named(host) => usable(host).or(ip(node)),
        Host::Unknown => ip(node).or(Some(dialled.host)),
        Host::Dialled => Some(dialled.host),
    };

    let mut hosts: Vec<_> = nodes.iter().map(announced).collect();
    let mut count: HashMap<(Option<&str>, u16), usize> = HashMap::new();
    for (node, host) in nodes.iter().zip(&hosts) {
        *count.entry((*host, node.port)).or_default() += 1;
    }
    for (node, host) in nodes.iter().zip(&mut hosts) {
        if count.get(&(*host, node.port)).is_some_and(|count| *count > 1) {
            *host = ip(node).or(*host);
        }
    }
    hosts
}

/// Whether a host of a server may be connected to and shown. It is written to the logs and looked up, so it must not be
/// arbitrary text.
fn is_usable(host: &str, intake: Intake<'_>) -> bool {
    is_host(host) && !intake.shows_secret(host)
}

fn range(from: Item<'_>, to: Item<'_>) -> Option<Range> {
    let (from, to) = (from.number()?, to.number()?);
    (from <= to && to < SLOTS).then_some(from..=to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use crate::probe::large_reply::LargeReply;

    const HERE: Dialled<'static> = Dialled { host: "10.0.0.1", tls: false, intake: NO_SECRET };
    const NO_SECRET: Intake<'static> = Intake::of(None);

    /// A reply captured from a server, in `tests/replies`.
    fn captured(file: &str) -> LargeReply {
        let path = format!("{}/tests/replies/{file}.resp", env!("CARGO_MANIFEST_DIR"));
        LargeReply::of(&std::fs::read(path).unwrap())
    }

    fn info(file: &str) -> String {
        captured(file).root().text().unwrap().to_owned()
    }

    fn bulk(text: &str) -> String {
        format!("${}\r\n{text}\r\n", text.len())
    }

    fn array(items: &[String]) -> String {
        format!("*{}\r\n{}", items.len(), items.concat())
    }

    /// The slots of a shard, and the fields of its node.
    type ShardFields<'a> = ((u16, u16), &'a [(&'a str, &'a str)]);

    /// A reply to CLUSTER SHARDS: shards with their slots, each with a single node that has these fields.
    fn shards(shards: &[ShardFields<'_>]) -> LargeReply {
        let shard = |((from, to), fields): &ShardFields<'_>| {
            // A value without a type is null.
            let value = |value: &str| if value.is_empty() { "$-1\r\n".to_owned() } else { bulk(value) };
            let fields: Vec<_> = fields.iter().flat_map(|(name, text)| [bulk(name), value(text)]).collect();
            let slots = array(&[format!(":{from}\r\n"), format!(":{to}\r\n")]);
            array(&[bulk("slots"), slots, bulk("nodes"), array(&[array(&fields)])])
        };
        LargeReply::of(array(&shards.iter().map(shard).collect::<Vec<_>>()).as_bytes())
    }

    fn names(topology: &Topology) -> Vec<String> {
        topology.nodes.iter().map(|node| node.name.to_string()).collect()
    }

    /// Each node as its port, `p` for a primary, `!` for a failing one, and its slots.
    fn shown(topology: &Topology) -> Vec<String> {
        let show = |node: &Node| {
            let (primary, failing) = (if node.primary { "p" } else { "" }, if node.failing { "!" } else { "" });
            let slots: Vec<_> = node.slots.iter().map(|range| format!(" {}-{}", range.start(), range.end())).collect();
            format!("{}{primary}{failing}{}", node.port, slots.concat())
        };
        topology.nodes.iter().map(show).collect()
    }

    #[test]
    fn cluster_shards_lists_all_nodes_in_both_protocols() {
        for file in ["shards", "shards-resp3"] {
            let topology = Topology::from_shards(captured(file).root(), HERE).unwrap();
            assert_eq!(
                shown(&topology),
                ["21100p 0-5460", "21101p 5461-10922", "21102p 10923-16383", "21103", "21104", "21105"],
                "{file}"
            );
            assert_eq!(&*topology.nodes[0].name, "127.0.0.1:21100");
            assert_eq!(topology.nodes[5].hostname.as_deref(), Some("node-5.example"));
            assert_eq!(topology.verdict(&info("info"), NO_SECRET), Ok(()));
            assert!(topology.is_whole());
        }
    }

    #[test]
    fn slots_of_a_failed_shard_are_counted() {
        let by_shards = Topology::from_shards(captured("shards-down").root(), HERE).unwrap();
        let by_slots = Topology::from_slots(captured("slots-down").root(), &info("nodes-down"), HERE).unwrap();
        for topology in [by_shards, by_slots] {
            assert_eq!(
                shown(&topology),
                ["21100p! 0-5460", "21101p 5461-10922", "21102p 10923-16383", "21103", "21104", "21105!"]
            );
            assert!(topology.is_whole());
            for info in [&*info("info-down"), ""] {
                let failure = topology.verdict(info, NO_SECRET).unwrap_err();
                assert_eq!(failure.to_string(), "clusterdown: 5461 slots without a primary");
            }
        }
    }

    #[test]
    fn without_cluster_nodes_failing_primaries_are_known_from_cluster_info() {
        let topology = Topology::from_slots(captured("slots-down").root(), "", HERE).unwrap();
        assert_eq!(topology.verdict("", NO_SECRET), Ok(()));
        let failure = topology.verdict(&info("info-down"), NO_SECRET).unwrap_err();
        assert_eq!(failure.to_string(), "clusterdown: 5461 slots without a primary");
        let whole = Topology::from_slots(captured("slots").root(), "", HERE).unwrap();
        assert_eq!(shown(&whole), ["21100p 0-5460", "21101p 5461-10922", "21102p 10923-16383"]);
        let failure = whole.verdict("cluster_state:fail\r\n", NO_SECRET).unwrap_err();
        assert_eq!(failure.to_string(), "clusterdown: cluster_state:fail");
    }

    #[test]
    fn a_node_without_an_address_has_the_one_it_was_reached_at() {
        let alone = Topology::from_shards(captured("shards-alone").root(), HERE).unwrap();
        assert_eq!(&*alone.nodes[0].name, "10.0.0.1:21100");
        assert!(!alone.is_whole());
        assert_eq!(alone.verdict("", NO_SECRET).unwrap_err().to_string(), "clusterdown: 16384 slots without a primary");
        let six = Dialled { host: "fd00::1", ..HERE };
        assert_eq!(
            &*Topology::from_shards(captured("shards-alone").root(), six).unwrap().nodes[0].name,
            "[fd00::1]:21100"
        );
    }

    #[test]
    fn tls_may_have_its_own_port() {
        let read =
            |reply: &LargeReply, tls| names(&Topology::from_shards(reply.root(), Dialled { tls, ..HERE }).unwrap());
        let both = shards(&[((0, 9), &[("endpoint", "a"), ("port", "6379"), ("tls-port", "6380")])]);
        assert_eq!((read(&both, false), read(&both, true)), (vec!["a:6379".into()], vec!["a:6380".into()]));
        let one = shards(&[((0, 9), &[("tls-port", "6380"), ("endpoint", "?")])]);
        assert_eq!((read(&one, false), read(&one, true)), (vec!["10.0.0.1:6380".into()], vec!["10.0.0.1:6380".into()]));
        let none = Vec::<String>::new();
        assert_eq!(read(&shards(&[((0, 9), &[("endpoint", "")])]), true), none);
        for host in ["a b", "a\nNODE", "a\u{1b}[2J", &"a".repeat(256)] {
            let at = |ip| shards(&[((0, 9), &[("port", "6379"), ("endpoint", host), ("ip", ip)])]);
            assert_eq!(read(&at("?"), false), none, "{host:?}");
            assert_eq!(read(&at("10.0.0.7"), false), ["10.0.0.7:6379"], "{host:?}");
        }
    }

    #[test]
    fn no_node_and_no_slot_is_lost_if_nodes_announce_the_same_name() {
        let primary = ("role", "master");
        let three = |fields: [&[(&str, &str)]; 3]| {
            let slots = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
            let reply = shards(&slots.into_iter().zip(fields).collect::<Vec<_>>());
            let topology = Topology::from_shards(reply.root(), HERE).unwrap();
            assert_eq!(topology.verdict("", NO_SECRET), Ok(()));
            assert!(topology.orphaned.is_empty());
            names(&topology)
        };
        let at = |id, endpoint, ip, port| [("id", id), ("endpoint", endpoint), ("ip", ip), ("port", port), primary];

        // `?`, null, and the same name: the IP addresses tell them apart.
        for endpoint in ["?", "", "cache.example"] {
            let nodes = three([
                &at("a", endpoint, "10.0.1.1", "6379"),
                &at("b", endpoint, "10.0.1.2", "6379"),
                &at("c", endpoint, "10.0.1.3", "6379"),
            ]);
            assert_eq!(nodes, ["10.0.1.1:6379", "10.0.1.2:6379", "10.0.1.3:6379"], "{endpoint}");
        }
        // Null means the dialled host, as long as the ports differ.
        let nodes =
            three([&at("a", "", "172.1.1.1", "1"), &at("b", "", "172.1.1.2", "2"), &at("c", "", "172.1.1.3", "3")]);
        assert_eq!(nodes, ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]);
        // One address for all of them, and one without a usable address.
        let same = at("a", "10.0.1.1", "10.0.1.1", "6379");
        let [_, rest @ ..] = same;
        let with = |id| [[("id", id)].as_slice(), &rest].concat();
        assert_eq!(three([&same, &with("b"), &with("c")]), ["10.0.1.1:6379"]);
    }

    #[test]
    fn slots_of_a_node_that_cannot_be_reached_are_orphaned_but_owned() {
        let reply = shards(&[
            ((0, 99), &[("id", "a"), ("endpoint", "a b"), ("port", "1"), ("role", "master")]),
            ((100, 16_383), &[("id", "b"), ("endpoint", "b"), ("port", "1"), ("role", "master")]),
        ]);
        let topology = Topology::from_shards(reply.root(), HERE).unwrap();
        assert_eq!((names(&topology), &*topology.orphaned), (vec!["b:1".into()], [0..=99].as_slice()));
        assert!(topology.is_whole());
    }

    #[test]
    fn a_topology_is_limited_and_says_so() {
        let node = |n: usize, slots: (u16, u16)| (slots, n.to_string());
        let read = |nodes: &[((u16, u16), String)]| {
            let fields: Vec<_> = nodes
                .iter()
                .map(|(_, id)| [("id", id.as_str()), ("endpoint", "a"), ("port", id), ("role", "master")])
                .collect();
            let listed: Vec<_> =
                nodes.iter().zip(&fields).map(|((slots, _), fields)| (*slots, fields.as_slice())).collect();
            Topology::from_shards(shards(&listed).root(), HERE).unwrap()
        };

        // All of them claim the same slots.
        let many: Vec<_> = (1..=6000).map(|n| node(n, (0, 16_383))).collect();
        let topology = read(&many);
        assert_eq!((topology.nodes.len(), topology.is_whole()), (MAX_NODES, true));
        assert_eq!(topology.cut.as_deref(), Some("more than 2000 nodes: only the first 2000 are checked"));
        assert_eq!(topology.nodes.iter().map(|node| node.slots.len()).sum::<usize>(), 1);

        // Every other slot.
        let ranges: Vec<_> = (0..8192).map(|n| node(1, (n * 2, n * 2))).chain([node(2, (0, 16_383))]).collect();
        let topology = read(&ranges);
        assert_eq!(topology.nodes.iter().map(|node| node.slots.len()).collect::<Vec<_>>(), [MAX_RANGES, MAX_RANGES]);
        assert!(topology.cut.as_deref().is_some_and(|cut| cut.starts_with("more than 4096 slot ranges of a:")));
        assert_eq!(topology.verdict("", NO_SECRET), Ok(()));
    }

    #[test]
    fn only_hosts_are_looked_up_and_never_the_password() {
        for host in
            ["a", "A-1_b.example.", "10.0.0.1", "::1", "fe80::1%eth0", &["a".repeat(63), "b".repeat(63)].join(".")]
        {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a:b",
            "1:2:3",
            "[::1]",
            "::1%",
            "::1%a b",
            "ü",
            "a\r",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(!is_host(host), "{host:?}");
        }
        let secret = Secret::new("hunter2");
        let dialled = Dialled { intake: Intake::of(Some(&secret)), ..HERE };
        let read =
            |fields: &[(&str, &str)]| Topology::from_shards(shards(&[((0, 9), fields)]).root(), dialled).unwrap();
        assert!(read(&[("endpoint", "x-hunter2.example"), ("port", "1")]).nodes.is_empty());
        assert_eq!(read(&[("endpoint", "a"), ("port", "1"), ("hostname", "hunter2")]).nodes[0].hostname, None);
    }

    #[test]
    fn a_redirection_names_a_node() {
        let to = |wire: &str| redirection(wire, "10.0.0.1").map(|to| (to.host, to.port, to.asking));
        assert_eq!(to("MOVED 3999 10.0.0.2:6381"), Some(("10.0.0.2".into(), 6381, false)));
        assert_eq!(to("ASK 3999 10.0.0.2:6381"), Some(("10.0.0.2".into(), 6381, true)));
        assert_eq!(to("MOVED 3999 :6381"), Some(("10.0.0.1".into(), 6381, false)));
        assert_eq!(to("MOVED 3999 fd00::2:6381"), Some(("fd00::2".into(), 6381, false)));
        for wire in ["MOVED", "MOVED 1", "MOVED 1 x", "MOVED 1 x:y", "MOVED 1 a\nb:1", "READONLY a b:1", "ASK", "ASK 1"]
        {
            assert_eq!(to(wire), None, "{wire}");
        }
    }

    #[test]
    fn other_replies_are_not_a_topology() {
        for reply in ["$-1\r\n", "+OK\r\n", "$1\r\nx\r\n", "*1\r\n:1\r\n", "*1\r\n*0\r\n"] {
            let reply = LargeReply::of(reply.as_bytes());
            assert_eq!(Topology::from_shards(reply.root(), HERE), None);
            assert_eq!(Topology::from_slots(reply.root(), "", HERE), None);
        }
        let odd = LargeReply::of(b"*1\r\n*3\r\n:9\r\n:5\r\n*0\r\n");
        assert_eq!(Topology::from_slots(odd.root(), "", HERE), None);
        // Negative and huge numbers are no slots, and not a reason to refuse the rest.
        let node = "*3\r\n$1\r\na\r\n:1\r\n$1\r\ni\r\n";
        let slots = [("-1", "5"), ("7", "99999999999"), ("16384", "16384"), ("5", "3"), ("0", "16383")];
        let entries: String = slots.iter().map(|(from, to)| format!("*3\r\n:{from}\r\n:{to}\r\n{node}")).collect();
        let topology = Topology::from_slots(LargeReply::of(format!("*5\r\n{entries}").as_bytes()).root(), "", HERE);
        assert_eq!(shown(&topology.unwrap()), ["1p 0-16383"]);
    }
}
