//! Every way to bring a password, and that it never shows.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use crate::support::env::{Output, Running, TestEnv};
use rustix::termios::LocalModes;

use crate::support::real::Real;
use crate::support::scripted::{LIMIT, eventually};

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
