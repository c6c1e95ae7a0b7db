//! `dbs`: the standard output, the logs and the exit code of a scan.

use std::time::Duration;

use serde_json::Value;

use crate::support::env::TestEnv;
use crate::support::legacy::{read_log, run_script};
use crate::support::logs::{normalised, without_headers};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// The lines between the header of a block and the empty line at its end.
fn databases(block: &str) -> Vec<&str> {
    block.lines().filter(|line| line.starts_with("DB ")).collect()
}

#[test]
fn a_block_has_the_same_bytes_as_the_scripts() {
    let (env, server) = (TestEnv::new(), Real::start("--databases 16"));
    run_script(&env, "check_redis_dbs.sh", server.port(), &[("MAX_DB", "15"), ("LOG_FILE", "legacy.log")]);

    let output = env.run(&format!("dbs -p {}", server.port()));
    assert_eq!(output.code, Some(0), "{output:?}");

    let block = env.read("redis_db_health.log");
    assert_eq!(normalised(&block), normalised(&read_log(&env, "legacy.log")));
    assert!(output.stdout.starts_with(&block), "{}", output.stdout);
    assert!(output.stdout.contains("16 databases checked"), "{}", output.stdout);
    assert_eq!((output.stderr.as_str(), env.read("redis_error.log").as_str()), ("", ""));
}

#[test]
fn a_database_that_does_not_exist_is_not_running() {
    let (env, server) = (TestEnv::new(), Real::start("--databases 16"));
    let output = env.run(&format!("dbs -p {} --max-db 17", server.port()));
    assert_eq!(output.code, Some(1));

    let block = env.read("redis_db_health.log");
    assert_eq!(databases(&block).len(), 18);
    assert!(block.contains("\nDB 15: RUNNING\nDB 16: NOT RUNNING (no-such-db: ERR DB index is out of range)\n"));
    assert_eq!(
        normalised(&without_headers(&env.read("redis_error.log"))),
        "<time> DB 16 FAILURE: no-such-db: ERR DB index is out of range\n\
         <time> DB 17 FAILURE: no-such-db: ERR DB index is out of range\n"
    );
}

#[test]
fn auto_stops_at_the_last_database() {
    let env = TestEnv::new();
    for count in ["1", "16", "100"] {
        let server = Real::start(&format!("--databases {count}"));
        let output = env.run(&format!("dbs -p {} --max-db auto", server.port()));
        assert_eq!(output.code, Some(0));
        assert_eq!(databases(&output.stdout).len().to_string(), count);
    }
}

#[test]
fn auto_stops_at_its_bound_and_says_so() {
    let server = Server::start();
    server.become_(|nature| nature.databases = u32::MAX);
    let said = "--max-db auto stopped after 20000 databases, and the server may have more; --max-db N checks up to N\n";
    let flags = format!("-p {} --max-db auto", server.port());

    let env = TestEnv::new();
    let output = env.run(&format!("dbs -q {flags}"));
    assert_eq!((output.code, output.stderr), (Some(0), format!("redis-health: {said}")));
    assert_eq!(env.read("redis_db_health.log").matches(": RUNNING\n").count(), 20_000);

    let env = TestEnv::new();
    let cycles = env.run(&format!("cycles --json --cycles 1 --run-duration 2 --check-interval 1 {flags}"));
    assert_eq!((cycles.code, cycles.stderr.matches(said).count()), (Some(0), 1), "{}", cycles.stderr);
    assert_eq!(cycles.json()["databases"].as_array().map(Vec::len), Some(20_000));

    // Who asks for more gets it.
    let output = TestEnv::new().run(&format!("dbs -p {} --max-db 20000", server.port()));
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains("DB 20000: RUNNING\n"));
}

#[test]
fn auto_stops_if_the_server_rejects_everything() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.password = Some("secret".into()));
    let output = env.run(&format!("dbs -p {} --max-db auto", server.port()));

    assert_eq!(databases(&output.stdout), ["DB 0: NOT RUNNING (auth: NOAUTH Authentication required.)"]);

    // A server that is loading still rejects an index out of range.
    server.become_(|nature| nature.password = None);
    server.behave(Behaviour::ErrorFor("PING", "LOADING Redis is loading the dataset in memory".into()));
    let output = env.run(&format!("dbs -p {} --max-db auto", server.port()));

    assert_eq!(databases(&output.stdout).len(), 16);
}

