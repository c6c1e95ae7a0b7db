//! Simulates an engine upgrade in ten seconds and shows what redis-health reports.
//!
//!     cargo run --release --example upgrade_drill
//!     cargo run --release --example upgrade_drill -- --engines redis-server valkey-server
//!     cargo run --release --example upgrade_drill -- --host cache.example --port 6379
//!
//! Without flags it starts a test server inside this process, checks it with the real `dbs` and `cycles`, and meanwhile
//! puts the server through the stages of an upgrade. With `--engines` it starts two real servers, the new one as a
//! replica of the old one, and does what ElastiCache does: failover, close connections, move the name, stop the old
//! server. With `--host` or `--port` it checks your own server in the same way; the upgrade itself is up to you.

#[path = "../tests/support/real.rs"]
#[allow(dead_code)]
mod real;
#[path = "../tests/support/scripted.rs"]
#[allow(dead_code)]
mod scripted;
#[path = "../tests/support/upgrade.rs"]
#[allow(dead_code)]
mod upgrade;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use redis_health::Exit;
use scripted::{Behaviour, Server};
use upgrade::{NAME, Upgrade};

/// Simulates an engine upgrade and shows what redis-health reports.
#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Flags {
    /// Use two real servers: the program of the old engine and that of the new one, such as redis-server and
    /// valkey-server.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["host", "port", "canary", "held"])]
    engines: Option<Vec<PathBuf>>,
    /// Check this server instead of the built-in test server.
    #[arg(short = 'h', long)]
    host: Option<String>,
    /// The port of that server.
    #[arg(short, long)]
    port: Option<u16>,
    /// Also write a key in each check of that server, as the drill does with its own servers.
    #[arg(long)]
    canary: bool,
    /// Also keep one connection open, as an application's connection pool does.
    #[arg(long)]
    held: bool,
    /// How long to check, in seconds.
    #[arg(long, default_value = "9")]
    seconds: u32,
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if let Some([old, new]) = flags.engines.as_deref() {
        return rehearse(old, new, flags.seconds);
    }
    let own = flags.host.is_none() && flags.port.is_none();
    let server = own.then(Server::start);
    let host = flags.host.unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = server.as_ref().map_or(flags.port.unwrap_or(6379), Server::port);
    let probes: Vec<&str> = [("--canary", own || flags.canary), ("--held", flags.held)]
        .into_iter()
        .filter(|probe| probe.1)
        .map(|probe| probe.0)
        .collect();
    let stages = || server.map(|server| thread::spawn(move || go_through(server)));
    let (exit, stages) = show(&host, port, &probes, flags.seconds, stages)?;
    if let Some(stages) = stages {
        let _ = stages.join();
        return Ok(noticed(exit));
    }
    Ok(exit.into())
}

