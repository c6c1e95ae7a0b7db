//! All tests at the process boundary: the real binary against real and scripted servers, and the files it leaves.

mod support;

mod cycles;
mod dbs;
mod faults;
mod hostile;
#[cfg(feature = "iam")]
mod iam;
mod login;
mod page;
mod parsers;
mod records;
mod report;
mod tls;

mod usage;
