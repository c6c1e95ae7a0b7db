//! `report`: logs of every kind. The expected numbers are computed while a test generates the log.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use chrono::{DateTime, Duration};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::env::{BINARY, Output, Running, TestEnv};
use crate::support::logs::second;
use crate::support::scripted::{Behaviour, Server};

/// The exit code and the JSON document of a report.
fn json(env: &TestEnv, flags: &str) -> (Option<i32>, Value) {
    let output = env.run(&format!("report --json {flags}"));
    (output.code, output.json())
}

fn text(env: &TestEnv, flags: &str) -> Output {
    env.run(&format!("report {flags}"))
}

/// The row of a database, or of the endpoint.
fn row(document: &Value, db: Option<u64>) -> &Value {
    let rows = document["databases"].as_array().unwrap();
    rows.iter().find(|row| row["db"].as_u64() == db).unwrap_or_else(|| panic!("{db:?} in {document}"))
}

#[test]
fn forty_minutes_of_script_logs() {
    let env = TestEnv::new();
    let (mut success, mut errors) = (String::new(), String::new());

    // Four cycles of five minutes with breaks of five minutes and one check per minute. Checks 9 to 11 fail, so the
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
    env.write("redis_success.log", &success);
    env.write("redis_error.log", &errors);
    let (code, document) = json(&env, "");

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

    let output = text(&env, "");
    for expected in ["20 checks, 3 failed, availability 85.000 %", "part of it was not", "Timeline"] {
        assert!(output.stdout.contains(expected), "{expected} in\n{}", output.stdout);
    }

    assert!(output.stdout.lines().all(|line| line.chars().count() <= 80) && !output.stdout.contains('\x1b'));
}

#[test]
fn a_day_of_cron_blocks() {
    let env = TestEnv::new();
    let (mut health, mut errors) = (String::new(), String::new());
    let failing = |block: i64, db: u64| (100..=102).contains(&block) || (db == 5 && block == 200);

    for block in 0..288 {
        // One cron run is missing.
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

    env.write("redis_db_health.log", &health);
    env.write("redis_error.log", &errors);
    let (code, document) = json(&env, "");

    assert_eq!(code, Some(1));

    // Failures that are in both logs are counted once.
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

    let output = text(&env, "");
    for expected in ["\nDB 0-4 ", "\nDB 5 ", "\nDB 6-15 ", "\nDB 0-15: 2025-08-27 15:55:01 to 2025-08-27 16:10:01"] {
        assert!(output.stdout.contains(expected), "{expected} in\n{}", output.stdout);
    }
}

#[test]
fn a_day_of_json_lines_with_one_check_per_second() {
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

    env.write("redis_success.log", &success);
    env.write("redis_error.log", &errors);
    let (code, document) = json(&env, "");

    assert_eq!(code, Some(1));
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(86_400), Some(failures)));
    assert_eq!(document["unobserved_s"], 0.0);

    let endpoint = row(&document, None);
    let outage = &endpoint["outages"][0];
    // The first failed check noticed the reset after 900 µs.
    assert_eq!(outage["at_least_s"], 59.9991);

    // From the last success before it to the end of the first success after it, which took 461 µs.
    assert_eq!(outage["at_most_s"], 62.000_461);
    assert_eq!((&outage["kinds"]["reset"], &outage["kinds"]["loading"]), (&Value::from(30), &Value::from(31)));

    latencies.sort_unstable();
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let exact = latencies[((latencies.len() as f64 * quantile).ceil() as usize).saturating_sub(1)] as f64;
        let reported = endpoint["latency_us"][name].as_f64().unwrap();
        assert!((reported - exact).abs() <= exact * 0.01, "{name}: {reported} instead of {exact}");
    }
}