/// The drill succeeds only if redis-health reported failed checks.
fn noticed(exit: Exit) -> ExitCode {
    if exit == Exit::Failed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `dbs` and `cycles` against a server and prints the logs. `meanwhile` is called just before `cycles` starts.
fn show<T>(
    host: &str,
    port: u16,
    probes: &[&str],
    seconds: u32,
    meanwhile: impl FnOnce() -> T,
) -> anyhow::Result<(Exit, T)> {
    let folder = std::env::temp_dir().join(format!("redis-health-drill-{}", std::process::id()));
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let endpoint = ["-h", host, "-p", &port];

    heading("redis-health dbs: every logical database, once");
    run(&[&["dbs"], &endpoint[..], &["--max-db", "auto"]].concat(), &folder)?;

    heading("redis-health cycles: four checks a second while the endpoint is upgraded");
    let schedule = ["--cycles", "1", "--run-duration", &seconds, "--check-interval", "250ms", "--timeout", "500ms"];
    let arguments = [&["cycles"], &endpoint[..], &schedule, probes].concat();
    say_command(&arguments);
    let meanwhile = meanwhile();
    let exit = run_silently(&arguments, &folder)?;

    for name in ["redis_db_health.log", "redis_success.log", "redis_error.log"] {
        heading(name);
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        say(format_args!("{}", shortened(&text).trim_end()));
    }
    std::fs::remove_dir_all(&folder)?;
    Ok((exit, meanwhile))
}

/// Prints each stage and makes its change. Stages start on schedule, however long the changes take.
struct Stages {
    start: Instant,
    until: Duration,
}

impl Stages {
    fn begin() -> Self {
        Stages { start: Instant::now(), until: Duration::ZERO }
    }

    fn stage(&mut self, name: &str, lasts: u64, change: impl FnOnce()) {
        say(format_args!("\x1b[36m--- {name}\x1b[0m"));
        change();
        self.until += Duration::from_millis(lasts);
        thread::sleep(self.until.saturating_sub(self.start.elapsed()));
    }
}

/// Puts the built-in test server through the stages of an upgrade.
fn go_through(server: Server) -> Server {
    let mut stages = Stages::begin();
    stages.stage("the old primary is up", 1_600, || {});
    stages.stage("its connections are reset", 1_000, || {
        server.behave(Behaviour::ResetOnAccept);
        server.cut();
    });
    stages.stage("connections are refused", 1_000, || server.behave(Behaviour::Refuse));
    stages.stage("the new server is loading its data", 1_000, || {
        server.become_(|nature| {
            nature.info = ["redis_version:7.2.4", "server_name:valkey", "valkey_version:8.1.0", "run_id:new"]
                .map(String::from)
                .into();
        });
        server.behave(Behaviour::ErrorFor("PING", "LOADING Valkey is loading the dataset in memory".to_owned()));
    });
    stages.stage("the new server is a replica: it answers PING and rejects writes", 1_500, || {
        server.become_(|nature| nature.role = "slave");
        server.behave(Behaviour::Serve);
    });
    stages.stage("the new server is the primary, with a newer version", 0, || {
        server.become_(|nature| nature.role = "master")
    });
    server
}

/// Simulates the upgrade with real servers. The checks run in a child process in which the endpoint's name resolves.
fn rehearse(old: &Path, new: &Path, seconds: u32) -> anyhow::Result<ExitCode> {
    let mut upgrade = Upgrade::start(old, new);
    let surroundings = upgrade.surroundings();
    let inside = |program: &Path| {
        let mut command = Command::new(&surroundings[0]);
        command.args(&surroundings[1..]).arg(program);
        command
    };
    let possible =
        inside(Path::new("true")).status().context("--engines: the command unshare is missing; install util-linux")?;
    ensure!(possible.success(), "--engines: cannot create a mount namespace; run the drill as root");
    heading(&format!("{} is the primary; {} is its replica and in sync", old.display(), new.display()));
    let mut command = inside(&std::env::current_exe()?);
    command.args(["--host", NAME, "--port", &upgrade.port().to_string(), "--canary", "--held"]);
    let mut checks = command.args(["--seconds", &seconds.to_string()]).spawn()?;

    thread::sleep(Duration::from_secs(2));
    let mut stages = Stages::begin();
    stages.stage("failover: the new server is the primary; the name still points to the old one", 1_500, || {
        upgrade.fail_over();
        upgrade.wait_failed_over();
    });
    stages.stage("the old server closes its connections", 1_000, || upgrade.cut());
    stages.stage("the name moves to the new server", 1_500, || upgrade.move_name());
    stages.stage("the old server is stopped", 0, || upgrade.retire());

    let status = checks.wait()?;
    Ok(if status.code() == Some(1) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the command, then runs redis-health in this process with its logs in `folder`.
fn run(arguments: &[&str], folder: &Path) -> anyhow::Result<Exit> {
    say_command(arguments);
    run_silently(arguments, folder)
}

fn say_command(arguments: &[&str]) {
    say(format_args!("$ redis-health {}\n", arguments.join(" ")));
}

fn run_silently(arguments: &[&str], folder: &Path) -> anyhow::Result<Exit> {
    let words = ["redis-health"].iter().chain(arguments).map(OsString::from);
    redis_health::run(words.chain(["--log-dir".into(), folder.into()]))
}

/// Prints a line. Errors are ignored: if the reader is gone, the servers must still be stopped.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn heading(text: &str) {
    say(format_args!("\n\x1b[1m{text}\x1b[0m"));
}

/// The log, with the middle of each long run of similar lines left out.
fn shortened(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let kind = |line: &str| line.contains(" SUCCESS ") || line.ends_with(": RUNNING");
    let mut shown = String::new();
    for run in lines.chunk_by(|a, b| kind(a) == kind(b)) {
        match run {
            [first, second, .., last] if run.len() > 6 && kind(first) => {
                shown += &format!("{first}\n{second}\n… {} more lines\n{last}\n", run.len() - 3);
            }
            run => run.iter().for_each(|line| shown += &format!("{line}\n")),
        }
    }
    shown
}
