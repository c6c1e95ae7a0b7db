//! For whoever watches: standard output and error, the status line, Prometheus metrics and the diagnostic trace.
//!
//! None of it is a record: a stream that is closed or stuck ends nothing and delays nothing.

pub mod console;
pub mod cycles_console;
pub mod metrics;
pub mod progress;
pub mod scan_console;
pub mod status;
pub mod trace;
