//! Files in folders that others may write to: what is planted in the place of a file is neither followed nor waited for.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::geteuid;

use crate::support::env::{BINARY, Running, TestEnv};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// One short cycle.
const CYCLE: &str = "cycles --cycles 1 --run-duration 0.3 --check-interval 0.1";

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Gives a file, or a link itself, to another user. False if the tests do not run as root.
fn give_away(path: &Path) -> bool {
    geteuid().is_root() && lchown(path, Some(12345), Some(12345)).is_ok()
}

/// A file that must stay as it is.
fn victim(env: &TestEnv) -> PathBuf {
    let path = env.path().join("victim");
    fs::write(&path, "precious\n").unwrap();
    path
}

/// Plants something at a path, and returns what the message says about it. None if only root could plant it.
fn plant(env: &TestEnv, what: &str, path: &Path) -> Option<&'static str> {
    let another_users = |target: &Path| {
        symlink(target, path).unwrap();
        give_away(path).then_some("it is a symbolic link of uid 12345; only links of root and of the current user")
    };
    match what {
        "FIFO" => {
            fifo(path);
            Some("it is a FIFO, not a regular file")
        }
        "/dev/zero" => {
            symlink("/dev/zero", path).unwrap();
            Some("it is a device, not a regular file")
        }
        "socket" => {
            UnixListener::bind(path).unwrap();
            Some("it is a socket, not a regular file")
        }
        "folder" => {
            fs::create_dir(path).unwrap();
            Some("it is a folder, not a regular file")
        }
        "dangling link" => another_users(&env.path().join("new")),
        "link to a victim's file" => another_users(&victim(env)),
        "hard link" => {
            fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
            fs::hard_link(victim(env), path).unwrap();
            Some("2 hard links")
        }
        other => unreachable!("{other}"),
    }
}

#[test]
fn what_is_planted_in_the_place_of_a_file_is_refused() {
    let server = Server::start();
    let port = server.port();
    let today = chrono::Utc::now().format("%Y-%m-%d");
    let trace = format!("traces/redis-health.{today}.trace");
    let dbs = format!("dbs -p {port}");
    let places = [
        ("logs/redis_db_health.log", dbs.clone(), "--log-dir"),
        ("logs/redis_success.log", format!("{CYCLE} -p {port}"), "--log-dir"),
        ("logs/.redis-health.lock", format!("{CYCLE} -p {port}"), "--log-dir"),
        ("shared/metrics.prom", format!("{dbs} --metrics-file shared/metrics.prom"), "--metrics-file"),
        ("shared/.metrics.prom.lock", format!("{dbs} --metrics-file shared/metrics.prom"), "--metrics-file"),
        (&trace, format!("{dbs} --trace-dir traces"), "--trace-dir"),
        ("shared/page.html", "report logs/old.log --html shared/page.html".to_owned(), "--html"),
    ];
    let planted = ["FIFO", "/dev/zero", "socket", "folder", "dangling link", "link to a victim's file", "hard link"];

    for (place, arguments, flag) in &places {
        for what in planted {
            let env = TestEnv::new();
            env.write("old.log", "2025-08-27 07:35:01 SUCCESS 1\n");
            let path = env.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let Some(mut reason) = plant(&env, what, &path) else { continue };
            if place.ends_with(".redis-health.lock") || place.ends_with(".prom.lock") {
                // Not even a link that the user made is followed.
                reason = if path.is_symlink() { "it is a symbolic link, not a regular file" } else { reason };
            }

            let output = env.run(arguments);
            let case = format!("{what} at {place}: {output:?}");
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{case}");
            assert!(output.stderr.contains(flag) && output.stderr.contains(reason), "{case}");
            assert_eq!(output.stderr.lines().count(), 1, "{case}");
            assert!(output.elapsed < LIMIT, "{case}");
            assert!(!env.path().join("new").exists(), "{case}");
            let victim = fs::read_to_string(env.path().join("victim"));
            assert!(victim.map_or(true, |text| text == "precious\n"), "{case}");
        }
    }
    assert_eq!(server.accepted(), 0, "nothing was checked");
}

