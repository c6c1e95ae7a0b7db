//! Both modes against every engine that tests/engines provides.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::certificates::Certificates;
use crate::support::env::{ENDLESS, Output, TestEnv, engine};
use crate::support::real::Real;

/// Generates one test for each case and engine, so that a failure shows both.
macro_rules! on_every_engine {
    ($($case:ident)*) => {
        on_every_engine! { redis_6_2 "redis-6.2", [$($case)*] }
        on_every_engine! { redis_7_0 "redis-7.0", [$($case)*] }
        on_every_engine! { valkey_8_1 "valkey-8.1", [$($case)*] }
        on_every_engine! { valkey_9_1 "valkey-9.1", [$($case)*] }
    };
    ($module:ident $name:literal, [$($case:ident)*]) => {
        mod $module {
            $(
                #[test]
                fn $case() {
                    super::$case(&super::Engine::named($name));
                }
            )*
        }
    };
}

on_every_engine! {
    every_database_is_checked
    records_name_engine_and_version
    roles_are_distinguished
    a_unix_socket_works
    a_password_is_required
    a_user_with_minimal_permissions_passes
    a_loading_server_fails
}

/// One of the engines, with the name and version that its command line prints.
struct Engine {
    path: PathBuf,
    /// `redis` or `valkey`.
    name: String,
    version: String,
}

impl Engine {
    fn named(link: &str) -> Self {
        let path = engine(link);
        let output = Command::new(&path).arg("--version").output().unwrap();

        // `Valkey server v=8.1.8 sha=…`
        let text = String::from_utf8(output.stdout).unwrap();
        let name = text.split(' ').next().unwrap().to_lowercase();
        let version = text.split("v=").nth(1).unwrap().split(' ').next().unwrap().to_owned();

        assert!(format!("{name}-{version}").starts_with(link), "{link} is {text}");

        Engine { path, name, version }
    }

    fn start(&self, arguments: &str) -> Real {
        Real::start_binary(&self.path, arguments)
    }

    /// A primary, and a replica that is in sync with it.
    fn pair(&self) -> (Real, Real) {
        let primary = self.start("--repl-diskless-sync-delay 0");
        let replica = self.start(&format!("--replicaof 127.0.0.1 {}", primary.port()));
        replica.wait_in_sync();
        (primary, replica)
    }
}

/// Runs four checks.
fn cycles(env: &TestEnv, flags: &str) -> Output {
    env.run(&format!("cycles --cycles 1 --run-duration 0.4 --check-interval 100ms {flags}"))
}

fn every_database_is_checked(engine: &Engine) {
    let (env, server) = (TestEnv::new(), engine.start(""));
    let port = server.port();
    let running = |output: &Output| output.stdout.lines().filter(|line| line.ends_with(": RUNNING")).count();
    let output = env.run(&format!("dbs -p {port} --canary"));

    assert_eq!((output.code, running(&output)), (Some(0), 16), "{output:?}");

    let output = env.run(&format!("dbs -p {port} --max-db auto"));
    assert_eq!((output.code, running(&output)), (Some(0), 16), "{output:?}");
    assert_eq!(env.read("redis_error.log"), "");

    let output = env.run(&format!("dbs -p {port} --max-db 17"));
    assert_eq!((output.code, running(&output)), (Some(1), 16), "{output:?}");

    for db in [16, 17] {
        let line = format!("DB {db}: NOT RUNNING (no-such-db: ERR DB index is out of range)\n");
        assert!(output.stdout.contains(&line), "{output:?}");
    }
}

