//! The checks beyond PING: `--canary` and `--expect-role`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::thread;
use std::time::Duration;

use crate::support::env::{Output, TestEnv};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// The arguments for a run with one cycle.
fn cycle(port: u16, lasts: &str, flags: &str) -> String {
    format!("cycles -p {port} --cycles 1 --run-duration {lasts} --check-interval 50ms {flags}")
}

#[test]
fn a_canary_key_has_an_expiry_and_is_deleted_at_once() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let monitor = server.send("MONITOR");
    let mut monitor = BufReader::new(monitor).lines().map(Result::unwrap);

    assert_eq!(monitor.next().as_deref(), Some("+OK"));

    let port = server.port();
    assert_eq!(env.run(&format!("dbs -p {port} --canary")).code, Some(0));

    let output = env.run(&cycle(port, "0.5", "--canary"));
    assert_eq!(output.code, Some(0));

    let made = 26 - output.missed();
    assert_eq!(server.command("INFO keyspace"), "# Keyspace\r\n");

    // `+1756280101.250000 [0 127.0.0.1:50000] "SET" "redis-health:canary:…" "0" "PX" "10000"`
    let seen: Vec<Vec<String>> = monitor
        .take_while(|line| !line.contains("\"keyspace\""))
        .map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect())
        .collect();
    let of = |name: &str| seen.iter().filter(|words| words[0] == name).collect::<Vec<_>>();
    let (sets, gets, dels) = (of("SET"), of("GET"), of("DEL"));
    assert_eq!((sets.len(), gets.len(), dels.len()), (made, made, made), "{seen:?}");

    for ((set, get), del) in sets.iter().zip(gets).zip(dels) {
        assert!(set[1].starts_with("redis-health:canary:") && set[3..] == ["PX", "10000"], "{set:?}");
        assert_eq!((&get[1], &del[1]), (&set[1], &set[1]));
    }

    let keys: BTreeSet<_> = sets.iter().map(|set| &set[1]).collect();
    assert_eq!(keys.len(), made);
}

#[test]
fn nothing_is_written_without_canary() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    assert_eq!(env.run(&format!("dbs -p {port} --expect-role primary")).code, Some(0));
    assert_eq!(env.run(&cycle(port, "0.2", "--expect-role primary")).code, Some(0));

    let harmless = ["SELECT", "PING", "INFO", "ROLE", "HELLO"];
    for command in server.commands() {
        assert!(harmless.contains(&command.split(' ').next().unwrap()), "{command}");
    }
}

#[test]
fn a_read_only_replica_fails_only_the_writes() {
    let (env, primary) = (TestEnv::new(), Real::start("--repl-diskless-sync-delay 0"));
    let replica = Real::start(&format!("--replicaof 127.0.0.1 {}", primary.port()));
    replica.wait_in_sync();
    let port = replica.port();
    let text = "readonly: READONLY You can't write against a read only replica.";
    let output = env.run(&cycle(port, "0.5", "--canary"));

    assert_eq!(output.code, Some(1), "{output:?}");

    let (errors, made) = (env.read("redis_error.log"), 10 - output.missed());
    assert_eq!(errors.matches(&format!(" WRITE FAILURE: {text}\n")).count(), made, "{errors}");
    assert_eq!(errors.matches(" FAILURE: ").count(), made, "{errors}");
    assert_eq!((output.row("endpoint"), output.row("endpoint WRITE")), ((made, 0), (made, made)));

    // The same with several databases.
    let output = env.run(&cycle(port, "0.1", "--canary --max-db 1"));
    let made = 2 - output.missed();
    assert_eq!((output.row("DB 0"), output.row("DB 1 WRITE")), ((made, 0), (made, made)), "{output:?}");

    let output = env.run(&format!("dbs -p {port} --canary"));
    assert_eq!(output.stdout.matches(&format!(" WRITE: NOT RUNNING ({text})\n")).count(), 16, "{output:?}");
}

#[test]
fn only_a_canary_detects_paused_writes_at_the_cost_of_one_timeout() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let port = server.port();
    assert_eq!(server.command("CLIENT PAUSE 60000 WRITE"), "+OK");

    let output = env.run(&format!("dbs -p {port}"));
    assert_eq!(output.code, Some(0), "{output:?}");

    let output = env.run(&format!("dbs -p {port} -t 5 --canary"));
    assert_eq!(output.code, Some(1), "{output:?}");

    let text = " WRITE: NOT RUNNING (timeout: no reply to SET within 5s)\n";
    assert_eq!(output.stdout.matches(text).count(), 16, "{output:?}");
    assert!(output.elapsed < Duration::from_secs(10), "{:?}", output.elapsed);

    // `cycles` keeps its schedule and sees when writes are accepted again.
    let run = env.endless(&format!("-p {port} -t 0.5 --canary"));
    env.wait_for("redis_error.log", |text| text.matches(" WRITE FAILURE: timeout: no reply to SET").count() >= 19);
    assert_eq!(server.command("CLIENT UNPAUSE"), "+OK");

    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint WRITE ended at "));
    let output = run.stop();
    assert_eq!(output.row("endpoint").1, 0, "{output:?}");

    // Writes that timed out are not repeated.
    assert_eq!(server.command("DBSIZE"), ":0");
}