#[test]
fn a_planted_temporary_file_is_not_followed() {
    let (env, server) = (TestEnv::new(), Server::start());
    let victim = victim(&env);
    // The process keeps its id when the shell becomes the tool.
    let script = format!("ln -s victim metrics.prom.$$.tmp; exec {} \"$@\"", BINARY);
    let port = server.port().to_string();
    let program = ["sh", "-c", &script, "sh", "dbs", "-p", &port, "--metrics-file", "metrics.prom"];
    let output = Running::start(env.program(&program)).wait();

    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious\n");
    assert!(fs::read_to_string(env.path().join("metrics.prom")).unwrap().contains("redis_health_up{"));
}

#[test]
fn a_link_that_the_user_made_is_followed_and_its_target_is_rotated() {
    let (env, server) = (TestEnv::new(), Server::start());
    let elsewhere = env.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir_all(env.logs()).unwrap();
    // The first run creates the target.
    let link = env.logs().join("redis_db_health.log");
    symlink("../elsewhere/redis_db_health.log", &link).unwrap();

    for _ in 0..3 {
        assert_eq!(env.run(&format!("dbs -p {} --log-format json --rotate 1K", server.port())).code, Some(0));
    }
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let mut names: Vec<_> = fs::read_dir(&elsewhere).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.retain(|name| !name.to_string_lossy().starts_with('.'));
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.to_string_lossy().starts_with("redis_db_health.log")), "{names:?}");
    assert!(elsewhere.join("redis_db_health.log").is_file());

    // `report` finds them from the log folder.
    assert_eq!(env.run("report logs --json").json()["checks"], 48);
}

#[test]
fn streams_that_the_user_names_are_written() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::create_dir_all(env.logs()).unwrap();
    // As in the image of a container.
    symlink("/dev/stdout", env.logs().join("redis_success.log")).unwrap();
    symlink("/dev/null", env.logs().join("redis_error.log")).unwrap();
    let output = env.run(&format!("{CYCLE} -p {}", server.port()));
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert!(output.stdout.contains(" SUCCESS 1\n"), "{output:?}");

    env.write("old.log", "2025-08-27 07:35:01 SUCCESS 1\n");
    let output = env.run("report logs/old.log --html /dev/stdout");
    assert!(output.code == Some(0) && output.stdout.contains("</html>"), "{output:?}");
}

#[test]
fn a_fifo_in_mid_run_is_a_record_that_cannot_be_written() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless_until(&format!("-p {}", server.port()), " SUCCESS 2\n");
    let log = env.logs().join("redis_success.log");
    fs::rename(&log, env.logs().join("renamed")).unwrap();
    fifo(&log);
    run.wait_for_stderr(|text| text.contains("cannot write a record: it is a FIFO"));
    let reached = server.accepted() + 3;
    assert!(server.wait_accepted(reached, LIMIT));
    fs::remove_file(&log).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    assert_eq!(run.stop().code, Some(143));
}

#[test]
fn a_password_may_come_from_a_pipe() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.password = Some("secret".to_owned()));
    let path = env.path().join("pipe");
    fifo(&path);
    let writer = std::thread::spawn(move || fs::write(path, "secret\n"));
    let output = env.run(&format!("dbs -p {} --pass-file pipe", server.port()));
    assert_eq!(output.code, Some(0), "{output:?}");
    writer.join().unwrap().unwrap();
}

#[test]
fn a_password_file_is_not_read_without_end() {
    let (env, server) = (TestEnv::new(), Server::start());
    let output = env.run(&format!("dbs -p {} --pass-file /dev/zero", server.port()));
    assert_eq!((output.code, server.accepted()), (Some(2), 0), "{output:?}");
    assert!(output.stderr.contains("--pass-file: cannot read this file"), "{output:?}");
}

#[test]
fn a_pipe_with_a_password_is_not_waited_for_again() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.become_(|nature| nature.password = Some("secret".to_owned()));
    let path = env.path().join("pipe");
    fifo(&path);
    let run = env.endless(&format!("-p {} --pass-file pipe", server.port()));
    // The server rejects this password. When it is read again, nobody writes.
    fs::write(&path, "wrong\n").unwrap();
    run.wait_for_stderr(|text| text.contains("--pass-file: this file has no password in its first line"));
    assert_eq!(run.stop().code, Some(143));
}

