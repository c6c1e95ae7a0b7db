//! `cycles`: the schedule, the log lines, and the end of a run.

use std::process::Stdio;
use std::time::Duration;

use chrono::TimeDelta;
use rustix::process::Signal;

use crate::support::env::{ENDLESS, Running, TestEnv};
use crate::support::legacy::{read_log, run_script};
use crate::support::logs::{normalised, stamps, without_headers};
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

#[test]
fn a_healthy_run_writes_the_same_bytes_as_the_script() {
    let (env, server) = (TestEnv::new(), Real::start(""));
    let settings = [
        ("SUCCESS_LOG", "legacy.success"),
        ("ERROR_LOG", "legacy.error"),
        ("CYCLES", "2"),
        ("RUN_DURATION", "3"),
        ("CHECK_INTERVAL", "1"),
        ("BREAK_DURATION", "1"),
    ];
    run_script(&env, "redis_health.sh", server.port(), &settings);

    let port = server.port();
    let flags = "--cycles 2 --run-duration 3 --check-interval 1 --break-duration 1";
    let output = env.run(&format!("cycles -p {port} {flags}"));

    assert_eq!(output.code, Some(0), "{output:?}");
    let log = env.read("redis_success.log");
    assert!(log.starts_with("=== Run of cycles on ") && log.matches("=== Run of ").count() == 1, "{log}");
    assert_eq!(normalised(&without_headers(&log)), normalised(&read_log(&env, "legacy.success")));
    assert_eq!(env.read("redis_error.log"), "");
    assert!(output.elapsed >= Duration::from_secs(7));
    assert!(output.stdout.contains("6 checks"), "{}", output.stdout);
}

#[test]
fn lines_name_the_database_if_there_are_several() {
    let (env, server) = (TestEnv::new(), Real::start("--databases 2"));
    let port = server.port();
    let output = env.run(&format!("cycles -p {port} --max-db 2 --cycles 1 --run-duration 1.2 --check-interval 1"));

    assert_eq!(output.code, Some(1));
    assert_eq!(
        normalised(&without_headers(&env.read("redis_success.log"))),
        "=== Cycle 1 started at <time> ===\n<time> DB 0 SUCCESS 1\n<time> DB 1 SUCCESS 1\n<time> DB 0 SUCCESS 2\n\
         <time> DB 1 SUCCESS 2\n=== All cycles finished at <time> ===\n"
    );

    let failure = "<time> DB 2 FAILURE: no-such-db: ERR DB index is out of range\n";
    let errors = normalised(&without_headers(&env.read("redis_error.log")));
    let mark = "=== Outage of DB 2 began at <time>, ";
    assert!(errors.starts_with(&format!("{failure}{mark}")), "{errors}");
    assert!(errors.ends_with(&format!(" s into the check of <time> +00:00 ===\n{failure}")), "{errors}");
}

#[test]
fn auto_fails_every_database_that_the_server_has_had() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.databases = 4);
    let port = server.port();
    let run = env.endless_until(&format!("-p {port} --max-db auto --metrics-file redis.prom"), "DB 3 SUCCESS 2\n");
    server.behave(Behaviour::Refuse);
    let refused = |db: u32| format!("DB {db} FAILURE: refused: ");
    env.wait_for("redis_error.log", |text| (0..4).all(|db| text.contains(&refused(db))));

    // It comes back with fewer databases.
    server.become_(|nature| nature.databases = 2);
    server.behave(Behaviour::Serve);
    let missing = |db: u32| format!("DB {db} FAILURE: no-such-db: ");
    env.wait_for("redis_error.log", |text| (2..4).all(|db| text.contains(&missing(db))));
    env.wait_for("redis_error.log", |text| text.contains("Outage of DB 1 ended"));
    let output = run.stop();

    let log = env.read("redis_error.log");
    assert!(!log.contains("DB 4 ") && !log.contains("Outage of DB 2 ended"), "{log}");
    let metrics = std::fs::read_to_string(env.path().join("redis.prom")).unwrap();
    let up: Vec<_> = metrics.lines().filter(|line| line.starts_with("redis_health_up{")).collect();
    let is_up = |db: u32| up.iter().any(|line| line.contains(&format!("db=\"{db}\"")) && line.ends_with(" 1"));
    assert_eq!([0, 1, 2, 3].map(is_up), [true, true, false, false], "{up:?}, {output:?}");
}

