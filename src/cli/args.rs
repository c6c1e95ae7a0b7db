//! The clap types of the command line. Their doc comments are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable};
use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::cli::units;
use crate::log::record::Format;
use crate::log::write::rotate::Rotation;
use crate::model::databases::MAX_INDEX;
use crate::model::server::Role;

/// Check whether the logical databases of a Redis or Valkey endpoint answer and, during an upgrade, record when they
/// stopped answering, why, and when they came back.
#[derive(Parser)]
#[command(name = "redis-health", version, disable_help_flag = true, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 every check passed, 1 a check failed, 2 wrong usage or configuration, 3 another \
    cycles run is using the log folder, 4 a record could not be written, 5 a check could not be made for a local reason, \
    128+n ended by signal n."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Print help.
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Check every logical database once, log the results as one block, and exit.
    Dbs(Deferred<Dbs>),
    /// Check on a fixed schedule: timed cycles with breaks between them.
    Cycles(Deferred<Cycles>),
    /// Read the logs back and report outages, availability, changes and a timeline.
    Report(Deferred<Report>),
}

/// The flags of a mode, built only if that mode is used. Building the flags of all modes, each with a lookup of its
/// environment variable, took a quarter of the instructions of a `dbs` run.
pub struct Deferred<A>(pub A);

impl<A: Args> Args for Deferred<A> {
    fn augment_args(mode: clap::Command) -> clap::Command {
        mode.defer(|mode| {
            // Flattened flags override the description, so the mode's own is restored.
            let about = mode.get_about().cloned();
            let mode = A::augment_args(mode).about(Resettable::from(about)).long_about(None);
            let is_empty = |(_, value): (_, std::ffi::OsString)| value.is_empty();
            if std::env::vars_os().any(is_empty) { mode.mut_args(unless_empty) } else { mode }
        })
    }

    fn augment_args_for_update(mode: clap::Command) -> clap::Command {
        Self::augment_args(mode)
    }
}

impl<A: Args> FromArgMatches for Deferred<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Deferred)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// An empty environment variable counts as not set, because compose files and manifests often set variables that way.
fn unless_empty(argument: clap::Arg) -> clap::Arg {
    let is_empty = argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { argument.env(Resettable::Reset) } else { argument }
}

#[derive(Args)]
#[command(args_override_self = true)]
pub struct Dbs {
    #[command(flatten)]
    pub connection: Connection,

    /// Check databases 0 to N; `auto` counts up until the server says that an index is out of range, to at most 20,000
    /// databases [default: 15, or 0 with --cluster].
    #[arg(long, value_name = "N|auto", env = "REDIS_HEALTH_MAX_DB", value_parser = max_db)]
    pub max_db: Option<MaxDb>,

    /// Print only failures, on stderr, so that cron sends mail only for failures.
    #[arg(short, long, env = "REDIS_HEALTH_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
#[command(args_override_self = true)]
pub struct Cycles {
    #[command(flatten)]
    pub connection: Connection,

    /// Check databases 0 to N instead of a single one; `auto` counts up until the server says that an index is out of
    /// range, to at most 20,000 databases.
    #[arg(long, value_name = "N|auto", env = "REDIS_HEALTH_MAX_DB", value_parser = max_db)]
    pub max_db: Option<MaxDb>,

    /// Also keep one connection open and check it on the same schedule, to see what an application with a connection
    /// pool sees. It is replaced when it breaks.
    #[arg(long, env = "REDIS_HEALTH_HELD", value_parser = FalseyValueParser::new())]
    pub held: bool,

    /// How many cycles to run.
    #[arg(long, value_name = "COUNT", env = "REDIS_HEALTH_CYCLES", default_value = "4")]
    #[arg(value_parser = cycle_count, allow_negative_numbers = true)]
    pub cycles: u32,

    /// How long one cycle lasts.
    #[arg(long, value_name = "DURATION", env = "REDIS_HEALTH_RUN_DURATION", default_value = "300")]
    #[arg(value_parser = units::nonzero_duration, allow_negative_numbers = true)]
    pub run_duration: Duration,

