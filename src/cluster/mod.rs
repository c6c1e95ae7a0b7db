//! A cluster: its nodes and shards, how they are discovered, and how all of them are checked.
//!
//! It knows nothing of logs and outages.

pub mod discovery;
pub mod nodes;
pub mod shards;
pub mod topology;
