//! `cycles`: the schedule, the lines, and how runs end.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Running, TestEnv, normalised};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

fn port(server: &Server) -> String {
    server.port().to_string()
}

/// The arguments of a run that lasts until it is ended.
fn endless<'a>(port: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["cycles", "-p", port, "--run-duration", "1h", "--check-interval", "50ms", "-t", "1"], more].concat()
}

#[test]
fn a_healthy_run_is_the_scripts_bytes() {
    let (env, server) = (TestEnv::new(), Real::start(&[]));
    let (success, errors) = (env.path().join("legacy.success"), env.path().join("legacy.error"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/legacy/redis_health.sh");
    let mut legacy = Command::new("bash");
    legacy.arg(script).env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", server.port().to_string());
    legacy.env("SUCCESS_LOG", &success).env("ERROR_LOG", &errors).env("CYCLES", "2").env("RUN_DURATION", "3");
    // The script counts whole seconds: begun late in one, and with its drift, it would make a check less.
    assert!(eventually(LIMIT, || chrono::Utc::now().timestamp_subsec_millis() < 100));
    let mut legacy = legacy.env("CHECK_INTERVAL", "1").env("BREAK_DURATION", "1").spawn().unwrap();
    let port = server.port().to_string();
    let output = env.run(&[
        "cycles",
        "-p",
        &port,
        "--cycles",
        "2",
        "--run-duration",
        "3",
        "--check-interval",
        "1",
        "--break-duration",
        "1",
    ]);
    legacy.wait().unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(normalised(&env.read("redis_success.log")), normalised(&std::fs::read_to_string(success).unwrap()));
    assert_eq!(env.read("redis_error.log"), "");
    assert!(output.elapsed >= Duration::from_secs(7));
    assert!(output.stdout.contains("6 checks"), "{}", output.stdout);
}

#[test]
fn several_databases_are_told_apart() {
    let (env, server) = (TestEnv::new(), Real::start(&["--databases", "2"]));
    let port = server.port().to_string();
    let output = env.run(&[
        "cycles",
        "-p",
        &port,
        "--max-db",
        "2",
        "--cycles",
        "1",
        "--run-duration",
        "0.6",
        "--check-interval",
        "0.5",
    ]);
    assert_eq!(output.code, Some(1));
    assert_eq!(
        normalised(&env.read("redis_success.log")),
        "=== Cycle 1 started at <time> ===\n<time> DB 0 SUCCESS 1\n<time> DB 1 SUCCESS 1\n<time> DB 0 SUCCESS 2\n\
         <time> DB 1 SUCCESS 2\n=== All cycles finished at <time> ===\n"
    );
    let failure = "<time> DB 2 FAILURE: no-such-db: ERR DB index is out of range\n";
    assert_eq!(
        normalised(&env.read("redis_error.log")),
        format!("{failure}=== Outage of DB 2 began at <time> ===\n{failure}")
    );
}

#[test]
fn an_outage_is_told_as_it_happens() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 2\n"));
    server.behave(Behaviour::Refuse);
    env.wait_for("redis_error.log", |text| text.matches("FAILURE: refused: Connection refused\n").count() >= 2);
    server.behave(Behaviour::Serve);
    let errors = env.wait_for("redis_error.log", |text| text.contains("Outage of endpoint ended"));
    run.signal(Signal::INT);
    let output = run.wait();
    assert_eq!(output.code, Some(130), "{output:?}");
    assert!(errors.contains("=== Outage of endpoint began at "), "{errors}");
    assert!(env.read("redis_success.log").contains("=== Stopped by SIGINT at "));
    for told in
        ["Checking DB 0 of 127.0.0.1:", "began at", "FAILURE: refused", "ended at", "at least", "Stopped by SIGINT"]
    {
        assert!(output.stdout.contains(told), "{told} in {}", output.stdout);
    }
}

#[test]
fn every_signal_ends_a_run_with_its_mark_and_summary() {
    for (signal, name, code) in
        [(Signal::HUP, "SIGHUP", 129), (Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)]
    {
        let (env, server) = (TestEnv::new(), Server::start());
        // A check that hangs must not hold the end up.
        server.behave(Behaviour::StallAfter(0));
        let port = port(&server);
        let run = env.spawn(&endless(&port, &["-t", "20"]));
        assert!(server.wait_accepted(1, LIMIT));
        run.signal(signal);
        let output = run.wait();
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(env.read("redis_success.log").contains(&format!("=== Stopped by {name} at ")));
        assert!(output.stdout.contains("checks still under way at the end"), "{output:?}");
        assert!(output.elapsed < Duration::from_secs(10), "waited for the check: {:?}", output.elapsed);
    }
}

#[test]
fn nohup_keeps_a_run_alive() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    let mut command = env.wrapped(&["nohup"], &endless(&port, &[]));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = Running::start_as_is(command);
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 1\n"));
    run.signal(Signal::HUP);
    let seen = env.read("redis_success.log").lines().count();
    env.wait_for("redis_success.log", |text| text.lines().count() > seen + 2);
    assert!(!run.has_ended() && !env.read("redis_success.log").contains("Stopped"));
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(143));
}

