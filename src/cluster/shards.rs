//! The shards of a cluster. Writes are checked by shard, because a shard stays the same when another node becomes its
//! primary.
//!
//! The known topology may be out of date at any time. So before a write check fails, it does what a cluster client
//! does: it follows one redirection, and if the primary does not answer, it tries the replicas.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::cluster::slots::{self, Owners, Range};
use crate::cluster::topology::{self, Node, Topology};
use crate::model::databases::Databases;
use crate::model::endpoint::Endpoint;
use crate::model::failure::{Failure, Kind, Phase};
use crate::model::outcome::Outcome;
use crate::model::subject::Target;
use crate::model::text::Printable;
use crate::probe::canary::Canary;
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::ConnectOptions;

/// How many slot ranges a shard's name shows. The first one already distinguishes it from other shards.
const SHOWN: usize = 8;

/// A shard is given a new name when its slots have been the same for this long. While slots move one by one, it keeps
/// its name.
const SETTLED: Duration = Duration::from_secs(10);

/// How many redirections of one write are followed. Two happen while a slot migrates, and a third and fourth when its
/// migration ends in between.
const MAX_HOPS: usize = 4;

/// How to connect to the nodes of a cluster.
#[derive(Debug)]
pub struct KnownNodes {
    /// Used for unknown nodes, with their own address.
    pub endpoint: ConnectOptions,
    pub known: Vec<ConnectOptions>,
}

impl KnownNodes {
    fn connect_options(&self, host: String, port: u16) -> ConnectOptions {
        let endpoint = Endpoint::Tcp { host, port };
        let known = self.known.iter().find(|connect| connect.endpoint == endpoint);
        known.cloned().unwrap_or_else(|| ConnectOptions { endpoint, ..self.endpoint.clone() })
    }
}

/// Finds the node that accepts writes.
#[derive(Clone, Debug)]
pub struct Route {
    /// Checks the primary of the last discovery.
    pub checker: Arc<Checker>,
    /// The replicas, one of which may have been promoted, and the primary of another shard.
    pub others: Vec<ConnectOptions>,
    pub known_nodes: Arc<KnownNodes>,
}

impl Route {
    /// Checks once, at the node that accepts writes, before `end`.
    pub async fn check_until(&self, end: Instant, emit: Emit<'_>) {
        let start = Instant::now();
        let end = match self.checker.databases {
            Databases::One(_) | Databases::ZeroWithoutSelect => end.min(start + self.checker.timeout),
            _ => end,
        };

        let settled = AtomicBool::new(false);
        let first = async {
            let mut failed = Vec::new();
            let mut emit_or_keep = |outcome: Outcome| {
                settled.store(true, Ordering::Relaxed);
                if is_stale(&outcome) { failed.push(outcome) } else { emit(outcome) }
            };
            self.checker.run_until(end, &mut emit_or_keep).await;
            failed
        };

        // If the primary hangs, the replicas are tried after half of the time.
        let instead = async {
            sleep(self.checker.timeout / 2).await;
            if settled.load(Ordering::Relaxed) { None } else { Box::pin(self.check_at_others(start, end)).await }
        };

        let failed = tokio::select! {
            biased;
            failed = first => failed,
            Some(outcomes) = instead => return outcomes.into_iter().for_each(emit),
        };
        if failed.is_empty() {
            return;
        }

        let redirected = self.redirection(&failed, &self.checker.connect);
        let again = match redirected.clone() {
            Some(to) => Box::pin(self.follow(to, start, end)).await,
            None => Box::pin(self.check_at_others(start, end)).await.unwrap_or_default(),
        };

        for outcome in failed {
            match (again.iter().find(|again| again.db == outcome.db), &redirected) {
                (Some(again), _) => emit(again.clone()),
                (None, Some(to)) if Instant::now() >= end => {
                    let phase = Phase::Connect(to.connect.endpoint.to_string());
                    emit(Outcome { result: Err(Failure::timeout(&phase, self.checker.timeout)), ..outcome });
                }
                (None, _) => emit(outcome),
            }
        }
    }

    /// The outcomes of the first other node that accepts writes, itself or by redirection. None if no node does.
    async fn check_at_others(&self, start: Instant, end: Instant) -> Option<Vec<Outcome>> {
        for (place, other) in self.others.iter().enumerate() {
            let now = Instant::now();
            let left = end.saturating_duration_since(now);
            let end = if place + 1 == self.others.len() { end } else { now + left / 2 };
            let other = Hop { connect: other.clone(), asking: false };
            let mut outcomes = self.check_at(&other, start, end).await;
            let to = self.redirection(&outcomes, &other.connect);
            if let Some(to) = to.filter(|to| to.connect.endpoint != self.checker.connect.endpoint) {
                outcomes = self.follow(to, start, end).await;
            }
            if outcomes.first().is_some_and(|outcome| outcome.result.is_ok()) {
                return Some(outcomes);
            }
        }
        None
    }

