//! The command line: flags and environment variables are converted to a plan, once.
//!
//! No other folder uses clap types or reads `REDIS_HEALTH_*` variables.

pub mod args;
pub mod plan;
pub mod precedence;
pub mod units;
pub mod uri;

use std::ffi::OsString;
use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::exit_code::Exit;
use crate::model::secret::{REDACTED, might_be_secret};
use crate::model::text::Printable;
use args::{Cli, Command, Deferred};
use plan::{CyclesPlan, DbsPlan, ReportPlan};
use precedence::Sources;

/// The mode to run, and its plan.
pub enum Action {
    Dbs(DbsPlan),
    Cycles(CyclesPlan),
    Report(ReportPlan),
    /// Help or the version was shown.
    Shown(Exit),
}

/// Parses the arguments of a process, including the program name, and the environment.
///
/// # Errors
/// Wrong usage or configuration. The text is one line for the user.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Action> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = match Cli::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return show(&error, &arguments).map(Action::Shown),
    };
    let cli = Cli::from_arg_matches(&matches)?;
    let (_, matches) = matches.subcommand().context("no command was given")?;

    Ok(match cli.command {
        Command::Dbs(Deferred(args)) => Action::Dbs(plan::dbs(args, &Sources(matches))?),
        Command::Cycles(Deferred(args)) => Action::Cycles(plan::cycles(args, &Sources(matches))?),
        Command::Report(Deferred(args)) => Action::Report(plan::report(args)?),
    })
}

/// Prints help and version to standard output; help shows values from the environment. Anything else becomes an error
/// of one line.
fn show(error: &clap::Error, arguments: &[OsString]) -> anyhow::Result<Exit> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render().to_string();
            let shown = Printable::lines(&text);
            // A closed pipe is not an error.
            let _ = if shown == text { error.print() } else { io::stdout().write_all(shown.as_bytes()) };
            Ok(Exit::Healthy)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(io::stderr(), "{}", Printable::lines(&error.render().to_string()));
            Ok(Exit::Usage)
        }
        _ => Err(usage_error(error, arguments)),
    }
}

/// What is wrong with the usage, and the remedy. Anything that may contain a password is redacted.
fn usage_error(error: &clap::Error, arguments: &[OsString]) -> anyhow::Error {
    let asks = arguments.iter().any(|argument| argument == "--askpass");
    let mut text = error.render().to_string();
    let mut remedy = "see --help";
    let variable = variable_of(error, arguments).map(|name| format!("{name} in the environment; ")).unwrap_or_default();
    let named = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    // `--askpass hunter2`: the word after the flag is not its value.
    let is_typed_password = named.starts_with("--askpass") || (asks && !named.starts_with('-'));
    for (kind, value) in error.context() {
        if !matches!(kind, ContextKind::InvalidArg | ContextKind::InvalidSubcommand | ContextKind::InvalidValue) {
            continue;
        }
        let value = value.to_string();
        #[cfg(not(feature = "iam"))]
        if ["--iam", "--iam-cache", "--iam-serverless", "--region"].contains(&value.as_str()) {
            let install = "cargo install --locked --path . --features iam";
            return anyhow::anyhow!("{value}: this build has no IAM; install with {install}");
        }
        if is_typed_password && !value.is_empty() && !value.starts_with("--askpass") {
            text = text.replace(&format!("'{value}'"), REDACTED);
            remedy = "--askpass has no value, it prompts; see --help";
        } else if might_be_secret(&value) {
            text = text.replace(&value, REDACTED);
            remedy = "give a URI with -u; see --help";
        }
    }

    // The first paragraph says what is wrong. The others repeat the usage.
    let first: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = first.join(" ");
    anyhow::anyhow!("{} ({variable}{remedy})", line.strip_prefix("error: ").unwrap_or(&line))
}

/// The environment variable that an invalid value comes from. None if the flag was given: it overrides the variable.
fn variable_of(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let named = error.get(ContextKind::InvalidArg)?.to_string();
    let value = error.get(ContextKind::InvalidValue)?.to_string();
    let long = named.split(' ').next()?.strip_prefix("--")?;

    let mut command = Cli::command();
    command.build();
    let mode = command.get_subcommands().find(|mode| arguments.iter().any(|argument| argument == mode.get_name()))?;
    let flag = mode.get_arguments().find(|flag| flag.get_long() == Some(long))?;
    let is_given = arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        match (argument.strip_prefix("--"), argument.strip_prefix('-')) {
            (Some(word), _) => word == long || word.strip_prefix(long).is_some_and(|rest| rest.starts_with('=')),
            (None, Some(letters)) => flag.get_short().is_some_and(|short| letters.contains(short)),
            (None, None) => false,
        }
    });
    let variable = flag.get_env().filter(|name| std::env::var_os(name).is_some_and(|set| set == value.as_str()))?;
    (!is_given).then(|| variable.to_string_lossy().into_owned())
}
