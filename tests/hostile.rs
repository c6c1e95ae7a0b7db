//! Hostile servers: no reply crashes the program, exhausts memory or corrupts the log.

use std::fs;
use std::time::Duration;

use crate::support::attacks::attacks;
use crate::support::env::TestEnv;
use crate::support::scripted::{LIMIT, Server};

/// The maximum length of a failure's text in a line, in bytes.
const MAX_TEXT: usize = 300;

#[test]
fn hostile_replies_are_only_data() {
    let server = Server::start();
    let port = server.port().to_string();
    for attack in attacks() {
        let env = TestEnv::new();
        server.behave(attack.clone());
        let run = env.spawn(&["dbs", "-n", "0", "-t", "0.2", "-p", &port]);
        let peak = peak_memory(run.pid());
        let output = run.wait();
        let name = format!("{attack:?}").chars().take(100).collect::<String>();
        assert!(matches!(output.code, Some(0 | 1)), "{name}: {output:?}");
        assert_eq!(output.stderr, "", "{name}");
        assert!(output.elapsed < LIMIT / 2, "{name}: {:?}", output.elapsed);
        let block = env.read("redis_db_health.log");
        let lines: Vec<_> = block.lines().collect();
        assert!(lines.len() == 3 && lines[1].starts_with("DB 0: ") && lines[2].is_empty(), "{name}: {block:?}");
        assert!(lines[1].len() <= MAX_TEXT + "DB 0: NOT RUNNING ()".len(), "{name}: {block:?}");
        assert!(!block.contains(|c: char| c.is_control() && c != '\n'), "{name}: {block:?}");
        assert!(!block.contains('\u{202e}'), "{name}: {block:?}");
        assert!(peak < 32 << 10, "{name}: {peak} KiB");
    }
}

/// The peak memory of a process in KiB, sampled until it exits.
fn peak_memory(pid: u32) -> u64 {
    let mut peak = 0;
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let Some(now) = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()) else { break };
        peak = peak.max(now);
        std::thread::sleep(Duration::from_millis(1));
    }
    peak
}
