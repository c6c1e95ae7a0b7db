//! `report`: logs of every kind, read back to figures that were computed while they were made.

use std::fmt::Write as _;
use std::fs;

use chrono::{DateTime, Duration, NaiveDateTime};
use serde_json::Value;

use crate::support::env::{Output, Running, TestEnv};

/// A start that all made-up logs share.
fn start() -> NaiveDateTime {
    DateTime::from_timestamp(1_756_280_101, 0).unwrap().naive_utc()
}

fn second(second: i64) -> NaiveDateTime {
    start() + Duration::seconds(second)
}

fn write(env: &TestEnv, name: &str, text: &str) {
    fs::create_dir_all(env.logs()).unwrap();
    fs::write(env.logs().join(name), text).unwrap();
}

fn json(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = env.run(&[&["report", "--json"], arguments].concat());
    let document = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.code, document)
}

fn text(env: &TestEnv, arguments: &[&str]) -> Output {
    env.run(&[&["report"], arguments].concat())
}

/// The database of a number, or the endpoint.
fn row(document: &Value, db: Option<u64>) -> &Value {
    let rows = document["databases"].as_array().unwrap();
    rows.iter().find(|row| row["db"].as_u64() == db).unwrap_or_else(|| panic!("{db:?} in {document}"))
}

#[test]
fn a_legacy_pair_of_forty_minutes() {
    let env = TestEnv::new();
    let (mut success, mut errors) = (String::new(), String::new());
    // Four cycles of five minutes with breaks of five, a check a minute; the ninth to the eleventh check fail: the
    // outage begins in the second cycle and ends in the third.
    let mut number = 0;
    for cycle in 0..4 {
        writeln!(success, "=== Cycle {} started at {} ===", cycle + 1, second(cycle * 600)).unwrap();
        for minute in 0..5 {
            number += 1;
            let at = second(cycle * 600 + minute * 60);
            match number {
                9..=11 => {
                    writeln!(errors, "{at} FAILURE: Could not connect to Redis at h:1: Connection refused").unwrap()
                }
                _ => writeln!(success, "{at} SUCCESS {number}").unwrap(),
            }
        }
        if cycle < 3 {
            writeln!(success, "=== Cycle {} completed, sleeping for 300 seconds ===", cycle + 1).unwrap();
        }
    }
    writeln!(success, "=== All cycles finished at {} ===", second(2100)).unwrap();
    write(&env, "redis_success.log", &success);
    write(&env, "redis_error.log", &errors);
    let (code, document) = json(&env, &[]);
    assert_eq!(code, Some(1));
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(20), Some(3)));
    assert_eq!(document["skipped_lines"], 0);
    assert_eq!(document["unobserved_s"], 3.0 * 300.0);
    let endpoint = row(&document, None);
    assert_eq!(endpoint["availability"], 0.85);
    let outages = endpoint["outages"].as_array().unwrap();
    assert_eq!(outages.len(), 1);
    let outage = &outages[0];
    assert_eq!(outage["first_failure"], "2025-08-27T07:48:01.000+00:00");
    assert_eq!(outage["last_failure"], "2025-08-27T07:55:01.000+00:00");
    assert_eq!(outage["last_success_before"], "2025-08-27T07:47:01.000+00:00");
    assert_eq!(outage["first_success_after"], "2025-08-27T07:56:01.000+00:00");
    assert_eq!((outage["at_least_s"].as_f64(), outage["at_most_s"].as_f64()), (Some(420.0), Some(540.0)));
    assert_eq!((outage["spans_gap"].as_bool(), outage["failed_checks"].as_u64()), (Some(true), Some(3)));
    assert_eq!(outage["kinds"]["refused"], 3);
    let output = text(&env, &[]);
    for told in ["20 checks, 3 failed, availability 85.000 %", "part of it was not observed", "Timeline"] {
        assert!(output.stdout.contains(told), "{told} in\n{}", output.stdout);
    }
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 80) && !output.stdout.contains('\x1b'));
}

