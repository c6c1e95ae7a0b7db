//! `cycles --held`: checks over a persistent connection in addition to fresh ones.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::logs::{last_success, normalised};
use crate::support::real::{Real, free_port};
use crate::support::scripted::{Behaviour, Server};

#[test]
fn the_persistent_connection_has_its_own_lines() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let port = server.port();
    let before = connections(&server);
    let schedule = "--cycles 1 --run-duration 1.5 --check-interval 1";
    let output = env.run(&format!("cycles --held -p {port} --max-db 1 {schedule}"));

    assert_eq!(output.code, Some(0), "{output:?}");

    let text = normalised(&env.read("redis_success.log"));
    for line in ["DB 0 SUCCESS 1", "DB 1 SUCCESS 1", "HELD SUCCESS 1", "DB 1 SUCCESS 2", "HELD SUCCESS 2"] {
        assert_eq!(text.matches(&format!("<time> {line}\n")).count(), 1, "{line} in {text}");
    }

    assert!(output.stdout.contains("a persistent one"), "{output:?}");

    // Four new connections: two fresh ones, the persistent one, and that of the second `connections` call.
    assert_eq!(connections(&server), before + 4);
}

fn connections(server: &Real) -> u64 {
    server.info("INFO stats", "total_connections_received").parse().expect("a number")
}

#[test]
fn a_connection_that_was_closed_while_idle_is_replaced_without_a_failure() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let run = env.endless(&format!("--held -p {} --check-interval 100ms", server.port()));
    env.wait_for("redis_success.log", |text| text.matches(" HELD SUCCESS ").count() >= 2);
    for count in 1..=3 {
        server.command("CLIENT KILL TYPE normal");
        let text = env
            .wait_for("redis_success.log", |text| text.matches("=== HELD closed by the server at ").count() == count);
        let seen = last_success(&text, "HELD");
        env.wait_for("redis_success.log", |text| last_success(text, "HELD") > seen);
    }

    let output = run.stop();
    assert_eq!(output.row("HELD").1, 0, "{output:?}");
    assert!(!env.read("redis_error.log").contains("HELD"), "{output:?}");
    assert_eq!(output.stdout.matches("=== HELD closed by the server at ").count(), 3, "{output:?}");

    // The report shows the changes too.
    let report = env.run("report");
    assert_eq!(report.stdout.matches(" HELD closed by the server\n").count(), 3, "{report:?}");
}

#[test]
fn errors_that_a_pooled_client_does_not_see_are_no_failures() {
    for (behaviour, flags, mark) in [
        // Shorter than the interval, as that of a server or a proxy.
        (Behaviour::CloseIdle(Duration::from_millis(20)), "", "closed by the server"),
        // Each check reads four replies: the connection breaks within the second check.
        (Behaviour::CloseAfter(5), "", "closed by the server"),
        (Behaviour::ResetAfter(5), "", "closed by the server"),
        (Behaviour::StallAfter(5), "-t 400ms", "replaced after no reply"),
    ] {
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(behaviour.clone());
        let schedule = "--cycles 1 --run-duration 3 --check-interval 500ms";
        let output = env.run(&format!("cycles --held -p {} {schedule} {flags}", server.port()));

        assert_eq!(output.row("HELD").1, 0, "{behaviour:?}: {output:?}");
        let marks = output.stdout.matches(&format!("=== HELD {mark} at ")).count();
        assert!(marks >= 2, "{behaviour:?}: {output:?}");
    }
}

#[test]
fn a_server_that_is_not_ready_is_waited_for() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("--held -p {} -t 20", server.port()));
    env.wait_for("redis_success.log", |text| text.matches(" HELD SUCCESS ").count() >= 2);
    for behaviour in [
        Behaviour::Refuse,
        Behaviour::ResetOnAccept,
        Behaviour::Error("LOADING Redis is loading the dataset in memory".into()),
        Behaviour::OnAccept(b"-ERR max number of clients reached\r\n".into()),
    ] {
        let failures = env.count("redis_error.log", " FAILURE: ");
        server.behave(behaviour);
        server.cut();
        env.wait_for("redis_error.log", |text| text.matches(" FAILURE: ").count() > failures + 10);
        let seen = last_success(&env.read("redis_success.log"), "HELD");
        server.behave(Behaviour::Serve);
        env.wait_for("redis_success.log", |text| last_success(text, "HELD") > seen);
    }
    let output = run.stop();
    assert_eq!(output.row("HELD").1, 0, "{output:?}");
}

