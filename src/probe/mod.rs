//! One check on the wire: resolve, connect, TLS, authenticate, SELECT and PING, each phase under one deadline.
//!
//! It does not know schedules, logs or outages.

pub mod canary;
mod certificate;
pub mod checker;
pub mod connection;
pub mod deadline;
pub mod large_reply;
mod lookups;
pub mod persistent;
pub mod resolve;
pub mod resp;
pub mod server_info;
pub mod tls;
