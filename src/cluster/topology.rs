//! The topology of a cluster: its nodes, their slots, and whether every slot is served. No I/O.
//!
//! CLUSTER SHARDS (Redis 7.0 and newer) reports all of it. Older engines have CLUSTER SLOTS, which omits replicas that
//! fail or are out of sync, so CLUSTER NODES is read too (redis.io, the commands' pages).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracing::debug;

use crate::model::failure::{Failure, Kind};
use crate::model::secret::Intake;
use crate::model::text::{MAX_TEXT, Printable};
use crate::probe::resolve::is_host;
use crate::probe::resp::Reply;

/// The number of slots of a cluster (redis.io, cluster specification).
pub const SLOTS: u16 = 16_384;

/// A node, as reported by the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `host:port`, to connect to.
    pub name: Printable,
    pub host: String,
    pub port: u16,
    /// The host name that the node announces. Its certificate must be valid for it.
    pub hostname: Option<String>,
    /// The cluster reports it as the primary of its shard.
    pub primary: bool,
    /// The cluster reports it as failing: the other nodes agree that it does not answer.
    pub failing: bool,
    /// The slots that it owns. A replica owns none.
    pub slots: Vec<RangeInclusive<u16>>,
    /// For a replica: the node that owns the slots of its shard.
    pub replicates: Option<Printable>,
}

/// The nodes of a cluster, sorted by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub nodes: Vec<Node>,
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
    pub fn from_shards(reply: &Reply, dialled: Dialled<'_>) -> Option<Self> {
        let mut nodes = Vec::new();
        for shard in items(reply)? {
            let first_of_shard = nodes.len();
            for node in items(field(shard, "nodes")?)? {
                let word = |name| field(node, name).and_then(Reply::text);
                let port = |name| field(node, name).and_then(number);
                let port =
                    if dialled.tls { port("tls-port").or(port("port")) } else { port("port").or(port("tls-port")) };
                // A null endpoint means the host that was connected to, not the address in `ip`.
                let host = if field(node, "endpoint").is_some() { word("endpoint") } else { word("ip") };
                nodes.extend(node_at(host, port, word("hostname"), dialled).map(|known| Node {
                    primary: matches!(word("role"), Some("master" | "primary")),
                    failing: word("health").is_some_and(|health| health.starts_with("fail")),
                    ..known
                }));
            }

            // A failed primary stays in its shard, next to the node that took over its slots (Redis 7.2).
            let members = &mut nodes[first_of_shard..];
            let primaries = members.iter_mut().filter(|node| node.primary);
            if let Some(owner) = primaries.min_by_key(|node| node.failing) {
                owner.slots = items(field(shard, "slots")?)?.chunks_exact(2).filter_map(range).collect();
                let name = owner.name.clone();
                for other in members.iter_mut().filter(|node| node.name != name) {
                    other.replicates = Some(name.clone());
                }
            }
        }
        Some(Self::sorted(nodes))
    }

    /// Reads the replies to CLUSTER SLOTS and CLUSTER NODES. None if the first reply is something else.
    pub fn from_slots(slots: &Reply, nodes: &Reply, dialled: Dialled<'_>) -> Option<Self> {
        let mut found: Vec<Node> = Vec::new();
        for entry in items(slots)? {
            let [from, to, servers @ ..] = items(entry)? else { return None };
            let mut owner = None;
            for (place, server) in servers.iter().enumerate() {
                let [host, port, more @ ..] = items(server)? else { return None };
                // After the id, Redis 7.0 lists other addresses and the host name.
                let hostname = more.get(1).and_then(|others| field(others, "hostname")).and_then(Reply::text);
                let Some(node) = node_at(host.text(), number(port), hostname, dialled) else { continue };
                let at = found.iter().position(|known| known.name == node.name).unwrap_or_else(|| {
                    found.push(node);
                    found.len() - 1
                });
                if place > 0 {
                    found[at].replicates.clone_from(&owner);
                } else {
                    owner = Some(found[at].name.clone());
                    found[at].primary = true;
                    found[at].slots.extend(range(&[from.clone(), to.clone()]));
                }
            }
        }

        for (node, failing) in nodes.text().unwrap_or_default().lines().filter_map(|line| listed(line, dialled)) {
            match found.iter_mut().find(|known| known.name == node.name) {
                Some(known) => known.failing = failing,
                None => found.push(Node { failing, ..node }),
            }
        }
        Some(Self::sorted(found))
    }

    fn sorted(mut nodes: Vec<Node>) -> Self {
        // IP addresses are sorted by value, so that 10.0.1.9 comes before 10.0.1.10.
        nodes.sort_by_cached_key(|node| (node.host.parse::<IpAddr>().ok(), node.host.clone(), node.port));
        nodes.dedup_by(|a, b| a.name == b.name);
        Topology { nodes }
    }

    /// How many slots have an owner, and how many have one that is not failing.
    fn slots(&self) -> (u16, u16) {
        let count = |nodes: &mut dyn Iterator<Item = &Node>| {
            let slots: u32 = nodes.flat_map(|node| &node.slots).map(|range| range.clone().count() as u32).sum();
            u16::try_from(slots).unwrap_or(u16::MAX).min(SLOTS)
        };
        (count(&mut self.nodes.iter()), count(&mut self.nodes.iter().filter(|node| !node.failing)))
    }

    /// Whether every slot has an owner, failing or not. A restarted node that does not know the others reports no
    /// slots.
    pub fn is_whole(&self) -> bool {
        self.slots().0 == SLOTS
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
        let unserved = reported.unwrap_or(0).max(SLOTS - self.slots().1);
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
    let dialled = Dialled { host: here, tls: false, intake: Intake::default() };
    let node = node_at(Some(host), port.parse().ok(), None, dialled)?;
    Some(Redirection { host: node.host, port: node.port, asking })
}

