//! What changed about a target from one check to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::clock::Stamp;
use crate::model::outcome::ConnectionInfo;
use crate::model::server::Identity;
use crate::model::subject::Target;

/// What about an endpoint changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// The address behind the name.
    Address,
    Role,
    /// Engine and version.
    Engine,
    /// The run id: the server was restarted.
    RunId,
    /// Whether a node belongs to the cluster.
    Member,
}

impl Aspect {
    pub const ALL: [Aspect; 5] = [Aspect::Address, Aspect::Role, Aspect::Engine, Aspect::RunId, Aspect::Member];

    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Address => "address",
            Aspect::Role => "role",
            Aspect::Engine => "engine",
            Aspect::RunId => "run_id",
            Aspect::Member => "member",
        }
    }
}

/// A difference between two checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub aspect: Aspect,
    pub from: String,
    pub to: String,
}

/// Something about who was checked was not as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub target: Target,
    pub at: Stamp,
    pub change: Change,
}

/// What a new look at a cluster's topology changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyChange {
    /// Nodes and shards that were not known before.
    pub added: Vec<Target>,
    /// Nodes and shards that no longer belong to the cluster.
    pub removed: Vec<Target>,
    /// Shards that have another primary, and the names of the old one and the new.
    pub moved: Vec<(Target, Arc<str>, Arc<str>)>,
    /// No node was known before at all.
    pub is_first: bool,
}

impl TopologyChange {
    /// What changed for each target. That the first look finds nodes is no change.
    pub fn changes(&self) -> Vec<(Target, Change)> {
        let change = |aspect, from: &str, to: &str| Change { aspect, from: from.to_owned(), to: to.to_owned() };
        let removed = self.removed.iter().map(|target| (target, change(Aspect::Member, "present", "absent")));
        let moved = self.moved.iter().map(|(target, from, to)| (target, change(Aspect::Address, from, to)));
        let added = self.added.iter().filter(|_| !self.is_first);
        let added = added.map(|target| (target, change(Aspect::Member, "absent", "present")));
        removed.chain(moved).chain(added).map(|(target, change)| (target.clone(), change)).collect()
    }
}

/// Which targets are checked: those that left a cluster are not, and once its nodes are known neither is the endpoint.
#[derive(Clone, Debug, Default)]
pub struct ActiveTargets {
    inactive: BTreeSet<Target>,
}

impl ActiveTargets {
    /// Takes what a new look at the topology changed.
    pub fn update(&mut self, change: &TopologyChange) {
        if change.is_first {
            self.inactive.insert(Target::Endpoint);
        }
        self.inactive.extend(change.removed.iter().cloned());
        for target in &change.added {
            self.inactive.remove(target);
        }
    }

    /// Whether more checks of the target are to come. One that left may have been down, and nobody will see it up.
    pub fn contains(&self, target: &Target) -> bool {
        !self.inactive.contains(target)
    }
}

/// How many servers behind one name are remembered.
const REMEMBERED: usize = 64;

/// What an endpoint last told of itself. What a check did not tell is taken to be as before.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    address: Option<IpAddr>,
    /// By address: a name may have several, and its answers come in any order. Without an address, a Unix socket's.
    identities: BTreeMap<Option<IpAddr>, Identity>,
}

impl Observed {
    /// Takes what a check told and returns what that changed.
    ///
    /// A name that moved is compared with what was behind it before. Where it has several addresses at once, each is
    /// compared with itself.
    pub fn update(&mut self, info: &ConnectionInfo) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = self.address;
        let address = info.peer.map(|peer| peer.ip()).or(before);
        let moved = before.filter(|before| address != Some(*before) && !info.addresses.contains(before));
        let mut compare = |aspect, from: Option<String>, to: Option<String>| {
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                changes.push(Change { aspect, from, to });
            }
        };
        compare(Aspect::Address, moved.map(|ip| ip.to_string()), address.map(|ip| ip.to_string()));
        let known = self.identities.get(&if moved.is_some() { before } else { address }).cloned().unwrap_or_default();
        let told = &info.identity;
        compare(Aspect::Role, known.role.map(|role| role.to_string()), told.role.map(|role| role.to_string()));
        compare(Aspect::Engine, known.engine_and_version(), told.engine_and_version());
        // Another server has another run id; only at the same address does that mean a restart.
        if moved.is_none() {
            compare(Aspect::RunId, known.run_id.clone(), told.run_id.clone());
        }
        self.address = address;
        if self.identities.len() >= REMEMBERED && !self.identities.contains_key(&address) {
            self.identities.clear();
        }
        let run_id = if moved.is_some() { None } else { known.run_id.clone() };
        let engine = if told.engine.is_some() { told } else { &known };
        let now = Identity {
            role: told.role.or(known.role),
            engine: engine.engine.clone(),
            version: engine.version.clone(),
            run_id: told.run_id.clone().or(run_id),
        };
        self.identities.insert(address, now);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::server::Role;

    #[test]
    fn changes_are_what_differs_from_the_last_that_was_told() {
        let info = |peer: Option<&str>, addresses: &[&str], identity: &Identity| ConnectionInfo {
            peer: peer.map(|ip| format!("{ip}:6379").parse().unwrap()),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            identity: identity.clone(),
            ..ConnectionInfo::default()
        };
        let server =
            |role, run_id: &str| Identity { role: Some(role), run_id: Some(run_id.into()), ..Identity::default() };
        let aspects = |changes: Vec<Change>| changes.into_iter().map(|change| change.aspect).collect::<Vec<_>>();
        let (old, new) = ("10.0.1.5", "10.0.2.9");
        let mut observed = Observed::default();
        let mut update =
            |peer, addresses: &[&str], identity: Identity| aspects(observed.update(&info(peer, addresses, &identity)));
        assert_eq!(update(Some(old), &[old], server(Role::Primary, "a")), []);
        assert_eq!(update(Some(old), &[old], server(Role::Primary, "a")), []);
        assert_eq!(update(None, &[], Identity::default()), []);
        assert_eq!(update(Some(old), &[old], server(Role::Replica, "b")), [Aspect::Role, Aspect::RunId]);
        // Another server, so its run id says nothing about a restart.
        assert_eq!(update(Some(new), &[new], server(Role::Primary, "c")), [Aspect::Address, Aspect::Role]);
        assert_eq!(update(Some(new), &[new], server(Role::Primary, "c")), []);
        // A name with two addresses did not move, and its servers differ without having changed.
        assert_eq!(update(Some("10.0.3.1"), &["10.0.3.1", new], server(Role::Replica, "d")), []);
        assert_eq!(update(Some(new), &[new, "10.0.3.1"], server(Role::Primary, "c")), []);
        assert_eq!(update(Some("10.0.3.1"), &["10.0.3.1", new], server(Role::Primary, "d")), [Aspect::Role]);
    }
}