#[test]
fn a_day_of_cron_blocks() {
    let env = TestEnv::new();
    let (mut health, mut errors) = (String::new(), String::new());
    let failing = |block: i64, db: u64| (100..=102).contains(&block) || (db == 5 && block == 200);
    for block in 0..288 {
        // One cron run in the night was left out.
        if block == 250 {
            continue;
        }
        let at = second(block * 300);
        writeln!(health, "===== Redis DB Health Check at {at} =====").unwrap();
        for db in 0..16 {
            if failing(block, db) {
                writeln!(health, "DB {db}: NOT RUNNING (reset: Connection reset by peer)").unwrap();
                writeln!(errors, "{at} DB {db} FAILURE: reset: Connection reset by peer").unwrap();
            } else {
                writeln!(health, "DB {db}: RUNNING").unwrap();
            }
        }
        health.push('\n');
    }
    write(&env, "redis_db_health.log", &health);
    write(&env, "redis_error.log", &errors);
    let (code, document) = json(&env, &[]);
    assert_eq!(code, Some(1));
    // What the error log repeats is not counted twice.
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(287 * 16), Some(3 * 16 + 1)));
    assert_eq!(document["unobserved_s"], 600.0);
    for db in 0..16 {
        let row = row(&document, Some(db));
        let outages = row["outages"].as_array().unwrap();
        assert_eq!(outages.len(), if db == 5 { 2 } else { 1 });
        assert_eq!((outages[0]["at_least_s"].as_f64(), outages[0]["at_most_s"].as_f64()), (Some(600.0), Some(1200.0)));
        assert_eq!(outages[0]["spans_gap"], false);
        assert_eq!(row["failures"], outages.iter().map(|o| o["failed_checks"].as_u64().unwrap()).sum::<u64>());
    }
    let output = text(&env, &[]);
    for told in ["\nDB 0-4 ", "\nDB 5 ", "\nDB 6-15 ", "\nDB 0-15: 2025-08-27 15:55:01 to 2025-08-27 16:10:01"] {
        assert!(output.stdout.contains(told), "{told} in\n{}", output.stdout);
    }
}

#[test]
fn a_day_of_json_lines_at_one_a_second() {
    let env = TestEnv::new();
    let (mut success, mut errors, mut failures) = (String::new(), String::new(), 0);
    let mut latencies = Vec::new();
    for tick in 0..86_400 {
        let at = second(tick).and_utc().to_rfc3339_opts(chrono::SecondsFormat::Millis, false);
        let line = |rest: &str| {
            format!("{{\"at\":\"{at}\",\"type\":\"check\",\"mode\":\"cycles\",\"number\":{tick},{rest}}}\n")
        };
        if (40_000..40_061).contains(&tick) {
            failures += 1;
            let kind = if tick < 40_030 { "reset" } else { "loading" };
            errors += &line(&format!("\"ok\":false,\"kind\":\"{kind}\",\"detail\":\"said so\",\"elapsed_us\":900"));
        } else {
            let latency = 400 + tick % 200;
            latencies.push(latency as u64);
            success += &line(&format!("\"ok\":true,\"elapsed_us\":{latency},\"role\":\"primary\""));
        }
    }
    write(&env, "redis_success.log", &success);
    write(&env, "redis_error.log", &errors);
    let (code, document) = json(&env, &[]);
    assert_eq!(code, Some(1));
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(86_400), Some(failures)));
    assert_eq!(document["unobserved_s"], 0.0);
    let endpoint = row(&document, None);
    let outage = &endpoint["outages"][0];
    assert_eq!(outage["at_least_s"], 60.0);
    // From the last success to the end of the check that found it well again, which took 461 µs.
    assert_eq!(outage["at_most_s"], 62.000_461);
    assert_eq!((&outage["kinds"]["reset"], &outage["kinds"]["loading"]), (&Value::from(30), &Value::from(31)));
    latencies.sort_unstable();
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let exact = latencies[((latencies.len() as f64 * quantile).ceil() as usize).saturating_sub(1)] as f64;
        let told = endpoint["latency_us"][name].as_f64().unwrap();
        assert!((told - exact).abs() <= exact * 0.01, "{name}: {told} for {exact}");
    }
}

#[test]
fn mixed_formats_rotated_files_and_lines_that_cannot_be_read() {
    let env = TestEnv::new();
    let classic = |from: i64, to: i64| -> String {
        (from..to).map(|tick| format!("{} SUCCESS {}\n", second(tick), tick + 1)).collect()
    };
    // Rotated names sort neither by age nor by number; their stamps do.
    write(&env, "redis_success.log.2", &classic(0, 10));
    write(&env, "redis_success.log.10", &classic(10, 20));
    write(&env, "redis_success.log-20250827", &classic(20, 30));
    write(&env, "redis_success.log.1.gz", "not read");
    let mut last = classic(30, 35) + "half a li\n\0\0\0\n\u{feff}{\"at\":1}\n{\"type\":\"check\"}\n";
    for tick in 35..40 {
        let at = second(tick).and_utc().to_rfc3339();
        writeln!(last, "{{\"at\":\"{at}\",\"type\":\"check\",\"ok\":true,\"elapsed_us\":5}}").unwrap();
    }
    write(&env, "redis_success.log", &(last + &format!("{} SUCCE", second(40))));
    let (code, document) = json(&env, &[]);
    assert_eq!((code, document["checks"].as_u64()), (Some(0), Some(40)));
    assert_eq!((document["skipped_lines"].as_u64(), document["unobserved_s"].as_f64()), (Some(5), Some(0.0)));
    let output = text(&env, &["-v"]);
    assert!(output.stdout.contains("lines that could not be read: 5"), "{output:?}");
    assert!(output.stderr.contains("redis_success.log:6: cannot be read: half a li\n"), "{}", output.stderr);
    assert!(!output.stderr.contains('\0'));
    // A part, by every way to write a time, and single files.
    let part = |arguments: &[&str]| json(&env, arguments).1["checks"].as_u64().unwrap();
    assert_eq!(part(&["--utc", "--since", "2025-08-27 07:35:11", "--until", "2025-08-27T07:35:21Z"]), 10);
    assert_eq!(part(&["--utc", "--since", "2025-08-27T09:35:11+02:00"]), 30);
    assert_eq!(part(&["--utc", "--until", "2025-08-28"]), 40);
    assert_eq!(part(&["logs/redis_success.log.2", "logs/redis_success.log.10"]), 20);
}