#[test]
fn an_unexpected_role_is_a_failure() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();

    for (role, is, other) in [("master", "primary", "replica"), ("slave", "replica", "primary")] {
        server.become_(|nature| nature.role = role);
        assert_eq!(env.run(&format!("dbs -p {port} --expect-role {is}")).code, Some(0));
        let output = env.run(&format!("dbs -p {port} --expect-role {other}"));
        assert_eq!(output.code, Some(1));
        let text = format!(": NOT RUNNING (role: the server is a {is}, not a {other})\n");
        assert_eq!(output.stdout.matches(&text).count(), 16, "{output:?}");
    }

    // `cycles` reports when the unexpected role began and ended.
    let run = env.endless(&format!("-p {port} --expect-role primary"));
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint began at "));
    server.become_(|nature| nature.role = "master");
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint ended at "));

    assert!(run.stop().stdout.contains("Endpoint changed from replica to primary"));
}

#[test]
fn missing_write_permissions_are_reported() {
    let server = Real::start("");
    let port = server.port();
    let mut made = 0;
    for (rules, text) in [
        ("+ping +select", "noperm: NOPERM this user has no permissions to run the 'set' command"),
        ("+@all ~other:*", "noperm: NOPERM this user has no permissions to access one of the keys"),
        ("+@all ~* -del", "noperm: NOPERM this user has no permissions to run the 'del' command"),
    ] {
        let env = TestEnv::new();
        assert_eq!(server.command(&format!("ACL SETUSER probe reset on >sesame {rules}")), "+OK");
        let output = env.run_with(&[("REDISCLI_AUTH", "sesame")], &cycle(port, "0.2", "--canary --user probe"));
        assert_eq!(output.code, Some(1), "{output:?}");
        let errors = env.read("redis_error.log");
        made = 4 - output.missed();
        assert_eq!(errors.matches(&format!(" WRITE FAILURE: {text}")).count(), made, "{errors}");
        assert_eq!(output.row("endpoint"), (made, 0), "{output:?}");
    }

    // Keys that the user may not delete expire.
    let keys = server.talk(&["KEYS redis-health:canary:*"]);
    let keys: Vec<&str> = keys.lines().filter(|line| line.starts_with("redis-health:")).collect();
    assert_eq!(keys.len(), made);

    for key in keys {
        let left: i64 = server.command(&format!("PTTL {key}")).strip_prefix(':').unwrap().parse().unwrap();
        assert!((1..=10_000).contains(&left), "{left}");
    }
}

#[test]
fn rejected_writes_show_the_servers_text() {
    for (arguments, text) in [
        ("--min-replicas-to-write 1", "noreplicas: NOREPLICAS Not enough good replicas to write."),
        ("--maxmemory 1", "oom: OOM command not allowed when used memory > 'maxmemory'."),
    ] {
        let (env, server) = (TestEnv::new(), Real::start(arguments));
        let output = env.run(&format!("dbs -n 0 -p {} --canary", server.port()));
        let line = format!("DB 0 WRITE: NOT RUNNING ({text})\n");
        assert!(output.stdout.contains(&line), "{line} in {output:?}");
    }
}

#[test]
fn overlapping_canaries_use_different_keys() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::Slow(Duration::from_millis(100)));
    let port = server.port();

    // A check waits for seven replies, so fourteen checks overlap. The two runs use different keys.
    let (other, arguments) = (TestEnv::new(), cycle(port, "1", "--canary"));
    let outputs = thread::scope(|scope| {
        let runs = [&env, &other].map(|env| scope.spawn(|| env.run(&arguments)));
        runs.map(|run| run.join().unwrap())
    });

    for output in &outputs {
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    let made = 40 - outputs.iter().map(Output::missed).sum::<usize>();
    let sets = || server.commands().into_iter().filter(|command| command.starts_with("SET "));
    let keys: BTreeSet<_> = sets().map(|set| set.split(' ').nth(1).unwrap().to_owned()).collect();

    assert_eq!((sets().count(), keys.len()), (made, made));
    assert!(eventually(LIMIT, || server.finished() == server.accepted()));
}
