//! A cluster: its nodes and shards, how they are discovered and how they are checked.
//!
//! It does not know logs or outages.

pub mod discovery;
pub mod nodes;
pub mod shards;
mod slots;
pub mod topology;