    /// Time from the start of one check to the start of the next.
    #[arg(long, value_name = "DURATION", env = "REDIS_HEALTH_CHECK_INTERVAL", default_value = "60")]
    #[arg(value_parser = units::nonzero_duration, allow_negative_numbers = true)]
    pub check_interval: Duration,

    /// How long the break between two cycles lasts.
    #[arg(long, value_name = "DURATION", env = "REDIS_HEALTH_BREAK_DURATION", default_value = "300")]
    #[arg(value_parser = units::duration, allow_negative_numbers = true)]
    pub break_duration: Duration,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
#[command(args_override_self = true)]
pub struct Report {
    /// Log files, or folders with log files [default: the folder of --log-dir].
    #[arg(value_name = "FOLDER|FILE")]
    pub paths: Vec<PathBuf>,

    /// The folder of the log files.
    #[arg(long, value_name = "DIR", env = "REDIS_HEALTH_LOG_DIR", default_value = ".")]
    pub log_dir: PathBuf,

    /// Only checks that began at this time or later: 2025-08-27, "2025-08-27 07:35", 07:35 (today), RFC 3339, or "2h
    /// ago".
    #[arg(long, value_name = "TIME", env = "REDIS_HEALTH_SINCE")]
    pub since: Option<String>,

    /// Only checks that began before this time.
    #[arg(long, value_name = "TIME", env = "REDIS_HEALTH_UNTIL")]
    pub until: Option<String>,

    /// Print one JSON document instead of text.
    #[arg(long, env = "REDIS_HEALTH_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,

    /// Also write the report as a self-contained HTML page.
    #[arg(long, value_name = "FILE", env = "REDIS_HEALTH_HTML")]
    pub html: Option<PathBuf>,

    /// Read timestamps without an offset, and the times of --since and --until, as UTC instead of local time.
    #[arg(long, env = "REDIS_HEALTH_UTC", value_parser = FalseyValueParser::new())]
    pub utc: bool,

    /// Show the lines that cannot be read.
    #[arg(short, long, env = "REDIS_HEALTH_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,
}

/// Where and how to connect, and what to check.
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The endpoint's name or address; a name is resolved again for every connection [default: 127.0.0.1].
    #[arg(short = 'h', long, env = "REDIS_HEALTH_HOST")]
    pub host: Option<String>,

    /// The endpoint's port [default: 6379].
    #[arg(short, long, env = "REDIS_HEALTH_PORT", value_parser = port)]
    pub port: Option<u16>,

    /// Connect to a Unix socket instead.
    #[arg(short, long, value_name = "PATH", env = "REDIS_HEALTH_SOCKET")]
    pub socket: Option<PathBuf>,

    /// The endpoint as a URI: `redis://user:pass@host:port/db`, `rediss://…` for TLS, or `unix:///path/of/socket`.
    #[arg(short, long, env = "REDIS_HEALTH_URI", hide_env_values = true)]
    pub uri: Option<String>,

    /// The ACL user to authenticate as.
    #[arg(long, value_name = "NAME", env = "REDIS_HEALTH_USER")]
    pub user: Option<String>,

    /// The password. All users of this machine can see it in the process list: prefer `REDISCLI_AUTH` or a file.
    #[arg(short = 'a', long = "pass", value_name = "PASSWORD", env = "REDISCLI_AUTH", hide_env_values = true)]
    pub password: Option<String>,

    /// Read the password from the first line of a file.
    #[arg(long, value_name = "FILE", env = "REDIS_HEALTH_PASS_FILE", hide_env_values = true)]
    pub pass_file: Option<PathBuf>,

    /// Run a shell command and use the first line of its output as the password.
    #[arg(long, value_name = "COMMAND", env = "REDIS_HEALTH_PASSWORD_COMMAND", hide_env_values = true)]
    pub password_command: Option<String>,

    /// Prompt for the password on the terminal.
    #[arg(long, env = "REDIS_HEALTH_ASKPASS", value_parser = FalseyValueParser::new())]
    pub askpass: bool,

    #[cfg(feature = "iam")]
    #[command(flatten)]
    pub iam: Iam,

