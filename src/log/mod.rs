//! The log files: records, how they are written, and how they are read back.
//!
//! It does not know sockets, terminals or flags.

pub mod format;
pub mod from_event;
pub mod read;
pub mod record;
pub mod write;
