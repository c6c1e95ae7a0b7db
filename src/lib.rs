//! redis-health checks whether each logical database of a Redis or Valkey endpoint answers. During an ElastiCache
//! version upgrade it records exactly when the endpoint stopped answering, why, and when it came back.
//!
//! # The map of the code
//! Data flows one way: flags → plan → checks → events → (log, history, metrics, console) → report → exit code. Each
//! folder is one stage of that flow, and imports only from folders below it in this table.
//!
//! | folder | purpose |
//! |---|---|
//! | `modes` | the modes `dbs`, `cycles` and `report`: the only folder that uses all others |
//! | `cli` | the command line, and the plan built from it |
//! | `report` | the report of a run or of logs, as text, JSON and an HTML page |
//! | `output` | standard output and error, the status line, metrics, the diagnostic trace |
//! | `log` | the log files: records, how they are written and read back |
//! | `history` | folds checks into outages, availability and latency |
//! | `cluster` | the nodes and shards of a cluster, and how they are discovered |
//! | `probe` | one check on the wire |
//! | `auth` | credentials, and how they are refreshed |
//! | `files` | the one way to open the files that a run writes, and to lock or replace them |
//! | `model` | the domain: targets, outcomes, failures, changes, events |
//!
//! A failed check is a value, not an `Err`. `Err` means that the tool itself cannot continue.

// `println!` panics on a closed pipe, and no outside condition may cause a panic.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::exit)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod auth;
mod cli;
mod cluster;
mod exit_code;
mod files;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod log;
mod model;
mod modes;
mod output;
mod probe;
mod report;

use std::ffi::OsString;
use std::future::Future;

use anyhow::Context as _;

use crate::cli::Action;
pub use crate::exit_code::Exit;
use crate::model::text::Printable;

/// Runs the tool. `arguments` are those of a process, including the program name.
///
/// # Errors
/// Nothing was checked: wrong usage or configuration, or another run is using the log folder. The text is one line for
/// the user; [`Exit::of_error`] returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Exit> {
    match cli::parse(arguments)? {
        Action::Dbs(plan) => block_on(modes::dbs::run(plan)),
        Action::Cycles(plan) => block_on(modes::cycles::run(plan)),
        Action::Report(plan) => {
            modes::limits::survive_size_limit()?;
            modes::report::run(&plan)
        }
        Action::Shown(exit) => Ok(exit),
    }
}

/// The text of an error for the user, on one line. It may quote arguments, the environment and names of files.
pub fn error_line(error: &anyhow::Error) -> String {
    Printable::line(&format!("{error:#}")).to_string()
}

/// Runs a mode on the current thread. Returns without waiting for a file that hangs.
fn block_on(mode: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    modes::limits::prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(modes::TASKS_PER_YIELD)
        .build()
        .context("cannot start the runtime")?;
    let exit = runtime.block_on(mode);
    runtime.shutdown_background();
    exit
}