    /// Use TLS 1.2 or 1.3; the server's certificate must be valid for the host name.
    #[arg(long, env = "REDIS_HEALTH_TLS", value_parser = FalseyValueParser::new())]
    pub tls: bool,

    /// Trust the CA certificates in this file, or in the files of this folder, instead of the system's.
    #[arg(long, value_name = "PATH", env = "REDIS_HEALTH_CACERT")]
    pub cacert: Option<PathBuf>,

    /// The client certificate in PEM format; needs --key.
    #[arg(long, value_name = "FILE", env = "REDIS_HEALTH_CERT")]
    pub cert: Option<PathBuf>,

    /// The private key of the client certificate, in PEM format; needs --cert.
    #[arg(long, value_name = "FILE", env = "REDIS_HEALTH_KEY")]
    pub key: Option<PathBuf>,

    /// TLS server name, if not the host; the server's certificate must be valid for it.
    #[arg(long, value_name = "NAME", env = "REDIS_HEALTH_SNI")]
    pub sni: Option<String>,

    /// Accept any server certificate, even an expired one or one for another name; the connection is still encrypted.
    #[arg(long, env = "REDIS_HEALTH_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,

    /// Time limit of one check, from the name lookup to the last reply.
    #[arg(short, long, value_name = "DURATION", env = "REDIS_HEALTH_TIMEOUT", default_value = "2s")]
    #[arg(value_parser = units::timeout, allow_negative_numbers = true)]
    pub timeout: Duration,

    /// Check only this database.
    #[arg(short = 'n', long, value_name = "N", env = "REDIS_HEALTH_DB")]
    #[arg(value_parser = index, allow_negative_numbers = true)]
    pub db: Option<u32>,

    /// Check DB 0 without SELECT and INFO, for a proxy that does not know these commands, such as twemproxy. Change marks
    /// are missing then.
    #[arg(long, env = "REDIS_HEALTH_NO_SELECT", value_parser = FalseyValueParser::new())]
    pub no_select: bool,

    /// Check every node of a cluster, primaries and replicas, each over its own connection, and whether every slot is
    /// served. The node list comes from the endpoint, or from any node that is already known. Checks DB 0 unless
    /// --max-db or -n is given. With --canary each shard has its own write check.
    #[arg(short, long, env = "REDIS_HEALTH_CLUSTER", value_parser = FalseyValueParser::new())]
    pub cluster: bool,

    /// A check passes only if the server has this role.
    #[arg(long, value_name = "primary|replica", env = "REDIS_HEALTH_EXPECT_ROLE", value_parser = role)]
    pub expect_role: Option<Role>,

    /// Add a write to each check: write, read back and delete a temporary key with an expiry of 10 s. Only a write
    /// detects a demoted primary.
    #[arg(long, env = "REDIS_HEALTH_CANARY", value_parser = FalseyValueParser::new())]
    pub canary: bool,

    /// Time limit of one pass over several databases.
    #[arg(long, value_name = "DURATION", env = "REDIS_HEALTH_DEADLINE", default_value = "30s")]
    #[arg(value_parser = units::nonzero_duration, allow_negative_numbers = true)]
    pub deadline: Duration,
}

/// How to authenticate to ElastiCache with AWS credentials.
#[cfg(feature = "iam")]
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub struct Iam {
    /// Authenticate as `--user` with a token created from AWS credentials; needs `--iam-cache` and TLS.
    #[arg(long, env = "REDIS_HEALTH_IAM", value_parser = FalseyValueParser::new())]
    pub iam: bool,

    /// The id of the replication group or the serverless cache.
    #[arg(long, value_name = "NAME", env = "REDIS_HEALTH_IAM_CACHE")]
    pub iam_cache: Option<String>,

    /// The cache is serverless.
    #[arg(long, env = "REDIS_HEALTH_IAM_SERVERLESS", value_parser = FalseyValueParser::new())]
    pub iam_serverless: bool,

    /// The AWS region of the cache [default: the region configured for the AWS tools].
    #[arg(long, value_name = "REGION", env = "REDIS_HEALTH_REGION")]
    pub region: Option<String>,
}

/// Where and how records are written.
#[derive(Args)]
#[command(next_help_heading = "Logs")]
pub struct Common {
    /// The folder of the log files; it is created if it is missing.
    #[arg(long, value_name = "DIR", env = "REDIS_HEALTH_LOG_DIR", default_value = ".")]
    pub log_dir: PathBuf,

