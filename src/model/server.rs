//! The identity of a server: role, engine, version and run id.

use std::fmt;
use std::time::Duration;

use crate::model::text::Printable;

/// The replication role of a server.
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

/// The longest name of an engine and the longest version, in bytes.
pub const MAX_VERSION: usize = 64;

/// The longest run id, in bytes. Redis's has 40 hexadecimal digits (`CONFIG_RUN_ID_SIZE` in its `server.h`).
pub const MAX_RUN_ID: usize = 40;

/// What a server reports about itself. All fields are empty if the user lacks permission to query it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub role: Option<Role>,
    /// `redis`, `valkey`, or another name that the server reports.
    pub engine: Option<Printable>,
    pub version: Option<Printable>,
    /// Changes with every restart of the server.
    pub run_id: Option<Printable>,
    /// Since its start.
    pub uptime: Option<Duration>,
}

impl Identity {
    pub fn engine_and_version(&self) -> Option<String> {
        Some(format!("{} {}", self.engine.as_ref()?, self.version.as_ref()?))
    }
}
