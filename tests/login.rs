//! Every source of a password, and that no output contains it.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use chrono::{TimeDelta, Utc};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::LocalModes;

use crate::support::cluster::alone;
use crate::support::env::{BINARY, ENDLESS, Output, Running, TestEnv, child_of, engine};
use crate::support::logs::stamps;
use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

const SECRET: &str = "hunter2-s3cret";

/// A server with a password for `default`, and the ACL users `ops` (another password) and `mute` (may not PING).
fn protected_server() -> Real {
    let server = Real::start(&format!("--requirepass {SECRET}"));
    as_default(&server, SECRET, &format!("ACL SETUSER ops on >{SECRET}-ops +select +ping"));
    as_default(&server, SECRET, &format!("ACL SETUSER mute on >{SECRET} +select"));
    server
}

/// Runs a command as the default user with this password.
fn as_default(server: &Real, password: &str, command: &str) {
    let replies = server.talk(&[format!("AUTH {password}").as_str(), command]);
    assert_eq!(replies, "+OK\r\n".repeat(3), "{command}");
}

fn assert_no_secret(env: &TestEnv, output: &Output) {
    for text in [&output.stdout, &output.stderr, &env.read_all()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Runs `dbs`, with a password in the environment if there is one.
fn scan(env: &TestEnv, password: Option<&str>, flags: &str) -> Output {
    let variable = password.map(|password| ("REDISCLI_AUTH", password));
    env.run_with(variable.as_slice(), &format!("dbs {flags}"))
}

#[test]
fn every_password_source_works_and_leaks_nothing() {
    let server = protected_server();
    let port = server.port();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, format!("{SECRET}\nsecond line\n")).unwrap();
    let (file, ops) = (file.display(), format!("{SECRET}-ops"));

    for (variable, flags, warns) in [
        (Some(SECRET), format!("-p {port}"), false),
        (None, format!("-p {port} -a {SECRET}"), true),
        (None, format!("-p {port} --pass {SECRET}"), true),
        (None, format!("-p {port} --pass-file {file}"), false),
        (Some("wrong"), format!("-p {port} --pass-file {file}"), false),
        (None, format!(r#"-p {port} --password-command "printf '%s' {SECRET} | cat""#), false),
        (Some(ops.as_str()), format!("-p {port} --user ops"), false),
        (None, format!("-u redis://ops:{ops}@127.0.0.1:{port}"), true),
    ] {
        let env = TestEnv::new();
        let output = scan(&env, variable, &format!("-v {flags}"));
        assert_eq!(output.code, Some(0), "{flags}: {output:?}");
        assert_eq!(output.stderr.contains("warning"), warns, "{flags}: {output:?}");
        assert_no_secret(&env, &output);
    }
}

#[test]
fn rejected_logins_show_the_servers_text() {
    let server = protected_server();
    let port = server.port();
    let wrong = "auth: WRONGPASS invalid username-password pair or user is disabled.";
    for (password, flags, text) in [
        (None, "", "auth: NOAUTH Authentication required."),
        (Some("hunter2-wrong"), "", wrong),
        (Some("hunter2-wrong"), "--user ops", wrong),
        (Some(SECRET), "--user mute", "noperm: NOPERM this user has no permissions to run the 'ping' command"),
    ] {
        let env = TestEnv::new();
        let output = scan(&env, password, &format!("-p {port} {flags}"));
        assert_eq!(output.code, Some(1), "{password:?} {flags}: {output:?}");
        let count = env.count("redis_db_health.log", &format!("NOT RUNNING ({text})"));
        assert_eq!(count, 16, "{password:?} {flags}: {output:?}");
        assert_no_secret(&env, &output);
    }

    // A password for a server that needs none.
    let open = Real::start("");
    let output = scan(&TestEnv::new(), Some(SECRET), &format!("-p {}", open.port()));
    assert!(output.stdout.contains("(auth: ERR AUTH <password> called without any password configured"), "{output:?}");
}

/// The terminal of the child of a process.
fn terminal_of_child(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/fd/0", child_of(pid)?)).ok()
}

fn echoes(terminal: &Path) -> bool {
    let terminal = fs::File::open(terminal).expect("a terminal");
    rustix::termios::tcgetattr(terminal).expect("its settings").local_modes.contains(LocalModes::ECHO)
}

#[test]
fn askpass_prompts_on_the_terminal() {
    let server = protected_server();
    let port = server.port();
    let env = TestEnv::new();

    // script(1) runs the binary in a new terminal, and types its own standard input there.
    let mut command = env.program(&["script", "-qec", &format!("{BINARY} dbs -p {port} --askpass"), "typescript"]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    command.stdin(reader.as_fd().try_clone_to_owned().unwrap());
    let run = Running::start(command);
    run.wait_for_stdout(|text| text.contains("Password: "));

    assert!(
        eventually(LIMIT, || terminal_of_child(run.pid()).is_some_and(|terminal| !echoes(&terminal))),
        "the terminal still echoes"
    );

    writer.write_all(format!("{SECRET}\n").as_bytes()).unwrap();
    let output = run.wait();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_no_secret(&env, &output);
    assert!(env.read("redis_db_health.log").contains("DB 15: RUNNING"));
}

#[test]
fn a_signal_at_the_prompt_restores_the_echo() {
    for (mode, signal, code) in [("dbs", Signal::INT, 130), ("cycles", Signal::TERM, 143), ("cycles", Signal::HUP, 129)]
    {
        let env = TestEnv::new();
        // The terminal lasts as long as script(1), and so does this shell.
        let line = format!("{BINARY} {mode} --askpass; echo ended with $?; cat");
        let mut command = env.program(&["script", "-qec", &line, "typescript"]);
        // At the end of its standard input, script(1) would end the input of the terminal too.
        let (reader, _writer) = std::io::pipe().unwrap();
        command.stdin(reader.as_fd().try_clone_to_owned().unwrap());
        let run = Running::start(command);
        run.wait_for_stdout(|text| text.contains("Password: "));
        let shell = child_of(run.pid()).expect("a shell");
        let terminal = terminal_of_child(run.pid()).expect("a terminal");
        assert!(eventually(LIMIT, || !echoes(&terminal)), "the terminal still echoes");

        let prompt = child_of(shell).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("the prompt");
        kill_process(prompt, signal).expect("it is there");
        let output = run.wait_for_stdout(|text| text.contains("ended with "));
        assert!(output.contains(&format!("ended with {code}")), "{output}");
        assert!(echoes(&terminal), "{mode} {signal:?}");
    }
}

/// A long run of `cycles` whose clock runs forty times faster, so that a minute takes 1.5 s.
fn fast_run(env: &TestEnv, server: &Real, flags: &str) -> Running {
    // The timeouts are long, so that no check times out on a busy machine.
    let schedule = "--run-duration 100h --check-interval 3 -t 600 --deadline 600";
    let arguments = format!("cycles -v -p {} {schedule} {flags}", server.port());
    Running::start_behind(env.wrapped("faketime -f '+0 x40'", &arguments))
}

/// Whether the process whose id is in this file is running. A zombie still has a folder in /proc, but no command line.
fn is_running(id: &Path) -> bool {
    let id = fs::read_to_string(id).unwrap();
    fs::read_to_string(format!("/proc/{}/cmdline", id.trim())).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_rotated_password_is_fetched_by_its_command_once_a_minute() {
    let (server, env) = (protected_server(), TestEnv::new());
    let path = |name: &str| env.path().join(name);
    fs::write(path("password"), format!("{SECRET}\n")).unwrap();

    // The command sees the same fast clock.
    let run = fast_run(&env, &server, "--password-command 'date +%s >>runs; cat password'");
    let command_runs = || fs::read_to_string(path("runs")).unwrap_or_default().lines().count();
    env.wait_for("redis_success.log", |text| text.contains(" SUCCESS 3\n"));

    assert_eq!(command_runs(), 1);

    // The password changes while its source is missing.
    fs::remove_file(path("password")).unwrap();
    as_default(&server, SECRET, "CONFIG SET requirepass hunter2-second");
    run.wait_for_stderr(|text| text.contains("--password-command: the command failed"));

    assert_eq!(command_runs(), 2);

    let failures = env.count("redis_error.log", "FAILURE: auth: WRONGPASS");
    assert!(failures >= 5, "the second fetch must wait a minute after the first: {failures} failures");

    // The source is restored, and is read a minute later.
    fs::write(path("password"), "hunter2-second\n").unwrap();
    let successes = env.count("redis_success.log", " SUCCESS ");
    env.wait_for("redis_success.log", |text| text.matches(" SUCCESS ").count() > successes + 3);

    assert_eq!(command_runs(), 3);
    assert!(env.count("redis_error.log", "FAILURE: auth: WRONGPASS") >= failures + 5);

    // The password changes again immediately.
    fs::write(path("password"), "hunter2-third\n").unwrap();
    as_default(&server, "hunter2-second", "CONFIG SET requirepass hunter2-third");
    run.wait_for_stderr(|text| text.matches("gave another password").count() == 2);

    let output = run.stop();
    let times = fs::read_to_string(path("runs")).unwrap();
    let times: Vec<i64> = times.lines().map(|line| line.parse().unwrap()).collect();

    assert_eq!(times.len(), 4, "{times:?}");

    // Less than 60, because the command prints the time only once it has started, which may be late on a busy machine.
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{times:?}");

    let notice = "redis-health: --password-command: the command failed (exit status: 1); run it by hand to see why; \
                  the old password stays in use\n";
    assert_eq!(output.stderr.matches(notice).count(), 1, "{output:?}");
    assert!(env.read("redis_error.log").contains("Outage of endpoint ended"));
    assert_no_secret(&env, &output);
}

/// Replaces a file at once, as tools that rotate secrets do.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
}

/// A run that logs in with the password in a file, in its first minute.
fn run_with_file(env: &TestEnv, server: &Real, flags: &str) -> (Running, PathBuf) {
    let file = env.path().join("password");
    replace(&file, &format!("{SECRET}-ops\n"));
    // The interval is long enough that checks do not overlap on a busy machine.
    let flags = format!("--check-interval 400ms --user ops --pass-file password {flags}");
    (env.endless(&format!("-v -p {} {flags}", server.port())), file)
}

#[test]
fn a_rotated_password_file_costs_one_check() {
    for flags in ["", "--held"] {
        let (server, env) = (protected_server(), TestEnv::new());
        let (run, file) = run_with_file(&env, &server, flags);
        for (old, new) in [("ops", "second"), ("second", "third")] {
            let done = env.count("redis_success.log", " SUCCESS ");
            env.wait_for("redis_success.log", |text| text.matches(" SUCCESS ").count() > done + 2);
            replace(&file, &format!("{SECRET}-{new}\n"));
            as_default(&server, SECRET, &format!("ACL SETUSER ops resetpass >{SECRET}-{new}"));
            run.wait_for_stderr(|text| {
                text.matches("--pass-file gave another password").count() == 1 + usize::from(old != "ops")
            });
        }
        env.wait_for("redis_error.log", |text| text.matches("Outage of endpoint ended").count() == 2);
        let output = run.stop();

        assert_eq!(env.count("redis_error.log", " FAILURE: auth: WRONGPASS"), 2, "{flags}: {output:?}");
        assert_no_secret(&env, &output);
    }
}

#[test]
fn the_first_check_after_the_change_of_a_password_file_passes() {
    let (server, env) = (protected_server(), TestEnv::new());
    let (run, file) = run_with_file(&env, &server, "--utc");
    env.wait_for("redis_success.log", |text| text.contains(" SUCCESS 2\n"));

    // The server changes first.
    as_default(&server, SECRET, &format!("ACL SETUSER ops resetpass >{SECRET}-second"));
    env.wait_for("redis_error.log", |text| text.matches("FAILURE: auth: WRONGPASS").count() >= 3);
    replace(&file, &format!("{SECRET}-second\n"));
    let changed = Utc::now().naive_utc();
    env.wait_for("redis_error.log", |text| text.contains("Outage of endpoint ended"));
    let output = run.stop();

    let errors = env.read("redis_error.log");
    let last = stamps(&errors, "FAILURE: auth: WRONGPASS").into_iter().max().unwrap();
    assert!(last <= changed, "the file was changed at {changed}, but {errors}");
    assert_no_secret(&env, &output);
}

#[test]
fn a_password_command_that_hangs_delays_no_check() {
    let (server, env) = (protected_server(), TestEnv::new());

    // The first time the command prints a wrong password; the second time it hangs. Then all its processes must be
    // killed, not only the shell.
    let command = "[ -e runs ] && { sleep 1000 & echo $! >sleeper; wait $!; }; date >>runs; echo hunter2-wrong";
    let run = fast_run(&env, &server, &format!("--password-command '{command}'"));
    let error = "--password-command: no password after 30s; run it by hand to see what it waits for; the old";
    run.wait_for_stderr(|text| text.contains(error));
    let output = run.stop();

    assert_eq!(output.stderr.matches(error).count(), 1, "{output:?}");

    // Every check failed immediately. A check that waited for the command would leave a gap of 30 s.
    let errors = env.read("redis_error.log");
    let mut began = stamps(&errors, "FAILURE: auth: WRONGPASS");
    began.sort_unstable();

    assert_eq!(output.row("endpoint"), (began.len(), began.len()), "{output:?}");

    let longest = began.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < TimeDelta::seconds(27), "{errors}");

    let sleeper = env.path().join("sleeper");
    assert!(eventually(LIMIT, || !is_running(&sleeper)), "the command is still running");
    assert_no_secret(&env, &output);
}

#[test]
fn a_password_is_not_in_the_process_list() {
    let (server, env) = (protected_server(), TestEnv::new());
    let port = server.port();
    fs::write(env.path().join("password"), SECRET).unwrap();

    for (variable, flags) in
        [(None, "--pass-file password"), (None, "--password-command 'cat password'"), (Some(SECRET), "-n 0")]
    {
        let variable = variable.map(|password| ("REDISCLI_AUTH", password));
        let run = env.spawn_with(variable.as_slice(), &format!("{ENDLESS} -p {port} {flags}"));
        run.wait_for_stdout(|text| text.contains("Cycle 1 started"));

        for file in ["cmdline", "comm", "status"] {
            let text = fs::read_to_string(format!("/proc/{}/{file}", run.pid())).unwrap();
            assert!(!text.contains("hunter2"), "{flags}: {text}");
        }
        assert_no_secret(&env, &run.stop());
    }
}

#[test]
fn a_server_without_auth_does_not_leak_the_password() {
    let server = Real::start("--rename-command AUTH ''");
    for flags in ["", "--user ops", "--log-format json"] {
        let env = TestEnv::new();
        let output = scan(&env, Some(SECRET), &format!("-v -p {} {flags}", server.port()));
        let logged = env.read("redis_db_health.log");
        assert!(logged.contains("ERR unknown command 'AUTH', with args"), "{flags}: {logged}");
        assert!(logged.contains("'[redacted]"), "{flags}: {logged}");
        assert_no_secret(&env, &output);
    }
}

#[test]
fn a_password_repeated_by_the_server_is_redacted() {
    const MARKED: &str = r#"hun"ter\2-s3cret"#;
    let escaped = MARKED.replace('\\', r"\\").replace('"', r#"\""#);
    let server = Server::start();
    server.become_(|nature| nature.password = Some(MARKED.to_owned()));
    let port = server.port();
    let error = |text: &str| Behaviour::Error(text.to_owned());
    let mut behaviours = vec![
        Behaviour::Raw(format!("+{MARKED}\r\n").into_bytes()),
        Behaviour::Raw(format!("${}\r\n{MARKED}\r\n", MARKED.len()).into_bytes()),
        Behaviour::Raw(format!("{MARKED}, please?\r\n").into_bytes()),
        Behaviour::OnAccept(format!("-ERR {MARKED} is on the way\r\n").into_bytes()),
    ];

    for shown in [MARKED, &escaped] {
        behaviours.extend([
            error(&format!("WRONGPASS invalid username-password pair or user is disabled. ({shown})")),
            error(&format!("WRONGPASS {shown}")),
            error(&format!("NOAUTH '{shown}' will not do")),
            error(&format!("ERR invalid password: {shown}")),
            error(&format!("ERR unknown command 'AUTH', with args beginning with: '{shown}'")),
            error(shown),
        ]);
        for command in ["SELECT", "PING", "ROLE", "HELLO", "SET", "GET", "DEL"] {
            behaviours.push(Behaviour::ErrorFor(command, format!("ERR {command} after AUTH {shown}")));
        }
    }

    for behaviour in behaviours {
        server.behave(behaviour.clone());
        // If HELLO fails, ROLE returns the role, so the check passes.
        let harmless = matches!(behaviour, Behaviour::ErrorFor("HELLO", _));
        for more in ["", "--log-format json --json"] {
            let env = TestEnv::new();
            let flags = format!("-v -p {port} --max-db 1 --expect-role primary --canary {more}");
            let output = scan(&env, Some(MARKED), &flags);
            let logged = env.read("redis_db_health.log");
            assert_eq!(output.code, Some(i32::from(!harmless)), "{behaviour:?}: {output:?}");
            assert!(harmless || logged.contains("[redacted]"), "{behaviour:?}: {logged}");
            for text in [&output.stdout, &output.stderr, &logged] {
                assert!(!text.contains("s3cret") && !text.contains("ter\\"), "{behaviour:?}: {text}");
            }
        }
    }
}

#[test]
fn an_empty_password_in_a_uri_counts_as_none() {
    let server = Real::start(&format!("--requirepass {SECRET}"));
    as_default(&server, SECRET, "ACL SETUSER open on nopass +ping +select");
    as_default(&server, SECRET, "ACL SETUSER closed on >hunter2-closed +ping +select");
    for (user, variable, more, code) in [
        ("open", None, "", 0),
        ("closed", Some("hunter2-closed"), "", 0),
        ("closed", None, "--password-command 'echo hunter2-closed'", 0),
        ("closed", None, "", 1),
    ] {
        let env = TestEnv::new();
        let output = scan(&env, variable, &format!("-u redis://{user}:@127.0.0.1:{} {more}", server.port()));
        assert_eq!(output.code, Some(code), "{user} {more}: {output:?}");
        assert_eq!(output.stderr, "", "{user} {more}");
        assert_no_secret(&env, &output);
    }
}

#[test]
fn a_password_command_that_times_out_is_killed_with_its_children() {
    let env = TestEnv::new();

    // Without a terminal, like in cron.
    let arguments = r#"dbs --password-command "sh -c 'echo \$\$ >sleeper; exec sleep 1000' | cat""#;
    let output = Running::start_behind(env.wrapped("setsid faketime -f '+0 x40'", arguments)).wait();

    assert_eq!(output.code, Some(2), "{output:?}");

    let error = "redis-health: --password-command: no password after 30s; run it by hand to see what it waits for\n";
    assert_eq!(output.stderr, error);

    let sleeper = env.path().join("sleeper");
    assert!(eventually(LIMIT, || !is_running(&sleeper)), "the command is still running");
}

#[test]
fn a_persistent_connection_authenticates_with_a_rotated_password() {
    let (server, env) = (protected_server(), TestEnv::new());
    let file = env.path().join("password");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let run = fast_run(&env, &server, "--held --pass-file password");
    env.wait_for("redis_success.log", |text| text.matches(" HELD SUCCESS ").count() >= 3);
    fs::write(&file, "hunter2-second\n").unwrap();
    as_default(&server, SECRET, "CONFIG SET requirepass hunter2-second");
    run.wait_for_stderr(|text| text.contains("authenticated again"));
    let seen = env.count("redis_success.log", " HELD SUCCESS ");
    env.wait_for("redis_success.log", |text| text.matches(" HELD SUCCESS ").count() > seen + 3);
    let output = run.stop();

    assert_eq!(output.stderr.matches("authenticated again").count(), 1, "{output:?}");
    assert_eq!(env.count("redis_error.log", " HELD FAILURE: "), 0, "{}", env.read("redis_error.log"));
    assert_no_secret(&env, &output);
}

/// The ACL rules in the README are sufficient: all checks pass, and the server logs no unexpected refusal.
#[test]
fn the_permissions_in_the_readme_are_sufficient() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rules: Vec<&str> = readme.lines().filter_map(|line| line.trim().strip_prefix("ACL SETUSER ")).collect();
    let rule = |user: &str| {
        let found = rules.iter().find(|rule| rule.starts_with(&format!("{user} ")));
        let words = found.unwrap_or_else(|| panic!("no rule for {user} in {rules:?}")).split(' ');
        words.map(|word| if word.starts_with('>') { ">sesame" } else { word }).collect::<Vec<_>>().join(" ")
    };

    let server = Real::start("");
    let cluster = alone(&engine("redis-7.0"), "");
    let old_cluster = alone(&engine("redis-6.2"), "");
    let cycles = "cycles --cycles 1 --run-duration 0.1 --check-interval 50ms";
    for (user, server, arguments) in [
        ("checker", &server, "dbs --expect-role primary".to_owned()),
        ("watcher", &server, cycles.to_owned()),
        ("writer", &server, format!("{cycles} --canary --expect-role primary")),
        ("surveyor", &cluster, format!("{cycles} --cluster")),
        ("surveyor", &cluster, "dbs --cluster".to_owned()),
        ("surveyor", &old_cluster, format!("{cycles} --cluster")),
        ("surveyor", &old_cluster, "dbs --cluster".to_owned()),
    ] {
        let rule = rule(user);
        assert_eq!(server.command(&format!("ACL SETUSER {rule}")), "+OK", "{rule}");
        assert_eq!(server.command("ACL LOG RESET"), "+OK");

        let (env, port) = (TestEnv::new(), server.port());
        let variables = [("REDISCLI_AUTH", "sesame")];
        let output = env.run_with(&variables, &format!("{arguments} -p {port} --user {user}"));
        assert_eq!(output.code, Some(0), "{user}: {output:?}");
        // Only the user with the fewest permissions was refused a command, which does not fail a check.
        let log = server.talk(&["ACL LOG"]);
        let refused: Vec<_> = log.split("$6\r\nobject\r\n").skip(1).filter_map(|entry| entry.lines().nth(1)).collect();
        let expected: &[&str] = if user == "checker" { &["role"] } else { &[] };
        assert_eq!(refused, expected, "{user}: {log}");
    }
}