#[test]
fn mixed_formats_rotated_files_and_lines_that_cannot_be_read() {
    let env = TestEnv::new();
    let classic = |from: i64, to: i64| -> String {
        (from..to).map(|tick| format!("{} SUCCESS {}\n", second(tick), tick + 1)).collect()
    };

    // Neither the names nor the numbers of rotated files give their order; their timestamps do.
    env.write("redis_success.log.2", &classic(0, 10));
    env.write("redis_success.log.10", &classic(10, 20));
    env.write("redis_success.log-20250827", &classic(20, 30));
    env.write("redis_success.log.1.xz", "not read");
    let mut last = classic(30, 35) + "half a li\n\0\0\0\n\u{feff}{\"at\":1}\n{\"type\":\"check\"}\n";

    for tick in 35..40 {
        let at = second(tick).and_utc().to_rfc3339();
        writeln!(last, "{{\"at\":\"{at}\",\"type\":\"check\",\"ok\":true,\"elapsed_us\":5}}").unwrap();
    }

    env.write("redis_success.log", &(last + &format!("{} SUCCE", second(40))));
    let (code, document) = json(&env, "");
    assert_eq!((code, document["checks"].as_u64()), (Some(0), Some(40)));
    assert_eq!((document["skipped_lines"].as_u64(), document["unobserved_s"].as_f64()), (Some(5), Some(0.0)));

    let output = text(&env, "-v");
    assert!(output.stdout.contains("lines that could not be read: 5"), "{output:?}");
    assert!(output.stderr.contains("redis_success.log:6: cannot be read: half a li\n"), "{}", output.stderr);
    assert!(!output.stderr.contains('\0'));
    // A file that is passed over is named, also without -v.
    let output = text(&env, "");
    assert!(output.stderr.contains("logs/redis_success.log.1.xz: passed over: only gzip is read"), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");

    // Time ranges in each format, and single files.
    let part = |flags: &str| json(&env, flags).1["checks"].as_u64().unwrap();
    assert_eq!(part("--utc --since '2025-08-27 07:35:11' --until 2025-08-27T07:35:21Z"), 10);
    assert_eq!(part("--utc --since 2025-08-27T09:35:11+02:00"), 30);
    assert_eq!(part("--utc --until 2025-08-28"), 40);
    assert_eq!(part("logs/redis_success.log.2 logs/redis_success.log.10"), 20);
}

/// Compresses a text as gzip does.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_files_are_read_under_the_names_of_logrotate() {
    let env = TestEnv::new();
    let classic = |from: i64, to: i64| -> String {
        (from..to).map(|tick| format!("{} SUCCESS {}\n", second(tick), tick + 1)).collect()
    };
    fs::create_dir(env.logs()).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(env.logs().join(name), bytes).unwrap();
    write("redis_success.log-20250825.gz", &gzip(&classic(0, 10)));
    // With the setting `extension .log`.
    write("redis_success-20250826.log.gz", &gzip(&classic(10, 20)));
    write("redis_success.log.2.gz", &gzip(&classic(20, 30)));
    write("redis_success.log.1", classic(30, 40).as_bytes());
    write("redis_success.log", classic(40, 50).as_bytes());
    let (code, document) = json(&env, "");
    assert_eq!((code, document["checks"].as_u64(), document["unobserved_s"].as_f64()), (Some(0), Some(50), Some(0.0)));

    // What is left of a file that was cut is read, and the rest is named.
    let cut = gzip(&classic(50, 5_000));
    write("redis_success.log.1.gz", &cut[..cut.len() / 2]);
    let output = env.run("report --json");
    assert!(output.json()["checks"].as_u64().unwrap() > 1_000, "{output:?}");
    assert!(output.stderr.contains("logs/redis_success.log.1.gz: passed over after line "), "{output:?}");
}

#[test]
fn copies_do_not_count_twice() {
    let env = TestEnv::new();
    let line = |tick: i64| match tick {
        35..38 => format!("{} FAILURE: refused: Connection refused\n", second(tick)),
        _ => format!("{} SUCCESS {}\n", second(tick), tick + 1),
    };
    let lines = |from: i64, to: i64| (from..to).map(line).collect::<String>();
    env.write("redis_success.log.1", &lines(0, 30));
    env.write("redis_success.log", &lines(30, 60));
    let (_, whole) = json(&env, "");

    // A hard link, a backup of the log when it was shorter, one from before the rotation, an archive and its original.
    let log = |name: &str| env.logs().join(name);
    fs::hard_link(log("redis_success.log"), log("redis_success.log.link")).unwrap();
    env.write("redis_success.log.bak", &lines(30, 50));
    env.write("redis_success.log~", &lines(10, 30));
    fs::write(log("redis_success.log.1.gz"), gzip(&lines(0, 30))).unwrap();
    let output = env.run("report --json");
    let copies = output.json();

    for same in ["checks", "failures", "unobserved_s", "databases"] {
        assert_eq!(whole[same], copies[same], "{same}");
    }
    assert_eq!(
        (copies["checks"].as_u64(), output.stderr.matches(": passed over: ").count()),
        (Some(60), 4),
        "{output:?}"
    );
}

#[test]
fn flaws_in_script_logs_are_handled() {
    let env = TestEnv::new();

    // Under dash the scripts logged every healthy check as a failure, and an error text with a line break split a line
    // of a block.
    env.write("redis_error.log", &format!("{} FAILURE: PONG\n{} FAILURE: PONG\n", second(0), second(60)));
    env.write(
        "redis_db_health.log",
        &format!(
            "===== Redis DB Health Check at {} =====\nDB 0: RUNNING\n\
             DB 1: NOT RUNNING (ERR DB index is out of range\nPONG)\nDB 2: RUNNING\nDB 3: NOT RUNNING (PONG)\n\n",
            second(0)
        ),
    );
    let (code, document) = json(&env, "");

    assert_eq!((code, document["skipped_lines"].as_u64()), (Some(1), Some(0)), "{document}");
    assert_eq!((document["checks"].as_u64(), document["failures"].as_u64()), (Some(6), Some(1)));
    assert_eq!(row(&document, Some(1))["outages"][0]["kinds"]["no-such-db"], 1);
    assert_eq!(row(&document, Some(3))["availability"], 1.0);
}

