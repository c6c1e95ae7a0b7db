//! `--canary`: a write as part of each check. Only a write detects a demoted primary, or one whose writes are paused.
//!
//! The key cannot collide with others: its name contains the tool's name and a random part. It is deleted at once, and
//! expires if the deletion fails.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::failure::{Failure, Kind};
use crate::probe::connection::Connection;
use crate::probe::deadline::Deadline;
use crate::probe::resp::{self, Reply, unexpected};

/// After how many milliseconds a key expires if its deletion failed.
const EXPIRY_MS: &[u8] = b"10000";

/// Creates the writes of one run. All keys hash to one slot, so that a cluster node serves either all of them or none.
#[derive(Clone, Debug)]
pub struct Canary {
    prefix: String,
    written: Arc<AtomicU64>,
    /// The server is known to be a cluster node, from the flags or the topology.
    in_cluster: bool,
}

impl Canary {
    /// A canary whose keys have a random name.
    pub fn new() -> Self {
        Canary { prefix: format!("redis-health:canary:{{{:016x}}}:", random()), ..Self::tagged("") }.of_cluster(false)
    }

    /// Sets whether the server is known to be a cluster node.
    #[must_use]
    pub fn of_cluster(self, in_cluster: bool) -> Self {
        Canary { in_cluster, ..self }
    }

    /// A canary for the shard that owns the hash tag `tag`, a text in braces. A cluster hashes the tag instead of the
    /// whole key (redis.io, cluster specification: hash tags).
    pub fn tagged(tag: &str) -> Self {
        Canary {
            prefix: format!("redis-health:canary:{:016x}:{tag}", random()),
            written: Arc::default(),
            in_cluster: true,
        }
    }

    /// Appends the commands of one write. Each write has its own key, because checks may overlap.
    pub fn pack(&self, commands: &mut Vec<u8>) -> PendingWrite {
        let value = self.written.fetch_add(1, Ordering::Relaxed).to_string();
        let key = format!("{}{value}", self.prefix);
        resp::pack(commands, &[b"SET", key.as_bytes(), value.as_bytes(), b"PX", EXPIRY_MS]);
        resp::pack(commands, &[b"GET", key.as_bytes()]);
        resp::pack(commands, &[b"DEL", key.as_bytes()]);
        PendingWrite { value, in_cluster: self.in_cluster }
    }
}

/// A random number: the standard library seeds its hashers from the system's random source.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

/// The pattern of the keys.
impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*", self.prefix)
    }
}

/// A write that was packed but whose replies were not read yet.
pub struct PendingWrite {
    value: String,
    in_cluster: bool,
}

impl PendingWrite {
    /// Reads the replies. The inner result says whether the write was accepted and read back.
    ///
    /// # Errors
    /// The connection broke or stalled.
    pub async fn confirm(
        self,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> Result<Result<(), Failure>, Failure> {
        let set = connection.reply("SET", deadline).await?;
        let get = connection.reply("GET", deadline).await?;
        let del = connection.reply("DEL", deadline).await?;

        Ok(self.verdict(&set, &get, &del).map_err(|failure| {
            if !self.in_cluster && failure.detail.starts_with("MOVED ") {
                return failure.with_advice("a cluster: use --cluster");
            }
            failure
        }))
    }

    fn verdict(&self, set: &Reply, get: &Reply, del: &Reply) -> Result<(), Failure> {
        if *set != Reply::Ok {
            return Err(unexpected("SET", set));
        }

        match get {
            Reply::Bulk(bytes) if *bytes == self.value.as_bytes() => {}
            Reply::Bulk(_) => return Err(Failure::new(Kind::Canary, "another value was read back")),
            Reply::Nil => return Err(Failure::new(Kind::Canary, "the key was not there when read back")),
            other => return Err(unexpected("GET", other)),
        }

        match del {
            Reply::Int(_) => Ok(()),
            other => Err(unexpected("DEL", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_passes_only_if_it_was_read_back() {
        let write = PendingWrite { value: "7".into(), in_cluster: false };
        let bulk = |text: &str| Reply::Bulk(text.into());
        let one = Reply::Int(1);
        assert_eq!(write.verdict(&Reply::Ok, &bulk("7"), &one), Ok(()));
        let kind = |set: &Reply, get: &Reply, del: &Reply| write.verdict(set, get, del).unwrap_err().kind;
        assert_eq!(kind(&Reply::Ok, &bulk("6"), &one), Kind::Canary);
        assert_eq!(kind(&Reply::Ok, &Reply::Nil, &one), Kind::Canary);
        assert_eq!(kind(&Reply::Ok, &bulk("7"), &Reply::Ok), Kind::Protocol);
        assert_eq!(kind(&Reply::Nil, &Reply::Nil, &one), Kind::Protocol);
    }
}