#[test]
fn the_scripts_flaws_are_understood() {
    let env = TestEnv::new();
    // Under dash every healthy check was logged as a failure, and a text with a line end broke a block's line.
    write(&env, "redis_error.log", &format!("{} FAILURE: PONG\n{} FAILURE: PONG\n", second(0), second(60)));
    write(
        &env,
        "redis_db_health.log",
        &format!(
            "===== Redis DB Health Check at {} =====\nDB 0: RUNNING\n\
             DB 1: NOT RUNNING (ERR DB index is out of range\nPONG)\nDB 2: RUNNING\n\n",
            second(0)
        ),
    );
    let (code, document) = json(&env, &[]);
    assert_eq!((code, document["skipped_lines"].as_u64()), (Some(1), Some(0)), "{document}");
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(5), Some(1)));
    assert_eq!(row(&document, Some(1))["outages"][0]["kinds"]["no-such-db"], 1);
}

#[test]
fn the_hour_that_comes_twice() {
    let env = TestEnv::new();
    // Central European time ends at 03:00 on 26 October 2025, and the clock shows 02:00 again.
    let mut lines = String::new();
    let mut number = 0;
    for clock in ["01:55", "02:00", "02:25", "02:55", "02:05", "02:30", "02:55", "03:00"] {
        number += 1;
        writeln!(lines, "2025-10-26 {clock}:00 SUCCESS {number}").unwrap();
    }
    write(&env, "redis_success.log", &lines);
    let mut command = env.command(&["report", "--json"]);
    command.env("TZ", "Europe/Berlin");
    let output = Running::start(command).wait();
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["from"], "2025-10-26T01:55:00.000+02:00");
    assert_eq!(document["to"], "2025-10-26T03:00:00.000+01:00");
    assert_eq!(document["checks"], 8);
}

#[test]
fn what_a_run_logs_is_what_report_reads() {
    use crate::support::scripted::{Behaviour, Server};
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port().to_string();
    let run = env.spawn(&[
        "cycles",
        "-p",
        &port,
        "--run-duration",
        "1h",
        "--check-interval",
        "40ms",
        "--log-format",
        "json",
        "--json",
    ]);
    env.wait_for("redis_success.log", |text| text.matches("\"check\"").count() > 3);
    server.behave(Behaviour::Refuse);
    env.wait_for("redis_error.log", |text| text.matches("\"check\"").count() > 3);
    server.become_(|nature| nature.role = "slave");
    server.behave(Behaviour::Serve);
    env.wait_for("redis_error.log", |text| text.contains("outage_ended"));
    env.wait_for("redis_success.log", |text| text.contains("\"change\""));
    run.signal(rustix::process::Signal::TERM);
    let live: Value = serde_json::from_str(&run.wait().stdout).unwrap();
    let (code, read) = json(&env, &[]);
    assert_eq!(code, Some(1));
    for same in ["from", "to", "checks", "failures", "latency_us", "changes"] {
        assert_eq!(live[same], read[same], "{same}");
    }
    let (live, read) = (&row(&live, None)["outages"][0], &row(&read, None)["outages"][0]);
    for same in ["first_failure", "last_failure", "last_success_before", "first_success_after", "kinds", "reason"] {
        assert_eq!(live[same], read[same], "{same}");
    }
    let close = |name: &str| (live[name].as_f64().unwrap() - read[name].as_f64().unwrap()).abs() < 0.01;
    assert!(close("at_least_s") && close("at_most_s"), "{live} {read}");
}

#[test]
fn nothing_to_read_is_said() {
    let env = TestEnv::new();
    fs::create_dir(env.logs()).unwrap();
    for (arguments, told) in [
        (vec![], "there is no health log in logs"),
        (vec!["nowhere"], "cannot read nowhere"),
        (vec!["--since", "soon"], "--since: soon is not a time"),
        (vec!["--since", "12:00", "--until", "11:00"], "--until lies before --since"),
    ] {
        let output = text(&env, &arguments);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        assert!(output.stderr.contains(told) && output.stderr.lines().count() == 1, "{output:?}");
    }
    write(&env, "redis_success.log", "something else\n");
    let output = text(&env, &[]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("no check was found in logs, 1 lines cannot be read"), "{output:?}");
}