#[test]
fn an_outage_is_reported_as_it_happens() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless_until(&format!("-p {port}"), "SUCCESS 2\n");
    server.behave(Behaviour::Refuse);
    env.wait_for("redis_error.log", |text| text.matches("FAILURE: refused: Connection refused\n").count() >= 2);
    server.behave(Behaviour::Serve);
    let errors = env.wait_for("redis_error.log", |text| text.contains("Outage of endpoint ended"));
    run.signal(Signal::INT);
    let output = run.wait();

    assert_eq!(output.code, Some(130), "{output:?}");
    assert!(errors.contains("=== Outage of endpoint began at "), "{errors}");
    assert!(env.read("redis_success.log").contains("=== Stopped by SIGINT at "));

    let parts = ["Checking DB 0 of 127.0.0.1:", "began at", "FAILURE: refused", "ended at", "at least", "SIGINT"];
    for part in parts {
        assert!(output.stdout.contains(part), "{part} in {}", output.stdout);
    }
}

#[test]
fn the_checks_of_each_database_that_a_signal_cut_off_are_counted() {
    for (behaviour, some_pass) in [(Behaviour::StallAfter(0), false), (Behaviour::StallAfter(9), true)] {
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(behaviour);
        let port = server.port();
        let run = env.spawn(&format!("cycles -p {port} --max-db 9 -t 10m --deadline 10m --check-interval 5m --json"));
        assert!(server.wait_accepted(1, LIMIT));
        if some_pass {
            env.wait_for("redis_success.log", |log| log.contains("DB 1 SUCCESS"));
        }

        let document = run.stop().json();
        let (checks, unfinished) =
            (document["checks"].as_u64().unwrap(), document["unfinished_checks"].as_u64().unwrap());
        assert_eq!((checks > 0, checks + unfinished), (some_pass, 10), "{document}");
    }
}

#[test]
fn every_signal_ends_a_run_with_its_mark_and_summary() {
    let signals = [(Signal::HUP, "SIGHUP", 129), (Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)];
    for (signal, name, code) in signals {
        let (env, server) = (TestEnv::new(), Server::start());
        // A check that hangs must not delay the end of the run.
        server.behave(Behaviour::StallAfter(0));
        let port = server.port();
        let run = env.endless(&format!("-p {port} -t 10m"));
        assert!(server.wait_accepted(1, LIMIT));

        run.signal(signal);
        let output = run.wait();

        assert_eq!(output.code, Some(code), "{name}: {output:?}");
        assert!(env.read("redis_success.log").contains(&format!("=== Stopped by {name} at ")));
        assert!(output.stdout.contains("checks still running at the end"), "{output:?}");
    }
}

#[test]
fn nohup_keeps_a_run_alive() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let mut command = env.wrapped("nohup", &format!("{ENDLESS} -p {port}"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = Running::start_as_is(command);
    env.wait_for("redis_success.log", |text| text.contains("SUCCESS 1\n"));
    run.signal(Signal::HUP);
    let seen = env.read("redis_success.log").lines().count();
    env.wait_for("redis_success.log", |text| text.lines().count() > seen + 2);

    assert!(!run.has_ended() && !env.read("redis_success.log").contains("Stopped"));
    assert_eq!(run.stop().code, Some(143));
}

#[test]
fn a_log_folder_can_be_used_by_one_run_at_a_time() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let first = env.endless_until(&format!("-p {port}"), "SUCCESS 1\n");
    let second = env.run(&format!("{ENDLESS} -p {port}"));

    assert_eq!((second.code, second.stdout.as_str()), (Some(3), ""));
    assert!(second.stderr.contains("--log-dir") && second.stderr.lines().count() == 1, "{}", second.stderr);

    // A scan needs no lock.
    assert_eq!(env.run(&format!("dbs -p {port}")).code, Some(0));

    first.signal(Signal::KILL);
    assert_eq!(first.wait().signal, Some(9));

    let third = env.endless(&format!("-p {port}"));
    env.wait_for("redis_success.log", |text| text.matches("=== Cycle 1 started").count() == 2);
    assert_eq!(third.stop().code, Some(143));
}

#[test]
fn a_closed_standard_output_does_not_end_a_run() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::Refuse);
    let port = server.port();
    let flags = "--cycles 2 --run-duration 1 --check-interval 500ms --break-duration 0";
    let output = env.run_unread(&format!("cycles -p {port} {flags}"));

    assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""));
    assert_eq!(env.read("redis_error.log").matches("FAILURE: refused").count(), 4);
    assert!(env.read("redis_success.log").contains("All cycles finished"));
}