#[test]
fn one_database_over_a_unix_socket() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let socket = server.socket();
    let output = env.run(&format!("dbs -s {} -n 3", socket.to_str().unwrap()));

    assert_eq!((output.code, databases(&output.stdout)), (Some(0), vec!["DB 3: RUNNING"]));

    let uri = format!("unix://{}?db=4", socket.display());
    let output = env.run(&format!("dbs -u {uri}"));
    assert_eq!((output.code, databases(&output.stdout)), (Some(0), vec!["DB 4: RUNNING"]));

    let output = env.run("dbs -s /nowhere/redis.sock -n 0");
    assert_eq!(databases(&output.stdout), ["DB 0: NOT RUNNING (refused: No such file or directory)"]);
}

#[test]
fn quiet_prints_only_failures_on_standard_error() {
    let (env, server) = (TestEnv::new(), Server::start());
    let output = env.run(&format!("dbs -q -p {}", server.port()));
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(0), "", ""));
    server.behave(Behaviour::Refuse);
    let output = env.run(&format!("dbs -q -p {}", server.port()));
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    assert!(output.stderr.contains("DB 0-15: NOT RUNNING (refused: Connection refused)"), "{}", output.stderr);
}

#[test]
fn each_connection_that_stalls_fails_one_index() {
    let (env, server) = (TestEnv::new(), Server::start());

    // Each connection answers three indexes and one SELECT, so one index fails on each.
    server.behave(Behaviour::StallAfter(7));
    let output = env.run(&format!("dbs -p {} -t 1", server.port()));
    let block = env.read("redis_db_health.log");
    let down: Vec<_> = databases(&block).into_iter().filter(|line| line.contains("NOT")).collect();

    assert_eq!(
        down,
        [3, 7, 11, 15].map(|db| format!("DB {db}: NOT RUNNING (timeout: no reply to PING within 1s)")),
        "{block}"
    );
    assert_eq!(output.code, Some(1));
}

#[test]
fn each_database_failed_when_it_was_asked_on_the_connection_that_failed() {
    let (env, server) = (TestEnv::new(), Server::start());
    // The first connection stalls at DB 1 or 2, the next one at a later database.
    server.behave(Behaviour::StallAfter(7));
    env.run(&format!("dbs --max-db 7 -p {} -t 0.5 --log-format json", server.port()));

    let scan = &env.records("redis_db_health.log")[0];
    let databases = scan["databases"].as_array().unwrap();
    let failed: Vec<_> = databases.iter().filter(|database| database["kind"] == "timeout").collect();
    let micros = |database: &Value, name: &str| database[name].as_u64().unwrap();
    assert!(failed.len() >= 2, "{scan}");

    let (first, later) = failed.split_first().unwrap();
    assert!(micros(first, "onset_us") < micros(first, "elapsed_us"), "{scan}");
    for database in later {
        assert!(micros(database, "onset_us") >= micros(first, "elapsed_us"), "{scan}");
    }
}

#[test]
fn an_endpoint_that_hangs_costs_one_timeout_for_any_number_of_databases() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::StallAfter(0));
    let output = env.run(&format!("dbs -p {} -t 1 --max-db 9999", server.port()));

    assert_eq!(databases(&env.read("redis_db_health.log")).len(), 10_000);
    assert!(
        env.read("redis_db_health.log").ends_with("DB 9999: NOT RUNNING (timeout: no reply to SELECT within 1s)\n\n")
    );
    assert_eq!((output.code, server.accepted()), (Some(1), 1));
}

#[test]
fn a_broken_connection_fails_one_index_and_the_rest_continue() {
    for (behaviour, text) in [
        (Behaviour::ResetAfter(2), "(reset: Connection reset by peer)"),
        (Behaviour::CloseAfter(2), "(closed: Connection closed by the server)"),
    ] {
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(behaviour);
        env.run(&format!("dbs -p {} --max-db 5", server.port()));
        let block = env.read("redis_db_health.log");
        let running = databases(&block).into_iter().filter(|line| line.ends_with(": RUNNING")).count();
        assert_eq!(running, 3, "{block}");
        // Whether the client sees a reset or a close depends on whether the server has unread data.
        let lost = databases(&block).into_iter().filter(|line| line.contains("reset") || line.contains(text)).count();
        assert_eq!(lost, 3, "{block}");
        assert_eq!(server.accepted(), 3);
    }
}

