//! All tests at the process boundary: the real binary against real and scripted servers, and the files it leaves.

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
mod upgrade;
mod usage;
