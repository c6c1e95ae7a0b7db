//! Integration tests: they run the real binary against real and scripted servers, and check its output and its files.

// Tests with a table of cases can be long.
#![allow(clippy::too_many_lines)]

mod support;

mod clock_change;
mod cluster;
mod cycles;
mod dbs;
mod engines;
mod failover;
mod faults;
mod files;
mod held;
mod hostile;
#[cfg(feature = "iam")]
mod iam;
mod limits;
mod login;
mod names;
mod page;
mod probes;
mod records;
mod reference;
mod report;
mod resharding;
mod samples;
mod slow_disk;
mod snapshots;
mod tls;
mod topologies;
mod trace;
mod upgrade;
mod usage;
