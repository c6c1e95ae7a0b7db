//! `report` on logs of the night in which daylight saving time ends, and of clocks that were set.

use std::fmt::Write as _;

use chrono::{DateTime, Duration, FixedOffset};
use serde_json::Value;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// The moment at which clocks are set back: in the time before it and in the time after it.
const NIGHTS: [(&str, &str, &str); 3] = [
    ("Europe/Berlin", "2025-10-26T03:00:00+02:00", "2025-10-26T02:00:00+01:00"),
    ("America/New_York", "2025-11-02T02:00:00-04:00", "2025-11-02T01:00:00-05:00"),
    ("Australia/Lord_Howe", "2025-04-06T02:00:00+11:00", "2025-04-06T01:30:00+10:30"),
];

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// As by the scripts and by old versions: lines without an offset.
    Plain,
    /// Classic lines after a header.
    Headed,
    Json,
}

/// The first and last failed check of each outage, in minutes from the change.
const OUTAGES: [(i64, i64); 6] = [(-50, -50), (-28, -25), (-12, -12), (4, 9), (22, 22), (47, 48)];

struct Night {
    before: DateTime<FixedOffset>,
    after: DateTime<FixedOffset>,
    style: Style,
}

impl Night {
    /// `minute` minutes after the change, with the offset of that time.
    fn at(&self, minute: i64) -> DateTime<FixedOffset> {
        if minute < 0 { self.before + Duration::minutes(minute) } else { self.after + Duration::minutes(minute) }
    }

    fn header(&self, mode: &str, began: DateTime<FixedOffset>, at: DateTime<FixedOffset>) -> String {
        let exact = |at: DateTime<FixedOffset>| at.format("%Y-%m-%d %H:%M:%S%.3f %:z");
        let since = (at - began).num_seconds();
        match self.style {
            Style::Plain => String::new(),
            Style::Headed if since == 0 => format!("=== Run of {mode} on checker-1 began at {} ===\n", exact(began)),
            Style::Headed => format!(
                "=== Run of {mode} on checker-1 began at {}, continues {since} s later at {} ===\n",
                exact(began),
                exact(at)
            ),
            Style::Json => format!(
                "{{\"at\":\"{}\",\"type\":\"run_started\",\"mode\":\"{mode}\",\"host\":\"checker-1\",\"began\":\"{}\",\
                 \"since_start_us\":{}}}\n",
                at.to_rfc3339(),
                began.to_rfc3339(),
                since * 1_000_000
            ),
        }
    }

    fn check(&self, minute: i64, number: i64, fails: bool) -> String {
        let at = self.at(minute);
        let local = at.format("%Y-%m-%d %H:%M:%S");
        match (self.style, fails) {
            (Style::Json, false) => {
                format!("{{\"at\":\"{}\",\"type\":\"check\",\"mode\":\"cycles\",\"ok\":true}}\n", at.to_rfc3339())
            }
            (Style::Json, true) => format!(
                "{{\"at\":\"{}\",\"type\":\"check\",\"mode\":\"cycles\",\"ok\":false,\"kind\":\"refused\"}}\n",
                at.to_rfc3339()
            ),
            (_, false) => format!("{local} SUCCESS {number}\n"),
            (_, true) => format!("{local} FAILURE: refused: Connection refused\n"),
        }
    }

    /// The success log and the error log of checks once a minute, in files of so many minutes.
    fn cycles(&self, minutes_of_file: i64, minutes_of_errors: i64) -> (Vec<String>, Vec<String>) {
        let (mut success, mut errors) = (Vec::<String>::new(), Vec::<String>::new());
        let (mut last_success, mut last_error) = ((i64::MIN, 0), (i64::MIN, 0));
        for minute in -90..=90 {
            let fails = OUTAGES.iter().any(|(from, to)| (*from..=*to).contains(&minute));
            let (files, length, last) = match fails {
                true => (&mut errors, minutes_of_errors, &mut last_error),
                false => (&mut success, minutes_of_file, &mut last_success),
            };
            // A header begins each file, and is repeated after the change.
            let part = ((minute + 90) / length, i64::from(minute >= 0));
            if files.is_empty() || part.0 != last.0 {
                files.push(String::new());
            }
            let text = files.last_mut().unwrap();
            if part != *last {
                *text += &self.header("cycles", self.at(-90), self.at(minute));
            }
            *last = part;
            *text += &self.check(minute, minute + 91, fails);
        }
        (success, errors)
    }
}