#[test]
fn a_log_folder_has_one_run_at_a_time() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    let first = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 1\n"));
    let second = env.run(&endless(&port, &[]));
    assert_eq!((second.code, second.stdout.as_str()), (Some(3), ""));
    assert!(second.stderr.contains("--log-dir") && second.stderr.lines().count() == 1, "{}", second.stderr);
    // A scan needs no lock, and another folder has its own.
    assert_eq!(env.run(&["dbs", "-p", &port]).code, Some(0));
    first.signal(Signal::KILL);
    assert_eq!(first.wait().signal, Some(9));
    let third = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.matches("=== Cycle 1 started").count() == 2);
    third.signal(Signal::TERM);
    assert_eq!(third.wait().code, Some(143));
}

#[test]
fn a_closed_standard_output_ends_no_run() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::Refuse);
    let port = port(&server);
    let mut command = env.command(&[
        "cycles",
        "-p",
        &port,
        "--cycles",
        "2",
        "--run-duration",
        "1",
        "--check-interval",
        "500ms",
        "--break-duration",
        "0",
    ]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    let output = Running::start_as_is(command).wait();
    assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""));
    assert_eq!(env.read("redis_error.log").matches("FAILURE: refused").count(), 4);
    assert!(env.read("redis_success.log").contains("All cycles finished"));
}

#[test]
fn a_check_that_hangs_delays_no_other() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::StallAfter(0));
    let port = port(&server);
    // Ten checks that each take ten intervals.
    let output = env.run(&[
        "cycles",
        "-p",
        &port,
        "--cycles",
        "1",
        "--run-duration",
        "1",
        "--check-interval",
        "100ms",
        "-t",
        "1",
    ]);
    assert_eq!(output.code, Some(1));
    assert_eq!(env.read("redis_error.log").matches("FAILURE: timeout: no reply to SELECT within 1s").count(), 10);
    // One after the other they would take ten seconds.
    assert!(output.elapsed < Duration::from_secs(5), "{:?}", output.elapsed);
}

#[test]
fn suspended_time_is_counted_and_not_made_up() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 2\n"));
    run.signal(Signal::STOP);
    // Time has to pass while nothing happens; how much is not important.
    std::thread::sleep(Duration::from_millis(600));
    let before = server.accepted();
    run.signal(Signal::CONT);
    let text = env.wait_for("redis_success.log", |text| text.contains("=== Not observed from "));
    let missed: u64 =
        text.split("checks missed: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!(missed >= 5, "{text}");
    assert!(eventually(LIMIT, || server.accepted() > before + 2));
    run.signal(Signal::TERM);
    let output = run.wait();
    assert!(output.stdout.contains(&format!("checks missed: {missed}")), "{output:?}");
}

#[test]
fn changes_are_marked() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 2\n"));
    server.become_(|nature| {
        nature.role = "slave";
        nature.info = vec![
            "redis_version:7.2.4".into(),
            "server_name:valkey".into(),
            "valkey_version:8.1.0".into(),
            "run_id:two".into(),
        ];
    });
    let text = env.wait_for("redis_success.log", |text| text.contains("run id one became two"));
    assert!(text.contains("=== Endpoint changed from primary to replica at "), "{text}");
    assert!(text.contains("=== Endpoint changed from redis 7.0.15 to valkey 8.1.0 at "), "{text}");
    run.signal(Signal::TERM);
    run.wait();
}

#[test]
fn the_wall_clock_may_step_without_consequence() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = port(&server);
    // libfaketime lets the wall clock run a hundred times as fast, and leaves the monotonic clock alone.
    let arguments =
        ["cycles", "-p", &port, "--cycles", "1", "--run-duration", "1", "--check-interval", "200ms", "--utc"];
    let mut command = env.wrapped(&["faketime", "-f", "@2025-10-26 00:59:50 x100"], &arguments);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    let output = Running::start(command).wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.elapsed >= Duration::from_secs(1), "{:?}", output.elapsed);
    let text = env.read("redis_success.log");
    assert_eq!(text.matches(" SUCCESS ").count(), 5, "{text}");
    assert!(text.contains("2025-10-26 01:00:"), "{text}");
    assert!(!text.contains("Not observed"), "{text}");
}