fn records_name_engine_and_version(engine: &Engine) {
    let (env, server) = (TestEnv::new(), engine.start(""));
    let output = cycles(&env, &format!("-p {} --canary --expect-role primary --log-format json", server.port()));
    assert_eq!(output.code, Some(0), "{output:?}");

    let records = env.records("redis_success.log");
    let of_type = |name: &str| records.iter().filter(|record| record["type"] == name).collect::<Vec<_>>();
    let checks = of_type("check");
    let made = 4 - output.missed();

    assert_eq!(checks.len(), made);
    for check in checks {
        let identity = ["engine", "version", "role"].map(|field| check[field].as_str().unwrap_or_default());
        assert_eq!(identity, [engine.name.as_str(), &engine.version, "primary"], "{check}");
        assert!(check["ok"] == true && check["run_id"].as_str().is_some_and(|id| id.len() == 40), "{check}");
        assert!(check["write_us"].as_u64().is_some_and(|took| took > 0), "{check}");
    }

    assert_eq!(of_type("change"), Vec::<&Value>::new());
    assert_eq!(server.command("DBSIZE"), ":0");

    let report = env.run("report --json").json();
    assert_eq!((&report["checks"], &report["failures"]), (&made.into(), &0.into()), "{report}");
}

fn roles_are_distinguished(engine: &Engine) {
    let (primary, replica) = engine.pair();
    for (server, is, is_not) in [(&primary, "primary", "replica"), (&replica, "replica", "primary")] {
        let (env, port) = (TestEnv::new(), server.port());
        let output = cycles(&env, &format!("-p {port} --expect-role {is}"));
        assert_eq!((output.code, env.read("redis_error.log").as_str()), (Some(0), ""), "{output:?}");
        let output = cycles(&env, &format!("-p {port} --expect-role {is_not}"));
        assert_eq!(output.code, Some(1), "{output:?}");
        let text = format!(" FAILURE: role: the server is a {is}, not a {is_not}\n");
        assert_eq!(env.read("redis_error.log").matches(&text).count(), 4 - output.missed());
    }

    let env = TestEnv::new();
    let output = cycles(&env, &format!("-p {} --expect-role replica --canary", replica.port()));
    assert_eq!(output.code, Some(1), "{output:?}");

    let errors = env.read("redis_error.log");
    let refused = errors.matches(" WRITE FAILURE: readonly: READONLY You can't write").count();
    assert_eq!(refused, 4 - output.missed(), "{errors}");
}

fn a_unix_socket_works(engine: &Engine) {
    let (env, server) = (TestEnv::new(), engine.start(""));
    let socket = server.socket();
    let socket = socket.to_str().unwrap();
    let output = env.run(&format!("dbs -s {socket} --canary"));

    assert_eq!(output.code, Some(0), "{output:?}");

    let output = cycles(&env, &format!("-s {socket} --canary --expect-role primary"));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(env.read("redis_error.log"), "");
}

fn a_password_is_required(engine: &Engine) {
    let (env, server) = (TestEnv::new(), engine.start("--requirepass open-sesame"));
    let port = server.port();
    let output = env.run(&format!("dbs -p {port}"));

    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout.matches("NOT RUNNING (auth: NOAUTH Authentication required.)").count(), 16, "{output:?}");

    for (password, code) in [("open-sesame", 0), ("wrong", 1)] {
        for mode in ["dbs", "cycles --cycles 1 --run-duration 0.1"] {
            let variables = [("REDISCLI_AUTH", password)];
            let output = env.run_with(&variables, &format!("{mode} -p {port} --canary"));
            assert_eq!(output.code, Some(code), "{mode} {password}: {output:?}");
            assert_eq!(output.stdout.contains("auth: WRONGPASS "), code == 1, "{mode} {password}: {output:?}");
        }
    }
}

