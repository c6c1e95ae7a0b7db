//! The shards of a cluster. Writes are checked by shard, because a shard stays the same when another node becomes its
//! primary.
//!
//! The known topology may be out of date at any time. So before a write check fails, it does what a cluster client
//! does: it follows one redirection, and if the primary does not answer, it tries the replicas.

use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::cluster::topology::{self, Node};
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
            Databases::One(_) => end.min(start + self.checker.timeout),
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
            if settled.load(Ordering::Relaxed) { None } else { self.check_at_others(start, end).await }
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
            Some(to) => self.follow(to, start, end).await,
            None => self.check_at_others(start, end).await.unwrap_or_default(),
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
                outcome.details.elapsed += before;
                outcomes.push(outcome);
            };
            checker.run_until(end, &mut keep).await;
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
    slots: Vec<RangeInclusive<u16>>,
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

/// Updates the shards from the nodes of a topology.
pub struct ShardUpdate<'a> {
    pub nodes: &'a [Node],
    /// Every slot has an owner, so a shard that is not found was removed.
    pub is_whole: bool,
    pub connect_options: &'a dyn Fn(&Node) -> ConnectOptions,
    pub known_nodes: &'a Arc<KnownNodes>,
    /// The checker of the endpoint, whose settings the shards' checkers share.
    pub checker: &'a Checker,
}

impl ShardUpdate<'_> {
    /// Derives the shards from the nodes, and matches them with the known shards.
    pub fn apply(&self, shards: &mut Vec<Shard>) -> ShardChange {
        let mut change = ShardChange::default();
        let owners: Vec<_> = self.nodes.iter().filter(|node| !node.slots.is_empty()).collect();
        let (known, unmatched) = matched(std::mem::take(shards), &owners);
        if self.is_whole {
            change.removed.extend(unmatched.iter().map(Shard::target));
        } else {
            shards.extend(unmatched);
        }

        for (owner, known) in owners.into_iter().zip(known) {
            let is_new = known.is_none();
            if let Some(known) = known.as_ref().filter(|known| known.primary.name != owner.name) {
                change.moved.push((known.target(), known.primary.name.clone(), owner.name.clone()));
            }
            if let Some(shard) = self.shard(owner, known, shards) {
                change.added.extend(is_new.then(|| shard.clone()));
                shards.push(shard);
            }
        }
        shards.sort_by_key(|shard| shard.first);
        change
    }

    /// The shard owned by `owner`. A `known` shard keeps its name, and its hash tag as long as the tag's slot belongs
    /// to it.
    fn shard(&self, owner: &Node, known: Option<Shard>, others: &[Shard]) -> Option<Shard> {
        let kept = known.as_ref().map(|known| known.tag.clone()).filter(|tag| is_in(tag, &owner.slots));
        // There is a tag for every slot.
        let tag = kept.or_else(|| topology::tag(&owner.slots))?;
        let (name, first, checker) = match known {
            Some(known) => {
                let is_same = known.primary.name == owner.name && known.primary.hostname == owner.hostname;
                let checker = Some(known.route.checker).filter(|_| is_same && known.tag == tag);
                (known.name, known.first, checker)
            }
            None => (name(&owner.slots, others), owner.slots.iter().map(|range| *range.start()).min()?, None),
        };

        let connect_options = self.connect_options;
        let new_checker = || Arc::new(self.checker.for_server(connect_options(owner), Some(Canary::tagged(&tag))));
        let checker = checker.unwrap_or_else(new_checker);
        let replicas = self.nodes.iter().filter(|node| node.replicates.as_ref() == Some(&owner.name));
        let others = replicas.chain(self.witness(owner)).map(connect_options).collect();
        let route = Route { checker, others, known_nodes: self.known_nodes.clone() };
        Some(Shard { name, first, slots: owner.slots.clone(), tag, primary: owner.clone(), route })
    }
}

impl<'a> ShardUpdate<'a> {
    /// The primary of another shard. It redirects to the node that serves the slot now, if that is none of the shard's
    /// own nodes: its slots may have moved since the last discovery, and its nodes may have left the cluster.
    fn witness(&self, owner: &Node) -> Option<&'a Node> {
        let place = self.nodes.iter().position(|node| node.name == owner.name)?;
        let (before, after) = self.nodes.split_at(place);
        after.iter().chain(before).find(|node| node.primary && !node.failing && node.name != owner.name)
    }
}

/// Matches known shards with the owners of slots. Returns the shard of each owner, and the shards without an owner. A
/// shard stays with its primary if that still owns some of its slots, and otherwise goes to the node that owns most of
/// them.
fn matched(shards: Vec<Shard>, owners: &[&Node]) -> (Vec<Option<Shard>>, Vec<Shard>) {
    let mut candidates = Vec::new();
    for (place, shard) in shards.iter().enumerate() {
        for (owner, node) in owners.iter().enumerate() {
            let shared = shared_slots(&shard.slots, &node.slots);
            if shared > 0 {
                candidates.push((Reverse((shard.primary.name == node.name, shared)), place, owner));
            }
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

/// The name of a new shard: `0-5460`, or `0-99,200,300-399`. Slots move between shards, so another shard may already
/// have this name. A `+` is then appended.
fn name(slots: &[RangeInclusive<u16>], others: &[Shard]) -> Printable {
    let mut slots = slots.to_vec();
    slots.sort_by_key(|range| *range.start());
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
    while others.iter().any(|other| *other.name == *name) {
        name.push('+');
    }
    name.into()
}

fn is_in(tag: &str, slots: &[RangeInclusive<u16>]) -> bool {
    let slot = topology::slot(tag.trim_matches(['{', '}']).as_bytes());
    slots.iter().any(|range| range.contains(&slot))
}

/// How many slots two sets have in common.
fn shared_slots(these: &[RangeInclusive<u16>], those: &[RangeInclusive<u16>]) -> u32 {
    let pairs = these.iter().flat_map(|a| those.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| ((*a.start()).max(*b.start())..=(*a.end()).min(*b.end())).count() as u32).sum()
}
