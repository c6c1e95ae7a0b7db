//! A slow or stuck disk or output stream delays no check, is not reported as a failure of the server, and does not
//! block signals.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

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

/// Starts the binary with a disk on which each write takes `delay`.
fn start(env: &TestEnv, delay: Duration, arguments: &str) -> Running {
    let mut command = env.command(arguments);
    command.env("LD_PRELOAD", slow_write()).env("SLOW_WRITE_MILLIS", delay.as_millis().to_string());
    Running::start(command)
}

/// The numbers after SUCCESS in the log, sorted.
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
    // Every check is logged, although each write takes longer than seven intervals.
    let made = 50 - output.missed() as u64;
    assert_eq!(logged(&env).len() as u64, made, "{output:?}");
    assert!(output.stdout.contains(&format!("{made} checks, none failed")), "{}", output.stdout);
    assert!(!output.stdout.contains("could not be written"), "{}", output.stdout);
}

#[test]
fn a_stuck_disk_does_not_block_signals() {
    for (mode, signals) in [("cycles --check-interval 50ms", 1), ("cycles --check-interval 50ms", 2), ("dbs", 2)] {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = start(&env, Duration::from_secs(600), &format!("{mode} -p {}", server.port()));
        assert!(eventually(LIMIT, || server.finished() > 0));

        let start = Instant::now();
        run.signal(Signal::TERM);
        if signals == 2 {
            // If both signals arrived together, they would count as one.
            std::thread::sleep(Duration::from_millis(300));
            run.signal(Signal::TERM);
        }
        let output = run.wait();
        let took = start.elapsed();
        assert_eq!(output.code, Some(143), "{mode} {signals}: {output:?}");
        assert!(output.stderr.contains("records that could not be written in time: "), "{mode} {signals}: {output:?}");
        // After the first signal the records get 5 s to be written, after the second signal none.
        let in_time = if signals == 1 { took >= Duration::from_secs(4) } else { took < Duration::from_secs(4) };
        assert!(in_time, "{mode} {signals}: {took:?}");
    }
}

/// A full pipe: writes to it block until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();

    rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'.'; 512]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_scan_is_logged_before_it_is_printed() {
    let (env, server) = (TestEnv::new(), Server::start());
    let (reader, writer) = full_pipe();
    let mut command = env.command(&format!("dbs -p {}", server.port()));
    command.stdout(writer).stderr(Stdio::piped());
    let run = Running::start_as_is(command);

    let block = env.wait_for("redis_db_health.log", |log| log.ends_with("DB 15: RUNNING\n\n"));
    assert_eq!(block.matches("RUNNING").count(), 16, "{block}");
    run.signal(Signal::TERM);
    let output = run.wait();
    assert_eq!(output.code, Some(143), "{output:?}");
    assert!(output.stderr.contains("all records were written"), "{output:?}");
    drop(reader);
}

#[test]
fn stuck_streams_do_not_block_signals() {
    for flags in ["dbs -q", "dbs -v", "dbs --json", "cycles -v --check-interval 50ms", "cycles --json"] {
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(Behaviour::StallAfter(4));
        let ((out_reader, out), (error_reader, error)) = (full_pipe(), full_pipe());
        let mut command = env.command(&format!("{flags} -p {}", server.port()));
        command.stdout(out).stderr(error);
        let run = Running::start_as_is(command);
        assert!(server.wait_accepted(1, LIMIT), "{flags}");
        assert!(eventually(LIMIT, || !server.commands().is_empty()), "{flags}");

        let start = Instant::now();
        run.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(300));
        run.signal(Signal::TERM);
        assert_eq!(run.wait().code, Some(143), "{flags}");
        assert!(start.elapsed() < Duration::from_secs(4), "{flags}: {:?}", start.elapsed());
        drop((out_reader, error_reader));
    }
}

#[test]
fn a_signal_after_the_last_check_does_not_change_the_result() {
    let (env, server) = (TestEnv::new(), Server::start());
    let (mut reader, writer) = full_pipe();
    let schedule = "--cycles 1 --run-duration 1 --check-interval 500ms";
    let mut command = env.command(&format!("cycles {schedule} -p {}", server.port()));
    command.stdout(writer).stderr(Stdio::piped());
    let run = Running::start_as_is(command);

    env.wait_for("redis_success.log", |log| log.contains("=== All cycles finished"));
    run.signal(Signal::TERM);
    let read = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()).is_ok());
    let output = run.wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(read.join().unwrap());
}
