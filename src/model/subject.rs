//! Who is checked, and which part of it a check was of.

use std::fmt;
use std::sync::Arc;

/// Who was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The endpoint that was asked for, over a fresh connection.
    #[default]
    Endpoint,
    /// The endpoint, over the connection that is kept.
    Held,
    /// A cluster as a whole: whether every slot is served.
    Cluster,
    /// One node of a cluster, as `host:port`.
    Node(Arc<str>),
    /// One shard of a cluster, by the slots that it had when it was first seen: `0-5460`. Its check is a write.
    Shard(Arc<str>),
}

impl Target {
    /// With `--canary` its checks read and then write, and which of the two failed is told apart. Nodes are only read, and
    /// shards are there to be written to.
    pub fn reads_and_writes(&self) -> bool {
        matches!(self, Target::Endpoint | Target::Held)
    }
}

/// What a check was of: the part of a line between the time and the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub target: Target,
    /// The logical database; none where a run checks a single one and its lines do not name it.
    pub db: Option<u32>,
    /// The canary write alone, where SELECT and PING passed.
    pub write: bool,
}

impl Subject {
    #[cfg(test)]
    pub fn db(db: u32) -> Self {
        Subject { db: Some(db), ..Subject::default() }
    }

    /// Whether `next` is the same but for its database, which is the next one.
    pub fn is_before(&self, next: &Subject) -> bool {
        let neighbours = self.db.zip(next.db).is_some_and(|(db, next)| next == db + 1);
        neighbours && (&self.target, self.write) == (&next.target, next.write)
    }

    /// Neighbours as one name: `DB 0-15`.
    pub fn range<'s>(subjects: impl IntoIterator<Item = &'s Subject>) -> String {
        let mut subjects = subjects.into_iter();
        let Some(first) = subjects.next() else { return String::new() };
        match subjects.last().and_then(|last| last.db) {
            Some(last) => {
                let write = if first.write { " WRITE" } else { "" };
                format!("{}-{last}{write}", first.writing(false))
            }
            None => first.to_string(),
        }
    }

    /// The same subject's reads, or its writes.
    #[must_use]
    pub fn writing(&self, write: bool) -> Self {
        Subject { write, ..self.clone() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.db) {
            (Target::Endpoint, Some(_)) => {}
            (Target::Endpoint, None) => f.write_str("endpoint")?,
            (target, _) => write!(f, "{target}")?,
        }
        if let Some(db) = self.db {
            let space = if self.target == Target::Endpoint { "" } else { " " };
            write!(f, "{space}DB {db}")?;
        }
        f.write_str(if self.write { " WRITE" } else { "" })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Endpoint => f.write_str("Endpoint"),
            Target::Held => f.write_str("HELD"),
            Target::Cluster => f.write_str("CLUSTER"),
            Target::Node(node) => write!(f, "NODE {node}"),
            Target::Shard(slots) => write!(f, "SHARD {slots}"),
        }
    }
}
