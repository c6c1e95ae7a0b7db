//! The last known address and identity of a target, and which differences are changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::change::{Aspect, Change};
use crate::model::outcome::ConnectionInfo;
use crate::model::rotation::Rotation;
use crate::model::server::{Identity, Role};
use crate::model::text::Printable;

/// How many addresses are remembered for one name.
const REMEMBERED: usize = 64;

/// By how much the uptime that a server reports may differ from the true one. It counts whole seconds of the wall clock
/// (Redis's `server.c`, `genRedisInfoString`).
const UPTIME_ERROR: Duration = Duration::from_secs(1);

/// The last known address and identity of a target. A property that a check did not learn counts as unchanged.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    addresses: Rotation<IpAddr>,
    /// By address, because a name may resolve to several addresses, in any order. The key is `None` for a Unix socket.
    servers: BTreeMap<Option<IpAddr>, Servers>,
}

/// The servers that answered at one address: several behind a proxy.
#[derive(Clone, Debug, Default)]
struct Servers {
    run_ids: Rotation<Printable>,
    /// What each server reported last, by its run id.
    identities: BTreeMap<Option<Printable>, Identity>,
    /// What was reported last at this address.
    last: Identity,
}

impl Observed {
    /// Records what a check learned that began at `at`, a time on any monotonic clock, and returns the changes.
    ///
    /// If the name moved to another address, the server there is compared with the one at the old address. If the name
    /// has several addresses, or an address several servers, each is compared with its own last state.
    pub fn update(&mut self, info: &ConnectionInfo, at: Duration) -> Vec<Change> {
        let mut changes: Vec<_> = info.replaced.map(Change::from).into_iter().collect();
        let mut change = |aspect, from: Option<Printable>, to: Option<Printable>| {
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                changes.push(Change { aspect, from, to });
            }
        };

        let shown_ip = |ip: IpAddr| Printable::from(ip.to_string());
        let before = self.addresses.current().copied();
        let peer = info.peer.map(|peer| peer.ip());
        let switch = peer.and_then(|peer| self.addresses.switch(&peer, |other| info.addresses.contains(other), at));
        let address = peer.or(before);
        if let Some(switch) = &switch {
            change(Aspect::Address, Some(shown_ip(switch.from)), address.map(shown_ip));
        }
        let is_moved = switch.is_some_and(|switch| switch.is_to_new);
        let old = if is_moved { self.servers.get(&before).map(|servers| servers.last.clone()) } else { None };

        if self.servers.len() >= REMEMBERED && !self.servers.contains_key(&address) {
            self.servers.clear();
        }
        let servers = self.servers.entry(address).or_default();
        let reported = &info.identity;
        let restart = servers.switch(reported, at);
        let known = old.unwrap_or_else(|| servers.known(reported));

        let shown_role = |role: Role| Printable::from(role.to_string());
        change(Aspect::Role, known.role.map(shown_role), reported.role.map(shown_role));
        let shown_engine = |identity: &Identity| identity.engine_and_version().map(Printable::from);
        change(Aspect::Engine, shown_engine(&known), shown_engine(reported));
        // Another server always has another run id. After a move this is not worth a mark.
        if let Some((aspect, from)) = restart.filter(|_| !is_moved) {
            change(aspect, Some(from), reported.run_id.clone());
        }

        servers.record(reported);
        changes
    }
}

impl Servers {
    /// Whether a server with another run id answers, which one it replaced, and how.
    fn switch(&mut self, reported: &Identity, at: Duration) -> Option<(Aspect, Printable)> {
        let last_seen = self.run_ids.last_used();
        let switch = self.run_ids.switch(reported.run_id.as_ref()?, |_| false, at)?;
        let elapsed = at.saturating_sub(last_seen?);
        let is_restart = switch.is_to_new && reported.uptime.is_some_and(|uptime| uptime <= elapsed + UPTIME_ERROR);
        Some((if is_restart { Aspect::RunId } else { Aspect::Server }, switch.from))
    }

    /// The last state of the server with this identity, or of the address if the server is new.
    fn known(&self, reported: &Identity) -> Identity {
        let own = reported.run_id.as_ref().and_then(|_| self.identities.get(&reported.run_id));
        own.unwrap_or(&self.last).clone()
    }

