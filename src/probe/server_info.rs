//! Queries the server's identity, once per connection, in the round trip of the first index.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::model::failure::{Failure, Kind};
use crate::model::secret::Intake;
use crate::model::server::{Identity, MAX_RUN_ID, MAX_VERSION, Role};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;
use crate::probe::resp::{self, Reply, unexpected};

/// Decides which queries to send. A command that the ACL forbids is not sent again, because the server records each
/// refusal in its ACL LOG.
#[derive(Debug, Default)]
pub struct ServerInfo {
    pub wanted: bool,
    info_forbidden: AtomicBool,
    role_forbidden: AtomicBool,
}

/// The queries for one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct InfoQueries {
    info: bool,
    role: bool,
    /// The role that the server must have. HELLO reports the role even to users without permission for ROLE.
    expected: Option<Role>,
}

impl InfoQueries {
    /// Whether there is any query.
    pub fn any(self) -> bool {
        self.info || self.role
    }

    /// Appends the commands.
    pub fn pack(self, commands: &mut Vec<u8>) {
        if self.info {
            resp::pack(commands, &[b"INFO", b"server"]);
        }
        if self.role {
            resp::pack(commands, &[b"ROLE"]);
        }
        if self.expected.is_some() {
            resp::pack(commands, &[b"HELLO"]);
        }
    }
}

impl ServerInfo {
    pub fn new(wanted: bool) -> Self {
        ServerInfo { wanted, ..ServerInfo::default() }
    }

    /// The queries for the next connection. `expected` is the role that a check requires.
    pub fn queries(&self, expected: Option<Role>) -> InfoQueries {
        let may = |forbidden: &AtomicBool| self.wanted && !forbidden.load(Ordering::Relaxed);
        let role = may(&self.role_forbidden) || expected.is_some();
        InfoQueries { info: may(&self.info_forbidden), role, expected }
    }

    /// Reads the replies. Returns the server's identity, and whether it has the expected role.
    ///
    /// Without an expected role, a server that reports nothing passes, and a connection that breaks here fails the next
    /// index.
    pub async fn read(
        &self,
        queries: InfoQueries,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> (Option<Identity>, Result<(), Failure>) {
        let expected = queries.expected;
        let replies = async {
            let mut reply = async |is_asked, command| {
                if is_asked { connection.reply(command, deadline).await.map(Some) } else { Ok(None) }
            };
            let info = reply(queries.info, "INFO").await?;
            let role = reply(queries.role, "ROLE").await?;
            let hello = reply(expected.is_some(), "HELLO").await?;
            Ok((info, role, hello))
        };
        let (info, role, hello) = match replies.await {
            Ok(replies) => replies,
            Err(failure) => return (None, expected.map_or(Ok(()), |_| Err(failure))),
        };

        for (reply, forbidden) in [(&info, &self.info_forbidden), (&role, &self.role_forbidden)] {
            if reply.as_ref().is_some_and(|reply| unexpected("", reply).kind == Kind::NoPerm) {
                forbidden.store(true, Ordering::Relaxed);
            }
        }

        let mut identity = info.as_ref().map(|info| identity_of_info(info, connection.intake())).unwrap_or_default();
        identity.role = role.as_ref().and_then(role_of_reply).or_else(|| hello.as_ref().and_then(role_of_hello));

        let verdict = match (expected, identity.role) {
            (None, _) => Ok(()),
            (Some(expected), Some(found)) if expected == found => Ok(()),
            (Some(expected), Some(found)) => {
                Err(Failure::new(Kind::Role, format!("the server is a {found}, not a {expected}")))
            }
            (Some(_), None) => Err(unexpected("ROLE", &role.unwrap_or(Reply::Nil))),
        };
        (Some(identity), verdict)
    }
}

/// Reads the reply to ROLE, an array that begins with `master` or `slave` (redis.io, command ROLE).
fn role_of_reply(reply: &Reply) -> Option<Role> {
    let Reply::Array(items) = reply else { return None };
    match items.first()? {
        Reply::Bulk(word) if word == b"master" => Some(Role::Primary),
        Reply::Bulk(word) if word == b"slave" => Some(Role::Replica),
        _ => None,
    }
}

/// Reads the reply to HELLO, a flat array of names and values in protocol 2 (redis.io, command HELLO).
fn role_of_hello(reply: &Reply) -> Option<Role> {
    let Reply::Array(items) = reply else { return None };
    let is = |item: &Reply, word: &str| matches!(item, Reply::Bulk(bytes) if bytes == word.as_bytes());
    let role = items.chunks_exact(2).find(|pair| is(&pair[0], "role")).map(|pair| &pair[1])?;
    [("master", Role::Primary), ("replica", Role::Replica), ("slave", Role::Replica)]
        .into_iter()
        .find_map(|(word, known)| is(role, word).then_some(known))
}

const ENGINES: [&str; 2] = ["redis", "valkey"];

/// Reads the reply to `INFO server`.
///
/// For old clients, every version of Valkey reports `redis_version:7.2.4`. Its own name and version are in
/// `server_name` and `valkey_version` (Valkey's `server.c`, `genValkeyInfoString`).
pub fn identity_of_info(reply: &Reply, intake: Intake<'_>) -> Identity {
    let text = match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes),
        Reply::Verbatim(text) => text.into(),
        _ => return Identity::default(),
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let kept = |value, limit| intake.text(value, limit);

    let engine = field("server_name").unwrap_or(ENGINES[0]);
    let version = field(&format!("{engine}_version")).or_else(|| field("redis_version"));
    // The name of an engine is no secret, even if the password is the same word.
    let shown = if ENGINES.contains(&engine) { engine.into() } else { kept(engine, MAX_VERSION) };
    Identity {
        role: None,
        engine: version.map(|_| shown),
        version: version.map(|version| kept(version, MAX_VERSION)),
        run_id: field("run_id").map(|id| kept(id, MAX_RUN_ID)),
        uptime: field("uptime_in_seconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Identity {
        identity_of_info(&Reply::Bulk(text.into()), Intake::default())
    }

    #[test]
    fn the_true_version_of_an_engine_is_read() {
        let redis =
            info("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\nuptime_in_seconds:77\r\n");
        assert_eq!(redis.engine_and_version().as_deref(), Some("redis 7.0.15"));
        assert_eq!((redis.run_id.as_deref(), redis.uptime), (Some("abc"), Some(Duration::from_secs(77))));
        let valkey = info("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n");
        assert_eq!(valkey.engine_and_version().as_deref(), Some("valkey 8.1.0"));
        assert_eq!(info("not an INFO reply"), Identity::default());
    }

    #[test]
    fn roles_are_read_from_role() {
        let role = |word: &str| role_of_reply(&Reply::Array(vec![Reply::Bulk(word.into()), Reply::Int(1)]));
        assert_eq!(role("master"), Some(Role::Primary));
        assert_eq!(role("slave"), Some(Role::Replica));
        assert_eq!(role("sentinel"), None);
        assert_eq!(role_of_reply(&Reply::Nil), None);
        let hello = |role: &str| {
            let text = |word: &str| Reply::Bulk(word.into());
            role_of_hello(&Reply::Array(vec![text("proto"), Reply::Int(2), text("role"), text(role)]))
        };
        assert_eq!((hello("master"), hello("replica"), hello("")), (Some(Role::Primary), Some(Role::Replica), None));
    }
}
