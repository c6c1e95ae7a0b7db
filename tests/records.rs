//! Log records: they reach the disk even if files are renamed, deleted or full.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::env::{Running, TestEnv};
use crate::support::scripted::{Behaviour, LIMIT, Server, eventually};

/// The numbers after SUCCESS in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.split(" SUCCESS ").nth(1)?.parse().ok()).collect()
}

/// Whether no number is missing between the lowest and the highest. Overlapping checks may be logged in another order
/// than they started.
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
    let wait_for_records = || env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    wait_for_records();

    // After a rename nothing is lost.
    fs::rename(&log, env.logs().join("renamed")).unwrap();
    wait_for_records();
    let all = || [numbers(&env.read("renamed")), logged()].concat();

    assert!(eventually(LIMIT, || are_consecutive(&all())), "{:?}", all());

    // After truncation the log continues at the start of the file, without a hole.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    let text = wait_for_records();
    assert!(!text.contains('\0'), "{text:?}");
    assert!(eventually(LIMIT, || are_consecutive(&logged())), "{:?}", logged());

    // After deletion, even of the folder, the next record recreates them.
    let last = logged().into_iter().max().unwrap();
    fs::remove_file(&log).unwrap();
    assert!(numbers(&wait_for_records())[0] > last);

    fs::remove_dir_all(env.logs()).unwrap();
    wait_for_records();
    assert_eq!(run.stop().code, Some(143));
}

#[test]
fn rotation_loses_no_record_and_deletes_only_its_own_files() {
    let (env, server) = (TestEnv::new(), Server::start());
    let foreign = [".1", ".2024-01-01.gz", ".bak", "x"].map(|end| format!("redis_success.log{end}"));
    foreign.iter().for_each(|name| env.write(name, "another file"));

    let run = env.endless(&format!("-p {} --check-interval 20ms --rotate 1K --keep 3", server.port()));
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
        assert_eq!(env.read(&name), "another file");
    }

    // No record is missing in the remaining files.
    let mut kept: Vec<_> = rotated().iter().flat_map(|name| numbers(&env.read(name))).collect();
    kept.extend(numbers(&env.read("redis_success.log")));
    kept.sort_unstable();

    // Checks overlap, so numbers may be missing near both ends: where the oldest file was deleted, and where the run
    // was stopped.
    assert!(kept.len() > 25, "{kept:?}");
    assert!(are_consecutive(&kept[10..kept.len() - 10]), "{kept:?}");
}

#[test]
fn each_file_of_a_run_begins_with_its_header() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("-p {} --check-interval 20ms --rotate 2000 --canary", server.port()));
    let files = |log: &str| -> Vec<_> { env.names().into_iter().filter(|name| name.starts_with(log)).collect() };
    assert!(eventually(LIMIT, || files("redis_success.log").len() >= 3));
    server.behave(Behaviour::Refuse);
    assert!(eventually(LIMIT, || files("redis_error.log").len() >= 3));
    assert_eq!(run.stop().code, Some(143));

    let mut began = Vec::new();
    for name in [files("redis_success.log"), files("redis_error.log")].concat() {
        let text = env.read(&name);
        let (header, rest) = text.split_once(" ===\n").unwrap();
        assert!(header.starts_with("=== Run of cycles on ") && header.ends_with(" +00:00"), "{name}: {text}");
        assert!(rest.starts_with("=== Each check writes a canary key from "), "{name}: {text}");
        assert_eq!(text.matches("=== Run of ").count(), 1, "{name}: {text}");
        began.push(header.split(", ").next().unwrap().to_owned());
    }
    began.dedup();
    assert_eq!(began.len(), 1, "{began:?}");
}