#[test]
fn a_persistent_connection_can_be_refused() {
    let env = TestEnv::new();
    let port = free_port();
    let run = env.endless(&format!("--held -p {port} -t 500ms"));
    env.wait_for("redis_error.log", |text| text.matches(" HELD FAILURE: refused: Connection refused\n").count() >= 2);
    run.stop();
}

#[test]
fn a_demoted_primary_still_answers_but_rejects_writes() {
    let (env, server, other) = (TestEnv::new(), Real::start(""), Real::start(""));
    let port = server.port();
    let run = env.endless_until(&format!("--held -p {port} --canary"), " HELD SUCCESS ");

    assert_eq!(server.command(&format!("REPLICAOF 127.0.0.1 {}", other.port())), "+OK");

    env.wait_for("redis_success.log", |text| text.contains("=== HELD changed from primary to replica at "));
    let errors = env.wait_for("redis_error.log", |text| text.contains(" HELD WRITE FAILURE: readonly: "));
    assert!(errors.contains(" HELD WRITE FAILURE: readonly: READONLY You can't write against a read only"), "{errors}");
    assert!(!errors.contains(" HELD FAILURE: "), "{errors}");
    assert_eq!(server.command("REPLICAOF NO ONE"), "+OK");

    env.wait_for("redis_error.log", |text| text.contains("=== Outage of HELD WRITE ended at "));
    let output = run.stop();
    assert!(output.stdout.contains("HELD WRITE"), "{output:?}");

    // The connection was never replaced.
    assert!(!env.read("redis_error.log").contains(" HELD FAILURE: "));
}

#[test]
fn a_demoted_primary_passes_checks_without_writes() {
    let (env, server, other) = (TestEnv::new(), Real::start(""), Real::start(""));
    let port = server.port();
    let run = env.endless_until(&format!("--held -p {port}"), " HELD SUCCESS ");

    assert_eq!(server.command(&format!("REPLICAOF 127.0.0.1 {}", other.port())), "+OK");

    let marked = |text: &str| text.contains("=== HELD changed from primary to replica at ");
    let seen = last_success(&env.wait_for("redis_success.log", marked), "HELD");
    env.wait_for("redis_success.log", |text| last_success(text, "HELD") > seen + 3);
    run.stop();

    assert_eq!(env.read("redis_error.log"), "");
}

#[test]
fn the_expected_role_is_checked_on_the_persistent_connection_too() {
    let (env, server, other) = (TestEnv::new(), Real::start(""), Real::start(""));
    let port = server.port();
    let run = env.endless_until(&format!("--held -p {port} --expect-role primary"), " HELD SUCCESS ");

    assert_eq!(server.command(&format!("REPLICAOF 127.0.0.1 {}", other.port())), "+OK");

    env.wait_for("redis_error.log", |text| {
        text.contains(" HELD FAILURE: role: the server is a replica, not a primary\n")
    });
    run.stop();
}

#[test]
fn nothing_is_sent_over_a_persistent_connection_that_is_waiting() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let port = server.port();
    let run = env.endless_until(&format!("--held -p {port} -t 1"), " HELD SUCCESS ");
    server.freeze();
    let timeouts = |text: &str| text.matches(" HELD FAILURE: timeout: ").count();
    let errors = env.wait_for("redis_error.log", |text| timeouts(text) >= 2);
    server.thaw();

    // A fresh connection is checked on every tick, the persistent one only after each timeout.
    let fresh = errors.lines().filter(|line| line.contains(" FAILURE: ") && !line.contains("HELD")).count();
    assert!(fresh > 5 * timeouts(&errors), "{errors}");

    env.wait_for("redis_error.log", |text| text.contains("=== Outage of HELD ended at "));
    run.stop();
}

#[test]
fn flags_that_cannot_be_combined_with_cluster() {
    for (flag, arguments) in [("--held", "cycles --cluster --held"), ("--expect-role", "dbs -c --expect-role primary")]
    {
        let env = TestEnv::new();
        let error = format!("{flag} and --cluster cannot be used together");
        env.assert_refused(&env.run(arguments), &error, "leave one of them out", arguments);
    }
}