#[test]
fn the_repeated_hour_when_daylight_saving_ends() {
    let env = TestEnv::new();

    // Daylight saving ended in Central Europe on 26 October 2025 at 03:00, when clocks were set back to 02:00. There is
    // one check per minute; some fail in the first and in the second hour from 02:00, and no time is unobserved.
    let begin = DateTime::parse_from_rfc3339("2025-10-26T01:30:00+02:00").unwrap();
    let changes = DateTime::parse_from_rfc3339("2025-10-26T03:00:00+02:00").unwrap();
    let (mut success, mut errors) = (String::new(), String::new());

    for minute in 0..150 {
        let at = begin + Duration::minutes(minute);
        let clock = if at < changes { at.naive_local() } else { at.naive_local() - Duration::hours(1) };
        match minute {
            50 | 95..98 => writeln!(errors, "{clock} FAILURE: refused: Connection refused").unwrap(),
            _ => writeln!(success, "{clock} SUCCESS {}", minute + 1).unwrap(),
        }
    }

    env.write("redis_success.log", &success);
    env.write("redis_error.log", &errors);
    let document = env.run_with(&[("TZ", "Europe/Berlin")], "report --json").json();

    assert_eq!(document["from"], "2025-10-26T01:30:00.000+02:00");
    assert_eq!(document["to"], "2025-10-26T02:59:00.000+01:00");
    assert_eq!((document["checks"].as_u64(), document["unobserved_s"].as_f64()), (Some(150), Some(0.0)));

    let outages = row(&document, None)["outages"].as_array().unwrap();
    let bounds: Vec<_> = outages.iter().map(|outage| (&outage["first_failure"], &outage["at_least_s"])).collect();
    assert_eq!(
        bounds,
        [
            (&Value::from("2025-10-26T02:20:00.000+02:00"), &Value::from(0.0)),
            (&Value::from("2025-10-26T02:05:00.000+01:00"), &Value::from(120.0)),
        ]
    );
}

#[test]
fn old_marks_of_a_later_run_do_not_bound_the_whole_outage() {
    let env = TestEnv::new();
    env.write(
        "redis_success.log",
        "=== Cycle 1 started at 2026-01-03 02:01:07 ===\n2026-01-03 02:01:07 SUCCESS 1\n\
         2026-01-03 02:01:17 SUCCESS 2\n=== Cycle 1 started at 2026-01-03 02:13:12 ===\n\
         2026-01-03 02:13:22 SUCCESS 2\n",
    );
    // The first run is killed in the outage. The second one has seen only the last failure.
    env.write(
        "redis_error.log",
        "2026-01-03 02:01:27 FAILURE: refused: Connection refused\n\
         === Outage of endpoint began at 2026-01-03 02:01:27 ===\n\
         2026-01-03 02:13:12 FAILURE: refused: Connection refused\n\
         === Outage of endpoint began at 2026-01-03 02:13:12 ===\n\
         === Outage of endpoint ended at 2026-01-03 02:13:22, lasted at least 0 s, its beginning was not observed ===\n",
    );
    let (_, document) = json(&env, "");

    let outages = row(&document, None)["outages"].as_array().unwrap();
    assert_eq!(outages.len(), 1, "{document}");
    assert_eq!((outages[0]["at_least_s"].as_f64(), outages[0]["at_most_s"].as_f64()), (Some(705.0), Some(725.0)));
}

#[test]
fn a_failure_of_cycles_in_the_second_of_a_scan_is_not_one_of_the_scan() {
    let env = TestEnv::new();
    env.write(
        "redis_success.log",
        "=== Run of cycles on h began at 2026-03-10 03:25:13.738 +00:00 ===\n\
         === Cycle 1 started at 2026-03-10 03:25:13.738 ===\n\
         2026-03-10 03:25:13.738 DB 3 SUCCESS 1\n2026-03-10 03:25:14.738 DB 3 SUCCESS 3\n",
    );
    env.write(
        "redis_error.log",
        "=== Run of dbs on h began at 2026-03-10 03:25:14.407 +00:00 ===\n\
         2026-03-10 03:25:14 DB 2 FAILURE: loading: LOADING\n\
         2026-03-10 03:25:14.238 DB 3 FAILURE: refused: Connection refused\n",
    );
    env.write(
        "redis_db_health.log",
        "===== Redis DB Health Check at 2026-03-10 03:25:14 =====\nDB 2: NOT RUNNING (loading: LOADING)\n\n",
    );
    let (_, document) = json(&env, "");

    let rows: Vec<_> = document["databases"].as_array().unwrap().iter().collect();
    let figures: Vec<_> = rows.iter().map(|row| (row["db"].as_u64(), row["checks"].as_u64())).collect();
    assert_eq!(figures.len(), 2, "{document}");
    assert!(figures.contains(&(Some(3), Some(3))) && figures.contains(&(Some(2), Some(1))), "{figures:?}");
}

#[test]
fn scans_after_the_range_show_that_those_in_it_are_regular() {
    let env = TestEnv::new();
    let block = |at: i64| format!("===== Redis DB Health Check at {} =====\nDB 0: RUNNING\n\n", second(at));
    for (times, unobserved) in [
        (&[0, 300, 600, 900][..], 0.0),
        // Nothing shows how often scans run.
        (&[0, 300], 300.0),
        (&[0, 300, 310], 300.0),
    ] {
        env.write("redis_db_health.log", &times.iter().copied().map(block).collect::<String>());
        let (_, document) = json(&env, "--until 2025-08-27T07:40:02Z");
        assert_eq!(document["checks"], 2, "{document}");
        assert_eq!(document["unobserved_s"], unobserved, "{times:?}");
    }
}

#[test]
fn the_quarter_after_the_repeated_hour_is_not_repeated() {
    let env = TestEnv::new();
    let block = |time: &str| format!("===== Redis DB Health Check at 2025-10-26 {time} =====\nDB 0: RUNNING\n\n");
    env.write("redis_db_health.log", &["01:59:00", "03:00:00", "03:09:00"].map(block).concat());
    let document = env.run_with(&[("TZ", "Europe/Berlin")], "report --json").json();
    assert_eq!(document["from"], "2025-10-26T01:59:00.000+02:00");
    assert_eq!(document["to"], "2025-10-26T03:09:00.000+01:00");
}

