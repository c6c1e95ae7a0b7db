//! The shards of a cluster, which are what is written to: a shard stays itself when another node becomes its primary.
//!
//! What is known of a cluster may be out of date at any moment. So a write does what a cluster's client would do before
//! it says that a shard takes no writes: it follows a redirection, and where the primary does not answer it asks the
//! nodes that may have taken its place.

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
use crate::probe::canary::Canary;
use crate::probe::checker::{Checker, Emit};
use crate::probe::connection::ConnectOptions;

/// How many ranges of slots a shard's name shows. No other shard has the first of them.
const SHOWN: usize = 8;

/// How the nodes of a cluster are dialled.
#[derive(Debug)]
pub struct KnownNodes {
    /// One that is not known is dialled as the endpoint is.
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

/// A way to whoever takes the writes now.
#[derive(Clone, Debug)]
pub struct Route {
    /// Checks the node that took them when that was last looked at.
    pub checker: Arc<Checker>,
    /// Those that may have taken its place.
    pub others: Vec<ConnectOptions>,
    pub known_nodes: Arc<KnownNodes>,
}

impl Route {
    /// Checks once, by whoever takes the writes now, as a part of something that has to be over at `end`.
    pub async fn check_until(&self, end: Instant, emit: Emit<'_>) {
        let start = Instant::now();
        let end = match self.checker.databases {
            Databases::One(_) => end.min(start + self.checker.timeout),
            _ => end,
        };
        let settled = AtomicBool::new(false);
        let first = async {
            let mut failed = Vec::new();
            let mut sort = |outcome: Outcome| {
                settled.store(true, Ordering::Relaxed);
                if is_stale(&outcome) { failed.push(outcome) } else { emit(outcome) }
            };
            self.checker.run_until(end, &mut sort).await;
            failed
        };
        // A primary that hangs is not waited for to the end, or no time would be left for the one in its place.
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
        let moved = failed.iter().find_map(|outcome| self.redirection(outcome, &self.checker.connect));
        let again = match &moved {
            Some(connect) => self.check_at(connect.clone(), start, end).await,
            None => self.check_at_others(start, end).await.unwrap_or_default(),
        };
        for outcome in failed {
            match (again.iter().find(|again| again.db == outcome.db), &moved) {
                (Some(again), _) => emit(again.clone()),
                (None, Some(connect)) if Instant::now() >= end => {
                    let phase = Phase::Connect(connect.endpoint.to_string());
                    emit(Outcome { result: Err(Failure::timeout(&phase, self.checker.timeout)), ..outcome });
                }
                (None, _) => emit(outcome),
            }
        }
    }

    /// What one of the others says that takes the writes, itself or by redirection; none when nobody does.
    async fn check_at_others(&self, start: Instant, end: Instant) -> Option<Vec<Outcome>> {
        for (place, other) in self.others.iter().enumerate() {
            let now = Instant::now();
            let left = end.saturating_duration_since(now);
            let end = if place + 1 == self.others.len() { end } else { now + left / 2 };
            let mut outcomes = self.check_at(other.clone(), start, end).await;
            let moved = outcomes.first().and_then(|outcome| self.redirection(outcome, other));
            if let Some(moved) = moved.filter(|moved| moved.endpoint != self.checker.connect.endpoint) {
                outcomes = self.check_at(moved, start, end).await;
            }
            if outcomes.first().is_some_and(|outcome| outcome.result.is_ok()) {
                return Some(outcomes);
            }
        }
        None
    }

    /// The same check by another node. It began at `start`.
    async fn check_at(&self, connect: ConnectOptions, start: Instant, end: Instant) -> Vec<Outcome> {
        let before = start.elapsed();
        let mut outcomes = Vec::new();
        if Instant::now() < end {
            debug!("{} is asked in the place of {}", connect.endpoint, self.checker.connect.endpoint);
            let checker = self.checker.for_server(connect, self.checker.canary.clone());
            let mut keep = |mut outcome: Outcome| {
                outcome.details.elapsed += before;
                outcomes.push(outcome);
            };
            checker.run_until(end, &mut keep).await;
        }
        outcomes
    }