/// Writes the files of a log under the names of logrotate: the highest number is the oldest.
fn write_rotated(env: &TestEnv, log: &str, files: &[String]) {
    for (index, text) in files.iter().enumerate() {
        match files.len() - 1 - index {
            0 => env.write(log, text),
            number => env.write(&format!("{log}.{number}"), text),
        }
    }
}

/// The first failure, `at_least_s` and the number of failed checks of each outage of a database.
fn outages(document: &Value, db: Option<u64>) -> Vec<(String, f64, u64)> {
    let rows = document["databases"].as_array().unwrap();
    let row = rows.iter().find(|row| row["db"].as_u64() == db).unwrap_or_else(|| panic!("{document}"));
    let outage = |outage: &Value| {
        let first = outage["first_failure"].as_str().unwrap().to_owned();
        (first, outage["at_least_s"].as_f64().unwrap(), outage["failed_checks"].as_u64().unwrap())
    };
    row["outages"].as_array().unwrap().iter().map(outage).collect()
}

#[test]
fn each_check_of_the_night_in_which_clocks_go_back_is_counted_in_its_hour() {
    let stamp = |at: DateTime<FixedOffset>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, false);
    for (zone, before, after) in NIGHTS {
        let [before, after] = [before, after].map(|text| DateTime::parse_from_rfc3339(text).unwrap());
        for style in [Style::Plain, Style::Headed, Style::Json] {
            let night = Night { before, after, style };
            // One file, files that begin in either hour, and short ones.
            for minutes in [1_000, 100, 61, 37, 10] {
                let env = TestEnv::new();
                let (success, errors) = night.cycles(minutes, 3 * minutes);
                write_rotated(&env, "redis_success.log", &success);
                write_rotated(&env, "redis_error.log", &errors);
                let output = env.run_with(&[("TZ", zone)], "report --json");
                let (document, case) = (output.json(), format!("{zone} {style:?} {minutes}: {output:?}"));

                assert_eq!(document["checks"].as_u64(), Some(181), "{case}");
                assert_eq!(document["unobserved_s"].as_f64(), Some(0.0), "{case}");
                assert_eq!(document["guessed_times"].as_u64(), None, "{case}");
                let expected: Vec<_> = OUTAGES
                    .iter()
                    .map(|(from, to)| (stamp(night.at(*from)), (to - from) as f64 * 60.0, (to - from + 1) as u64))
                    .collect();
                assert_eq!(outages(&document, None), expected, "{case}");
                // With a header, the zone of the reader does not matter.
                if style != Style::Plain {
                    let elsewhere = env.run("report --json").json();
                    assert_eq!(
                        (&document["from"], &document["databases"]),
                        (&elsewhere["from"], &elsewhere["databases"])
                    );
                }
            }
        }
    }
}

