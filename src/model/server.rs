//! Who answered: role, engine and run id of a server.

use std::fmt;

/// A server's part in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
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
    pub fn engine_and_version(&self) -> Option<String> {
        Some(format!("{} {}", self.engine.as_ref()?, self.version.as_ref()?))
    }
}
