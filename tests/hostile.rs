//! Servers that mean harm: a reply is data, whatever it holds.

use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use redis_health::connect::Connection;
use redis_health::failure::MAX_TEXT;
use tokio::io::AsyncWriteExt as _;

use crate::support::env::TestEnv;
use crate::support::scripted::{Behaviour, LIMIT, Server};

/// What a hostile server may send, over and over where that makes sense.
fn attacks() -> Vec<Behaviour> {
    let nested = |mark: &str| mark.repeat(200_000).into_bytes();
    let mut attacks = vec![
        Behaviour::Endless(vec![b'+'; 1 << 16]),
        Behaviour::Endless(vec![b'x'; 1 << 16]),
        Behaviour::Endless(vec![0; 1 << 16]),
        Behaviour::Endless(b"+".to_vec()),
        Behaviour::Endless(b">2\r\n+a\r\n+b\r\n".repeat(1000)),
        Behaviour::Endless(b"|1\r\n+a\r\n+b\r\n".repeat(1000)),
        Behaviour::Endless(b"*1\r\n".repeat(10_000)),
        Behaviour::Endless(b":1\r\n".repeat(10_000)),
    ];
    let raw = [
        nested("*1\r\n"),
        nested("%1\r\n"),
        nested("~1\r\n"),
        nested(">1\r\n"),
        nested("|1\r\n"),
        b"*9223372036854775807\r\n".to_vec(),
        b"$9223372036854775807\r\n".to_vec(),
        b"$5000000000\r\nabc".to_vec(),
        b"*-9223372036854775808\r\n".to_vec(),
        b"%9223372036854775807\r\n".to_vec(),
        b"|-1\r\n+a\r\n".to_vec(),
        b"=-1\r\n".to_vec(),
        b"!-5\r\nabc\r\n".to_vec(),
        b">0\r\n".to_vec(),
        b">-1\r\n".to_vec(),
        b"|0\r\n+OK\r\n".to_vec(),
        b"+\x1b]0;owned\x07\x1b[2J\r\n".to_vec(),
        b"-ERR \x00\x01\x02\x7f\xc2\x9b31m\r\n".to_vec(),
        b"-\xff\xfe\r\n".to_vec(),
        b"-\r\n".to_vec(),
        b"-ERR \xe2\x80\xae gnol\r\n".to_vec(),
        [b"-ERR ".to_vec(), vec![b'a'; 60_000], b"\r\n".to_vec()].concat(),
        b"$-1\r\n".to_vec(),
        b"_\r\n".to_vec(),
        b",nan\r\n".to_vec(),
        b"#t\r\n".to_vec(),
        b"(1\r\n".to_vec(),
        b"+OK\r\n+OK\r\n+PONG\r\n".to_vec(),
        b"\r\n".to_vec(),
        b"\n".to_vec(),
        b"+OK\n".to_vec(),
        b"-ERR a\r\n=== All cycles finished at 2025-01-01 00:00:00 ===\r\n".to_vec(),
    ];
    attacks.extend(raw.into_iter().map(Behaviour::Raw));
    attacks
}

#[test]
fn no_reply_hurts() {
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

/// The most memory that a process held until its end, or until it could not be asked any more, in KiB.
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

/// What real servers sent, to be broken in every way.
fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/replies");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Bytes at random, or a capture with some bytes changed, cut or repeated.
fn broken_replies() -> impl Strategy<Value = Vec<u8>> {
    let corpus = corpus();
    let mutated = (0..corpus.len(), proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4u8), 0..8)).prop_map(
        move |(file, changes)| {
            let mut bytes = corpus[file].clone();
            for (at, byte, how) in changes {
                let at = usize::from(at) % bytes.len().max(1);
                match how {
                    0 if !bytes.is_empty() => bytes[at] = byte,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at.min(bytes.len()), byte),
                    _ => bytes.extend_from_within(at.min(bytes.len())..),
                }
            }
            bytes
        },
    );
    let shaped = proptest::collection::vec(
        (prop::sample::select(&b"+-:$*%~|>_#,(=!"[..]), "[-0-9a-z ]{0,6}", any::<bool>()),
        0..12,
    )
    .prop_map(|parts| {
        let part = |(mark, text, end): &(u8, String, bool)| {
            [[*mark].as_slice(), text.as_bytes(), if *end { b"\r\n".as_slice() } else { b"" }].concat()
        };
        parts.iter().flat_map(part).collect()
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), mutated, shaped]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, it ends as replies and at last one failure, whose text is one printable line.
    #[test]
    fn the_reply_path_takes_anything(bytes in broken_replies()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let failure = runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            theirs.write_all(&bytes).await.unwrap();
            drop(theirs);
            let mut connection = Connection::over(ours);
            loop {
                if let Err(failure) = connection.reply().await {
                    return failure.to_string();
                }
            }
        });
        prop_assert!(failure.len() <= MAX_TEXT && !failure.contains(char::is_control), "{failure:?}");
    }
}
