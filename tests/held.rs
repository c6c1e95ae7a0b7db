//! `cycles --held`: one connection that is kept open beside the fresh ones.

use rustix::process::Signal;

use crate::support::env::{TestEnv, normalised};
use crate::support::real::{Real, free_port};

/// The arguments of a run that lasts until it is ended.
fn endless<'a>(port: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["cycles", "--held", "-p", port, "--run-duration", "1h", "--check-interval", "50ms", "-t", "1"], more].concat()
}

/// The number of the last success of the kept connection.
fn last_success(text: &str) -> u64 {
    let line = text.lines().rev().find(|line| line.contains(" HELD SUCCESS "));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn a_kept_connection_has_lines_of_its_own() {
    let (env, server) = (TestEnv::new(), Real::start(&[]));
    let port = server.port().to_string();
    let before = connections(&server);
    let output = env.run(&[
        "cycles",
        "--held",
        "-p",
        &port,
        "--max-db",
        "1",
        "--cycles",
        "1",
        "--run-duration",
        "1.5",
        "--check-interval",
        "1",
    ]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let text = normalised(&env.read("redis_success.log"));
    for line in ["DB 0 SUCCESS 1", "DB 1 SUCCESS 1", "HELD SUCCESS 1", "DB 1 SUCCESS 2", "HELD SUCCESS 2"] {
        assert_eq!(text.matches(&format!("<time> {line}\n")).count(), 1, "{line} in {text}");
    }
    assert!(output.stdout.contains("a held one"), "{output:?}");
    // Two fresh ones, the kept one, and the second look itself.
    assert_eq!(connections(&server), before + 4);
}

fn connections(server: &Real) -> u64 {
    let info = server.command(&["INFO", "stats"]);
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn a_kept_connection_that_breaks_is_an_outage_and_is_replaced() {
    let (env, server) = (TestEnv::new(), Real::start(&[]));
    let port = server.port().to_string();
    let run = env.spawn(&endless(&port, &[]));
    let text = env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 2\n"));
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let errors = env.wait_for("redis_error.log", |text| text.contains("=== Outage of HELD ended at "));
    assert!(errors.contains(" HELD FAILURE: closed: ") || errors.contains(" HELD FAILURE: reset: "), "{errors}");
    assert!(errors.contains("=== Outage of HELD began at "), "{errors}");
    let seen = last_success(&text);
    env.wait_for("redis_success.log", |text| last_success(text) > seen + 3);
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(143));
    // The server was there all the time, and only the kept connection was cut, or a fresh one in the middle of a check.
    assert_eq!(env.read("redis_error.log").matches(" HELD FAILURE: ").count(), 1);
}

#[test]
fn a_kept_connection_cannot_be_opened_where_nobody_listens() {
    let env = TestEnv::new();
    let port = free_port().to_string();
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_error.log", |text| text.matches(" HELD FAILURE: refused: Connection refused\n").count() >= 2);
    run.signal(Signal::TERM);
    run.wait();
}

#[test]
fn a_demoted_primary_keeps_answering_and_takes_no_more_writes() {
    let (env, server, other) = (TestEnv::new(), Real::start(&[]), Real::start(&[]));
    let port = server.port().to_string();
    let run = env.spawn(&endless(&port, &["--canary"]));
    env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 2\n"));
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]), "+OK");
    env.wait_for("redis_success.log", |text| text.contains("=== HELD changed from primary to replica at "));
    let errors = env.wait_for("redis_error.log", |text| text.contains(" HELD WRITE FAILURE: readonly: "));
    assert!(errors.contains(" HELD WRITE FAILURE: readonly: READONLY You can't write against a read only"), "{errors}");
    assert!(!errors.contains(" HELD FAILURE: "), "{errors}");
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of HELD WRITE ended at "));
    run.signal(Signal::TERM);
    let output = run.wait();
    assert!(output.stdout.contains("HELD WRITE"), "{output:?}");
    // It was the same connection all the time.
    assert!(!env.read("redis_error.log").contains(" HELD FAILURE: "));
}

#[test]
fn a_demoted_primary_is_healthy_to_a_kept_connection_that_only_reads() {
    let (env, server, other) = (TestEnv::new(), Real::start(&[]), Real::start(&[]));
    let port = server.port().to_string();
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 2\n"));
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]), "+OK");
    let marked = |text: &str| text.contains("=== HELD changed from primary to replica at ");
    let seen = last_success(&env.wait_for("redis_success.log", marked));
    env.wait_for("redis_success.log", |text| last_success(text) > seen + 3);
    run.signal(Signal::TERM);
    run.wait();
    assert_eq!(env.read("redis_error.log"), "");
}

#[test]
fn an_expected_role_counts_on_the_kept_connection_too() {
    let (env, server, other) = (TestEnv::new(), Real::start(&[]), Real::start(&[]));
    let port = server.port().to_string();
    let run = env.spawn(&endless(&port, &["--expect-role", "primary"]));
    env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 2\n"));
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]), "+OK");
    env.wait_for("redis_error.log", |text| {
        text.contains(" HELD FAILURE: role: the server is a replica, not a primary\n")
    });
    run.signal(Signal::TERM);
    run.wait();
}

#[test]
fn a_kept_connection_that_waits_is_not_asked_again() {
    let (env, server) = (TestEnv::new(), Real::start(&[]));
    let port = server.port().to_string();
    let run = env.spawn(&endless(&port, &[]));
    env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 2\n"));
    server.freeze();
    let errors = env.wait_for("redis_error.log", |text| text.matches(" HELD FAILURE: timeout: ").count() == 2);
    server.thaw();
    let fresh = errors.lines().filter(|line| line.contains(" FAILURE: ") && !line.contains("HELD")).count();
    assert!(fresh > 10, "{errors}");
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of HELD ended at "));
    run.signal(Signal::TERM);
    run.wait();
}

#[test]
fn a_kept_connection_does_not_go_with_a_cluster() {
    let env = TestEnv::new();
    for (flag, arguments) in [
        ("--held", vec!["cycles", "--cluster", "--held"]),
        ("--expect-role", vec!["dbs", "-c", "--expect-role", "primary"]),
    ] {
        let output = env.run(&arguments);
        assert_eq!(output.code, Some(2), "{output:?}");
        let told = format!("{flag} and --cluster contradict each other; leave one of them out");
        assert!(output.stderr.contains(&told) && output.stderr.lines().count() == 1, "{output:?}");
    }
}
