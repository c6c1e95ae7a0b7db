//! The diagnostic trace: `-v` and `--trace-dir`.

use std::fs;

use crate::support::env::TestEnv;
use crate::support::scripted::{Behaviour, Server};

#[test]
fn a_trace_line_shows_its_time_and_its_check() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.spawn(&format!("cycles -v --held -p {port} --run-duration 1h --check-interval 50ms"));
    let line = |target: &str| format!("number=2 target={target} endpoint=127.0.0.1:{port}");
    run.wait_for_stderr(|text| ["Endpoint", "HELD"].iter().all(|target| text.contains(&line(target))));
    let output = run.stop();

    for line in output.stderr.lines() {
        let stamp = line.strip_prefix("redis-health: ").and_then(|line| line.get(..23)).unwrap_or_default();
        let is_stamp = chrono::NaiveDateTime::parse_from_str(stamp, "%Y-%m-%d %H:%M:%S%.3f").is_ok();
        assert!(is_stamp, "{line}");
        assert!(!line.contains("Err(") && !line.contains("Failure {"), "{line}");
    }
}

#[test]
fn a_trace_folder_gets_one_file_per_day_and_no_records() {
    for (mode, more) in [("dbs", ""), ("cycles", "--cycles 1 --run-duration 0.2 --check-interval 0.1")] {
        let (env, server) = (TestEnv::new(), Server::start());
        server.behave(Behaviour::Error("LOADING Redis is loading the dataset in memory".to_owned()));
        let output = env.run(&format!("{mode} -p {} --trace-dir traces/new --utc {more}", server.port()));
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(output.stderr, "", "the trace is not shown without -v");

        let files: Vec<_> = fs::read_dir(env.path().join("traces/new")).unwrap().map(|file| file.unwrap()).collect();
        let today = chrono::Utc::now().format("%Y-%m-%d");
        let names: Vec<_> = files.iter().map(|file| file.file_name().into_string().unwrap()).collect();
        assert_eq!(names, [format!("redis-health.{today}.trace")]);

        let trace = fs::read_to_string(files[0].path()).unwrap();
        assert!(trace.contains("connected to 127.0.0.1:"), "{trace}");
        assert!(trace.contains("LOADING Redis is loading the dataset in memory"), "{trace}");
        assert!(!trace.contains("FAILURE") && !trace.contains("RUNNING"), "{trace}");
    }
}

#[test]
fn a_trace_folder_that_cannot_be_written_is_reported() {
    let (env, server) = (TestEnv::new(), Server::start());
    let output = env.run(&format!("dbs -p {} --trace-dir /dev/null/traces", server.port()));
    env.assert_refused(&output, "--trace-dir", "name another folder", "a folder in a file");
    assert_eq!(server.accepted(), 0);
}