#[test]
fn whoever_reads_the_log_folder_cannot_hold_its_lock() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::create_dir_all(env.logs()).unwrap();
    let folder = File::open(env.logs()).unwrap();
    folder.lock().unwrap();

    let output = env.run(&format!("{CYCLE} -p {}", server.port()));
    assert_eq!(output.code, Some(0), "{output:?}");
    let lock = env.logs().join(".redis-health.lock");
    assert_eq!(lock.metadata().unwrap().mode() & 0o777, 0o600);
    // It is not a log.
    assert_eq!(env.run("report logs").code, Some(0));
}

#[test]
fn whoever_reads_a_log_cannot_prevent_its_rotation() {
    let (env, server) = (TestEnv::new(), Server::start());
    let dbs = format!("dbs -p {} --log-format json --rotate 1K", server.port());
    assert_eq!(env.run(&dbs).code, Some(0));
    let log = File::open(env.logs().join("redis_db_health.log")).unwrap();
    log.lock().unwrap();
    assert_eq!(env.run(&dbs).code, Some(0));
    let rotated = env.names().iter().filter(|name| name.starts_with("redis_db_health.log.")).count();
    assert_eq!(rotated, 1, "{:?}", env.names());
}

#[test]
fn a_lock_that_is_held_names_the_process() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless_until(&format!("-p {}", server.port()), " SUCCESS 1\n");
    let second = env.run(&format!("{CYCLE} -p {}", server.port()));
    assert_eq!(second.code, Some(3), "{second:?}");
    assert!(second.stderr.contains(&format!("another cycles run (process {}) is using logs", run.pid())), "{second:?}");
    run.stop();
    assert!(env.logs().join(".redis-health.lock").exists());
}

#[test]
fn a_lock_that_cannot_be_opened_names_its_owner() {
    let (env, server) = (TestEnv::new(), Server::start());
    env.write(".redis-health.lock", "");
    let lock = env.logs().join(".redis-health.lock");
    fs::set_permissions(&lock, Permissions::from_mode(0o000)).unwrap();
    // Without root's right to open everything.
    let namespace = "unshare --map-user=12345 --map-group=12345";
    let run = env.wrapped(namespace, &format!("{CYCLE} -p {}", server.port()));
    let output = Running::start(run).wait();
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("the lock file belongs to uid 12345"), "{output:?}");
}

#[test]
fn a_metrics_file_is_readable_and_keeps_its_permissions() {
    let (env, server) = (TestEnv::new(), Server::start());
    let metrics = env.path().join("metrics.prom");
    let arguments = format!("dbs -p {} --metrics-file metrics.prom", server.port());
    let access = || metrics.metadata().map(|metadata| (metadata.mode() & 0o777, metadata.uid())).unwrap();
    let owner = geteuid().as_raw();

    let run = env.program(&["sh", "-c", &format!("umask 077; exec {} {arguments}", BINARY)]);
    assert_eq!(Running::start(run).wait().code, Some(0));
    assert_eq!(access(), (0o644, owner));

    fs::set_permissions(&metrics, Permissions::from_mode(0o640)).unwrap();
    let other = if geteuid().is_root() { 12345 } else { owner };
    chown(&metrics, Some(other), None).unwrap();
    assert_eq!(env.run(&arguments).code, Some(0));
    assert_eq!(access(), (0o640, other));
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_told_before_anything_is_checked() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::write(env.path().join("file"), "").unwrap();
    for path in ["nowhere/metrics.prom", "file/metrics.prom", "/proc/metrics.prom", "/dev/stdout", "/dev/null"] {
        for mode in ["dbs", CYCLE] {
            let output = env.run(&format!("{mode} -p {} --metrics-file {path}", server.port()));
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{path}: {output:?}");
            assert!(output.stderr.contains(&format!("--metrics-file: cannot write {path}")), "{path}: {output:?}");
        }
    }
    assert_eq!(server.accepted(), 0);
}

#[test]
fn two_runs_cannot_write_one_metrics_file() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let run = env.endless_until(&format!("-p {port} --metrics-file metrics.prom"), " SUCCESS 1\n");
    let second = env.run(&format!("dbs -p {port} --metrics-file metrics.prom"));
    assert_eq!(second.code, Some(2), "{second:?}");
    let holder = format!("another run (process {}) is writing metrics.prom", run.pid());
    assert!(second.stderr.contains(&holder), "{second:?}");
    run.stop();
    assert_eq!(env.run(&format!("dbs -p {port} --metrics-file metrics.prom")).code, Some(0));
}