#[test]
fn several_processes_can_rotate_at_the_same_time() {
    let (env, server) = (TestEnv::new(), Server::start());
    let port = server.port();
    let runs: Vec<_> = (0..30).map(|_| env.spawn(&format!("dbs -p {port} --rotate 1K"))).collect();

    for run in runs {
        assert_eq!(run.wait().code, Some(0));
    }

    // How many of them rotate depends on which of them hold the lock. One run after the other always rotates.
    let before = env.names().len();
    for _ in 0..4 {
        assert_eq!(env.run(&format!("dbs -p {port} --rotate 1K")).code, Some(0));
    }

    let all = env.read_all();
    assert_eq!(all.matches("===== Redis DB Health Check at ").count(), 34);
    assert_eq!(all.matches(": RUNNING\n").count(), 34 * 16);
    assert!(before > 2 && env.names().len() > before, "{before} {:?}", env.names());
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
fn retention_is_by_age_so_that_no_log_outlives_another() {
    let (env, server) = (TestEnv::new(), Server::start());
    let day = |ago: u64| (chrono::Utc::now() - chrono::TimeDelta::days(ago.cast_signed())).date_naive();
    let logs = ["redis_db_health.log", "redis_error.log"];
    for ago in 1..40 {
        env.write(&format!("redis_db_health.log.{}", day(ago)), "a block\n");
    }
    // A log with few records has few files, and all of them are recent in number.
    for ago in [3, 29, 31, 90] {
        env.write(&format!("redis_error.log.{}", day(ago)), "a failure\n");
    }
    env.write("redis_error.log", "the last failure\n");
    let last = std::time::SystemTime::now() - Duration::from_secs(50 * 86_400);
    fs::File::options().write(true).open(env.logs().join(logs[1])).unwrap().set_modified(last).unwrap();

    assert_eq!(env.run(&format!("dbs -p {} --rotate daily --keep 30 --utc", server.port())).code, Some(0));
    let rotated = |log: &str| -> Vec<String> {
        env.names().iter().filter_map(|name| name.strip_prefix(log)?.strip_prefix('.').map(str::to_owned)).collect()
    };
    assert_eq!(rotated(logs[0]).len(), 30);
    assert_eq!(rotated(logs[1]), [day(29), day(3)].map(|day| day.to_string()));
    assert_eq!(env.read("redis_error.log"), "");
}

#[test]
fn a_rotation_that_fails_loses_no_record() {
    let (env, server) = (TestEnv::new(), Server::start());
    // A file that is mounted cannot be renamed.
    let mount = "touch logs/redis_success.log; mount --bind logs/redis_success.log logs/redis_success.log";
    let flags = "--cycles 1 --run-duration 1.01 --check-interval 25ms --rotate 1K --keep 1";
    let run = Running::start(env.in_namespaces("-rm", mount, &format!("cycles -p {} {flags}", server.port())));
    let output = run.wait();

    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stderr.matches("redis_success.log: cannot rotate this log: ").count(), 1, "{output:?}");
    let checks = 41 - output.missed();
    assert_eq!(numbers(&env.read("redis_success.log")).len(), checks, "{output:?}");
}

#[test]
fn a_kill_loses_no_finished_check() {
    for round in 0..50_u64 {
        let (env, server) = (TestEnv::new(), Server::start());
        let run = env.endless(&format!("-p {} --check-interval 5ms", server.port()));
        assert!(eventually(LIMIT, || server.finished() > round % 9));
        // From now on no check ends, so later ones cannot make up for a missing line.
        server.behave(Behaviour::StallAfter(0));
        let finished = server.finished() as usize;
        // The recorder may have to wait for a busy machine, but not for longer than this.
        std::thread::sleep(Duration::from_millis(50));
        // A moment that does not depend on the schedule of the checks.
        std::thread::sleep(Duration::from_micros(round * 7_919 % 10_000));
        run.signal(Signal::KILL);
        assert_eq!(run.wait().signal, Some(9));
        let logged = env.read("redis_success.log");
        let mut whole = numbers(&logged);
        whole.sort_unstable();
        assert!(whole.windows(2).all(|pair| pair[0] < pair[1]), "{logged}");
        assert!(logged.is_empty() || logged.ends_with('\n'), "{logged:?}");
        assert!(whole.len() >= finished, "{finished} checks had ended 50 ms before:\n{logged}");
    }
}

