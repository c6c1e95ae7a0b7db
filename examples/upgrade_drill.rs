//! An upgrade in fifteen seconds: what redis-health shows while an endpoint goes through the stages of an engine
//! upgrade.
//!
//!     cargo run --release --example upgrade_drill
//!     cargo run --release --example upgrade_drill -- --host cache.example --port 6379
//!
//! Without flags it starts a small server inside this process, checks it with the real `dbs` and `cycles`, and takes the
//! server through the stages meanwhile. With `--host` or `--port` it checks a server of yours in the same way and leaves
//! the stages to you.

#[path = "../tests/support/scripted.rs"]
#[allow(dead_code)]
mod scripted;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use redis_health::exit::Exit;
use scripted::{Behaviour, Server};

/// Shows redis-health at work on an upgrade.
#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Flags {
    /// Check this server instead of the drill's own.
    #[arg(short = 'h', long)]
    host: Option<String>,
    #[arg(short, long)]
    port: Option<u16>,
    /// How long to check, in seconds.
    #[arg(long, default_value = "9")]
    seconds: u32,
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    let folder = std::env::temp_dir().join(format!("redis-health-drill-{}", std::process::id()));
    let own = flags.host.is_none() && flags.port.is_none();
    let server = own.then(Server::start);
    let host = flags.host.unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = server.as_ref().map_or(flags.port.unwrap_or(6379), Server::port).to_string();

    heading("redis-health dbs: every logical database, once");
    run(&["dbs", "-h", &host, "-p", &port, "--max-db", "auto"], &folder)?;

    heading("redis-health cycles: four checks a second while the endpoint is upgraded");
    let stages = server.map(|server| {
        thread::spawn(move || {
            upgrade(&server);
            server
        })
    });
    let seconds = flags.seconds.to_string();
    let schedule = ["--cycles", "1", "--run-duration", &seconds, "--check-interval", "250ms", "--timeout", "500ms"];
    let exit = run(&[&["cycles", "-h", &host, "-p", &port], schedule.as_slice()].concat(), &folder)?;

    for name in ["redis_db_health.log", "redis_success.log", "redis_error.log"] {
        heading(name);
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        print!("{}", shortened(&text));
    }
    std::fs::remove_dir_all(&folder)?;
    if let Some(stages) = stages {
        let _ = stages.join();
        // The upgrade was real enough only if it was noticed.
        return Ok(if exit == Exit::Failed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    Ok(exit.into())
}

/// What an endpoint goes through, and how long each stage lasts.
fn upgrade(server: &Server) {
    let start = Instant::now();
    let mut until = Duration::ZERO;
    let mut stage = |name: &str, lasts: u64, change: &dyn Fn()| {
        println!("  --- {name}");
        change();
        until += Duration::from_millis(lasts);
        thread::sleep(until.saturating_sub(start.elapsed()));
    };
    stage("the old primary serves", 1_500, &|| {});
    stage("its connections are reset", 1_000, &|| {
        server.behave(Behaviour::ResetOnAccept);
        server.cut();
    });
    stage("nobody listens", 1_000, &|| server.behave(Behaviour::Refuse));
    stage("the new server loads its data", 1_000, &|| {
        server.become_(|nature| {
            nature.info = ["redis_version:7.2.4", "server_name:valkey", "valkey_version:8.1.0", "run_id:new"]
                .map(String::from)
                .into();
        });
        server.behave(Behaviour::ErrorFor("PING", "LOADING Valkey is loading the dataset in memory".to_owned()));
    });
    stage("it serves as a replica and is read-only", 1_000, &|| {
        server.become_(|nature| nature.role = "slave");
        server.behave(Behaviour::Serve);
    });
    stage("it is the primary, of a newer version", 0, &|| server.become_(|nature| nature.role = "master"));
}

/// Runs the tool in this process, its logs in `folder`.
fn run(arguments: &[&str], folder: &Path) -> anyhow::Result<Exit> {
    println!("$ redis-health {}\n", arguments.join(" "));
    let words = ["redis-health"].iter().chain(arguments).map(OsString::from);
    redis_health::run(words.chain(["--log-dir".into(), folder.into()]))
}

fn heading(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

/// A log with the middle of each long run of like lines left out.
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
