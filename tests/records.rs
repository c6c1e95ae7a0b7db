//! Records: what was seen is on disk, whatever happens to the files.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{Server, eventually};

fn endless(env: &TestEnv, server: &Server, interval: &str, more: &[&str]) -> Running {
    let port = server.port().to_string();
    env.spawn(&[&["cycles", "-p", &port, "--run-duration", "1h", "--check-interval", interval], more].concat())
}

/// The numbers behind SUCCESS in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.split(" SUCCESS ").nth(1)?.parse().ok()).collect()
}

/// Checks that overlap may end, and be logged, in another order than they began.
fn assert_consecutive(numbers: &[u64]) {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn logs_follow_their_path() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = endless(&env, &server, "20ms", &[]);
    let log = env.logs().join("redis_success.log");
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    // Renamed: nothing is lost.
    fs::rename(&log, env.logs().join("renamed")).unwrap();
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    assert_consecutive(&[numbers(&env.read("renamed")), numbers(&env.read("redis_success.log"))].concat());
    // Copied and truncated: it goes on from the beginning, without a hole.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    let text = env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    assert!(!text.contains('\0'), "{text:?}");
    assert_consecutive(&numbers(&text));
    // Deleted, also with its folder: the next record makes both anew.
    let last = *numbers(&env.read("redis_success.log")).last().unwrap();
    fs::remove_file(&log).unwrap();
    let text = env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    assert!(numbers(&text)[0] > last);
    fs::remove_dir_all(env.logs()).unwrap();
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(143));
}

#[test]
fn rotation_loses_nothing_and_deletes_only_its_own() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::create_dir_all(env.logs()).unwrap();
    let foreign =
        ["redis_success.log.1", "redis_success.log.2024-01-01.gz", "redis_success.log.bak", "redis_success.logx"];
    for name in foreign {
        fs::write(env.logs().join(name), "not ours").unwrap();
    }
    let run = endless(&env, &server, "5ms", &["--rotate", "500", "--keep", "3"]);
    let rotated = || {
        let mut names = env.names();
        names.retain(|name| name.starts_with("redis_success.log.20") && !name.ends_with("gz"));
        names
    };
    assert!(eventually(crate::support::scripted::LIMIT, || rotated().len() >= 3));
    env.wait_for("redis_success.log", |text| numbers(text).iter().any(|number| *number > 150));
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(143));
    assert_eq!(rotated().len(), 3);
    for name in foreign {
        assert_eq!(env.read(name), "not ours");
    }
    // What is left has no hole.
    let mut kept: Vec<_> = rotated().iter().flat_map(|name| numbers(&env.read(name))).collect();
    kept.extend(numbers(&env.read("redis_success.log")));
    kept.sort_unstable();
    // Checks overlap: at the beginning, one may have ended in time for the last file that is deleted, and at the end, one
    // may have been cut off that began before others.
    assert!(kept.len() > 25, "{kept:?}");
    assert_consecutive(&kept[10..kept.len() - 10]);
}

#[test]
fn several_processes_rotate_at_once() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port().to_string();
    let runs: Vec<_> = (0..30).map(|_| env.spawn(&["dbs", "-p", &port, "--rotate", "1000"])).collect();
    for run in runs {
        assert_eq!(run.wait().code, Some(0));
    }
    let all: String = env.names().iter().map(|name| env.read(name)).collect();
    assert_eq!(all.matches("===== Redis DB Health Check at ").count(), 30);
    assert_eq!(all.matches(": RUNNING\n").count(), 30 * 16);
    assert!(env.names().len() > 5, "{:?}", env.names());
}

#[test]
fn a_day_that_is_over_is_put_aside_under_its_date() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::create_dir_all(env.logs()).unwrap();
    let log = env.logs().join("redis_db_health.log");
    fs::write(&log, "of an older day\n").unwrap();
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_756_200_000);
    fs::File::options().write(true).open(&log).unwrap().set_modified(old).unwrap();
    let port = server.port().to_string();
    for _ in 0..2 {
        assert_eq!(env.run(&["dbs", "-p", &port, "--rotate", "daily", "--utc"]).code, Some(0));
    }
    assert_eq!(env.read("redis_db_health.log.2025-08-26"), "of an older day\n");
    assert_eq!(env.read("redis_db_health.log").matches("=====").count(), 4);
}