#[test]
fn scans_of_the_night_in_which_clocks_go_back_are_not_counted_twice() {
    for (zone, before, after) in NIGHTS {
        let [before, after] = [before, after].map(|text| DateTime::parse_from_rfc3339(text).unwrap());
        let night = Night { before, after, style: Style::Plain };
        // 36 scans of two databases. The second one fails in some.
        for (minutes, scans) in [(5, 36), (60, 6)] {
            let env = TestEnv::new();
            let (mut health, mut errors, mut failures) = (String::new(), String::new(), 0);
            for scan in 0..scans {
                let at = night.at((scan - scans / 2) * minutes).format("%Y-%m-%d %H:%M:%S").to_string();
                writeln!(health, "===== Redis DB Health Check at {at} =====\nDB 0: RUNNING").unwrap();
                if [2, 3].contains(&(scan % 12)) {
                    failures += 1;
                    writeln!(health, "DB 1: NOT RUNNING (refused: Connection refused)\n").unwrap();
                    writeln!(errors, "{at} DB 1 FAILURE: refused: Connection refused").unwrap();
                } else {
                    writeln!(health, "DB 1: RUNNING\n").unwrap();
                }
            }
            env.write("redis_db_health.log", &health);
            env.write("redis_error.log", &errors);
            let output = env.run_with(&[("TZ", zone)], "report --json");
            let document = output.json();
            let found = (document["checks"].as_i64(), document["failures"].as_i64());
            assert_eq!(found, (Some(2 * scans), Some(failures)), "{zone} {minutes}: {output:?}");
            let bounds: Vec<_> = outages(&document, Some(1)).into_iter().map(|(_, at_least, _)| at_least).collect();
            assert!(bounds.iter().all(|at_least| *at_least == (minutes * 60) as f64), "{zone} {minutes}: {output:?}");
        }
    }
}

#[test]
fn a_clock_that_is_set_back_during_a_run_makes_no_time() {
    let start = DateTime::parse_from_rfc3339("2025-08-27T10:00:00+00:00").unwrap();
    for style in [Style::Headed, Style::Json] {
        let night = Night { before: start, after: start, style };
        let (env, mut success, mut errors) = (TestEnv::new(), String::new(), String::new());
        success += &night.header("cycles", start, start);
        for tick in 0..600_i64 {
            // After 300 s the clock is set back by 200 s.
            let back = Duration::seconds(if tick < 300 { 0 } else { 200 });
            let at = start + Duration::seconds(tick) - back;
            let fails = (100..105).contains(&tick) || (295..310).contains(&tick);
            let text = if fails { &mut errors } else { &mut success };
            if [100, 300].contains(&tick) || tick == 310 {
                let shifted = night.header("cycles", start, at);
                *text += &match style {
                    Style::Json => shifted.replace(
                        &format!("\"since_start_us\":{}", (at - start).num_microseconds().unwrap()),
                        &format!("\"since_start_us\":{}", tick * 1_000_000),
                    ),
                    _ => shifted.replace(
                        &format!("continues {} s", (at - start).num_seconds()),
                        &format!("continues {tick} s"),
                    ),
                };
            }
            let at_text = at.format("%Y-%m-%d %H:%M:%S");
            *text += &match (style, fails) {
                (Style::Json, _) => format!(
                    "{{\"at\":\"{}\",\"type\":\"check\",\"mode\":\"cycles\",\"since_start_us\":{},\"ok\":{}{}}}\n",
                    at.to_rfc3339(),
                    tick * 1_000_000,
                    !fails,
                    if fails { ",\"kind\":\"refused\"" } else { "" }
                ),
                (_, true) => format!("{at_text} FAILURE: refused: Connection refused\n"),
                (_, false) => format!("{at_text} SUCCESS {}\n", tick + 1),
            };
        }
        env.write("redis_success.log", &success);
        env.write("redis_error.log", &errors);
        let output = env.run("report --json");
        let document = output.json();
        assert_eq!(
            (document["checks"].as_u64(), document["unobserved_s"].as_f64()),
            (Some(600), Some(0.0)),
            "{output:?}"
        );
        let found: Vec<_> =
            outages(&document, None).into_iter().map(|(_, at_least, failed)| (at_least, failed)).collect();
        assert_eq!(found, [(4.0, 5), (14.0, 15)], "{style:?} {output:?}");
    }
}