#[test]
fn a_check_that_hangs_does_not_delay_others() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::StallAfter(0));
    let port = server.port();

    // Ten checks, each of which takes twenty intervals.
    let output = env.run(&format!("cycles -p {port} --cycles 1 --run-duration 1 --check-interval 100ms -t 2"));

    assert_eq!(output.code, Some(1));

    let errors = env.read("redis_error.log");
    let made = 10 - output.missed();
    assert_eq!(errors.matches("FAILURE: timeout: no reply to SELECT within 2s").count(), made, "{output:?}");

    // All checks started before the first one ended.
    let began = stamps(&errors, "FAILURE");
    let first = *began.iter().min().unwrap();
    assert!(made > 1 && began.iter().all(|at| *at < first + TimeDelta::seconds(2)), "{errors}");
}

#[test]
fn checks_missed_while_suspended_are_counted_and_not_run_later() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless_until(&format!("-p {port}"), "SUCCESS 2\n");
    run.signal(Signal::STOP);

    // The process must be stopped for several intervals; the exact time is not important.
    std::thread::sleep(Duration::from_millis(600));
    let before = server.accepted();
    run.signal(Signal::CONT);
    env.wait_for("redis_success.log", |text| text.contains("=== Not observed from "));

    assert!(eventually(LIMIT, || server.accepted() > before + 2));

    let output = run.stop();

    // On a busy machine there may be further missed checks, with their own marks.
    let text = env.read("redis_success.log");
    let marks = text.lines().filter_map(|line| line.split_once("checks missed: ")?.1.split(' ').next()?.parse().ok());
    let missed: Vec<usize> = marks.collect();

    assert!(missed.iter().any(|missed| *missed >= 5), "{text}");
    assert_eq!(missed.iter().sum::<usize>(), output.missed(), "{output:?}");
}

#[test]
fn changes_are_marked() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless_until(&format!("-p {port}"), "SUCCESS 2\n");
    server.become_(|nature| {
        nature.role = "slave";
        nature.info = vec![
            "redis_version:7.2.4".into(),
            "server_name:valkey".into(),
            "valkey_version:8.1.0".into(),
            "run_id:two".into(),
            "uptime_in_seconds:0".into(),
        ];
    });
    let text = env.wait_for("redis_success.log", |text| text.contains("run id one became two"));

    assert!(text.contains("=== Endpoint changed from primary to replica at "), "{text}");
    assert!(text.contains("=== Endpoint changed from redis 7.0.15 to valkey 8.1.0 at "), "{text}");
    assert!(text.contains("=== Endpoint was restarted at "), "{text}");

    // Another server behind the same address, which has been up for longer.
    server.become_(|nature| nature.info = vec!["run_id:three".into(), "uptime_in_seconds:86400".into()]);
    let text = env.wait_for("redis_success.log", |text| text.contains("run id two became three"));
    assert!(text.contains("=== Endpoint: another server answers at "), "{text}");
    assert_eq!(text.matches("restarted").count(), 1, "{text}");

    run.stop();
}

/// Two servers behind one address, as behind a proxy, or behind two addresses of one name.
#[test]
fn servers_that_answer_in_turn_do_not_flood_the_log() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless_until(&format!("-p {port} --check-interval 20ms"), "SUCCESS 2\n");
    let mut done = 2;
    for turn in 0..30 {
        let is_first = turn % 2 == 1;
        server.become_(|nature| {
            nature.role = if is_first { "master" } else { "slave" };
            nature.info = vec![format!("run_id:{}", if is_first { "one" } else { "two" })];
        });
        let seen = done;
        let text = env.wait_for("redis_success.log", |text| text.matches(" SUCCESS ").count() > seen + 1);
        done = text.matches(" SUCCESS ").count();
    }
    run.stop();

    let text = env.read("redis_success.log");
    let marks: Vec<_> = text.lines().filter(|line| line.starts_with("=== Endpoint")).collect();
    // The first answer of the second server cannot be told from a switch to it, and more may follow if a turn is long.
    assert!((2..=6).contains(&marks.len()), "{marks:?}");
}

#[test]
fn changes_of_the_wall_clock_do_not_affect_the_schedule() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();

    // libfaketime makes the wall clock run a hundred times faster, but not the monotonic clock.
    let arguments = format!("cycles -p {port} --cycles 1 --run-duration 3 --check-interval 1 --utc");
    let mut command = env.wrapped("faketime -f '@2025-10-26 00:59:50 x100'", &arguments);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    let output = Running::start_behind(command).wait();

    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.elapsed >= Duration::from_secs(3), "{:?}", output.elapsed);

    let text = env.read("redis_success.log");
    assert_eq!(text.matches(" SUCCESS ").count(), 3, "{text}");
    assert!(text.contains("2025-10-26 01:0"), "{text}");
    assert!(!text.contains("Not observed"), "{text}");
}
