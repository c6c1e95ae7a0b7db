//! Who answered: role, engine and run id of a server, as ROLE and INFO tell, and what changed from one check to the
//! next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use redis::Value;

use crate::record::Contact;

/// A server's part in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

impl Role {
    /// Reads the reply to ROLE, an array that begins with `master` or `slave` (redis.io, command ROLE).
    pub fn from_reply(reply: &Value) -> Option<Self> {
        let Value::Array(items) = reply else { return None };
        match items.first()? {
            Value::BulkString(word) if word == b"master" => Some(Role::Primary),
            Value::BulkString(word) if word == b"slave" => Some(Role::Replica),
            _ => None,
        }
    }

    /// Reads the reply to HELLO, a flat array of names and values in protocol 2 (redis.io, command HELLO).
    pub fn from_hello(reply: &Value) -> Option<Self> {
        let Value::Array(items) = reply else { return None };
        let is = |value: &Value, word: &str| matches!(value, Value::BulkString(bytes) if bytes == word.as_bytes());
        let role = items.chunks_exact(2).find(|pair| is(&pair[0], "role")).map(|pair| &pair[1])?;
        [("master", Role::Primary), ("replica", Role::Replica), ("slave", Role::Replica)]
            .into_iter()
            .find_map(|(word, known)| is(role, word).then_some(known))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        })
    }
}

/// What a server tells of itself. A user without the permission to ask learns nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub role: Option<Role>,
    /// `redis`, `valkey`, or what else the server calls itself.
    pub engine: Option<String>,
    pub version: Option<String>,
    /// Another one after every restart of the server.
    pub run_id: Option<String>,
}

impl Identity {
    /// Takes what the reply to `INFO server` holds.
    ///
    /// Valkey says `redis_version:7.2.4` whatever its version, for the sake of old clients; `server_name` and
    /// `valkey_version` tell the truth (valkey's `server.c`, `genValkeyInfoString`).
    pub fn read_info(&mut self, reply: &Value) {
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::VerbatimString { text, .. } => text.clone(),
            _ => return,
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let engine = field("server_name").unwrap_or_else(|| "redis".to_owned());
        self.version = field(&format!("{engine}_version")).or_else(|| field("redis_version"));
        self.engine = self.version.is_some().then_some(engine);
        self.run_id = field("run_id");
    }

    fn engine_and_version(&self) -> Option<String> {
        Some(format!("{} {}", self.engine.as_ref()?, self.version.as_ref()?))
    }
}

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
    pub fn update(&mut self, contact: &Contact) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = self.address;
        let address = contact.peer.map(|peer| peer.ip()).or(before);
        let moved = before.filter(|before| address != Some(*before) && !contact.addresses.contains(before));
        let mut compare = |aspect, from: Option<String>, to: Option<String>| {
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                changes.push(Change { aspect, from, to });
            }
        };
        compare(Aspect::Address, moved.map(|ip| ip.to_string()), address.map(|ip| ip.to_string()));
        let known = self.identities.get(&if moved.is_some() { before } else { address }).cloned().unwrap_or_default();
        let told = &contact.identity;
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

    fn info(text: &str) -> Identity {
        let mut identity = Identity::default();
        identity.read_info(&Value::BulkString(text.as_bytes().to_vec()));
        identity
    }

    #[test]
    fn engines_tell_their_true_version() {
        let redis = info("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\n");
        assert_eq!(redis.engine_and_version().as_deref(), Some("redis 7.0.15"));
        assert_eq!(redis.run_id.as_deref(), Some("abc"));
        let valkey = info("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n");
        assert_eq!(valkey.engine_and_version().as_deref(), Some("valkey 8.1.0"));
        assert_eq!(info("not an INFO reply"), Identity::default());
    }

    #[test]
    fn roles_are_read_from_role() {
        let role = |word: &str| Role::from_reply(&Value::Array(vec![Value::BulkString(word.into()), Value::Int(1)]));
        assert_eq!(role("master"), Some(Role::Primary));
        assert_eq!(role("slave"), Some(Role::Replica));
        assert_eq!(role("sentinel"), None);
        assert_eq!(Role::from_reply(&Value::Nil), None);
        let hello = |role: &str| {
            let text = |word: &str| Value::BulkString(word.into());
            Role::from_hello(&Value::Array(vec![text("proto"), Value::Int(2), text("role"), text(role)]))
        };
        assert_eq!((hello("master"), hello("replica"), hello("")), (Some(Role::Primary), Some(Role::Replica), None));
    }

    #[test]
    fn changes_are_what_differs_from_the_last_that_was_told() {
        let contact = |peer: Option<&str>, addresses: &[&str], identity: &Identity| Contact {
            peer: peer.map(|ip| format!("{ip}:6379").parse().unwrap()),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            identity: identity.clone(),
            ..Contact::default()
        };
        let server =
            |role, run_id: &str| Identity { role: Some(role), run_id: Some(run_id.into()), ..Identity::default() };
        let aspects = |changes: Vec<Change>| changes.into_iter().map(|change| change.aspect).collect::<Vec<_>>();
        let (old, new) = ("10.0.1.5", "10.0.2.9");
        let mut observed = Observed::default();
        let mut update = |peer, addresses: &[&str], identity: Identity| {
            aspects(observed.update(&contact(peer, addresses, &identity)))
        };
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