    /// The same check at the node that a redirection leads to, and at those that it redirects to in turn. A slot that
    /// migrates may need two: MOVED to its owner, and ASK from there to the node that imports it.
    async fn follow(&self, mut hop: Hop, start: Instant, end: Instant) -> Vec<Outcome> {
        let mut outcomes = self.check_at(&hop, start, end).await;
        for _ in 1..MAX_HOPS {
            let Some(next) = self.redirection(&outcomes, &hop.connect) else { break };
            hop = next;
            let again = self.check_at(&hop, start, end).await;
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_err()) {
                if let Some(again) = again.iter().find(|again| again.db == outcome.db) {
                    outcome.clone_from(again);
                }
            }
        }
        outcomes
    }

    /// The same check at another node. The whole check began at `start`.
    async fn check_at(&self, Hop { connect, asking }: &Hop, start: Instant, end: Instant) -> Vec<Outcome> {
        let before = start.elapsed();
        let mut outcomes = Vec::new();
        if Instant::now() < end {
            debug!("checking {} instead of {}", connect.endpoint, self.checker.connect.endpoint);
            let canary = self.checker.canary.clone().map(|canary| canary.asking(*asking));
            let checker = self.checker.for_server(connect.clone(), canary);
            let mut keep = |mut outcome: Outcome| {
                outcome.details.begin_earlier(before);
                outcomes.push(outcome);
            };
            // Boxed, so that a check at its first node needs no memory for it.
            Box::pin(checker.run_until(end, &mut keep)).await;
        }
        outcomes
    }

    /// Where the first redirected write of the node `asked` leads to.
    fn redirection(&self, outcomes: &[Outcome], asked: &ConnectOptions) -> Option<Hop> {
        let Endpoint::Tcp { host: here, .. } = &asked.endpoint else { return None };
        let wire = outcomes.iter().find_map(redirected)?;
        let topology::Redirection { host, port, asking } = topology::redirection(wire, here)?;
        Some(Hop { connect: self.known_nodes.connect_options(host, port), asking })
    }
}

/// A node to which a redirection leads.
#[derive(Clone)]
struct Hop {
    connect: ConnectOptions,
    /// The node is importing the slot.
    asking: bool,
}

/// The text of a MOVED or ASK redirection.
fn redirected(outcome: &Outcome) -> Option<&str> {
    let failure = outcome.result.as_ref().err().filter(|_| outcome.write)?;
    ["MOVED ", "ASK "].iter().any(|word| failure.detail.starts_with(word)).then_some(&*failure.detail)
}

/// Whether the failure may only mean that the wrong node was asked. A node that rejects a write for another reason is
/// the right one.
fn is_stale(outcome: &Outcome) -> bool {
    let Err(failure) = &outcome.result else { return false };
    let Failure { kind, .. } = failure;
    let is_away = matches!(
        kind,
        Kind::Dns | Kind::Refused | Kind::Unreachable | Kind::Timeout | Kind::Reset | Kind::Closed | Kind::Tls
    );
    is_away
        || matches!(kind, Kind::Loading | Kind::ReadOnly | Kind::MasterDown | Kind::ClusterDown)
        || redirected(outcome).is_some()
}

/// A set of slots that one primary owns and its replicas copy.
#[derive(Clone, Debug)]
pub struct Shard {
    name: Printable,
    /// The first slot when it was first seen, for sorting.
    first: u16,
    slots: Vec<Range>,
    /// The slots that its name is from.
    named_slots: Vec<Range>,
    /// If it has other slots now: which, and since when.
    changed: Option<(Vec<Range>, Instant)>,
    /// No node owns its slots, and none did when they were first seen.
    is_orphaned: bool,
    /// The hash tag of the canary keys.
    tag: String,
    primary: Node,
    pub route: Route,
}

impl Shard {
    /// The target of its checks.
    pub fn target(&self) -> Target {
        Target::Shard(self.name.clone())
    }
}