#[test]
fn a_full_disk_does_not_end_a_run_and_lost_records_are_counted() {
    let (env, server) = (TestEnv::new(), Server::start());
    let schedule = "--cycles 1 --run-duration 6 --check-interval 50ms";
    let arguments = format!("cycles -p {} {schedule}", server.port());
    let run = Running::start(env.in_namespaces("-rm", "mount -t tmpfs -o size=64k none logs", &arguments));

    // The file system exists only in the mount namespace of that process, and only while it is in use.
    let written = |path: &Path| numbers(&fs::read_to_string(path).unwrap_or_default());
    let there = PathBuf::from(format!("/proc/{}/root{}", run.pid(), env.logs().display()));
    assert!(eventually(LIMIT, || written(&there.join("redis_success.log")).len() >= 10));

    let opened = fs::File::open(&there).unwrap();
    let folder = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let (log, before, filler) = (folder.join("redis_success.log"), folder.join("before"), folder.join("filler"));

    // An existing file can still grow within its last page, so the log is renamed: a new file has no space.
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

    // On a busy machine some checks are missed, which the summary counts.
    let started = 120 - output.missed();
    let lost = output.summary_number("records that could not be written: ");
    assert_eq!(lost, started - kept.len(), "{output:?}\n{kept:?}");
    assert!(kept.contains(&1) && kept.contains(&(started as u64)) && lost > 5, "{kept:?}");
}

#[test]
fn a_missing_log_folder_does_not_end_a_run() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("-p {} --check-interval 20ms", server.port()));
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);
    let away = env.path().join("away");
    fs::rename(env.logs(), &away).unwrap();

    // A file with this name prevents the folder from being recreated.
    fs::write(env.logs(), "").unwrap();
    run.wait_for_stderr(|text| text.contains("cannot write a record: Not a directory"));
    fs::remove_file(env.logs()).unwrap();
    fs::rename(&away, env.logs()).unwrap();
    run.wait_for_stderr(|text| text.contains("records can be written again"));
    let output = run.stop();

    // The signal determines the exit code, but the loss is still reported.
    assert_eq!(output.code, Some(143));
    assert!(output.stdout.contains("records that could not be written: "), "{output:?}");
}

#[test]
fn records_that_could_not_be_written_are_marked_in_the_log() {
    let (env, server) = (TestEnv::new(), Server::start());
    let run = env.endless(&format!("-p {} --check-interval 20ms", server.port()));
    env.wait_for("redis_success.log", |text| numbers(text).len() >= 3);

    // An outage while no record can be written: a device is refused as a log.
    let logs = ["redis_error.log", "redis_success.log"].map(|name| env.logs().join(name));
    let aside = |log: &Path| log.with_extension("aside");
    for log in &logs {
        fs::hard_link(log, aside(log)).unwrap();
        let device = log.with_extension("device");
        std::os::unix::fs::symlink("/dev/full", &device).unwrap();
        fs::rename(device, log).unwrap();
    }
    run.wait_for_stderr(|text| text.contains("redis_success.log: cannot write a record: "));
    server.behave(Behaviour::ResetOnAccept);
    assert!(server.wait_accepted(server.accepted() + 5, LIMIT));
    server.behave(Behaviour::Serve);
    assert!(server.wait_accepted(server.accepted() + 5, LIMIT));
    for log in &logs {
        fs::rename(aside(log), log).unwrap();
    }

    let log = env.wait_for("redis_success.log", |text| text.contains("=== Records lost from "));
    let kept = numbers(&log).len();
    let log = env.wait_for("redis_success.log", |text| numbers(text).len() > kept + 3);
    run.stop();

    // The mark is before the first record that was written again.
    let (before, after) = log.split_once("=== Records lost from ").unwrap();
    let (last, first) = (numbers(before).into_iter().max(), numbers(after).into_iter().min());
    assert!(first.zip(last).is_some_and(|(first, last)| first > last + 5), "{log}");

    let report = env.run("report --json");
    let document: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert!(document["lost_records"].as_u64() >= Some(5), "{report:?}");
    assert!(document["unobserved_s"].as_f64() > Some(0.0), "{report:?}");
    let report = env.run("report");
    assert!(report.stdout.contains("\nrecords that could not be written: "), "{report:?}");
}
