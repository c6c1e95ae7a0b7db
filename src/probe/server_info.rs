//! What a server is asked about itself: once on each connection, behind the first index's PING and in the check's own
//! round trip.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::Value;

use crate::model::failure::{Failure, Kind, Phase};
use crate::model::server::{Identity, Role};
use crate::probe::connection::{Connection, unexpected};
use crate::probe::deadline::Deadline;

/// Whether to ask servers who they are. What a server forbade is asked no more, since each refusal enters its ACL LOG.
#[derive(Debug, Default)]
pub struct ServerInfo {
    pub wanted: bool,
    info_forbidden: AtomicBool,
    role_forbidden: AtomicBool,
}

/// What one connection is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct InfoQueries {
    info: bool,
    role: bool,
    /// The role that decides the verdict. HELLO gives it even to a user who may not ask ROLE.
    expected: Option<Role>,
}

impl InfoQueries {
    pub fn any(self) -> bool {
        self.info || self.role
    }

    /// Appends the commands.
    pub fn pack(self, commands: &mut Vec<u8>) {
        if self.info {
            redis::cmd("INFO").arg("server").write_packed_command(commands);
        }
        if self.role {
            redis::cmd("ROLE").write_packed_command(commands);
        }
        if self.expected.is_some() {
            redis::cmd("HELLO").write_packed_command(commands);
        }
    }
}

impl ServerInfo {
    pub fn new(wanted: bool) -> Self {
        ServerInfo { wanted, ..ServerInfo::default() }
    }

    /// What is to be asked now; `expected` is the role that a check needs to pass.
    pub fn questions(&self, expected: Option<Role>) -> InfoQueries {
        let may = |forbidden: &AtomicBool| self.wanted && !forbidden.load(Ordering::Relaxed);
        let role = may(&self.role_forbidden) || expected.is_some();
        InfoQueries { info: may(&self.info_forbidden), role, expected }
    }

    /// Reads what the server tells of itself, and says whether its role is the expected one.
    ///
    /// That it does not tell is no part of the verdict unless a role is expected; a connection that breaks here fails
    /// the next index.
    pub async fn learn(
        &self,
        asked: InfoQueries,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> (Option<Identity>, Result<(), Failure>) {
        let told = async {
            let mut reply = async |command| deadline.bound(|| Phase::Reply(command), connection.reply()).await;
            let info = if asked.info { Some(reply("INFO").await?) } else { None };
            let role = if asked.role { Some(reply("ROLE").await?) } else { None };
            let hello = if asked.expected.is_some() { Some(reply("HELLO").await?) } else { None };
            Ok((info, role, hello))
        };
        let (info, role, hello) = match told.await {
            Ok(replies) => replies,
            Err(failure) => return (None, if asked.expected.is_some() { Err(failure) } else { Ok(()) }),
        };
        for (reply, forbidden) in [(&info, &self.info_forbidden), (&role, &self.role_forbidden)] {
            if reply.as_ref().is_some_and(|reply| unexpected("", reply).kind == Kind::NoPerm) {
                forbidden.store(true, Ordering::Relaxed);
            }
        }
        let mut identity = Identity::default();
        if let Some(info) = &info {
            read_info(&mut identity, info);
        }
        identity.role = role.as_ref().and_then(role_of_reply).or_else(|| hello.as_ref().and_then(role_of_hello));
        let verdict = match (asked.expected, identity.role) {
            (None, _) => Ok(()),
            (Some(expected), Some(found)) if expected == found => Ok(()),
            (Some(expected), Some(found)) => {
                Err(Failure::new(Kind::Role, format!("the server is a {found}, not a {expected}")))
            }
            (Some(_), None) => Err(unexpected("ROLE", &role.unwrap_or(Value::Nil))),
        };
        (Some(identity), verdict)
    }
}

/// Reads the reply to ROLE, an array that begins with `master` or `slave` (redis.io, command ROLE).
fn role_of_reply(reply: &Value) -> Option<Role> {
    let Value::Array(items) = reply else { return None };
    match items.first()? {
        Value::BulkString(word) if word == b"master" => Some(Role::Primary),
        Value::BulkString(word) if word == b"slave" => Some(Role::Replica),
        _ => None,
    }
}

/// Reads the reply to HELLO, a flat array of names and values in protocol 2 (redis.io, command HELLO).
fn role_of_hello(reply: &Value) -> Option<Role> {
    let Value::Array(items) = reply else { return None };
    let is = |value: &Value, word: &str| matches!(value, Value::BulkString(bytes) if bytes == word.as_bytes());
    let role = items.chunks_exact(2).find(|pair| is(&pair[0], "role")).map(|pair| &pair[1])?;
    [("master", Role::Primary), ("replica", Role::Replica), ("slave", Role::Replica)]
        .into_iter()
        .find_map(|(word, known)| is(role, word).then_some(known))
}

/// Takes what the reply to `INFO server` holds.
///
/// Valkey says `redis_version:7.2.4` whatever its version, for the sake of old clients; `server_name` and
/// `valkey_version` tell the truth (valkey's `server.c`, `genValkeyInfoString`).
fn read_info(identity: &mut Identity, reply: &Value) {
    let text = match reply {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        _ => return,
    };
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let engine = field("server_name").unwrap_or_else(|| "redis".to_owned());
    identity.version = field(&format!("{engine}_version")).or_else(|| field("redis_version"));
    identity.engine = identity.version.is_some().then_some(engine);
    identity.run_id = field("run_id");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Identity {
        let mut identity = Identity::default();
        read_info(&mut identity, &Value::BulkString(text.as_bytes().to_vec()));
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
        let role = |word: &str| role_of_reply(&Value::Array(vec![Value::BulkString(word.into()), Value::Int(1)]));
        assert_eq!(role("master"), Some(Role::Primary));
        assert_eq!(role("slave"), Some(Role::Replica));
        assert_eq!(role("sentinel"), None);
        assert_eq!(role_of_reply(&Value::Nil), None);
        let hello = |role: &str| {
            let text = |word: &str| Value::BulkString(word.into());
            role_of_hello(&Value::Array(vec![text("proto"), Value::Int(2), text("role"), text(role)]))
        };
        assert_eq!((hello("master"), hello("replica"), hello("")), (Some(Role::Primary), Some(Role::Replica), None));
    }
}
