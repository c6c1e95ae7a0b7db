//! What is checked: targets, and the databases and writes that have their own results.

use std::fmt;

use crate::model::text::Printable;

/// What is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The endpoint, over a fresh connection.
    #[default]
    Endpoint,
    /// The endpoint, over the persistent connection of `--held`.
    Held,
    /// A cluster as a whole: whether every slot is served.
    Cluster,
    /// One node of a cluster, as `host:port`.
    Node(Printable),
    /// One shard of a cluster, named after its slots: `0-5460`. While slots move, it keeps its name. Its check is a
    /// write.
    Shard(Printable),
}

impl Target {
    /// Whether checks with `--canary` have separate results for reads and writes. Nodes are only read, and every check
    /// of a shard is a write.
    pub fn reads_and_writes(&self) -> bool {
        matches!(self, Target::Endpoint | Target::Held)
    }
}

/// What a result belongs to. A log line shows it between the time and the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub target: Target,
    /// The logical database. None if the run checks a single one, which its lines do not name.
    pub db: Option<u32>,
    /// The result is that of the canary write alone.
    pub write: bool,
}

impl Subject {
    #[cfg(test)]
    pub fn db(db: u32) -> Self {
        Subject { db: Some(db), ..Subject::default() }
    }

    /// Whether `next` differs only in its database, which is the next one.
    pub fn is_before(&self, next: &Subject) -> bool {
        let neighbours = self.db.zip(next.db).is_some_and(|(db, next)| next == db + 1);
        neighbours && (&self.target, self.write) == (&next.target, next.write)
    }

    /// The common name of consecutive databases: `DB 0-15`.
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

    /// The same subject, for its reads or its writes.
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