/// One line of CLUSTER NODES: `id address flags primary …`, the address as `ip:port@bus-port,hostname`.
fn listed(line: &str, dialled: Dialled<'_>) -> Option<(Node, bool)> {
    let mut words = line.split(' ');
    let (address, flags) = (words.nth(1)?, words.next()?);
    // A node in handshake may never become a member, and one without an address cannot be reached.
    if flags.split(',').any(|flag| matches!(flag, "handshake" | "noaddr")) {
        return None;
    }
    let (address, hostname) = address.split_once(',').unwrap_or((address, ""));
    let (host, port) = address.split('@').next()?.rsplit_once(':')?;
    let mut node = node_at(Some(host), port.parse().ok(), Some(hostname), dialled)?;
    node.primary = flags.split(',').any(|flag| flag == "master");
    Some((node, flags.split(',').any(|flag| flag == "fail")))
}

/// A node with the address that it announces, or that it was reached at if it does not know its address.
fn node_at(host: Option<&str>, port: Option<u16>, hostname: Option<&str>, dialled: Dialled<'_>) -> Option<Node> {
    let known = |text: &&str| !matches!(*text, "" | "?");
    let host = host.filter(known).unwrap_or(dialled.host);
    let port = port.filter(|port| *port > 0)?;

    // The name is written to the logs and looked up, so it must not contain arbitrary text from a server.
    let is_usable = |host: &str| is_host(host) && !dialled.intake.shows_secret(host);
    if !is_usable(host) {
        debug!("a node is left out, because its host is no name or address");
        return None;
    }

    let name: String = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Some(Node {
        name: name.into(),
        host: host.to_owned(),
        port,
        hostname: hostname.filter(known).filter(|name| is_usable(name)).map(str::to_owned),
        primary: false,
        failing: false,
        slots: Vec::new(),
        replicates: None,
    })
}

fn items(reply: &Reply) -> Option<&[Reply]> {
    match reply {
        Reply::Array(items) | Reply::Set(items) => Some(items),
        _ => None,
    }
}

/// The value of a field: in a map (protocol 3), or in a flat list of names and values (protocol 2).
fn field<'r>(reply: &'r Reply, name: &str) -> Option<&'r Reply> {
    let is = |key: &Reply| key.text() == Some(name);
    match reply {
        Reply::Map(pairs) => pairs.iter().find(|(key, _)| is(key)).map(|(_, value)| value),
        list => items(list)?.chunks_exact(2).find(|pair| is(&pair[0])).map(|pair| &pair[1]),
    }
}

fn number(reply: &Reply) -> Option<u16> {
    match reply {
        Reply::Int(number) => u16::try_from(*number).ok(),
        other => other.text()?.parse().ok(),
    }
}

fn range(pair: &[Reply]) -> Option<RangeInclusive<u16>> {
    let (from, to) = (number(pair.first()?)?, number(pair.get(1)?)?);
    (from <= to && to < SLOTS).then_some(from..=to)
}

/// A hash tag, with its braces, whose slot is in `slots`. None if `slots` is empty.
///
/// Numbers are tried in order. The first 200,000 or so cover every slot.
pub fn tag(slots: &[RangeInclusive<u16>]) -> Option<String> {
    let candidates = 0..if slots.is_empty() { 0 } else { 1_000_000_u32 };
    let mut numbers = candidates.map(|number| number.to_string());
    numbers.find(|tag| slots.iter().any(|range| range.contains(&slot(tag.as_bytes())))).map(|tag| format!("{{{tag}}}"))
}

