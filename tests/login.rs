//! Every way to bring a password, and that it never shows.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use crate::support::env::{Output, Running, TestEnv, engine};
use clap::{CommandFactory as _, FromArgMatches as _};
use redis_health::cli::{Cli, Command, WhenTyped};
use redis_health::login::Login;
use redis_health::output::Output as Watcher;
use redis_health::plan::{self, Sources};
use redis_health::questions::Identify;
use redis_health::resolve::Resolver;
use redis_health::scan::Scanner;
use redis_health::target::Target;
use rustix::process::Signal;
use rustix::termios::LocalModes;

use crate::support::real::Real;
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

const SECRET: &str = "hunter2-s3cret";

/// A server with a password for `default` and an ACL user `ops` with another.
fn guarded() -> Real {
    let server = Real::start(&["--requirepass", SECRET]);
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let setup = format!(
        "AUTH {SECRET}\r\nACL SETUSER ops on >{SECRET}-ops +select +ping\r\nACL SETUSER mute on >{SECRET} +select\r\nQUIT\r\n"
    );
    connection.write_all(setup.as_bytes()).unwrap();
    let mut replies = String::new();
    std::io::Read::read_to_string(&mut connection, &mut replies).unwrap();
    assert_eq!(replies, "+OK\r\n".repeat(4));
    server
}

fn assert_secret_is_nowhere(env: &TestEnv, output: &Output) {
    let logs: String = env.names().iter().map(|name| env.read(name)).collect();
    for text in [&output.stdout, &output.stderr, &logs] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn every_source_of_a_password_works_and_shows_it_nowhere() {
    let server = guarded();
    let port = server.port().to_string();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{SECRET}\nsecond line\n")).unwrap();
    let (file, ops) = (file.to_str().unwrap(), format!("{SECRET}-ops"));
    let in_uri = format!("redis://ops:{ops}@127.0.0.1:{port}");
    let from_command = format!("printf '%s' {SECRET} | cat");
    let variable = Some(SECRET);
    for (variable, arguments, warns) in [
        (variable, vec!["-p", &port], false),
        (None, vec!["-p", &port, "-a", SECRET], true),
        (None, vec!["-p", &port, "--pass", SECRET], true),
        (None, vec!["-p", &port, "--pass-file", file], false),
        (Some("wrong"), vec!["-p", &port, "--pass-file", file], false),
        (None, vec!["-p", &port, "--password-command", &from_command], false),
        (Some(ops.as_str()), vec!["-p", &port, "--user", "ops"], false),
        (None, vec!["-u", &in_uri], true),
    ] {
        let env = TestEnv::new();
        let mut command = env.command(&[&["dbs", "-v"], arguments.as_slice()].concat());
        if let Some(password) = variable {
            command.env("REDISCLI_AUTH", password);
        }
        let output = Running::start(command).wait();
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr.contains("warning"), warns, "{arguments:?}: {output:?}");
        assert_secret_is_nowhere(&env, &output);
    }
}

#[test]
fn refused_logins_say_what_the_server_said() {
    let server = guarded();
    let port = server.port().to_string();
    for (password, user, text) in [
        (None, None, "auth: NOAUTH Authentication required."),
        (Some("hunter2-wrong"), None, "auth: WRONGPASS invalid username-password pair or user is disabled."),
        (Some("hunter2-wrong"), Some("ops"), "auth: WRONGPASS invalid username-password pair or user is disabled."),
        (Some(SECRET), Some("mute"), "noperm: NOPERM this user has no permissions to run the 'ping' command"),
    ] {
        let env = TestEnv::new();
        let mut arguments = vec!["dbs", "-p", &port];
        arguments.extend(user.iter().flat_map(|user| ["--user", user]));
        let mut command = env.command(&arguments);
        command.envs(password.map(|password| ("REDISCLI_AUTH", password)));
        let output = Running::start(command).wait();
        assert_eq!(output.code, Some(1), "{output:?}");
        let block = env.read("redis_db_health.log");
        assert_eq!(block.matches(&format!("NOT RUNNING ({text})")).count(), 16, "{block}");
        assert_secret_is_nowhere(&env, &output);
    }
    // A password that the server never asked for.
    let open = Real::start(&[]);
    let env = TestEnv::new();
    let mut command = env.command(&["dbs", "-p", &open.port().to_string()]);
    let output = Running::start({
        command.env("REDISCLI_AUTH", SECRET);
        command
    })
    .wait();
    assert!(output.stdout.contains("(auth: ERR AUTH <password> called without any password configured"), "{output:?}");
}