    fn record(&mut self, reported: &Identity) {
        let known = self.known(reported);
        let engine = if reported.engine.is_some() { reported } else { &known };
        let now = Identity {
            role: reported.role.or(known.role),
            engine: engine.engine.clone(),
            version: engine.version.clone(),
            run_id: reported.run_id.clone().or(known.run_id),
            uptime: reported.uptime,
        };
        self.identities.retain(|run_id, _| run_id.as_ref().is_some_and(|run_id| self.run_ids.remembers(run_id)));
        self.identities.insert(now.run_id.clone(), now.clone());
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outcome::Replaced;

    const OLD: &str = "10.0.1.5";
    const NEW: &str = "10.0.2.9";

    fn info(peer: Option<&str>, addresses: &[&str], identity: &Identity) -> ConnectionInfo {
        ConnectionInfo {
            peer: peer.map(|ip| format!("{ip}:6379").parse().unwrap()),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            identity: identity.clone(),
            ..ConnectionInfo::default()
        }
    }

    fn server(role: Role, run_id: &str) -> Identity {
        Identity { role: Some(role), run_id: Some(run_id.into()), ..Identity::default() }
    }

    fn up_for(identity: Identity, seconds: u64) -> Identity {
        Identity { uptime: Some(Duration::from_secs(seconds)), ..identity }
    }

    fn aspects(changes: Vec<Change>) -> Vec<Aspect> {
        changes.into_iter().map(|change| change.aspect).collect()
    }

    /// Checks once a second, and returns the changes of each check.
    fn checks(infos: impl IntoIterator<Item = ConnectionInfo>) -> Vec<Vec<Aspect>> {
        let mut observed = Observed::default();
        let seconds = (0..).map(Duration::from_secs);
        infos.into_iter().zip(seconds).map(|(info, at)| aspects(observed.update(&info, at))).collect()
    }

    #[test]
    fn only_differences_from_the_last_known_state_are_changes() {
        let primary = |run_id| server(Role::Primary, run_id);
        let changes = checks([
            info(Some(OLD), &[OLD], &primary("a")),
            info(Some(OLD), &[OLD], &primary("a")),
            info(None, &[], &Identity::default()),
            info(Some(OLD), &[OLD], &up_for(server(Role::Replica, "b"), 1)),
            // Another server, so its run id does not show a restart.
            info(Some(NEW), &[NEW], &primary("c")),
            info(Some(NEW), &[NEW], &primary("c")),
            // A name with two addresses has not moved, and the two servers may differ.
            info(Some("10.0.3.1"), &["10.0.3.1", NEW], &server(Role::Replica, "d")),
            info(Some(NEW), &[NEW, "10.0.3.1"], &primary("c")),
            info(Some("10.0.3.1"), &["10.0.3.1", NEW], &primary("d")),
        ]);
        let none = vec![];
        let (role, restart) = (Aspect::Role, Aspect::RunId);
        let moved = vec![Aspect::Address, role];
        assert_eq!(
            changes,
            [&none, &none, &none, &vec![role, restart], &moved, &none, &none, &none, &vec![role]].map(Clone::clone)
        );
    }

    #[test]
    fn a_replaced_connection_is_a_change() {
        let replaced = ConnectionInfo { replaced: Some(Replaced::Closed), ..ConnectionInfo::default() };
        let changes = Observed::default().update(&replaced, Duration::ZERO);
        assert_eq!(changes, [Change { aspect: Aspect::Connection, from: "open".into(), to: "closed".into() }]);
    }

    #[test]
    fn a_restart_is_one_only_if_the_uptime_shows_it() {
        let run = |uptime: Option<u64>| {
            let second = server(Role::Primary, "b");
            let second = uptime.map_or(second.clone(), |uptime| up_for(second, uptime));
            let first = || info(Some(OLD), &[OLD], &up_for(server(Role::Primary, "a"), 900));
            checks([first(), first(), info(None, &[], &Identity::default()), info(Some(OLD), &[OLD], &second)]).pop()
        };
        assert_eq!(run(Some(0)), Some(vec![Aspect::RunId]));
        assert_eq!(run(Some(3)), Some(vec![Aspect::RunId]), "two seconds, and the error of the uptime");
        for uptime in [None, Some(4), Some(900)] {
            assert_eq!(run(uptime), Some(vec![Aspect::Server]), "{uptime:?}");
        }
    }

    #[test]
    fn several_servers_behind_a_proxy_are_marked_once() {
        let (a, b) = (up_for(server(Role::Primary, "a"), 900), up_for(server(Role::Replica, "b"), 900));
        let servers = [a, b];
        let alternating = servers.iter().cycle().take(200).map(|server| info(Some(OLD), &[OLD], server));
        let changes = checks(alternating.collect::<Vec<_>>()).concat();
        assert_eq!(changes, [Aspect::Role, Aspect::Server]);
    }

    #[test]
    fn a_name_that_alternates_between_addresses_is_marked_once() {
        let (a, b) = (server(Role::Primary, "a"), server(Role::Replica, "b"));
        let answers = [info(Some(OLD), &[OLD], &a), info(Some(NEW), &[NEW], &b)];
        let changes = checks(answers.iter().cycle().take(200).cloned().collect::<Vec<_>>()).concat();
        assert_eq!(changes, [Aspect::Address, Aspect::Role]);

        // The role of one of the addresses changes.
        let promoted = info(Some(NEW), &[NEW], &server(Role::Primary, "b"));
        let then = [answers[0].clone(), promoted];
        let infos = answers.iter().cycle().take(20).chain(then.iter().cycle().take(20)).cloned();
        assert_eq!(checks(infos.collect::<Vec<_>>()).concat(), [Aspect::Address, Aspect::Role, Aspect::Role]);
    }
}
