//! Records: what was seen is on disk, whatever happens to the files.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{LIMIT, Server, eventually};

/// The numbers behind SUCCESS in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.split(" SUCCESS ").nth(1)?.parse().ok()).collect()
}

/// Whether no number is missing between the first and the last one. Checks that overlap may end, and be logged, in
/// another order than they began.
fn are_consecutive(numbers: &[u64]) -> bool {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[test]
fn logs_follow_their_path() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("-p {}", server.port()));
    let log = env.logs().join("redis_success.log");
    let logged = || numbers(&env.read("redis_success.log"));
    let goes_on = || env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    goes_on();

    // Renamed: nothing is lost.
    fs::rename(&log, env.logs().join("renamed")).unwrap();
    goes_on();
    let all = || [numbers(&env.read("renamed")), logged()].concat();

    assert!(eventually(LIMIT, || are_consecutive(&all())), "{:?}", all());

    // Copied and truncated: it goes on from the beginning, without a hole.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    let text = goes_on();
    assert!(!text.contains('\0'), "{text:?}");
    assert!(eventually(LIMIT, || are_consecutive(&logged())), "{:?}", logged());

    // Deleted, also with its folder: the next record creates both again.
    let last = logged().into_iter().max().unwrap();
    fs::remove_file(&log).unwrap();
    assert!(numbers(&goes_on())[0] > last);

    fs::remove_dir_all(env.logs()).unwrap();
    goes_on();
    assert_eq!(run.stop().code, Some(143));
}

#[test]
fn rotation_loses_nothing_and_deletes_only_its_own() {
    let (env, server) = (TestEnv::new(), Server::start());
    let foreign = [".1", ".2024-01-01.gz", ".bak", "x"].map(|end| format!("redis_success.log{end}"));
    foreign.iter().for_each(|name| env.write(name, "not ours"));

    let run = env.endless(&format!("-p {} --check-interval 20ms --rotate 500 --keep 3", server.port()));
    let rotated = || {
        let mut names = env.names();
        names.retain(|name| name.starts_with("redis_success.log.20") && !name.ends_with("gz"));
        names
    };
    assert!(eventually(LIMIT, || rotated().len() >= 3));

    env.wait_for("redis_success.log", |text| numbers(text).iter().any(|number| *number > 100));
    assert_eq!(run.stop().code, Some(143));
    assert_eq!(rotated().len(), 3);

    for name in foreign {
        assert_eq!(env.read(&name), "not ours");
    }

    // What is left has no hole.
    let mut kept: Vec<_> = rotated().iter().flat_map(|name| numbers(&env.read(name))).collect();
    kept.extend(numbers(&env.read("redis_success.log")));
    kept.sort_unstable();

    // Checks overlap, so their order may be another one at both ends: where the last file was deleted, and where the run
    // was stopped.
    assert!(kept.len() > 25, "{kept:?}");
    assert!(are_consecutive(&kept[10..kept.len() - 10]), "{kept:?}");
}

#[test]
fn several_processes_rotate_at_once() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let runs: Vec<_> = (0..30).map(|_| env.spawn(&format!("dbs -p {port} --rotate 1000"))).collect();

    for run in runs {
        assert_eq!(run.wait().code, Some(0));
    }

    let all = env.read_all();
    assert_eq!(all.matches("===== Redis DB Health Check at ").count(), 30);
    assert_eq!(all.matches(": RUNNING\n").count(), 30 * 16);
    assert!(env.names().len() > 5, "{:?}", env.names());
}

#[test]
fn a_log_of_an_earlier_day_is_rotated_under_its_date() {
    let (env, server) = (TestEnv::new(), Server::start());
    env.write("redis_db_health.log", "of an older day\n");
    let log = env.logs().join("redis_db_health.log");
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_756_200_000);
    fs::File::options().write(true).open(&log).unwrap().set_modified(old).unwrap();
    let port = server.port();

    for _ in 0..2 {
        assert_eq!(env.run(&format!("dbs -p {port} --rotate daily --utc")).code, Some(0));
    }

    assert_eq!(env.read("redis_db_health.log.2025-08-26"), "of an older day\n");
    assert_eq!(env.read("redis_db_health.log").matches("=====").count(), 4);
}

#[test]
fn a_kill_loses_no_check_that_was_over() {
    for round in 0..50_u64 {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = env.endless(&format!("-p {} --check-interval 5ms", server.port()));
        assert!(eventually(LIMIT, || server.finished() > round % 9));
        // A moment that does not depend on the schedule of checks.
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
    let schedule = "--cycles 1 --run-duration 6 --check-interval 50ms";
    let arguments = format!("cycles -p {} {schedule}", server.port());
    let run = Running::start(env.in_namespaces("-rm", "mount -t tmpfs -o size=64k none logs", &arguments));

    // The file system exists only in that process's mount namespace, and for as long as somebody has it open.
    let written = |path: &Path| numbers(&fs::read_to_string(path).unwrap_or_default());
    let there = PathBuf::from(format!("/proc/{}/root{}", run.pid(), env.logs().display()));
    assert!(eventually(LIMIT, || written(&there.join("redis_success.log")).len() >= 10));

    let opened = fs::File::open(&there).unwrap();
    let folder = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let (log, before, filler) = (folder.join("redis_success.log"), folder.join("before"), folder.join("filler"));

    // A file has room to the end of its page; a new one has none.
    let _ = fs::write(&filler, vec![0; 1 << 17]);
    fs::rename(&log, &before).unwrap();
    let notice = run.wait_for_stderr(|text| text.contains("cannot write a record"));

    assert!(notice.contains("No space left on device"), "{notice}");

    let reached = server.accepted() + 10;
    assert!(server.wait_accepted(reached, LIMIT));

    fs::remove_file(&filler).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    let output = run.wait();

    assert_eq!(output.code, Some(4), "{output:?}");
    assert_eq!(output.stderr.matches("cannot write a record").count(), 1, "{}", output.stderr);

    let kept = [written(&before), written(&log)].concat();

    // A busy machine misses checks, which the summary counts.
    let started = 120 - output.missed();
    let lost = output.figure("records that could not be written: ");
    assert_eq!(lost, started - kept.len(), "{output:?}\n{kept:?}");
    assert!(kept.contains(&1) && kept.contains(&(started as u64)) && lost > 5, "{kept:?}");
}

#[test]
fn a_folder_that_vanishes_is_survived() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("-p {} --check-interval 20ms", server.port()));
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    let away = env.path().join("away");
    fs::rename(env.logs(), &away).unwrap();

    // A file in its place prevents that it is created again.
    fs::write(env.logs(), "").unwrap();
    run.wait_for_stderr(|text| text.contains("cannot write a record: Not a directory"));
    fs::remove_file(env.logs()).unwrap();
    fs::rename(&away, env.logs()).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    let output = run.stop();

    // The signal decides the exit code; the loss is still reported.
    assert_eq!(output.code, Some(143));
    assert!(output.stdout.contains("records that could not be written: "), "{output:?}");
}