#[test]
fn report_gives_back_what_a_run_knew_in_the_night_in_which_clocks_go_back() {
    // Each run begins two seconds before the change. An outage lasts over it.
    let runs = NIGHTS.iter().flat_map(|night| ["classic", "json"].map(|format| (*night, format)));
    let runs: Vec<_> = runs
        .map(|((zone, before, after), format)| {
            let (env, server) = (TestEnv::new(), Server::start());
            let begin = DateTime::parse_from_rfc3339(before).unwrap().to_utc() - Duration::seconds(2);
            // An offset in seconds, because a local time would be ambiguous.
            let fake = format!("faketime -f {:+}", (begin - chrono::Utc::now()).num_seconds());
            let flags = "--cycles 1 --run-duration 60 --check-interval 100ms --rotate 1500 --json";
            let arguments = format!("cycles -p {} --log-format {format} {flags}", server.port());
            let mut command = env.wrapped(&fake, &arguments);
            command.env("TZ", zone);
            let run = Running::start_behind(command);
            (format!("{zone} {format}"), &after[19..], run, env, server)
        })
        .collect();
    for (name, _, _, env, server) in &runs {
        assert!(eventually(LIMIT, || server.finished() > 2), "{name}");
        server.behave(Behaviour::Refuse);
        assert!(eventually(LIMIT, || env.names().iter().any(|log| log.starts_with("redis_error"))), "{name}");
    }
    for (name, offset, _, env, server) in &runs {
        // In the repeated time.
        assert!(eventually(LIMIT, || env.read_all().contains(offset)), "{name}");
        server.behave(Behaviour::Serve);
        assert!(
            eventually(LIMIT, || env.read_all().contains("at_most") || env.read_all().contains("at most")),
            "{name}"
        );
    }

    for (name, _, run, env, _server) in runs {
        let live = run.stop().json();
        // The zone of the reader does not matter.
        let read = env.run("report --json").json();
        for same in ["checks", "failures"] {
            assert_eq!(live[same], read[same], "{same} {name}: {live} {read}");
        }
        let (live, read) = (&live["databases"][0]["outages"], &read["databases"][0]["outages"]);
        let key = |outage: &Value| -> Vec<Value> {
            let at = |name: &str| outage[name].as_str().map(|at| DateTime::parse_from_rfc3339(at).unwrap().timestamp());
            let times = ["first_failure", "last_failure"].map(|name| Value::from(at(name)));
            [times.to_vec(), vec![outage["failed_checks"].clone()]].concat()
        };
        let keys = |outages: &Value| outages.as_array().unwrap().iter().map(key).collect::<Vec<_>>();
        assert_eq!(keys(live), keys(read), "{name}");
        assert!(!keys(live).is_empty());
    }
}

#[test]
fn a_block_of_the_repeated_hour_gives_its_offset() {
    let (env, server) = (TestEnv::new(), Server::start());
    for (utc, expected) in
        [("2025-10-26 00:30:00", " +02:00 ==="), ("2025-10-26 01:30:00", " +01:00 ==="), ("2025-10-26 02:30:00", "")]
    {
        // faketime reads the time in UTC, the program shows it in Berlin.
        let fake = format!("env TZ=UTC faketime '{utc}' env TZ=Europe/Berlin");
        let output = Running::start(env.wrapped(&fake, &format!("dbs -n 0 -p {}", server.port()))).wait();
        assert_eq!(output.code, Some(0), "{output:?}");
        let log = env.read("redis_db_health.log");
        let header = log.lines().rfind(|line| line.starts_with("=== Run of dbs on "));
        if expected.is_empty() {
            assert_eq!(log.matches("=== Run of ").count(), 2, "{log}");
        } else {
            assert!(header.is_some_and(|header| header.ends_with(expected)), "{log}");
        }
    }
    let document = env.run("report --json").json();
    assert_eq!(
        (&document["from"], &document["checks"]),
        (&Value::from("2025-10-26T02:30:00.000+02:00"), &Value::from(3))
    );
}
