//! What identifies a run in its logs.

use std::sync::Arc;

use crate::model::clock::Stamp;

/// The command that checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Dbs,
    Cycles,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Dbs, Mode::Cycles];

    /// The name of the command.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Dbs => "dbs",
            Mode::Cycles => "cycles",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        Mode::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// A run of a command. Two runs differ in at least one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub mode: Mode,
    /// The name of the machine that checks. It contains no white space.
    pub host: Arc<str>,
    /// When it began, by the wall clock of that machine.
    pub began: Stamp,
}

impl Run {
    /// A run whose host name is made safe for a log line: white space and control characters are replaced, and it is cut
    /// at 255 characters.
    pub fn new(mode: Mode, host: &str, began: Stamp) -> Self {
        let safe = |c: char| if c.is_ascii_graphic() && c != ',' { c } else { '?' };
        let host: String = host.chars().map(safe).take(255).collect();
        Run { mode, host: if host.is_empty() { "?".into() } else { host.into() }, began }
    }
}
