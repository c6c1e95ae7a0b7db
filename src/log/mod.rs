//! The log files: what a record is, how it is written, and how it is read back.
//!
//! It knows nothing of sockets, terminals and flags.

pub mod format;
pub mod from_event;
pub mod read;
pub mod record;
pub mod write;