#[test]
fn metrics_are_written_in_a_break_and_in_order() {
    let (env, server) = (TestEnv::new(), Server::start());
    server.behave(Behaviour::Slow(LIMIT));
    // The first check hangs. Later ones pass before it ends, and then a long break begins.
    let schedule = "--cycles 2 --run-duration 3 --check-interval 1.5 --break-duration 1h -t 3";
    let run = env.spawn(&format!("cycles {schedule} -p {} --metrics-file metrics.prom", server.port()));
    assert!(eventually(LIMIT, || !server.commands().is_empty()));
    server.behave(Behaviour::Serve);

    let read = || fs::read_to_string(env.path().join("metrics.prom")).unwrap_or_default();
    let endpoint = format!("endpoint=\"127.0.0.1:{}\"", server.port());
    let has =
        |text: &str, name: &str, value: &str| text.contains(&format!("redis_health_{name}{{{endpoint}}} {value}\n"));
    let last = |text: &str| has(text, "checks_total", "2") && text.contains("kind=\"timeout\"} 1\n");
    assert!(eventually(LIMIT, || last(&read())), "{}", read());
    let text = read();
    assert!(has(&text, "up", "1") && has(&text, "down_seconds", "0"), "{text}");
    run.stop();
}

#[test]
fn metrics_of_results_that_come_together_are_all_written() {
    let (env, server) = (TestEnv::new(), Server::start());
    // Both connections are checked at the same time, and nothing more happens for an hour.
    let schedule = "--check-interval 1h --run-duration 2h --held";
    let run = env.spawn(&format!("cycles {schedule} -p {} --metrics-file metrics.prom", server.port()));
    let endpoint = format!("endpoint=\"127.0.0.1:{}\"", server.port());
    let read = || fs::read_to_string(env.path().join("metrics.prom")).unwrap_or_default();
    let has = |labels: &str| read().contains(&format!("redis_health_up{{{endpoint}{labels}}} 1\n"));
    assert!(eventually(LIMIT, || has("") && has(",connection=\"held\"")), "{}", read());
    run.stop();
}

#[test]
fn a_document_is_whole_after_a_signal() {
    let (env, server) = (TestEnv::new(), Server::start());
    // Far more than a pipe holds.
    for (arguments, log, last) in [
        ("dbs --json --max-db 2000 --log-format json", "redis_db_health.log", "\"db\":2000"),
        ("cycles --json --max-db 500 --check-interval 1h --run-duration 2h", "redis_error.log", "DB 500 FAILURE"),
    ] {
        let mut command = env.command(&format!("{arguments} -p {}", server.port()));
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer);
        let run = Running::start_as_is(command);
        env.wait_for(log, |log| log.contains(last));
        run.signal(rustix::process::Signal::TERM);
        // The reader is slow: nothing shows that the writer has given up, except the text that is missing then.
        std::thread::sleep(Duration::from_millis(700));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(text.len() > 65_536, "{arguments}: {}", text.len());
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{arguments}: {} bytes", text.len());
        run.wait();
    }
}

#[test]
fn a_refusal_says_what_to_do_about_it() {
    let env = TestEnv::new();
    fs::create_dir_all(env.logs()).unwrap();
    fifo(&env.logs().join("redis_success.log"));
    let output = env.run("cycles -p 1");
    assert!(output.stderr.contains("; remove it or name another folder: it is a FIFO"), "{output:?}");

    for mode in ["cycles", "dbs"] {
        let output = env.run(&format!("{mode} -p 1 --log-dir logs/redis_success.log"));
        assert!(output.code == Some(2) && output.stderr.contains("it exists and is not a folder"), "{output:?}");
    }

    env.write("old.log", "2025-08-27 07:35:01 SUCCESS 1\n");
    let output = env.run("report logs/old.log --html /nonexist/x");
    assert!(output.code == Some(2) && output.stderr.contains("No such file or directory"), "{output:?}");
    assert!(!output.stderr.contains(".redis-health-"), "{output:?}");
}