#[test]
fn time_before_a_gap_in_which_no_check_could_be_made_is_not_observed() {
    let env = TestEnv::new();
    let mut success = format!("=== Cycle 1 started at {} ===\n", second(0));
    for tick in 0..6 {
        let at = second(tick * 30);
        writeln!(success, "{at} SUCCESS {0}\n{at} HELD SUCCESS {0}", tick + 1).unwrap();
    }
    let (from, to) = (second(210), second(330));
    writeln!(success, "=== Not observed from {from} to {to}, checks missed: 4 ===\n{to} SUCCESS 8").unwrap();
    let at = second(180);
    env.write("redis_success.log", &success);
    env.write(
        "redis_error.log",
        &format!("{at} NOT OBSERVED: local: too many open files\n{at} HELD NOT OBSERVED: local: too many open files\n"),
    );

    // From the first check that could not be made to the next one that was.
    let (_, document) = json(&env, "");
    assert_eq!(document["unobserved_s"], 150.0, "{document}");
}

#[test]
fn overlapping_script_runs() {
    let env = TestEnv::new();

    // The first run hangs in its second database until the second run has finished.
    let (one, two) = (second(0), second(300));
    env.write(
        "redis_db_health.log",
        &format!(
            "===== Redis DB Health Check at {one} =====\nDB 0: RUNNING\n\
             ===== Redis DB Health Check at {two} =====\nDB 0: RUNNING\nDB 1: RUNNING\n\n\
             DB 1: NOT RUNNING (Error: Connection timed out)\n\nDB 7: RUNNING\n"
        ),
    );
    let (code, document) = json(&env, "");

    assert_eq!((code, document["checks"].as_u64(), document["failures"].as_u64()), (Some(1), Some(4), Some(1)));
    assert_eq!(row(&document, Some(1))["outages"][0]["first_failure"], "2025-08-27T07:35:01.000+00:00");

    // A line outside any block is counted as unreadable.
    assert_eq!(document["skipped_lines"], 1);
}

#[test]
fn many_short_outages_do_not_hide_a_long_one() {
    let env = TestEnv::new();
    let (mut success, mut errors) = (String::new(), String::new());

    for tick in 0..9_000 {
        let at = second(tick);
        // Every other check fails; later all checks fail for ten minutes.
        match tick {
            8_000..8_600 => writeln!(errors, "{at} FAILURE: refused: Connection refused").unwrap(),
            tick if tick % 2 == 0 => writeln!(errors, "{at} FAILURE: reset: Connection reset by peer").unwrap(),
            _ => writeln!(success, "{at} SUCCESS {}", tick + 1).unwrap(),
        }
    }

    env.write("redis_success.log", &success);
    env.write("redis_error.log", &errors);
    let (_, document) = json(&env, "");
    let endpoint = row(&document, None);
    let outages = endpoint["outages"].as_array().unwrap();

    assert!(outages.iter().any(|outage| outage["at_least_s"].as_f64().unwrap() >= 599.0), "{}", outages.len());
    assert_eq!(outages.len() as u64 + endpoint["unlisted_outages"].as_u64().unwrap(), 4_200);

    let output = text(&env, "--html page.html");
    assert!(output.stdout.lines().count() < 500 && output.stdout.contains("more; --json lists"), "{}", output.stdout);

    // No part of the timeline is shown as up.
    let bar = output.stdout.lines().find_map(|line| line.strip_prefix("endpoint X")).unwrap();
    assert!(!bar.contains('='), "{bar}");
    assert!(fs::metadata(env.path().join("page.html")).unwrap().len() < 300_000);
}

#[test]
fn later_outages_that_are_longer_hide_no_earlier_ones() {
    let env = TestEnv::new();
    let mut lines = String::new();

    // 2,000 outages of one check, then 1,500 of two checks.
    let checks = "x.".repeat(2_000) + &"xx.".repeat(1_500);
    for (tick, check) in (0..).zip(checks.chars()) {
        let result = if check == 'x' { "FAILURE: refused: Connection refused" } else { "SUCCESS 1" };
        writeln!(lines, "{} {result}", second(tick)).unwrap();
    }
    env.write("redis_success.log", &lines);
    let (_, document) = json(&env, "");
    let endpoint = row(&document, None);
    let outages = endpoint["outages"].as_array().unwrap();

    // The JSON lists the longest thousand.
    assert_eq!((outages.len(), endpoint["unlisted_outages"].as_u64()), (1_000, Some(2_500)));
    assert!(outages.iter().all(|outage| outage["failed_checks"] == 2));

    // No part of the timeline is up, in the text or on the page.
    let output = text(&env, "--html page.html");
    let bar = output.stdout.lines().find_map(|line| line.strip_prefix("endpoint X")).unwrap();
    assert!(!bar.contains('='), "{bar}");
    let page = fs::read_to_string(env.path().join("page.html")).unwrap();
    assert_eq!(page.matches("class=\"down\"").count(), 1, "one stretch: {page}");
}

