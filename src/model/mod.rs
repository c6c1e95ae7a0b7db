//! The domain: what is checked, with which result, and what changed.
//!
//! All other folders import it, and it imports none of them. It does no I/O: no sockets, files or terminals.

pub mod change;
pub mod clock;
pub mod databases;
pub mod duration;
pub mod endpoint;
pub mod event;
pub mod failure;
pub mod notify;
pub mod observed;
pub mod outcome;
mod rotation;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod server;
pub mod signal;
pub mod subject;
pub mod text;
