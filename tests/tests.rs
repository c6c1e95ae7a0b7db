//! All tests at the process boundary: the real binary against real and scripted servers, and the files it leaves.

mod support;

mod cycles;
mod dbs;
mod engines;
mod faults;
mod hostile;
mod login;
mod probes;
mod records;
mod samples;
mod tls;

mod upgrade;
mod usage;