#[test]
fn time_between_scans_counts_as_observed_only_if_they_are_regular() {
    let unobserved = |minutes: &[i64]| {
        let env = TestEnv::new();
        let block =
            |minute: &i64| format!("===== Redis DB Health Check at {} =====\nDB 0: RUNNING\n\n", second(minute * 60));
        env.write("redis_db_health.log", &minutes.iter().map(block).collect::<String>());
        json(&env, "").1["unobserved_s"].as_f64().unwrap() / 60.0
    };
    let month = 30 * 24 * 60;

    // Two scans are not a month of observation.
    assert_eq!(unobserved(&[0, month]), f64::from(30 * 24 * 60));
    assert_eq!(unobserved(&[0, 5, 10, month]), f64::from(30 * 24 * 60 - 10));
    assert_eq!(unobserved(&[0, 5, 10, 15]), 0.0);
    // The schedule changes.
    assert_eq!(unobserved(&[0, 1, 2, 7, 12, 17]), 0.0);
    assert_eq!(unobserved(&[0, 5, 10, 20, 25]), 10.0);
}

/// The bounds of all outages of the endpoint.
fn bounds(document: &Value) -> Vec<(f64, Option<f64>)> {
    let outages = row(document, None)["outages"].as_array().unwrap();
    outages.iter().map(|outage| (outage["at_least_s"].as_f64().unwrap(), outage["at_most_s"].as_f64())).collect()
}

#[test]
fn bounds_are_those_that_the_run_reported() {
    let env = TestEnv::new();
    // The recovery from the first outage takes 1.2 s, so its mark comes after the end of the second outage.
    env.write(
        "redis_success.log",
        "=== Cycle 1 started at 2025-08-27 07:35:00.000 ===\n\
         2025-08-27 07:35:00.000 SUCCESS 1\n\
         2025-08-27 07:35:00.400 SUCCESS 3\n\
         2025-08-27 07:35:01.200 SUCCESS 7\n",
    );
    let errors = "2025-08-27 07:35:00.200 FAILURE: refused: Connection refused\n\
         === Outage of endpoint began at 2025-08-27 07:35:00.200, 0.001 s into the check of 2025-08-27 07:35:00.200 +00:00 ===\n\
         2025-08-27 07:35:00.600 FAILURE: refused: Connection refused\n\
         === Outage of endpoint began at 2025-08-27 07:35:00.600, 0.001 s into the check of 2025-08-27 07:35:00.600 +00:00 ===\n\
         2025-08-27 07:35:00.800 FAILURE: refused: Connection refused\n\
         2025-08-27 07:35:01.000 FAILURE: refused: Connection refused\n\
         === Outage of endpoint ended at 2025-08-27 07:35:01.201, lasted at least 0.399 s, at most 0.801 s, first failure at 2025-08-27 07:35:00.600 +00:00 ===\n\
         === Outage of endpoint ended at 2025-08-27 07:35:01.600, lasted at least 0 s, at most 1.6 s, first failure at 2025-08-27 07:35:00.200 +00:00 ===\n";
    env.write("redis_error.log", errors);
    let all = [(0.0, Some(1.6)), (0.399, Some(0.801))];
    assert_eq!(bounds(&json(&env, "").1), all);

    // The marks are after the end of the range, but not the checks that ended the outages.
    assert_eq!(bounds(&json(&env, "--utc --until '2025-08-27 07:35:01.201'").1), all);
    // In the first outage, and in the second.
    assert_eq!(bounds(&json(&env, "--utc --until '2025-08-27 07:35:00.300'").1), [(0.0, None)]);
    let part = json(&env, "--utc --since '2025-08-27 07:35:00.700' --until '2025-08-27 07:35:01.201'").1;
    assert_eq!(bounds(&part), [(0.2, Some(0.801))]);
    let open = json(&env, "--utc --since '2025-08-27 07:35:00.500' --until '2025-08-27 07:35:01.100'").1;
    assert_eq!(bounds(&open), [(0.399, None)]);
}

#[test]
fn a_run_killed_in_an_outage_and_started_again_is_one_outage() {
    let env = TestEnv::new();
    let line = |at: i64, result: &str| format!("{} {result}\n", second(at));
    let refused = "FAILURE: refused: Connection refused";
    let success = [
        format!("=== Cycle 1 started at {} ===\n", second(0)),
        line(0, "SUCCESS 1"),
        format!("=== Cycle 1 started at {} ===\n", second(100)),
        line(140, "SUCCESS 3"),
    ];
    let errors = [
        line(20, refused),
        format!("=== Outage of endpoint began at {0}, 0.803 s into the check of {0}.000 +00:00 ===\n", second(20)),
        line(40, refused),
        line(100, refused),
        line(120, refused),
        format!(
            "=== Outage of endpoint ended at {}, lasted at least 19.5 s, its beginning was not observed, \
             first failure at {}.000 +00:00 ===\n",
            second(142),
            second(100)
        ),
    ];
    env.write("redis_success.log", &success.concat());
    env.write("redis_error.log", &errors.concat());
    let (_, document) = json(&env, "");

    // From 0.803 s after second 20 to second 120, and from second 0 to second 142.
    assert_eq!(bounds(&document), [(99.197, Some(142.0))]);
    let outage = &row(&document, None)["outages"][0];
    assert_eq!((&outage["spans_gap"], &outage["failed_checks"]), (&Value::from(true), &Value::from(4)));
    assert_eq!(document["unobserved_s"], 60.0);

    // Killed for good.
    let killed = env.run("report --json --utc --until '2025-08-27 07:36:00'").json();
    assert_eq!(bounds(&killed), [(19.197, None)]);
}