/// How many refusals are in the server's ACL LOG. An entry counts as often as it occurred.
fn refusals(server: &Real) -> u64 {
    let log = server.talk(&["ACL LOG"]);
    log.split("$5\r\ncount\r\n:").skip(1).map(|rest| rest.split('\r').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn a_user_with_minimal_permissions_passes(engine: &Engine) {
    let (env, server) = (TestEnv::new(), engine.start(""));
    assert_eq!(server.command("ACL SETUSER probe on >open-sesame +ping +select"), "+OK");

    let port = server.port();
    let variables = [("REDISCLI_AUTH", "open-sesame")];
    let scan = |more: &str| env.run_with(&variables, &format!("dbs -p {port} --user probe {more}"));
    let output = scan("");

    assert_eq!((output.code, refusals(&server)), (Some(0), 0), "{output:?}");

    let run = env.spawn_with(&variables, &format!("{ENDLESS} -p {port} --user probe"));
    env.wait_for("redis_success.log", |text| text.contains(" SUCCESS 20\n"));

    // INFO and ROLE are not sent again once they were refused. On a busy machine a few checks may begin before that.
    let refused = refusals(&server);
    assert!(refused < 10, "{refused}");

    run.stop();
    assert_eq!(env.read("redis_error.log"), "");

    let text = env.read("redis_success.log");
    let known = [" SUCCESS ", "=== Run of cycles on ", "=== Cycle 1 started", "=== Stopped", "=== Not observed"];
    let other = |line: &&str| !known.iter().any(|known| line.contains(known));

    assert_eq!(text.lines().filter(other).collect::<Vec<_>>(), Vec::<&str>::new());

    // HELLO, which returns the role, needs no permission.
    for (role, code) in [("primary", 0), ("replica", 1)] {
        let output = scan(&format!("--expect-role {role}"));
        assert_eq!(output.code, Some(code), "{output:?}");
    }
}

fn a_loading_server_fails(engine: &Engine) {
    // While loading, a server answers clients at intervals: Redis 6.2 after every 2 MiB, which cannot be configured.
    let (look, count, size) = match engine.version.starts_with("6.") {
        true => ("", 20, 2 << 20),
        false => ("--loading-process-events-interval-bytes 1024", 200, 1024),
    };
    let mut server = engine.start(look);
    let value = "x".repeat(size);
    let mut commands = vec!["CONFIG SET rdbcompression no".to_owned()];
    commands.extend((0..count).map(|number| format!("SET key:{number} {value}")));
    commands.push("SAVE".to_owned());

    assert_eq!(server.talk(&commands), "+OK\r\n".repeat(count + 3));

    server.restart_with("--key-load-delay 500000");
    let (env, port) = (TestEnv::new(), server.port());
    let output = env.run(&format!("dbs -p {port}"));

    assert_eq!(output.code, Some(1), "{output:?}");

    let text = "NOT RUNNING (loading: LOADING ";
    assert_eq!(output.stdout.matches(text).count(), 16, "{output:?}");

    let run = env.endless(&format!("-p {port} --check-interval 100ms"));
    env.wait_for("redis_error.log", |text| text.matches(" FAILURE: loading: LOADING ").count() > 18);

    // Redis 6.2 rejects CONFIG SET while it is loading.
    server.restart_with("--key-load-delay 0");
    env.wait_for("redis_error.log", |text| text.contains("=== Outage of endpoint ended at "));
    let output = run.stop();

    assert!(output.stdout.contains("loading "), "{output:?}");
}

#[test]
fn tls_and_acl_rules_work_together() {
    let certificates = Certificates::new();
    let server = certificates.serve(&certificates.leaf("valid", "127.0.0.1"), "");
    let rules = "+ping +select +info +role ~redis-health:canary:* +set +get +del";

    assert_eq!(server.command(&format!("ACL SETUSER probe on >open-sesame {rules}")), "+OK");

    let env = TestEnv::new();
    let (port, ca) = (server.tls_port(), certificates.ca());

    for mode in ["dbs", "cycles --cycles 1 --run-duration 0.2 --check-interval 0.1"] {
        let flags = format!("-p {port} --tls --cacert {ca} --user probe --canary --expect-role primary");
        let output = env.run_with(&[("REDISCLI_AUTH", "open-sesame")], &format!("{mode} {flags}"));
        assert_eq!(output.code, Some(0), "{mode}: {output:?}");
    }

    assert_eq!((env.read("redis_error.log").as_str(), refusals(&server)), ("", 0));
    assert_eq!(server.command("DBSIZE"), ":0");
}
