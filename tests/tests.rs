//! All tests at the process boundary: the real binary against real and scripted servers, and the files it leaves.

// A table of cases is as long as it has rows.
#![allow(clippy::too_many_lines)]

mod support;

mod cluster;
mod cycles;
mod dbs;
mod engines;
mod faults;
mod held;
mod hostile;
#[cfg(feature = "iam")]
mod iam;
mod login;
mod page;
mod probes;
mod records;
mod report;
mod samples;
mod slow_disk;
mod snapshots;
mod tls;
mod trace;
mod upgrade;
mod usage;
