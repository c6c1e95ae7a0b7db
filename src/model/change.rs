//! What changed about a target from one check to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::clock::Stamp;
use crate::model::outcome::ConnectionInfo;
use crate::model::server::{Identity, Role};
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
    /// Whether a node belongs to the cluster.
    Member,
}

impl Aspect {
    pub const ALL: [Aspect; 5] = [Aspect::Address, Aspect::Role, Aspect::Engine, Aspect::RunId, Aspect::Member];

    /// The name in JSON records.
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
    pub from: Printable,
    pub to: Printable,
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

/// How many servers are remembered for one name.
const REMEMBERED: usize = 64;

/// The last known address and identity of a target. A property that a check did not learn counts as unchanged.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    address: Option<IpAddr>,
    /// By address, because a name may resolve to several addresses, in any order. The key is `None` for a Unix socket.
    identities: BTreeMap<Option<IpAddr>, Identity>,
}

impl Observed {
    /// Records what a check learned and returns the changes.
    ///
    /// If the name moved to another address, the server there is compared with the one at the old address. If the name
    /// has several addresses at once, each is compared with its own last state.
    pub fn update(&mut self, info: &ConnectionInfo) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = self.address;
        let address = info.peer.map(|peer| peer.ip()).or(before);
        let moved = before.filter(|before| address != Some(*before) && !info.addresses.contains(before));

        let mut compare = |aspect, from: Option<Printable>, to: Option<Printable>| {
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                changes.push(Change { aspect, from, to });
            }
        };

        let shown_ip = |ip: IpAddr| Printable::from(ip.to_string());
        compare(Aspect::Address, moved.map(shown_ip), address.map(shown_ip));

        let known = self.identities.get(&if moved.is_some() { before } else { address }).cloned().unwrap_or_default();
        let reported = &info.identity;
        let shown_role = |role: Role| Printable::from(role.to_string());
        compare(Aspect::Role, known.role.map(shown_role), reported.role.map(shown_role));
        let shown_engine = |identity: &Identity| identity.engine_and_version().map(Printable::from);
        compare(Aspect::Engine, shown_engine(&known), shown_engine(reported));
        // Another server always has another run id. A new run id means a restart only at the same address.
        if moved.is_none() {
            compare(Aspect::RunId, known.run_id.clone(), reported.run_id.clone());
        }

        self.address = address;
        if self.identities.len() >= REMEMBERED && !self.identities.contains_key(&address) {
            self.identities.clear();
        }
        let run_id = if moved.is_some() { None } else { known.run_id.clone() };
        let engine = if reported.engine.is_some() { reported } else { &known };
        let now = Identity {
            role: reported.role.or(known.role),
            engine: engine.engine.clone(),
            version: engine.version.clone(),
            run_id: reported.run_id.clone().or(run_id),
        };
        self.identities.insert(address, now);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_from_the_last_known_state_are_changes() {
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
        // Another server, so its run id does not show a restart.
        assert_eq!(update(Some(new), &[new], server(Role::Primary, "c")), [Aspect::Address, Aspect::Role]);
        assert_eq!(update(Some(new), &[new], server(Role::Primary, "c")), []);
        // A name with two addresses has not moved, and the two servers may differ.
        assert_eq!(update(Some("10.0.3.1"), &["10.0.3.1", new], server(Role::Replica, "d")), []);
        assert_eq!(update(Some(new), &[new, "10.0.3.1"], server(Role::Primary, "c")), []);
        assert_eq!(update(Some("10.0.3.1"), &["10.0.3.1", new], server(Role::Primary, "d")), [Aspect::Role]);
    }
}
