//! Limits on our own side: what this machine does not give is never told as the server's failure.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Pid, Resource, Rlimit, geteuid, prlimit};

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{LIMIT, Server, eventually};

/// Changes the limit of open files of a running process. `None` restores the first one.
fn limit_open_files(pid: u32, limit: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit.or(current), maximum }).unwrap();
}

#[test]
fn checks_without_a_descriptor_are_not_observed() {
    let (env, server) = (TestEnv::new(), Server::start());
    let metrics = env.path().join("metrics.prom");
    let flags = format!("-p {} --metrics-file {}", server.port(), metrics.display());
    let run = env.endless_until(&flags, "SUCCESS 2\n");

    limit_open_files(run.pid(), Some(3));
    env.wait_for("redis_error.log", |text| text.matches("NOT OBSERVED: local: too many open files\n").count() >= 3);
    limit_open_files(run.pid(), None);
    let successes = env.count("redis_success.log", "SUCCESS");
    env.wait_for("redis_success.log", |text| text.matches("SUCCESS").count() > successes + 2);
    let reason = r#",reason="too many open files"} "#;
    let counted = || std::fs::read_to_string(&metrics).is_ok_and(|text| text.contains(reason));
    assert!(eventually(LIMIT, counted));
    let output = run.stop();

    let errors = env.read("redis_error.log");
    assert!(!errors.contains("FAILURE") && !errors.contains("Outage"), "{errors}");
    assert!(output.stdout.contains("NOT OBSERVED: local: too many open files\n"), "{output:?}");
    assert!(output.stdout.contains(" checks, none failed\n"), "{output:?}");
    assert!(output.stdout.contains(" (too many open files "), "{output:?}");
    let bar = output.stdout.lines().find_map(|line| line.strip_prefix("endpoint ")?.split_once('='));
    assert!(bar.is_some_and(|(_, rest)| rest.contains('.') && rest.ends_with('=')), "{output:?}");

    let report = env.run("report logs --html page.html");
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(report.stdout.contains("checks not observed: "), "{report:?}");
    let page = std::fs::read_to_string(env.path().join("page.html")).unwrap();
    assert!(page.contains(r#"class="gap""#) && page.contains("checks not observed: "), "{page}");

    let json = env.run("report logs --json").json();
    assert_eq!((&json["failures"], &json["databases"][0]["availability"]), (&0.into(), &1.0.into()), "{json}");
    let not_observed = errors.matches("NOT OBSERVED").count();
    assert_eq!(json["not_observed"]["too many open files"], not_observed, "{json}");
}

#[test]
fn the_exit_code_says_that_a_check_could_not_be_made() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let socket = env.path().join("redis.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Without capabilities, root is refused like any other user.
    let user = if geteuid().is_root() { "setpriv --bounding-set=-all --inh-caps=-all" } else { "" };
    let dbs =
        |flags: &str| Running::start(env.wrapped(user, &format!("dbs -n 0 -s {} {flags}", socket.display()))).wait();
    let reason = "local: permission denied";

    let output = dbs("");
    assert_eq!(
        (output.code, output.stdout.contains(&format!("DB 0: NOT OBSERVED ({reason})\n"))),
        (Some(5), true),
        "{output:?}"
    );
    assert!(output.stdout.contains("0 running, 1 not observed (permission denied 1)\n"), "{output:?}");
    assert_eq!(env.count("redis_error.log", &format!("DB 0 NOT OBSERVED: {reason}\n")), 1);

    let output = dbs("-q");
    assert_eq!((output.code, output.stdout.as_str()), (Some(5), ""));
    assert!(output.stderr.starts_with(&format!("redis-health: DB 0: NOT OBSERVED ({reason})\n")), "{output:?}");

    let output = dbs("--json").json();
    assert_eq!(
        (&output["ok"], &output["databases"][0]["kind"]),
        (&serde_json::Value::Null, &"local".into()),
        "{output}"
    );

    // What a check observed stands.
    assert_eq!(env.run(&format!("dbs -n 99 -p {port}")).code, Some(1));
    let report = env.run("report logs");
    assert!(report.stdout.contains("checks not observed: 3 (permission denied 3)\n"), "{report:?}");
}