/// What an update changed.
#[derive(Debug, Default)]
pub struct ShardChange {
    pub added: Vec<Shard>,
    pub removed: Vec<Target>,
    /// Shards with a new primary, with the names of the old and the new one.
    pub moved: Vec<(Target, Printable, Printable)>,
}

/// Updates the shards from a topology.
pub struct ShardUpdate<'a> {
    pub topology: &'a Topology,
    pub connect_options: &'a dyn Fn(&Node) -> ConnectOptions,
    pub known_nodes: &'a Arc<KnownNodes>,
    /// The checker of the endpoint, whose settings the shards' checkers share.
    pub checker: &'a Checker,
    /// When the topology was found.
    pub now: Instant,
}

impl<'a> ShardUpdate<'a> {
    /// Derives the shards from the nodes, and matches them with the known shards.
    pub fn apply(&self, shards: &mut Vec<Shard>) -> ShardChange {
        let mut change = ShardChange::default();
        let nodes = &self.topology.nodes;
        let owners: Vec<_> = nodes.iter().filter(|node| !node.slots.is_empty()).collect();
        let mut owner_of = Owners::none();
        for (owner, place) in owners.iter().zip(0..) {
            owner_of.set(&owner.slots, place);
        }

        let is_first = shards.is_empty();
        let (known, unmatched) = matched(std::mem::take(shards), &owners, &owner_of);
        for mut shard in unmatched {
            if self.is_gone(&mut shard, &owner_of) {
                change.removed.push(shard.target());
            } else {
                shards.push(shard);
            }
        }

        let mut replicas: HashMap<&Printable, Vec<&Node>> = HashMap::new();
        for node in nodes {
            if let Some(primary) = &node.replicates {
                replicas.entry(primary).or_default().push(node);
            }
        }
        let mut names: HashSet<_> = known.iter().flatten().chain(&*shards).map(|shard| shard.name.clone()).collect();
        for (owner, known) in owners.into_iter().zip(known) {
            let is_new = known.is_none();
            if let Some(known) = known.as_ref().filter(|known| known.primary.name != owner.name) {
                change.moved.push((known.target(), known.primary.name.clone(), owner.name.clone()));
            }
            let replicas = replicas.get(&owner.name).map(Vec::as_slice).unwrap_or_default();
            let Some(mut shard) = self.shard(owner, replicas, known, &mut names) else { continue };
            if !is_new && self.is_misnamed(&mut shard) {
                change.removed.push(shard.target());
                names.remove(&shard.name);
                shard.name = name(&shard.slots, &mut names);
                shard.first = shard.slots.first().map_or(0, |range| *range.start());
                change.added.push(shard.clone());
            }
            change.added.extend(is_new.then(|| shard.clone()));
            shards.push(shard);
        }
        if is_first && let Some(shard) = self.orphans(&mut names) {
            change.added.push(shard.clone());
            shards.push(shard);
        }
        shards.sort_by_key(|shard| shard.first);
        change
    }

    /// Whether a known shard that no node owns is gone: every slot of the cluster has an owner, or others own all slots of
    /// the shard. Otherwise it keeps those without an owner, because a restarted node does not know the others.
    fn is_gone(&self, shard: &mut Shard, owner_of: &Owners) -> bool {
        let mut slots = Vec::new();
        for slot in shard.slots.iter().flat_map(Clone::clone).filter(|slot| owner_of.of(*slot).is_none()) {
            slots::append(&mut slots, slot);
        }
        shard.slots = slots;
        shard.slots.is_empty() || self.topology.is_whole() && !shard.is_orphaned
    }

    /// The shard of the slots that no node owns when the cluster is first seen, for example because their primary is gone.
    /// Another node says why it does not take writes for them.
    fn orphans(&self, names: &mut HashSet<Printable>) -> Option<Shard> {
        let slots = self.topology.orphaned.clone();
        let is_known = |node: &&Node| node.primary && !node.failing;
        let witness = self.topology.nodes.iter().find(is_known).or(self.topology.nodes.first())?;
        let owner = Node { slots, ..witness.clone() };
        Some(Shard { is_orphaned: true, ..self.shard(&owner, &[], None, names)? })
    }

    /// Whether the name of a shard has been wrong for so long that the slots are not being moved right now.
    fn is_misnamed(&self, shard: &mut Shard) -> bool {
        if shard.named_slots == shard.slots {
            shard.changed = None;
            return false;
        }
        match &shard.changed {
            Some((slots, since)) if *slots == shard.slots => {
                let is_settled = self.topology.is_whole() && self.now - *since >= SETTLED;
                if is_settled {
                    shard.changed = None;
                    shard.named_slots.clone_from(&shard.slots);
                }
                is_settled
            }
            _ => {
                shard.changed = Some((shard.slots.clone(), self.now));
                false
            }
        }
    }

