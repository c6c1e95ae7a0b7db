//! The shell scripts that redis-health replaces, run against the same server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::env::{Running, TestEnv};

/// A `date` that prints the time in the file $CLOCK, and a `sleep` that advances it. So the schedule of a script does
/// not depend on the speed of the machine.
const PROGRAMS: [(&str, &str); 2] = [
    ("date", "#!/bin/sh\nexec /bin/date -u -d \"@$(cat \"$CLOCK\")\" \"$@\"\n"),
    ("sleep", "#!/bin/sh\nnow=$(cat \"$CLOCK\")\necho $((now + $1)) >\"$CLOCK\"\n"),
];

/// Runs one of the scripts in tests/legacy until it exits. Its log files, which the settings name, are created in the
/// test's folder.
pub fn run_script(env: &TestEnv, script: &str, port: u16, settings: &[(&str, &str)]) {
    let programs = env.path().join("programs");
    fs::create_dir(&programs).expect("a folder");
    for (name, text) in PROGRAMS {
        fs::write(programs.join(name), text).expect("a program");
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).expect("a program");
    }

    let clock = env.path().join("clock");
    fs::write(&clock, "1756280101").expect("a clock");

    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = env.program(&format!("bash {}/tests/legacy/{script}", env!("CARGO_MANIFEST_DIR")));
    command.env("PATH", format!("{}:{path}", programs.display())).env("CLOCK", clock);
    command.env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", port.to_string()).envs(settings.iter().copied());
    assert_eq!(Running::start(command).wait().code, Some(0));
}

/// A log file of the script.
pub fn read_log(env: &TestEnv, name: &str) -> String {
    fs::read_to_string(env.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