#[test]
fn the_time_before_a_range_in_a_break_does_not_count() {
    let env = TestEnv::new();
    let success = format!(
        "=== Cycle 1 started at {} ===\n{} SUCCESS 1\n{} SUCCESS 2\n\
         === Cycle 1 completed, sleeping for 300 seconds ===\n=== Cycle 2 started at {} ===\n{} SUCCESS 4\n",
        second(0),
        second(0),
        second(60),
        second(420),
        second(480)
    );
    env.write("redis_success.log", &success);
    env.write("redis_error.log", &format!("{} FAILURE: refused: Connection refused\n", second(420)));
    let (_, document) = json(&env, "--utc --since '2025-08-27 07:38:00'");

    assert_eq!((&document["checks"], &document["unobserved_s"]), (&Value::from(2), &Value::from(0.0)));
    // The break is still a part of the time in which the outage may have begun.
    let outage = &row(&document, None)["outages"][0];
    assert_eq!((&outage["spans_gap"], &outage["at_most_s"]), (&Value::from(true), &Value::from(420.0)));
}

#[test]
fn many_names_need_little_memory_and_the_report_says_where_it_stopped() {
    let env = TestEnv::new();
    let mut lines = String::new();
    for name in 0..100_000 {
        let result = if name == 99_999 { "FAILURE: refused: Connection refused" } else { "SUCCESS 1" };
        writeln!(lines, "{} NODE node-{name:06}.example:6379 {result}", second(name / 100)).unwrap();
    }
    env.write("redis_success.log", &lines);

    // The address space, which is more than the memory in use.
    let limited = |flags: &str| env.program(&["sh", "-c", &format!("ulimit -v 131072; exec {BINARY} report {flags}")]);
    let output = Running::start(limited("--json")).wait();
    // A failure without a row of its own is still a failure.
    assert_eq!((output.code, output.json()["failures"].as_u64()), (Some(1), Some(1)), "{}", output.stderr);
    let document = output.json();
    assert_eq!(document["databases"].as_array().unwrap().len(), 20_000);
    assert_eq!((&document["checks"], &document["unlisted_checks"]), (&Value::from(100_000), &Value::from(80_000)));

    let output = Running::start(limited("--html page.html")).wait();
    let words = "checks of further databases or nodes, which have no row: 80000\n";
    assert!(output.stdout.contains(words), "{:.300} {}", output.stdout, output.stderr);
}

#[test]
fn a_run_stopped_in_a_break_is_not_observed_from_its_last_check_on() {
    let env = TestEnv::new();
    let run = |start: i64, end: &str| {
        format!(
            "=== Cycle 1 started at {0} ===\n{0} SUCCESS 1\n{1} SUCCESS 2\n{2} SUCCESS 3\n{end}\n",
            second(start),
            second(start + 10),
            second(start + 20)
        )
    };
    let completed = "=== Cycle 1 completed, sleeping for 300 seconds ===";
    let stopped = format!("{completed}\n=== Stopped by SIGTERM at {} ===", second(200));
    let finished = format!("=== All cycles finished at {} ===", second(1_050));
    // The second run was killed in its break.
    let runs = [run(0, &stopped), run(500, completed), run(1_000, &finished)];
    env.write("redis_success.log", &runs.concat());
    assert_eq!(json(&env, "").1["unobserved_s"], f64::from(500 - 20 + 1_000 - 520));
}

#[test]
fn two_runs_with_different_intervals_are_each_observed() {
    let env = TestEnv::new();
    let mut lines = String::new();
    for (start, interval) in [(0, 1), (100, 60)] {
        writeln!(lines, "=== Cycle 1 started at {} ===", second(start)).unwrap();
        for check in 0..3 {
            writeln!(lines, "{} SUCCESS {}", second(start + check * interval), check + 1).unwrap();
        }
        writeln!(lines, "=== All cycles finished at {} ===", second(start + 3 * interval)).unwrap();
    }
    env.write("redis_success.log", &lines);
    // Only the time between the runs.
    assert_eq!(json(&env, "").1["unobserved_s"], 97.0);
}

#[test]
fn several_folders_are_reported_separately() {
    let env = TestEnv::new();
    for (folder, fails) in [("a", 3..6), ("b", 0..0)] {
        fs::create_dir(env.path().join(folder)).unwrap();
        let line = |tick: i64| match fails.contains(&tick) {
            true => format!("{} FAILURE: refused: Connection refused\n", second(tick)),
            false => format!("{} SUCCESS {tick}\n", second(tick)),
        };
        fs::write(env.path().join(folder).join("redis_success.log"), (0..10).map(line).collect::<String>()).unwrap();
    }

    let (code, document) = json(&env, "a b a/redis_success.log");
    assert_eq!((code, document["checks"].as_u64(), document["failures"].as_u64()), (Some(1), Some(20), Some(3)));

    let rows = document["databases"].as_array().unwrap();
    assert_eq!((rows[0]["folder"].as_str(), rows[1]["folder"].as_str()), (Some("a"), Some("b")));
    assert_eq!((rows[0]["outages"].as_array().unwrap().len(), rows[1]["failures"].as_u64()), (1, Some(0)));
    assert!(text(&env, "a b").stdout.contains("\na: endpoint: 2025-08-27 07:35:04 to 2025-08-27 07:35:07\n"));
}

#[test]
fn an_error_log_alone_shows_only_failures() {
    let env = TestEnv::new();
    env.write("redis_error.log", &format!("{} FAILURE: refused: Connection refused\n", second(0)));
    let (code, document) = json(&env, "");
    assert_eq!((code, &row(&document, None)["availability"]), (Some(1), &Value::Null));
    let output = text(&env, "");
    assert!(output.stdout.contains("only an error log was read") && !output.stdout.contains('%'), "{output:?}");
}