    fn redirection(&self, outcome: &Outcome, asked: &ConnectOptions) -> Option<ConnectOptions> {
        let wire = moved(outcome)?;
        let Endpoint::Tcp { host, .. } = &asked.endpoint else { return None };
        let (host, port) = topology::redirection(wire, host)?;
        Some(self.known_nodes.connect_options(host, port))
    }
}

/// The text of a redirection.
fn moved(outcome: &Outcome) -> Option<&str> {
    let failure = outcome.result.as_ref().err().filter(|_| outcome.write)?;
    failure.detail.starts_with("MOVED ").then_some(&*failure.detail)
}

/// Whether it may only tell that the wrong node was asked. One that refuses a write by its own rules is the right one.
fn is_stale(outcome: &Outcome) -> bool {
    let Err(failure) = &outcome.result else { return false };
    let Failure { kind, .. } = failure;
    let is_away = matches!(
        kind,
        Kind::Dns | Kind::Refused | Kind::Unreachable | Kind::Timeout | Kind::Reset | Kind::Closed | Kind::Tls
    );
    is_away
        || matches!(kind, Kind::Loading | Kind::ReadOnly | Kind::MasterDown | Kind::ClusterDown)
        || moved(outcome).is_some()
}

/// Slots that one primary owns and its replicas copy.
#[derive(Clone, Debug)]
pub struct Shard {
    name: Arc<str>,
    /// The first slot that it had, for its place among the others.
    first: u16,
    slots: Vec<RangeInclusive<u16>>,
    /// The hash tag of the keys that are written to it.
    tag: String,
    primary: Node,
    pub route: Route,
}

impl Shard {
    /// As whom it is checked.
    pub fn target(&self) -> Target {
        Target::Shard(self.name.clone())
    }
}

/// What became of the shards.
#[derive(Debug, Default)]
pub struct ShardChange {
    pub added: Vec<Shard>,
    pub removed: Vec<Target>,
    /// Who has another primary, and the names of the old one and the new.
    pub moved: Vec<(Target, Arc<str>, Arc<str>)>,
}

/// The nodes of a topology, and how they are dialled.
pub struct ShardUpdate<'a> {
    pub nodes: &'a [Node],
    /// Every slot has an owner, so that a shard which is not found is gone.
    pub is_whole: bool,
    pub connect_options: &'a dyn Fn(&Node) -> ConnectOptions,
    pub known_nodes: &'a Arc<KnownNodes>,
    /// The checks of the shards are like its own.
    pub checker: &'a Checker,
}

impl ShardUpdate<'_> {
    /// Finds the shards among the nodes, and the known ones among those.
    pub fn apply(&self, shards: &mut Vec<Shard>) -> ShardChange {
        let mut change = ShardChange::default();
        let owners: Vec<_> = self.nodes.iter().filter(|node| !node.slots.is_empty()).collect();
        let (known, unmatched) = matched(std::mem::take(shards), &owners);
        match self.is_whole {
            true => change.removed.extend(unmatched.iter().map(Shard::target)),
            false => shards.extend(unmatched),
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

    /// The shard whose slots `owner` has: a `known` one keeps its name, and its tag while that is in its slots.
    fn shard(&self, owner: &Node, known: Option<Shard>, others: &[Shard]) -> Option<Shard> {
        let kept = known.as_ref().map(|known| known.tag.clone()).filter(|tag| is_in(tag, &owner.slots));
        // Every slot has a number that hashes to it.
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
        let others = replicas.map(connect_options).collect();
        let route = Route { checker, others, known_nodes: self.known_nodes.clone() };
        Some(Shard { name, first, slots: owner.slots.clone(), tag, primary: owner.clone(), route })
    }
}

/// Finds for each owner of slots the shard that it has now, and the shards that nobody has: a shard belongs to the
/// node that has most of the slots which it had before.
fn matched(shards: Vec<Shard>, owners: &[&Node]) -> (Vec<Option<Shard>>, Vec<Shard>) {
    let mut likeness = Vec::new();
    for (place, shard) in shards.iter().enumerate() {
        for (owner, node) in owners.iter().enumerate() {
            let shared = shared(&shard.slots, &node.slots);
            if shared > 0 {
                likeness.push((Reverse((shard.primary.name == node.name, shared)), place, owner));
            }
        }
    }
    likeness.sort_unstable();

    let mut shards: Vec<_> = shards.into_iter().map(Some).collect();
    let mut known: Vec<Option<Shard>> = owners.iter().map(|_| None).collect();
    for (_, place, owner) in likeness {
        if known[owner].is_none() {
            known[owner] = shards[place].take();
        }
    }
    (known, shards.into_iter().flatten().collect())
}

/// `0-5460`, or `0-99,200,300-399`. Slots wander, so another shard may once have been seen with the same ones.
fn name(slots: &[RangeInclusive<u16>], others: &[Shard]) -> Arc<str> {
    let mut slots = slots.to_vec();
    slots.sort_by_key(|range| *range.start());
    let shown = slots.iter().take(SHOWN).map(|range| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
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

/// How many slots two have in common.
fn shared(these: &[RangeInclusive<u16>], those: &[RangeInclusive<u16>]) -> u32 {
    let pairs = these.iter().flat_map(|a| those.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| ((*a.start()).max(*b.start())..=(*a.end()).min(*b.end())).count() as u32).sum()
}
