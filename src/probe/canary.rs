//! `--canary`: a write that is part of each check. Only a write sees a demoted primary, or one whose writes are paused.
//!
//! The key is our own: it carries the tool's name and a random part, expires by itself, and is deleted at once.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;

use crate::model::failure::{Failure, Kind, Phase};
use crate::probe::connection::{Connection, unexpected};
use crate::probe::deadline::Deadline;

/// How long a key may stay when its deletion fails.
const EXPIRY: Duration = Duration::from_secs(10);

/// The writes of one run. All of its keys are in one slot, should the server be a node of a cluster: so they are either
/// always its own or never.
#[derive(Clone, Debug)]
pub struct Canary {
    prefix: String,
    written: Arc<AtomicU64>,
    /// That the server is a node of a cluster is known.
    in_cluster: bool,
}

impl Canary {
    /// A canary whose keys nobody else has.
    pub fn new() -> Self {
        Canary { prefix: format!("redis-health:canary:{{{:016x}}}:", random()), ..Self::tagged("") }.of_cluster(false)
    }

    /// The same, for a server that is said to be a node of a cluster, or not to be.
    #[must_use]
    pub fn of_cluster(self, in_cluster: bool) -> Self {
        Canary { in_cluster, ..self }
    }

    /// A canary for a cluster. Its keys hold `tag`, a text in braces, which a cluster hashes in place of the whole key (redis.io, cluster
    /// specification: hash tags).
    pub fn tagged(tag: &str) -> Self {
        Canary {
            prefix: format!("redis-health:canary:{:016x}:{tag}", random()),
            written: Arc::default(),
            in_cluster: true,
        }
    }

    /// Appends the commands of one write: each has a key of its own, since checks may overlap.
    pub fn pack(&self, commands: &mut Vec<u8>) -> Write {
        let value = self.written.fetch_add(1, Ordering::Relaxed).to_string();
        let key = format!("{}{value}", self.prefix);
        redis::cmd("SET").arg(&key).arg(&value).arg("PX").arg(EXPIRY.as_millis() as u64).write_packed_command(commands);
        redis::cmd("GET").arg(&key).write_packed_command(commands);
        redis::cmd("DEL").arg(&key).write_packed_command(commands);
        Write { value, in_cluster: self.in_cluster }
    }
}

/// The standard library seeds its hashers from the system's random source.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

/// The keys that it writes, for people.
impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*", self.prefix)
    }
}

/// A write whose replies are to come.
pub struct Write {
    value: String,
    in_cluster: bool,
}

impl Write {
    /// Reads the replies: whether the write was taken and read back.
    ///
    /// # Errors
    /// The connection broke or stalled, and the write with it.
    pub async fn confirm(
        self,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> Result<Result<(), Failure>, Failure> {
        let mut reply = async |command| deadline.bound(|| Phase::Reply(command), connection.reply()).await;
        let set = reply("SET").await?;
        let get = reply("GET").await?;
        let del = reply("DEL").await?;
        Ok(self.verdict(&set, &get, &del).map_err(|failure| {
            if !self.in_cluster && failure.detail.starts_with("MOVED ") {
                return failure.with_advice("a cluster: use --cluster");
            }
            failure
        }))
    }

    fn verdict(&self, set: &Value, get: &Value, del: &Value) -> Result<(), Failure> {
        if *set != Value::Okay {
            return Err(unexpected("SET", set));
        }
        match get {
            Value::BulkString(bytes) if *bytes == self.value.as_bytes() => {}
            Value::BulkString(_) => return Err(Failure::new(Kind::Canary, "another value was read back")),
            Value::Nil => return Err(Failure::new(Kind::Canary, "the key was not there when read back")),
            other => return Err(unexpected("GET", other)),
        }
        match del {
            Value::Int(_) => Ok(()),
            other => Err(unexpected("DEL", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_passes_only_if_it_was_read_back() {
        let write = Write { value: "7".into(), in_cluster: false };
        let bulk = |text: &str| Value::BulkString(text.into());
        let one = Value::Int(1);
        assert_eq!(write.verdict(&Value::Okay, &bulk("7"), &one), Ok(()));
        let kind = |set: &Value, get: &Value, del: &Value| write.verdict(set, get, del).unwrap_err().kind;
        assert_eq!(kind(&Value::Okay, &bulk("6"), &one), Kind::Canary);
        assert_eq!(kind(&Value::Okay, &Value::Nil, &one), Kind::Canary);
        assert_eq!(kind(&Value::Okay, &bulk("7"), &Value::Okay), Kind::Protocol);
        assert_eq!(kind(&Value::Nil, &Value::Nil, &one), Kind::Protocol);
    }
}
