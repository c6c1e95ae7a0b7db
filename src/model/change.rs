//! What changed about a target from one check to the next.

use std::collections::BTreeSet;

use crate::model::clock::Stamp;
use crate::model::outcome::Replaced;
use crate::model::subject::Target;
use crate::model::text::Printable;

/// Which property of a target changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// The address that the name resolves to.
    Address,
    Role,
    /// Engine and version.
    Engine,
    /// The run id: the server was restarted.
    RunId,
    /// The run id too, but the server was not restarted: another one answers at the same address, as behind a proxy.
    Server,
    /// The persistent connection, which was replaced; see [`Replaced`].
    Connection,
    /// Whether a node belongs to the cluster.
    Member,
}

impl Aspect {
    pub const ALL: [Aspect; 7] = [
        Aspect::Address,
        Aspect::Role,
        Aspect::Engine,
        Aspect::RunId,
        Aspect::Server,
        Aspect::Connection,
        Aspect::Member,
    ];

    /// The name in JSON records.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Address => "address",
            Aspect::Role => "role",
            Aspect::Engine => "engine",
            Aspect::RunId => "run_id",
            Aspect::Server => "server",
            Aspect::Connection => "connection",
            Aspect::Member => "member",
        }
    }
}

/// A difference between two checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub aspect: Aspect,
    pub from: Printable,
    pub to: Printable,
}

/// The state of a persistent connection before it was replaced.
pub const OPEN: &str = "open";

impl Replaced {
    /// The state of the connection that was replaced.
    pub fn as_str(self) -> &'static str {
        match self {
            Replaced::Closed => "closed",
            Replaced::Silent => "silent",
        }
    }
}

impl From<Replaced> for Change {
    fn from(replaced: Replaced) -> Self {
        Change { aspect: Aspect::Connection, from: OPEN.into(), to: replaced.as_str().into() }
    }
}

/// A change of a target, and when it was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub target: Target,
    pub at: Stamp,
    pub change: Change,
}

/// The difference between a discovered topology and the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyChange {
    /// Nodes and shards that were not known before.
    pub added: Vec<Target>,
    /// Nodes and shards that no longer belong to the cluster.
    pub removed: Vec<Target>,
    /// Shards with a new primary, with the names of the old and the new one.
    pub moved: Vec<(Target, Printable, Printable)>,
    /// No node was known before.
    pub is_first: bool,
}

impl TopologyChange {
    /// The changes by target. Nodes found by the first discovery are not changes.
    pub fn changes(&self) -> Vec<(Target, Change)> {
        let change = |aspect, from: &str, to: &str| Change { aspect, from: from.into(), to: to.into() };
        let removed = self.removed.iter().map(|target| (target, change(Aspect::Member, "present", "absent")));
        let moved = self.moved.iter().map(|(target, from, to)| (target, change(Aspect::Address, from, to)));
        let added = self.added.iter().filter(|_| !self.is_first);
        let added = added.map(|target| (target, change(Aspect::Member, "absent", "present")));
        removed.chain(moved).chain(added).map(|(target, change)| (target.clone(), change)).collect()
    }
}

/// Which targets are still checked. Nodes and shards that left the cluster are not, nor is the endpoint once the
/// cluster's nodes are known.
#[derive(Clone, Debug, Default)]
pub struct ActiveTargets {
    inactive: BTreeSet<Target>,
}

impl ActiveTargets {
    /// Applies a topology change.
    pub fn update(&mut self, change: &TopologyChange) {
        if change.is_first {
            self.inactive.insert(Target::Endpoint);
        }
        self.inactive.extend(change.removed.iter().cloned());
        for target in &change.added {
            self.inactive.remove(target);
        }
    }

    /// Whether the target is still checked. A target that left while it was down would otherwise be shown as down
    /// forever.
    pub fn contains(&self, target: &Target) -> bool {
        !self.inactive.contains(target)
    }
}