#[test]
fn failures_without_their_successes_are_not_one_long_outage() {
    // Two outages of one run each, three days apart. The success log is gone; the marks tell how long they lasted.
    let env = TestEnv::new();
    let mut errors = String::new();
    for day in [0, 3] {
        let at = |more: i64| second(day * 86_400 + more);
        writeln!(errors, "{} FAILURE: refused: Connection refused", at(0)).unwrap();
        writeln!(errors, "=== Outage of endpoint began at {} ===", at(0)).unwrap();
        writeln!(errors, "=== Outage of endpoint ended at {}, lasted at least 0 s, at most 2 s ===", at(1)).unwrap();
    }
    // A script's success log of the day after.
    let success: String = (0..10).map(|n| format!("{} SUCCESS {}\n", second(4 * 86_400 + n * 60), n + 1)).collect();
    for with_success in [false, true] {
        env.write("redis_error.log", &errors);
        if with_success {
            env.write("redis_success.log", &success);
        }
        let (code, document) = json(&env, "");
        let endpoint = row(&document, None);
        let outages = endpoint["outages"].as_array().unwrap();
        let bounds: Vec<_> = outages.iter().map(|outage| (&outage["at_least_s"], &outage["at_most_s"])).collect();
        assert_eq!(bounds, [(&Value::from(0.0), &Value::from(2.0)); 2], "{document}");
        let known = if with_success { Value::from(1.0) } else { Value::Null };
        assert_eq!((code, &endpoint["availability"]), (Some(1), &known), "{document}");
        assert!(!text(&env, "").stdout.contains(" 0.000 %"), "{}", text(&env, "").stdout);
    }
}

#[test]
fn failures_of_scans_whose_blocks_are_gone_belong_to_dbs() {
    let env = TestEnv::new();
    let (mut health, mut errors) = (String::new(), String::new());
    // The error log tells of scans three days before the first block that is left.
    for (from, minutes) in [(0, 3), (20, 1)] {
        for minute in from..from + minutes {
            for db in 0..16 {
                writeln!(errors, "{} DB {db} FAILURE: refused: Connection refused", second(minute * 60)).unwrap();
            }
        }
    }
    for scan in 0..20 {
        writeln!(health, "===== Redis DB Health Check at {} =====", second(3 * 86_400 + scan * 300)).unwrap();
        health += &(0..16).map(|db| format!("DB {db}: RUNNING\n")).collect::<String>();
        health.push('\n');
    }
    env.write("redis_db_health.log", &health);
    env.write("redis_error.log", &errors);
    let output = env.run("report --json");
    let document = output.json();

    assert_eq!(document["databases"].as_array().unwrap().len(), 16, "{document}");
    for db in 0..16 {
        let row = row(&document, Some(db));
        let outages = row["outages"].as_array().unwrap();
        let at_least: Vec<_> = outages.iter().map(|outage| outage["at_least_s"].as_f64().unwrap()).collect();
        // Failures of one time are one outage. When it ended is not known, but it was not days later.
        assert_eq!(at_least, [120.0, 0.0], "{document}");
        assert!(outages.iter().all(|outage| outage["first_success_after"].is_null()), "{document}");
        assert_eq!(row["availability"], 1.0, "{document}");
    }
    assert_eq!(document["failures_alone"], 64, "{document}");
    // Only the time of the blocks was observed.
    assert!(document["unobserved_s"].as_f64().unwrap() >= 3.0 * 86_400.0 - 120.0, "{document}");
    assert!(!text(&env, "").stdout.contains(" 0.000 %"), "{}", text(&env, "").stdout);
}

#[test]
fn the_header_of_a_run_tells_that_it_writes() {
    // The file with the beginning of the run is gone.
    let env = TestEnv::new();
    let header = "=== Run of cycles on checker-1 began at 2025-08-26 07:35:01.000 +00:00, continues 86400 s later at \
                  2025-08-27 07:35:01.000 +00:00 ===\n=== Each check writes a canary key from 2025-08-27 07:35:01 ===\n";
    let line = |tick: i64| match tick {
        20..23 => format!("{} WRITE FAILURE: readonly: READONLY You can't write\n", second(tick)),
        _ => format!("{} SUCCESS {}\n", second(tick), tick + 1),
    };
    env.write("redis_success.log", &(header.to_owned() + &(0..100).map(line).collect::<String>()));
    let (_, document) = json(&env, "");
    let writes = document["databases"].as_array().unwrap().iter().find(|row| row["write"] == true).unwrap();
    assert_eq!((writes["checks"].as_u64(), writes["availability"].as_f64()), (Some(100), Some(0.97)), "{document}");
}

#[test]
fn a_time_range_considers_the_check_before_it() {
    let env = TestEnv::new();
    let mut lines =
        format!("=== Cycle 1 started at {0} ===\n=== Each check writes a canary key from {0} ===\n", second(0));
    for tick in 0..100 {
        match tick {
            20..23 => writeln!(lines, "{} WRITE FAILURE: readonly: READONLY You can't write", second(tick)).unwrap(),
            _ => writeln!(lines, "{} SUCCESS {}", second(tick), tick + 1).unwrap(),
        }
    }
    env.write("redis_success.log", &lines);
    let (_, document) = json(&env, "--utc --since '2025-08-27 07:35:21'");
    let rows = document["databases"].as_array().unwrap();
    let writes = rows.iter().find(|row| row["write"] == true).unwrap();

    assert_eq!((writes["checks"].as_u64(), writes["failures"].as_u64()), (Some(80), Some(3)));
    assert_eq!(writes["outages"][0]["last_success_before"], "2025-08-27T07:35:20.000+00:00");
}

