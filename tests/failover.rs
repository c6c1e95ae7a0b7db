//! A sample of the failovers that `tests/failover.py` compares with clients of redis-py.

use crate::support::env::{BINARY, TestEnv, engine};

/// What `tests/failover.py` exits with if this system has no user, mount or process namespaces.
const SKIPPED: i32 = 77;

/// The outcome of these kinds does not depend on the speed of the machine: either both clients see errors for long, or
/// the server is silent for longer than one client waits and for less than the other one.
#[test]
fn clients_of_redis_py_see_the_same_failovers() {
    let env = TestEnv::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failover.py");
    let kinds = ["planned_then_moved", "too_few_replicas", "frozen_and_thawed"];
    let mut command = env.program(&[&["python3", script, BINARY, "1"], &kinds[..]].concat());
    let output = command.env("PYTHONPATH", engine("redis-py")).env("TMPDIR", env.path()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));

    if output.status.code() == Some(SKIPPED) {
        eprintln!("{stdout}");
        return;
    }

    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("bounds overlap in 3 of 3, HELD agrees in 3 of 3"), "{stdout}{stderr}");
}