/// The slot of a key without braces, or of the text between the braces of a key: CRC16 (XMODEM) modulo the number of
/// slots (redis.io, cluster specification, appendix A).
pub fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use crate::probe::resp::tests::captured;

    const HERE: Dialled<'static> = Dialled { host: "10.0.0.1", tls: false, intake: NO_SECRET };
    const NO_SECRET: Intake<'static> = Intake::of(None);

    fn info(file: &str) -> String {
        captured(file).text().unwrap().to_owned()
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
            let topology = Topology::from_shards(&captured(file), HERE).unwrap();
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
        let by_shards = Topology::from_shards(&captured("shards-down"), HERE).unwrap();
        let by_slots = Topology::from_slots(&captured("slots-down"), &captured("nodes-down"), HERE).unwrap();
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
        let topology = Topology::from_slots(&captured("slots-down"), &Reply::Nil, HERE).unwrap();
        assert_eq!(topology.verdict("", NO_SECRET), Ok(()));
        let failure = topology.verdict(&info("info-down"), NO_SECRET).unwrap_err();
        assert_eq!(failure.to_string(), "clusterdown: 5461 slots without a primary");
        let whole = Topology::from_slots(&captured("slots"), &Reply::Nil, HERE).unwrap();
        assert_eq!(shown(&whole), ["21100p 0-5460", "21101p 5461-10922", "21102p 10923-16383"]);
        let failure = whole.verdict("cluster_state:fail\r\n", NO_SECRET).unwrap_err();
        assert_eq!(failure.to_string(), "clusterdown: cluster_state:fail");
    }

    #[test]
    fn a_node_without_an_address_has_the_one_it_was_reached_at() {
        let alone = Topology::from_shards(&captured("shards-alone"), HERE).unwrap();
        assert_eq!(&*alone.nodes[0].name, "10.0.0.1:21100");
        assert!(!alone.is_whole());
        assert_eq!(alone.verdict("", NO_SECRET).unwrap_err().to_string(), "clusterdown: 16384 slots without a primary");
        let six = Dialled { host: "fd00::1", ..HERE };
        assert_eq!(&*Topology::from_shards(&captured("shards-alone"), six).unwrap().nodes[0].name, "[fd00::1]:21100");
    }

    #[test]
    fn tls_may_have_its_own_port() {
        let bulk = |text: &str| Reply::Bulk(text.into());
        let node = |ports: &[(&str, i64)], host: Reply| {
            let mut fields = vec![bulk("endpoint"), host, bulk("role"), bulk("master")];
            fields.extend(ports.iter().flat_map(|(name, port)| [bulk(name), Reply::Int(*port)]));
            let nodes = Reply::Array(vec![Reply::Array(fields)]);
            Reply::Array(vec![Reply::Array(vec![bulk("slots"), Reply::Array(vec![]), bulk("nodes"), nodes])])
        };
        let read = |reply: &Reply, tls| {
            let topology = Topology::from_shards(reply, Dialled { tls, ..HERE }).unwrap();
            topology.nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>()
        };
        let both = node(&[("port", 6379), ("tls-port", 6380)], bulk("a"));
        assert_eq!((read(&both, false), read(&both, true)), (vec!["a:6379".into()], vec!["a:6380".into()]));
        let one = node(&[("tls-port", 6380)], bulk("?"));
        assert_eq!((read(&one, false), read(&one, true)), (vec!["10.0.0.1:6380".into()], vec!["10.0.0.1:6380".into()]));
        let none = Vec::<String>::new();
        assert_eq!(read(&node(&[], Reply::Nil), true), none);
        for host in ["a b", "a\nNODE", "a\u{1b}[2J", &"a".repeat(256)] {
            assert_eq!(read(&node(&[("port", 6379)], bulk(host)), false), none, "{host:?}");
        }
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
        assert_eq!(node_at(Some("x-hunter2.example"), Some(1), None, dialled), None);
        assert_eq!(node_at(Some("a"), Some(1), Some("hunter2"), dialled).map(|node| node.hostname), Some(None));
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
        let bulk = |text: &str| Reply::Bulk(text.into());
        let broken = [Reply::Nil, Reply::Ok, bulk("x"), Reply::Array(vec![Reply::Int(1)])];
        for value in broken {
            assert_eq!(Topology::from_shards(&value, HERE), None);
            assert_eq!(Topology::from_slots(&value, &Reply::Nil, HERE), None);
        }
        let odd = Reply::Array(vec![Reply::Array(vec![Reply::Int(9), Reply::Int(5), Reply::Array(vec![])])]);
        assert_eq!(Topology::from_slots(&odd, &Reply::Nil, HERE), None);
    }

    #[test]
    fn slots_match_the_specification() {
        assert_eq!((slot(b"123456789"), slot(b"foo"), slot(b"")), (0x31c3, 12_182, 0));
        for slots in [0..=0, 16_383..=16_383, 5461..=10_922, 7000..=7000] {
            let tag = tag(std::slice::from_ref(&slots)).unwrap();
            assert!(slots.contains(&slot(tag.trim_matches(['{', '}']).as_bytes())), "{tag}");
        }
        assert_eq!(tag(&[]), None);
    }
}