#[test]
fn json_scans_from_cron_show_changes() {
    let env = TestEnv::new();
    let block = |minute: i64, peer: &str, role: &str, version: &str| {
        let at = second(minute * 60).and_utc().to_rfc3339();
        format!(
            "{{\"at\":\"{at}\",\"type\":\"scan\",\"databases\":[{{\"db\":0,\"ok\":true,\"peer\":\"{peer}:6379\",\
             \"role\":\"{role}\",\"engine\":\"redis\",\"version\":\"{version}\"}}]}}\n"
        )
    };
    let blocks = [
        block(0, "10.0.1.5", "primary", "7.0.15"),
        block(5, "10.0.1.5", "replica", "7.0.15"),
        block(10, "10.0.2.9", "primary", "7.2.4"),
    ];
    env.write("redis_db_health.log", &blocks.concat());
    let (_, document) = json(&env, "");
    let changes = document["changes"].as_array().unwrap();
    let what: Vec<_> = changes.iter().map(|change| change["what"].as_str().unwrap()).collect();

    assert_eq!(what, ["role", "address", "role", "engine"], "{document}");
    assert_eq!(changes[1]["to"], "10.0.2.9");
}

#[test]
fn report_reads_what_a_run_logged() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless(&format!("-p {port} --log-format json --json"));
    env.wait_for("redis_success.log", |text| text.matches("\"check\"").count() > 3);
    server.behave(Behaviour::Refuse);
    env.wait_for("redis_error.log", |text| text.matches("\"check\"").count() > 3);
    server.become_(|nature| nature.role = "slave");
    server.behave(Behaviour::Serve);
    env.wait_for("redis_error.log", |text| text.contains("outage_ended"));
    env.wait_for("redis_success.log", |text| text.contains("\"change\""));
    let live = run.stop().json();
    let (code, read) = json(&env, "");

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
fn logs_without_checks_are_an_error() {
    let env = TestEnv::new();
    fs::create_dir(env.logs()).unwrap();
    for (arguments, error) in [
        ("", "no health log found in logs"),
        ("nowhere", "cannot read nowhere"),
        ("--since soon", "--since: soon is not a time"),
        ("--since 12:00 --until 11:00", "--until is before --since"),
    ] {
        let output = text(&env, arguments);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{arguments}: {output:?}");
        assert!(output.stderr.contains(error) && output.stderr.lines().count() == 1, "{arguments}: {output:?}");
    }
    env.write("redis_success.log", "something else\n");
    let output = text(&env, "");

    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("no check was found in logs (lines that could not be read: 1)"), "{output:?}");
}

#[test]
fn the_longest_outage_of_equal_lower_bounds_has_the_greater_upper_bound() {
    let env = TestEnv::new();
    let success = |(number, second): (usize, &u32)| format!("2025-08-27 07:35:{second:02} SUCCESS {number}\n");
    let failure = |second: &u32| format!("2025-08-27 07:35:{second:02} FAILURE: refused: Connection refused\n");
    env.write("redis_success.log", &[1, 5, 6, 9].iter().enumerate().map(success).collect::<String>());
    env.write("redis_error.log", &[2, 3, 7, 8].iter().map(failure).collect::<String>());

    let report = env.run("report --utc --json --html page.html").json();
    let outages = report["databases"][0]["outages"].as_array().unwrap();
    let bounds: Vec<_> =
        outages.iter().map(|outage| (outage["at_least_s"].clone(), outage["at_most_s"].clone())).collect();
    let page = fs::read_to_string(env.path().join("page.html")).unwrap();

    assert!(bounds.len() == 2 && bounds[0].0 == bounds[1].0, "{bounds:?}");
    assert!(bounds[0].1.as_f64() > bounds[1].1.as_f64(), "{bounds:?}");
    let (at_least, at_most) = (bounds[0].0.as_f64().unwrap(), bounds[0].1.as_f64().unwrap());
    let headline = format!("longest outage: at least {at_least} s, at most {at_most} s");
    assert!(page.contains(&headline), "{headline}: {page}");
}

#[test]
fn a_result_that_cannot_be_written_to_standard_output_is_told() {
    let (env, server) = (TestEnv::new(), Server::start());
    env.write("redis_success.log", "2025-08-27 07:35:01 SUCCESS 1\n");
    let scan = format!("dbs -p {} --max-db 0 --json", server.port());
    for arguments in ["report", "report --json", &scan] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = env.command(arguments).stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();

        let line = "redis-health: cannot write to standard output: No space left on device (os error 28)\n";
        assert_eq!((output.status.code(), stderr.as_str()), (Some(4), line), "{arguments}");

        // Nobody reads a closed pipe, so this is not a loss.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = env.command(arguments).stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments}");
    }
}

#[test]
fn availability_without_lone_failures_names_the_checks_that_it_is_of() {
    let env = TestEnv::new();
    env.write("redis_error.log", "2025-08-27 07:05:01 FAILURE: refused: Connection refused\n");
    env.write("redis_success.log", "2025-08-27 07:35:01 SUCCESS 1\n");
    let output = text(&env, "--utc");
    assert!(output.stdout.starts_with("2 checks, 1 failed, availability 100.000 % of 1 check\n"), "{output:?}");
}