#[test]
fn the_deadline_ends_a_slow_scan() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::Slow(Duration::from_millis(100)));
    let output = env.run(&format!("dbs -p {} --deadline 2", server.port()));
    let block = env.read("redis_db_health.log");

    assert_eq!(databases(&block).len(), 16);
    assert!(block.contains("DB 0: RUNNING\n"), "{block}");
    assert!(
        block.ends_with("DB 15: NOT RUNNING (timeout: not reached within the scan's deadline of 2s)\n\n"),
        "{block}"
    );
    assert_eq!(output.code, Some(1));
}

#[test]
fn forty_concurrent_scans_write_forty_complete_blocks() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let port = server.port();
    let runs: Vec<_> = (0..40).map(|_| env.spawn(&format!("dbs -p {port} --max-db 17"))).collect();

    for run in runs {
        assert_eq!(run.wait().code, Some(1));
    }

    let block = "===== Redis DB Health Check at <time> =====\n".to_owned()
        + &(0..16).map(|db| format!("DB {db}: RUNNING\n")).collect::<String>()
        + &[16, 17].map(|db| format!("DB {db}: NOT RUNNING (no-such-db: ERR DB index is out of range)\n")).concat()
        + "\n";
    assert_eq!(normalised(&env.read("redis_db_health.log")), block.repeat(40));
    let errors = normalised(&without_headers(&env.read("redis_error.log")));
    assert_eq!(errors.lines().count(), 80);
    assert!(errors.lines().all(|line| line.starts_with("<time> DB 1") && line.ends_with("index is out of range")));
}

#[test]
fn a_signal_keeps_the_results_so_far() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::StallAfter(5));
    let run = env.spawn(&format!("dbs -p {} -t 20", server.port()));

    assert!(server.wait_accepted(1, LIMIT));
    assert!(eventually(LIMIT, || server.commands().len() > 5));

    let output = run.stop();
    assert_eq!(output.code, Some(143));
    assert_eq!(
        normalised(&env.read("redis_db_health.log")),
        "===== Redis DB Health Check at <time> =====\nDB 0: RUNNING\nDB 1: RUNNING\n=== Stopped by SIGTERM at <time> ===\n\n"
    );
}

#[test]
fn a_closed_standard_output_does_not_end_a_scan() {
    let (env, server) = (TestEnv::new(), Server::start());
    let output = env.run_unread(&format!("dbs -p {} --max-db 9999", server.port()));

    assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""));
    assert_eq!(databases(&env.read("redis_db_health.log")).len(), 10_000);
}

#[test]
fn verbose_explains_the_phases() {
    let (env, server) = (TestEnv::new(), Server::start());
    let output = env.run(&format!("dbs -v -h localhost -p {} -n 0", server.port()));
    assert!(output.stderr.contains("localhost is ["), "{}", output.stderr);
    assert!(output.stderr.contains(&format!("connected to 127.0.0.1:{} after", server.port())), "{}", output.stderr);
}

#[test]
fn metrics_are_written_for_node_exporter() {
    let (env, server) = (TestEnv::new(), Server::start());
    env.run(&format!("dbs -p {} --max-db 16 --metrics-file redis.prom", server.port()));
    let text = std::fs::read_to_string(env.path().join("redis.prom")).unwrap();
    let endpoint = format!("endpoint=\"127.0.0.1:{}\"", server.port());
    assert!(text.contains(&format!("redis_health_up{{{endpoint},db=\"0\"}} 1\n")), "{text}");
    assert!(text.contains(&format!("redis_health_up{{{endpoint},db=\"16\"}} 0\n")), "{text}");
    assert!(text.contains(&format!("redis_health_failures_total{{{endpoint},db=\"16\",kind=\"no-such-db\"}} 1\n")));
}
