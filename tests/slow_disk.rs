//! A disk that is slow or stuck delays no check, is not taken for the server's fault, and does not hold up the end.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{LIMIT, Server, eventually};

/// The library that delays writes to log files, built once.
fn slow_write() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("slow_write.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/slow_write.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).args([source, "-ldl"]).status();
        assert!(built.is_ok_and(|status| status.success()), "cc cannot build {source}");
        library
    })
}

/// Starts the binary on a disk that takes so long for each write.
fn start(env: &TestEnv, delay: Duration, arguments: &str) -> Running {
    let mut command = env.command(arguments);
    command.env("LD_PRELOAD", slow_write()).env("SLOW_WRITE_MILLIS", delay.as_millis().to_string());
    Running::start(command)
}

/// The numbers behind SUCCESS in the log, sorted.
fn logged(env: &TestEnv) -> Vec<u64> {
    let text = env.read("redis_success.log");
    let mut numbers: Vec<_> = text.lines().filter_map(|line| line.split(" SUCCESS ").nth(1)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn a_slow_disk_delays_no_check() {
    let (env, server) = (TestEnv::new(), Server::start());
    let arguments = format!("cycles -p {} --cycles 1 --run-duration 2 --check-interval 40ms", server.port());
    let output = start(&env, Duration::from_millis(300), &arguments).wait();

    assert_eq!(output.code, Some(0), "{output:?}");
    // Every check that was made in time is there, and one write of 300 ms would be seven of them.
    let made = 50 - output.missed() as u64;
    assert_eq!(logged(&env).len() as u64, made, "{output:?}");
    assert!(output.stdout.contains(&format!("{made} checks, none failed")), "{}", output.stdout);
    assert!(!output.stdout.contains("could not be written"), "{}", output.stdout);
}

#[test]
fn a_stuck_disk_keeps_no_signal_waiting() {
    for (mode, signals) in [("cycles --check-interval 50ms", 1), ("cycles --check-interval 50ms", 2), ("dbs", 2)] {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = start(&env, Duration::from_secs(600), &format!("{mode} -p {}", server.port()));
        assert!(eventually(LIMIT, || server.finished() > 0));

        let start = std::time::Instant::now();
        run.signal(Signal::TERM);
        if signals == 2 {
            // The second signal must not come together with the first.
            std::thread::sleep(Duration::from_millis(300));
            run.signal(Signal::TERM);
        }
        let output = run.wait();
        let took = start.elapsed();
        assert_eq!(output.code, Some(143), "{mode} {signals}: {output:?}");
        assert!(output.stderr.contains("records that could not be written in time: "), "{mode} {signals}: {output:?}");
        // The records get five seconds after the first signal, and none after the second.
        let in_time = if signals == 1 { took >= Duration::from_secs(4) } else { took < Duration::from_secs(4) };
        assert!(in_time, "{mode} {signals}: {took:?}");
    }
}