    /// The format of records: classic text lines, or one JSON object per line.
    #[arg(long, value_name = "classic|json", env = "REDIS_HEALTH_LOG_FORMAT", default_value = "classic")]
    #[arg(value_parser = log_format)]
    pub log_format: Format,

    /// Print one JSON document on stdout, and nothing else.
    #[arg(long, env = "REDIS_HEALTH_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,

    /// Write timestamps in UTC instead of local time.
    #[arg(long, env = "REDIS_HEALTH_UTC", value_parser = FalseyValueParser::new())]
    pub utc: bool,

    /// Write timestamps with milliseconds; `cycles` does this automatically if its interval is not whole seconds.
    #[arg(long, env = "REDIS_HEALTH_MILLIS", value_parser = FalseyValueParser::new())]
    pub millis: bool,

    /// Rotate log files daily, hourly, or before they grow beyond a size such as 10M.
    #[arg(long, value_name = "daily|hourly|SIZE", env = "REDIS_HEALTH_ROTATE", value_parser = rotation)]
    pub rotate: Option<Rotation>,

    /// How many days (with daily), hours (hourly) or files (SIZE) of rotated logs to keep; needs --rotate [default: all].
    #[arg(long, value_name = "COUNT", env = "REDIS_HEALTH_KEEP")]
    #[arg(value_parser = keep_count, allow_negative_numbers = true)]
    pub keep: Option<usize>,

    /// Write metrics in Prometheus' text format to this file, for node_exporter's textfile collector.
    #[arg(long, value_name = "PATH", env = "REDIS_HEALTH_METRICS_FILE")]
    pub metrics_file: Option<PathBuf>,

    /// Explain on stderr what each phase of a check did.
    #[arg(short, long, env = "REDIS_HEALTH_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,

    /// Write a diagnostic trace of each phase to this folder, one file per UTC day; the folder is created if it is missing.
    #[arg(long, value_name = "DIR", env = "REDIS_HEALTH_TRACE_DIR")]
    pub trace_dir: Option<PathBuf>,
}

/// The value of `--max-db`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxDb {
    Index(u32),
    Auto,
}

fn max_db(text: &str) -> Result<MaxDb, String> {
    match text {
        "auto" => Ok(MaxDb::Auto),
        text => index(text).map(MaxDb::Index).map_err(|error| format!("{error}, or auto")),
    }
}

fn index(text: &str) -> Result<u32, String> {
    let index = text.parse().ok().filter(|index| *index <= MAX_INDEX);
    index.ok_or_else(|| format!("must be an index from 0 to {MAX_INDEX}"))
}

fn cycle_count(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number from 1, such as 4".to_owned())
}

fn keep_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "must be a number from 0, such as 7".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "must be a port from 1 to 65535".to_owned())
}

fn role(text: &str) -> Result<Role, String> {
    [Role::Primary, Role::Replica]
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| "must be primary or replica".to_owned())
}

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "classic" => Ok(Format::Classic),
        "json" => Ok(Format::Json),
        _ => Err("must be classic or json".to_owned()),
    }
}

/// The smallest size for `--rotate`, in bytes. With `--rotate 10` the unit was forgotten.
const MIN_ROTATED: u64 = 1 << 10;

fn rotation(text: &str) -> Result<Rotation, String> {
    match text {
        "daily" => Ok(Rotation::Daily),
        "hourly" => Ok(Rotation::Hourly),
        size => match units::size(size) {
            Some(bytes) if bytes >= MIN_ROTATED => Ok(Rotation::Size(bytes)),
            Some(_) => Err("must be at least 1K; give the size with a unit, such as 10M".to_owned()),
            None => Err("must be daily, hourly, or a size such as 500K or 10M".to_owned()),
        },
    }
}