/// The terminal of the process that another one started.
fn terminal_of_child(pid: u32) -> Option<std::path::PathBuf> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    std::fs::read_link(format!("/proc/{}/fd/0", children.split_whitespace().next()?)).ok()
}

fn echoes(terminal: &std::path::Path) -> bool {
    let terminal = std::fs::File::open(terminal).expect("a terminal");
    rustix::termios::tcgetattr(terminal).expect("its settings").local_modes.contains(LocalModes::ECHO)
}

#[test]
fn a_password_is_asked_for_on_the_terminal() {
    let server = guarded();
    let port = server.port().to_string();
    let env = TestEnv::new();
    // script(1) gives the run a terminal of its own and types what stands in its standard input.
    let binary = env!("CARGO_BIN_EXE_redis-health");
    let mut command = env.program(&["script", "-qec", &format!("{binary} dbs -p {port} --askpass"), "typescript"]);
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
    assert_secret_is_nowhere(&env, &output);
    assert!(env.read("redis_db_health.log").contains("DB 15: RUNNING"));
}

/// Runs commands as the default user with a password.
fn as_default(server: &Real, password: &str, command: &str) {
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.write_all(format!("AUTH {password}\r\n{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut replies = String::new();
    std::io::Read::read_to_string(&mut connection, &mut replies).unwrap();
    assert_eq!(replies, "+OK\r\n".repeat(3), "{command}");
}

/// A run of `cycles` whose time passes forty times as fast, so that a minute takes a second and a half.
fn fast_run(env: &TestEnv, server: &Real, seconds: &str, arguments: &[&str]) -> Running {
    let port = server.port().to_string();
    let before = ["faketime", "-f", "+0 x40"];
    let schedule = ["cycles", "-p", &port, "--cycles", "1", "--run-duration", seconds, "--check-interval", "3"];
    // No check shall fail for want of time, however busy the machine is.
    let patience = ["-t", "600", "--deadline", "600", "-v"];
    Running::start(env.wrapped(&before, &[&schedule[..], &patience, arguments].concat()))
}

fn count(env: &TestEnv, name: &str, text: &str) -> usize {
    env.read(name).matches(text).count()
}

#[test]
fn a_rotated_password_is_fetched_by_its_command_once_a_minute() {
    let (server, env) = (guarded(), TestEnv::new());
    let path = |name: &str| env.path().join(name);
    std::fs::write(path("password"), format!("{SECRET}\n")).unwrap();
    // The stamps are of the same fast time.
    let arguments = ["--password-command", "date +%s >>runs; cat password"];
    let run = fast_run(&env, &server, "240", &arguments);
    let runs = || std::fs::read_to_string(path("runs")).unwrap_or_default().lines().count();
    env.wait_for("redis_success.log", |text| text.contains(" SUCCESS 3\n"));
    assert_eq!(runs(), 1);

    // The password changes, and where it comes from is not there.
    std::fs::remove_file(path("password")).unwrap();
    as_default(&server, SECRET, "CONFIG SET requirepass hunter2-second");
    run.wait_for_stderr(|text| text.contains("--password-command: the command failed"));
    assert_eq!(runs(), 2);
    let failures = count(&env, "redis_error.log", "FAILURE: auth: WRONGPASS");
    assert!(failures >= 5, "the first fetch counts, so the second waited a minute: {failures} failures");

    // It comes back, and a minute later it is found.
    std::fs::write(path("password"), "hunter2-second\n").unwrap();
    let successes = count(&env, "redis_success.log", " SUCCESS ");
    env.wait_for("redis_success.log", |text| text.matches(" SUCCESS ").count() > successes + 3);
    assert_eq!(runs(), 3);
    assert!(count(&env, "redis_error.log", "FAILURE: auth: WRONGPASS") >= failures + 5);

    // It changes again at once.
    std::fs::write(path("password"), "hunter2-third\n").unwrap();
    as_default(&server, "hunter2-second", "CONFIG SET requirepass hunter2-third");
    run.wait_for_stderr(|text| text.matches("gave another password").count() == 2);

    let output = run.wait();
    assert_eq!(output.code, Some(1), "{output:?}");
    let stamps = std::fs::read_to_string(path("runs")).unwrap();
    let stamps: Vec<i64> = stamps.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(stamps.len(), 4, "{stamps:?}");
    // Not quite sixty: a stamp is made when the command has started, which takes its time on a busy machine.
    assert!(stamps.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{stamps:?}");
    let notice = "redis-health: --password-command: the command failed (exit status: 1); run it by hand to see why; \
                  the old password stays\n";
    assert_eq!(output.stderr.matches(notice).count(), 1, "{output:?}");
    assert!(env.read("redis_error.log").contains("Outage of endpoint ended"));
    assert_secret_is_nowhere(&env, &output);
}

#[test]
fn a_rotated_password_file_is_read_again() {
    let (server, env) = (guarded(), TestEnv::new());
    let file = env.path().join("password");
    std::fs::write(&file, format!("{SECRET}-ops\n")).unwrap();
    let arguments = ["--user", "ops", "--pass-file", "password", "--log-format", "json", "--json"];
    let run = fast_run(&env, &server, "120", &arguments);
    env.wait_for("redis_success.log", |text| text.contains(r#""number":3,"#));
    as_default(&server, SECRET, "ACL SETUSER ops resetpass >hunter2-second");
    std::fs::write(&file, "hunter2-second\n").unwrap();
    let output = run.wait();
    assert_eq!(output.code, Some(1), "{output:?}");
    let error = env.read("redis_error.log");
    assert!(error.matches(r#""kind":"auth","detail":"WRONGPASS"#).count() >= 5, "{error}");
    assert_eq!(error.matches("outage_ended").count(), 1, "{error}");
    assert_eq!(output.stderr.matches("--pass-file gave another password").count(), 1, "{output:?}");
    assert_secret_is_nowhere(&env, &output);
}

#[test]
fn a_command_that_hangs_delays_no_check() {
    let (server, env) = (guarded(), TestEnv::new());
    // The first run gives a password that is wrong, the second none for longer than a command may take. Then all of it
    // is ended, not only the shell.
    let arguments = [
        "--password-command",
        "[ -e runs ] && { sleep 1000 & echo $! >sleeper; wait $!; }; date >>runs; echo hunter2-wrong",
    ];
    let output = fast_run(&env, &server, "120", &arguments).wait();
    assert_eq!(output.code, Some(1), "{output:?}");
    // A check that waited for the command would cost all ten that are due within its 30 s.
    assert!(output.missed() < 8, "{output:?}");
    assert_eq!(count(&env, "redis_error.log", "FAILURE: auth: WRONGPASS"), 40 - output.missed(), "{output:?}");
    assert_eq!(
        output
            .stderr
            .matches("--password-command: no password after 30s; run it by hand to see what it waits for; the old")
            .count(),
        1,
        "{output:?}"
    );
    let sleeper = std::fs::read_to_string(env.path().join("sleeper")).unwrap();
    // One that is dead but not yet reaped has a folder still, and no command line.
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", sleeper.trim())).unwrap_or_default();
    assert_eq!(line, "", "{sleeper}");
    assert_secret_is_nowhere(&env, &output);
}

#[test]
fn a_password_is_not_in_the_process_list() {
    let (server, env) = (guarded(), TestEnv::new());
    let port = server.port().to_string();
    std::fs::write(env.path().join("password"), SECRET).unwrap();
    for arguments in [["--pass-file", "password"], ["--password-command", "cat password"], ["-n", "0"]] {
        let mut command = env.command(&[&["cycles", "-p", &port, "--check-interval", "50ms"], &arguments[..]].concat());
        if arguments[0] == "-n" {
            command.env("REDISCLI_AUTH", SECRET);
        }
        let run = Running::start(command);
        run.wait_for_stdout(|text| text.contains("Cycle 1 started"));
        for file in ["cmdline", "comm", "status"] {
            let text = std::fs::read_to_string(format!("/proc/{}/{file}", run.pid())).unwrap();
            assert!(!text.contains("hunter2"), "{arguments:?}: {text}");
        }
        run.signal(rustix::process::Signal::TERM);
        assert_secret_is_nowhere(&env, &run.wait());
    }
}

#[test]
fn a_server_that_repeats_the_password_does_not_bring_it_into_the_logs() {
    let server = Real::start(&["--rename-command", "AUTH", ""]);
    for more in [&[][..], &["--user", "ops"], &["--log-format", "json"]] {
        let env = TestEnv::new();
        let port = server.port().to_string();
        let mut command = env.command(&[&["dbs", "-v", "-p", &port], more].concat());
        command.env("REDISCLI_AUTH", SECRET);
        let output = Running::start(command).wait();
        let logged = env.read("redis_db_health.log");
        assert!(logged.contains("ERR unknown command 'AUTH', with args"), "{logged}");
        assert!(logged.contains("'[redacted]"), "{logged}");
        assert_secret_is_nowhere(&env, &output);
    }
}

#[test]
fn no_reply_that_repeats_the_password_brings_it_anywhere() {
    const MARKED: &str = r#"hun"ter\2-s3cret"#;
    let escaped = MARKED.replace('\\', r"\\").replace('"', r#"\""#);
    let server = Server::start();
    server.become_(|nature| nature.password = Some(MARKED.to_owned()));
    let port = server.port().to_string();
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
        // ROLE is enough.
        let harmless = matches!(behaviour, Behaviour::ErrorFor("HELLO", _));
        for more in [&["-v"][..], &["-v", "--log-format", "json", "--json"]] {
            let env = TestEnv::new();
            let arguments = ["dbs", "-p", &port, "--max-db", "1", "--expect-role", "primary", "--canary"];
            let mut command = env.command(&[&arguments, more].concat());
            command.env("REDISCLI_AUTH", MARKED);
            let output = Running::start(command).wait();
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
fn a_user_without_a_password_is_no_password() {
    let server = Real::start(&["--requirepass", SECRET]);
    as_default(&server, SECRET, "ACL SETUSER open on nopass +ping +select");
    as_default(&server, SECRET, "ACL SETUSER closed on >hunter2-closed +ping +select");
    for (user, variable, more, code) in [
        ("open", None, &[][..], 0),
        ("closed", Some("hunter2-closed"), &[], 0),
        ("closed", None, &["--password-command", "echo hunter2-closed"], 0),
        ("closed", None, &[], 1),
    ] {
        let env = TestEnv::new();
        let uri = format!("redis://{user}:@127.0.0.1:{}", server.port());
        let mut command = env.command(&[&["dbs", "-u", &uri], more].concat());
        command.envs(variable.map(|password| ("REDISCLI_AUTH", password)));
        let output = Running::start(command).wait();
        assert_eq!(output.code, Some(code), "{user} {more:?}: {output:?}");
        assert_eq!(output.stderr, "");
        assert_secret_is_nowhere(&env, &output);
    }
}

/// A panic's message can show a value in no other way than this.
#[test]
fn nothing_that_knows_the_password_prints_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for login in [
        vec!["-a", SECRET],
        vec!["-u", "redis://ops:hunter2-s3cret@h/3"],
        vec!["-u", "rediss://hunter2-s3cret@h"],
        vec!["--password-command", "echo hunter2-s3cret"],
    ] {
        for mode in ["dbs", "cycles"] {
            let matches = Cli::command().get_matches_from([&["redis-health", mode], &login[..]].concat());
            let cli = Cli::from_arg_matches(&matches).unwrap();
            let sources = Sources(matches.subcommand().unwrap().1);
            let (shown, plan) = match cli.command {
                Command::Dbs(WhenTyped(args)) => {
                    let plan = plan::dbs(args, &sources).unwrap();
                    (format!("{plan:?}{plan:#?}"), plan.plan)
                }
                Command::Cycles(WhenTyped(args)) => {
                    let plan = plan::cycles(args, &sources).unwrap();
                    (format!("{plan:?}{plan:#?}"), plan.plan)
                }
                Command::Report(_) => unreachable!(),
            };
            let (_, source) = plan.login.clone().unwrap();
            let login = runtime.block_on(Login::fetch(plan.login.clone(), Watcher::thread())).unwrap();
            assert_eq!(login.as_ref().unwrap().credentials().password.reveal(), SECRET);
            let scanner = Scanner {
                target: Target { endpoint: plan.endpoint.clone(), tls: None, login: login.clone() },
                resolver: Resolver::new(plan.timeout),
                databases: plan.databases,
                timeout: plan.timeout,
                deadline: plan.deadline,
                identify: Identify::new(true),
                expect_role: None,
                canary: None,
                settled: 0.into(),
            };
            for text in [
                shown,
                format!("{plan:?}"),
                format!("{source:?}{source}"),
                format!("{login:?}{:?}", login.as_ref().unwrap().credentials()),
                format!("{:?}", scanner.target),
                format!("{scanner:#?}"),
            ] {
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }
}

#[test]
fn a_first_command_that_is_given_up_ends_with_its_children() {
    let env = TestEnv::new();
    // Without a terminal, as from cron.
    let before = ["setsid", "--wait", "faketime", "-f", "+0 x40"];
    let arguments = ["dbs", "--password-command", "sh -c 'echo $$ >sleeper; exec sleep 1000' | cat"];
    let output = Running::start(env.wrapped(&before, &arguments)).wait();
    assert_eq!(output.code, Some(2), "{output:?}");
    let told = "redis-health: --password-command: no password after 30s; run it by hand to see what it waits for\n";
    assert_eq!(output.stderr, told);
    let sleeper = std::fs::read_to_string(env.path().join("sleeper")).unwrap();
    let line = || std::fs::read_to_string(format!("/proc/{}/cmdline", sleeper.trim())).unwrap_or_default();
    assert!(eventually(LIMIT / 3, || line().is_empty()), "{}", line());
}

#[test]
fn a_kept_connection_presents_a_rotated_password() {
    let (server, env) = (guarded(), TestEnv::new());
    let file = env.path().join("password");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let run = fast_run(&env, &server, "36000", &["--held", "--pass-file", "password"]);
    env.wait_for("redis_success.log", |text| text.contains(" HELD SUCCESS 3\n"));
    std::fs::write(&file, "hunter2-second\n").unwrap();
    as_default(&server, SECRET, "CONFIG SET requirepass hunter2-second");
    run.wait_for_stderr(|text| text.contains("authenticated anew"));
    let seen = env.read("redis_success.log").matches(" HELD SUCCESS ").count();
    env.wait_for("redis_success.log", |text| text.matches(" HELD SUCCESS ").count() > seen + 3);
    run.signal(Signal::TERM);
    let output = run.wait();
    assert_eq!(output.stderr.matches("authenticated anew").count(), 1, "{output:?}");
    assert_eq!(count(&env, "redis_error.log", " HELD FAILURE: "), 0, "{}", env.read("redis_error.log"));
    assert_secret_is_nowhere(&env, &output);
}

/// The users of the README, with the rights that it says each use needs: they suffice, and no refusal is logged.
#[test]
fn the_rights_that_the_readme_names_suffice() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rules: Vec<&str> = readme.lines().filter_map(|line| line.trim().strip_prefix("ACL SETUSER ")).collect();
    let rule = |user: &str| {
        let found = rules.iter().find(|rule| rule.starts_with(&format!("{user} ")));
        found.unwrap_or_else(|| panic!("no rule for {user} in {rules:?}")).split(' ').collect::<Vec<_>>()
    };
    let alone = Real::start(&[]);
    let cluster = Real::start(&["--cluster-enabled", "yes"]);
    let old_cluster = Real::start_binary(&engine("redis-6.2"), &["--cluster-enabled", "yes"]);
    let slots: Vec<String> = (0..16384).map(|slot| slot.to_string()).collect();
    let add: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
    for cluster in [&cluster, &old_cluster] {
        assert_eq!(cluster.command(&add), "+OK");
        assert!(eventually(LIMIT, || cluster.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")));
    }
    let cycles = ["cycles", "--cycles", "1", "--run-duration", "0.1", "--check-interval", "50ms"];
    for (user, server, mode) in [
        ("checker", &alone, &["dbs", "--expect-role", "primary"][..]),
        ("watcher", &alone, &cycles),
        ("writer", &alone, &[&cycles[..], &["--canary", "--expect-role", "primary"]].concat()),
        ("surveyor", &cluster, &[&cycles[..], &["--cluster"]].concat()),
        ("surveyor", &cluster, &["dbs", "--cluster"]),
        ("surveyor", &old_cluster, &[&cycles[..], &["--cluster"]].concat()),
        ("surveyor", &old_cluster, &["dbs", "--cluster"]),
    ] {
        let env = TestEnv::new();
        let words = [&["ACL", "SETUSER"][..], &rule(user)].concat();
        let words: Vec<_> =
            words.into_iter().map(|word| if word.starts_with('>') { ">sesame" } else { word }).collect();
        assert_eq!(server.command(&words), "+OK", "{words:?}");
        assert_eq!(server.command(&["ACL", "LOG", "RESET"]), "+OK");
        let port = server.port().to_string();
        let mut command = env.command(&[mode, &["-p", &port, "--user", user]].concat());
        command.env("REDISCLI_AUTH", "sesame");
        let output = Running::start(command).wait();
        assert_eq!(output.code, Some(0), "{user}: {output:?}");
        // Only who may do least was refused anything, and that is no part of the verdict.
        let log = server.talk(&[&["ACL", "LOG"]]);
        let refused: Vec<_> = log.split("$6\r\nobject\r\n").skip(1).filter_map(|entry| entry.lines().nth(1)).collect();
        let expected: &[&str] = if user == "checker" { &["role"] } else { &[] };
        assert_eq!(refused, expected, "{user}: {log}");
    }
}
