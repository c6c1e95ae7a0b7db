//! The domain: what is checked, what came of it, and what changed.
//!
//! Everything imports it, and it imports nobody. It knows no socket, no file and no terminal.

pub mod change;
pub mod clock;
pub mod databases;
pub mod duration;
pub mod endpoint;
pub mod event;
pub mod failure;
pub mod notify;
pub mod outcome;
pub mod schedule;
pub mod secret;
pub mod server;
pub mod signal;
pub mod subject;
pub mod text;