#[test]
fn a_kill_loses_no_check_that_was_over() {
    for round in 0..50_u64 {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = endless(&env, &server, "5ms", &[]);
        assert!(eventually(crate::support::scripted::LIMIT, || server.finished() > round % 9));
        // Instants that have nothing to do with the checks' own.
        std::thread::sleep(Duration::from_micros(round * 7_919 % 10_000));
        // A check closes its connection just before its record is made.
        let over = server.finished() as usize;
        run.signal(Signal::KILL);
        assert_eq!(run.wait().signal, Some(9));
        let logged = env.read("redis_success.log");
        let mut whole = numbers(&logged);
        whole.sort_unstable();
        assert!(whole.windows(2).all(|pair| pair[0] < pair[1]), "{logged}");
        assert!(logged.is_empty() || logged.ends_with('\n'), "{logged:?}");
        assert!(whole.len() + 1 >= over, "{over} checks were over, {} lines:\n{logged}", whole.len());
    }
}

#[test]
fn a_full_disk_is_survived_and_its_losses_are_counted() {
    let (env, server) = (TestEnv::new(), Server::start());
    fs::create_dir(env.logs()).unwrap();
    let binary = env!("CARGO_BIN_EXE_redis-health");
    let script = format!(
        "mount -t tmpfs -o size=64k none logs && \
         {binary} cycles -p {} --cycles 1 --run-duration 1.2 --check-interval 20ms; code=$?; cp logs/* .; exit $code",
        server.port()
    );
    let run = Running::start(env.program(&["unshare", "-rm", "sh", "-c", &script]));
    // The file system exists only in that process's mount namespace.
    let folder = std::path::PathBuf::from(format!("/proc/{}/root{}", run.pid(), env.logs().display()));
    let (log, before, filler) = (folder.join("redis_success.log"), folder.join("before"), folder.join("filler"));
    let written = |path: &std::path::Path| numbers(&fs::read_to_string(path).unwrap_or_default());
    assert!(eventually(crate::support::scripted::LIMIT, || written(&log).len() >= 10));
    // A file has room to the end of its page; a new one has none.
    let _ = fs::write(&filler, vec![0; 1 << 17]);
    fs::rename(&log, &before).unwrap();
    let notice = run.wait_for_stderr(|text| text.contains("cannot write a record"));
    assert!(notice.contains("No space left on device"), "{notice}");
    let reached = server.accepted() + 10;
    assert!(server.wait_accepted(reached, crate::support::scripted::LIMIT));
    fs::remove_file(&filler).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    let output = run.wait();
    // The file system is gone with its namespace; what it held was copied out at the end.
    let mut kept = ["before", "redis_success.log"].map(|name| written(&env.path().join(name))).concat();
    kept.sort_unstable();
    assert_eq!(output.code, Some(4), "{output:?}");
    assert_eq!(output.stderr.matches("cannot write a record").count(), 1, "{}", output.stderr);
    let told = |what: &str| -> usize {
        output.stdout.lines().find_map(|line| line.strip_prefix(what)?.parse().ok()).unwrap_or(0)
    };
    // A machine that stands still for a while misses checks, which is told too.
    let started = 60 - told("checks missed: ");
    assert_eq!(told("records that could not be written: "), started - kept.len(), "{output:?}\n{kept:?}");
    assert!(kept.contains(&1) && kept.contains(&(started as u64)) && kept.len() < 55, "{kept:?}");
}

#[test]
fn a_folder_that_vanishes_is_survived() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = endless(&env, &server, "20ms", &[]);
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    let away = env.path().join("away");
    fs::rename(env.logs(), &away).unwrap();
    // A file in its place keeps it from being made anew.
    fs::write(env.logs(), "").unwrap();
    run.wait_for_stderr(|text| text.contains("cannot write a record: Not a directory"));
    fs::remove_file(env.logs()).unwrap();
    fs::rename(&away, env.logs()).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    run.signal(Signal::TERM);
    let output = run.wait();
    // The signal wins over the loss, which is told all the same.
    assert_eq!(output.code, Some(143));
    assert!(output.stdout.contains("records that could not be written: "), "{output:?}");
}
