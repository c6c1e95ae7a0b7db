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
    /// The slot is being imported by the server, which serves it only after ASKING.
    asking: bool,
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

    /// The same canary, for a node to which an ASK redirection led, or not.
    #[must_use]
    pub fn asking(self, asking: bool) -> Self {
        Canary { asking, ..self }
    }

    /// A canary for the shard that owns the hash tag `tag`, a text in braces. A cluster hashes the tag instead of the
    /// whole key (redis.io, cluster specification: hash tags).
    pub fn tagged(tag: &str) -> Self {
        Canary {
            prefix: format!("redis-health:canary:{:016x}:{tag}", random()),
            written: Arc::default(),
            in_cluster: true,
            asking: false,
        }
    }

    /// Appends the commands of one write. Each write has its own key, because checks may overlap.
    pub fn pack(&self, commands: &mut Vec<u8>) -> PendingWrite {
        let value = self.written.fetch_add(1, Ordering::Relaxed).to_string();
        let key = format!("{}{value}", self.prefix);
        let key = key.as_bytes();
        let writes: [&[&[u8]]; 3] =
            [&[b"SET", key, value.as_bytes(), b"PX", EXPIRY_MS], &[b"GET", key], &[b"DEL", key]];
        for command in writes {
            // It applies to the next command only (redis.io, cluster specification: ASK redirection).
            if self.asking {
                resp::pack(commands, &[b"ASKING"]);
            }
            resp::pack(commands, command);
        }
        PendingWrite { value, in_cluster: self.in_cluster, asking: self.asking }
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
    asking: bool,
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
        let mut replies = [const { Reply::Nil }; 3];
        for (reply, command) in replies.iter_mut().zip(["SET", "GET", "DEL"]) {
            if self.asking {
                // If it is refused, the command after it is too.
                connection.reply("ASKING", deadline).await?;
            }
            *reply = connection.reply(command, deadline).await?;
        }

        let [set, get, del] = replies;
        Ok(self.verdict(&set, &get, &del).map_err(|failure| {
            if !self.in_cluster && is_redirection(&failure) {
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

/// Whether the server is a cluster node and another node serves the slot.
fn is_redirection(failure: &Failure) -> bool {
    ["MOVED ", "ASK "].iter().any(|word| failure.detail.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_passes_only_if_it_was_read_back() {
        let write = PendingWrite { value: "7".into(), in_cluster: false, asking: false };
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
