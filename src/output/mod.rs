//! Output besides the logs: standard output and error, the status line, Prometheus metrics and the diagnostic trace.
//!
//! None of it is a record. A stream that is closed or blocked neither ends a run nor delays a check.

pub mod auto_bound;
pub mod console;
pub mod cycles_console;
pub mod metrics;
pub mod progress;
pub mod scan_console;
pub mod status;
pub mod trace;
