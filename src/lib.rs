//! redis-health says, for every logical database of a Redis or Valkey endpoint, whether it answers; and during an
//! ElastiCache version upgrade, exactly when it stopped answering, why, and when it came back.
//!
//! # The map of the code
//! Data flows one way: flags → plan → checks → outcomes → (log, outages) → summary → exit code.
//!
//! - [`cli`] is what can be typed, [`plan`] turns it into what to do ([`uri`], [`units`], [`clock`]).
//! - [`target`] is what is checked; [`password`] fetches what it takes to get in, and [`login`] renews it. In builds with
//!   the feature `iam`, the room of that name makes it from AWS credentials.
//! - [`resolve`], [`connect`] and [`tls`] open a connection, phase by phase and before a [`deadline`]; [`scan`] asks all databases over it, with
//!   [`questions`] about the server itself and the writes of [`canary`].
//! - [`cluster`] reads what a cluster tells of its nodes, [`scout`] asks for it, [`fleet`] checks them all, [`shards`] are what is written to;
//!   [`held`] keeps one connection.
//! - [`failure`] is the closed set of reasons why a check fails.
//! - [`identity`] is what a server tells of itself, and what changed.
//! - [`schedule`] says when checks start, [`ordered`] puts their outcomes in order, [`outage`] folds those of one subject
//!   and [`ledger`] all of them, with [`series`] and [`spans`] of bounded size; all are pure.
//! - [`record`] is what goes into the logs, and the files; [`output`] is for whoever watches, with [`status`] on a terminal and
//!   [`metrics`] for Prometheus.
//! - [`dbs`] and [`cycles`] are the two modes that check: where the parts meet, and the only place. The third is
//!   [`report`], which shows what a run came to, or what [`logs`] read back.
//!
//! A failed check is a value, never an `Err`: that means that the tool itself cannot go on.

#![forbid(unsafe_code)]

pub mod canary;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod connect;
pub mod cycles;
pub mod dbs;
pub mod deadline;
pub mod exit;
mod explain;
pub mod failure;
pub mod fleet;
pub mod held;
#[cfg(feature = "iam")]
pub mod iam;
pub mod identity;
pub mod ledger;
pub mod login;
pub mod logs;
pub mod metrics;
pub mod ordered;
pub mod outage;
pub mod output;
pub mod password;
pub mod plan;
pub mod questions;
pub mod record;
pub mod report;
pub mod resolve;
pub mod scan;
pub mod schedule;
pub mod scout;
pub mod series;
pub mod shards;
pub mod signal;
pub mod spans;
pub mod status;
pub mod target;
pub mod tls;
pub mod units;
pub mod uri;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command, WhenTyped};
use crate::exit::Exit;
use crate::plan::Sources;

/// Runs the tool with the arguments of a process, its own name first.
///
/// # Errors
/// Nothing was checked: wrong usage or configuration ([`Exit::Usage`]), or the log folder is held ([`cycles::Locked`]).
/// The text is for the user, on one line.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Exit> {
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = Cli::from_arg_matches(&matches)?;
    let (_, matches) = matches.subcommand().context("no command was given")?;
    match cli.command {
        Command::Dbs(WhenTyped(args)) => {
            let plan = plan::dbs(args, &Sources(matches))?;
            block_on(dbs::run(plan))
        }
        Command::Cycles(WhenTyped(args)) => {
            let plan = plan::cycles(args, &Sources(matches))?;
            block_on(cycles::run(plan))
        }
        Command::Report(WhenTyped(args)) => report::run(&plan::report(args)?),
    }
}

/// Runs a mode on a runtime of this thread, and leaves without waiting for a name look-up that hangs.
fn block_on(mode: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Each hung look-up holds one of them; see `resolve`.
        .max_blocking_threads(64)
        .build()
        .context("cannot start the runtime")?;
    let exit = runtime.block_on(mode);
    runtime.shutdown_background();
    exit
}

/// Help and version go to standard output; anything else becomes an error of one line.
fn usage(error: &clap::Error) -> anyhow::Result<Exit> {
    use clap::error::{ContextKind, ErrorKind};
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is the reader's choice.
            let _ = error.print();
            Ok(Exit::Healthy)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(io::stderr(), "{}", error.render());
            Ok(Exit::Usage)
        }
        _ => {
            let mut text = error.render().to_string();
            let mut remedy = "see --help";
            for (kind, value) in error.context() {
                let (ContextKind::InvalidArg | ContextKind::InvalidSubcommand | ContextKind::InvalidValue, value) =
                    (kind, value.to_string())
                else {
                    continue;
                };
                #[cfg(not(feature = "iam"))]
                if ["--iam", "--iam-cache", "--iam-serverless", "--region"].contains(&value.as_str()) {
                    anyhow::bail!("{value}: this build has no IAM; install with cargo install --path . --features iam");
                }
                if target::might_be_secret(&value) {
                    text = text.replace(&value, target::REDACTED);
                    remedy = "give a URI with -u; see --help";
                }
            }
            // The first paragraph says what is wrong, the others repeat the usage.
            let first: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            let line = first.join(" ");
            anyhow::bail!("{} ({remedy})", line.strip_prefix("error: ").unwrap_or(&line))
        }
    }
}