    /// The shard owned by `owner`. A `known` shard keeps its name, and its hash tag as long as the tag's slot belongs
    /// to it.
    fn shard(
        &self,
        owner: &Node,
        replicas: &[&Node],
        known: Option<Shard>,
        names: &mut HashSet<Printable>,
    ) -> Option<Shard> {
        let kept = known.as_ref().map(|known| known.tag.clone()).filter(|tag| is_in(tag, &owner.slots));
        // There is a tag for every slot.
        let tag = kept.or_else(|| slots::tag(&owner.slots))?;
        let is_same = |known: &Shard| {
            known.primary.name == owner.name && known.primary.hostname == owner.hostname && known.tag == tag
        };
        let connect_options = self.connect_options;
        let checker = known.as_ref().filter(|known| is_same(known)).map(|known| known.route.checker.clone());
        let new_checker = || Arc::new(self.checker.for_server(connect_options(owner), Some(Canary::tagged(&tag))));
        let checker = checker.unwrap_or_else(new_checker);
        let others = replicas.iter().copied().chain(self.witness(owner)).map(connect_options).collect();
        let route = Route { checker, others, known_nodes: self.known_nodes.clone() };

        let (slots, primary) = (owner.slots.clone(), owner.clone());
        Some(match known {
            Some(known) => Shard { slots, tag, primary, route, ..known },
            None => Shard {
                name: name(&slots, names),
                first: slots.first().map(|range| *range.start())?,
                named_slots: slots.clone(),
                changed: None,
                is_orphaned: false,
                slots,
                tag,
                primary,
                route,
            },
        })
    }

    /// The primary of another shard. It redirects to the node that serves the slot now, if that is none of the shard's
    /// own nodes: its slots may have moved since the last discovery, and its nodes may have left the cluster.
    fn witness(&self, owner: &Node) -> Option<&'a Node> {
        let nodes = &self.topology.nodes;
        let suits = |node: &&Node| node.primary && !node.failing && node.name != owner.name;
        let slot = usize::from(owner.slots.first().map_or(0, |range| *range.start()));
        // Not always the same one.
        let (before, after) = nodes.split_at(slot.checked_rem(nodes.len()).unwrap_or(0));
        after.iter().chain(before).find(suits)
    }
}

/// Matches known shards with the owners of slots. Returns the shard of each owner, and the shards without an owner. A
/// shard stays with its primary if that still owns some of its slots, and otherwise goes to the node that owns most of
/// them.
fn matched(shards: Vec<Shard>, owners: &[&Node], owner_of: &Owners) -> (Vec<Option<Shard>>, Vec<Shard>) {
    let mut candidates = Vec::new();
    for (place, shard) in shards.iter().enumerate().filter(|(_, shard)| !shard.is_orphaned) {
        let mut shared: HashMap<u16, u32> = HashMap::new();
        for owner in shard.slots.iter().flat_map(Clone::clone).filter_map(|slot| owner_of.of(slot)) {
            *shared.entry(owner).or_default() += 1;
        }
        for (owner, count) in shared {
            let owner = usize::from(owner);
            candidates.push((Reverse((shard.primary.name == owners[owner].name, count)), place, owner));
        }
    }
    candidates.sort_unstable();

    let mut shards: Vec<_> = shards.into_iter().map(Some).collect();
    let mut known: Vec<Option<Shard>> = owners.iter().map(|_| None).collect();
    for (_, place, owner) in candidates {
        if known[owner].is_none() {
            known[owner] = shards[place].take();
        }
    }
    (known, shards.into_iter().flatten().collect())
}

/// The name of a shard with these slots, which are in order: `0-5460`, or `0-99,200,300-399`. Slots move between shards,
/// so another shard may still have this name. A `+` is then appended.
fn name(slots: &[Range], names: &mut HashSet<Printable>) -> Printable {
    let shown = slots.iter().take(SHOWN).map(|range| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    });

    let mut name = shown.collect::<Vec<_>>().join(",");
    if slots.len() > SHOWN {
        name.push_str(",...");
    }
    while !names.insert(name.as_str().into()) {
        name.push('+');
    }
    name.into()
}

fn is_in(tag: &str, slots: &[Range]) -> bool {
    let slot = slots::slot_of_tag(tag);
    slots.iter().any(|range| range.contains(&slot))
}
