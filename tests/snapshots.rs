//! Snapshots of whole outputs: the help of each mode, and a report of fixed logs in each format.
//!
//! `INSTA_UPDATE=always cargo test snapshots` updates them; `git diff` then shows the changes.

#[cfg(not(feature = "iam"))]
use crate::support::env::Running;
use crate::support::env::TestEnv;

/// The success log of two cycles, in which the endpoint fails, moves and is upgraded.
const SUCCESS: &str = "\
=== Cycle 1 started at 2025-08-27 07:35:01 ===
2025-08-27 07:35:01 SUCCESS 1
2025-08-27 07:36:01 SUCCESS 2
2025-08-27 07:37:01 SUCCESS 3
=== Cycle 1 completed, sleeping for 300 seconds ===
=== Cycle 2 started at 2025-08-27 07:45:01 ===
=== Endpoint moved from 10.0.1.5 to 10.0.2.9 at 2025-08-27 07:46:01 ===
=== Endpoint changed from redis 7.0.15 to valkey 8.1.0 at 2025-08-27 07:46:01 ===
2025-08-27 07:46:01 SUCCESS 7
2025-08-27 07:47:01 SUCCESS 8
2025-08-27 07:48:01 SUCCESS 9
2025-08-27 07:49:01 SUCCESS 10
=== All cycles finished at 2025-08-27 07:50:01 ===
";

const ERRORS: &str = "\
2025-08-27 07:38:01 FAILURE: reset: Connection reset by peer
=== Outage of endpoint began at 2025-08-27 07:38:01 ===
2025-08-27 07:39:01 FAILURE: refused: Connection refused
2025-08-27 07:45:01 FAILURE: loading: LOADING Redis is loading the dataset in memory
";

/// Scans from cron. In the second one a database hangs.
const SCANS: &str = "\
===== Redis DB Health Check at 2025-08-27 07:30:00 =====
DB 0: RUNNING
DB 1: RUNNING
DB 2: RUNNING

===== Redis DB Health Check at 2025-08-27 07:35:00 =====
DB 0: RUNNING
DB 1: RUNNING
DB 2: NOT RUNNING (timeout: no reply to PING within 2s)

===== Redis DB Health Check at 2025-08-27 07:40:00 =====
DB 0: RUNNING
DB 1: RUNNING
DB 2: RUNNING

";

/// The help as users see it, without the environment variables that the tests set.
#[cfg(not(feature = "iam"))]
fn help(mode: &str) -> String {
    let env = TestEnv::new();
    let mut command = env.command(&format!("{mode} --help"));
    command.env_remove("REDIS_HEALTH_LOG_DIR").env_remove("REDIS_HEALTH_TIMEOUT").env("COLUMNS", "100");

    let output = Running::start(command).wait();
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    without_version(&output.stdout)
}

/// A folder with the fixed logs.
fn logs() -> TestEnv {
    let env = TestEnv::new();
    env.write("redis_success.log", SUCCESS);
    env.write("redis_error.log", ERRORS);
    env.write("redis_db_health.log", SCANS);
    env
}

fn without_version(text: &str) -> String {
    text.replace(env!("CARGO_PKG_VERSION"), "<version>")
}

/// Adds line breaks to a JSON document, so that a diff is readable. The fields and their order do not change. The text
/// report contains nothing to split.
fn one_field_a_line(text: &str) -> String {
    text.replace("{\"", "{\n\"").replace(",\"", ",\n\"")
}

/// Compares with a file in tests/snapshots.
fn assert_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[cfg(not(feature = "iam"))]
#[test]
fn help_of_each_mode() {
    for (name, mode) in [("help", ""), ("help-dbs", "dbs"), ("help-cycles", "cycles"), ("help-report", "report")] {
        assert_snapshot(name, &help(mode));
    }
}

#[test]
fn report_in_each_format() {
    for (name, flags) in [("report-text", ""), ("report-json", "--json")] {
        let output = logs().run(&format!("report --utc {flags}"));
        assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""), "{output:?}");
        assert_snapshot(name, &one_field_a_line(&without_version(&output.stdout)));
    }

    let env = logs();
    assert_eq!(env.run("report --utc --html page.html").code, Some(1));
    let page = std::fs::read_to_string(env.path().join("page.html")).unwrap();
    assert_snapshot("report-html", &without_version(&page));
}
