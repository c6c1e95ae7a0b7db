//! What the fuzz targets in `tests/fuzz` run: everything that reads text from outside. Each function panics if a promise
//! is broken.

use std::fmt::Display;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chrono::DateTime;
use tokio::time::Instant;

use crate::cli::{units, uri};
use crate::cluster::nodes::Nodes;
use crate::cluster::topology::{self, Dialled, Topology};
use crate::log::format::timestamp::TimestampReader;
use crate::log::format::{read_line, read_success};
use crate::log::read::{self, Notice, Range};
use crate::log::record::{Destination, Entry, Format, Record};
use crate::model::databases::Databases;
use crate::model::endpoint::Endpoint;
use crate::model::failure::Failure;
use crate::model::secret::{Intake, Secret};
use crate::model::server::Identity;
use crate::model::text::{MAX_TEXT, Printable};
use crate::probe::canary::Canary;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;
use crate::probe::large_reply::{LargeReply, Turn};
use crate::probe::resolve::Resolver;
use crate::probe::resp::{Decoder, Reply, unexpected};
use crate::probe::server_info::{self, ServerInfo};
use crate::report::text::Style;
use crate::report::{build, html, json, text};

/// The password that no output may show.
const SECRET: &str = "hunter2";

/// The bytes that a server sent: any are replies followed by one failure.
pub fn replies(bytes: &[u8]) {
    let (replies, end) = read_all(bytes);
    assert_shown(end);

    let secret = Secret::new(SECRET);
    for mut reply in replies {
        let Identity { engine, version, run_id, .. } = server_info::identity_of_info(&reply, Intake::of(Some(&secret)));
        for kept in [engine, version, run_id].into_iter().flatten() {
            assert_shown(&kept);
            assert!(!kept.contains(SECRET) && kept.len() <= 64, "{kept}");
        }
        for command in ["SELECT", "INFO"] {
            assert_shown(unexpected(command, &reply));
        }
        reply.redact(&secret);
    }
}

/// The replies that describe a cluster, at one discovery after the other.
pub fn topology(bytes: &[u8]) {
    let replies = read_all_large(bytes);
    let secret = Secret::new(SECRET);
    let dialled = Dialled { host: "10.0.0.1", tls: false, intake: Intake::of(Some(&secret)) };
    let mut nodes = Nodes::new(Arc::new(checker()), false);

    for (number, reply) in replies.iter().enumerate() {
        let root = reply.root();
        let next = replies.get(number + 1).and_then(|next| next.root().text()).unwrap_or_default();
        assert_shown(unexpected("CLUSTER SHARDS", &root.summary()));

        for topology in [Topology::from_shards(root, dialled), Topology::from_slots(root, next, dialled)] {
            let Some(topology) = topology else { continue };
            for node in &topology.nodes {
                assert_shown(&node.name);
                assert!(!node.name.contains(SECRET), "{}", node.name);
            }
            if let Err(failure) = topology.verdict(next, dialled.intake) {
                assert_shown(failure);
            }
            for (target, change) in nodes.take(number as u64, topology, Instant::now()).change().changes() {
                assert_shown(format!("{target} {} {}", change.from, change.to));
            }
        }
        if let Some(moved) = root.text().and_then(|text| topology::redirection(text, dialled.host)) {
            assert!(Printable::is_plain(&moved.host), "{}", moved.host);
        }
    }
}

/// The lines of a log file, each by itself.
pub fn log_lines(bytes: &[u8]) {
    let mut timestamps = TimestampReader::new(true);
    let _ = read_success(bytes, &mut timestamps.clone());
    for line in String::from_utf8_lossy(bytes).split('\n') {
        let _ = read_line(line, &mut timestamps, &mut |entry| match entry {
            Entry::Check { subject, result, .. } | Entry::CheckResult { subject, result, .. } => {
                assert_shown(&subject);
                if let Err(failure) = result {
                    assert_shown(failure);
                }
            }
            Entry::Mark(mark) => {
                let record = Record::Mark(mark);
                assert_shown(&record);
                assert_shown(record.in_format(Format::Json));
            }
            Entry::BlockBegan(_) | Entry::BlockWrites | Entry::BlockEnded => {}
        });
    }
}

/// A log file, and its report in each format. `folder` is empty, and only for this.
pub fn report(bytes: &[u8], folder: &Path) {
    let file = folder.join(Destination::Success.file_name());
    if fs::write(&file, bytes).is_err() {
        return;
    }
    let range = Range::default();
    let mut tell = |(Notice::Line(text) | Notice::File(text)): Notice<'_>| assert_shown(text);
    let Ok(logs) = read::read(&[file], range, true, &mut tell) else { return };

    let report = build::of_logs(logs);
    let page = html::render(&report).unwrap_or_default();
    for text in [text::render(&report, &Style { width: 80, colour: false }), json::render(&report), page] {
        text.lines().for_each(|line| assert!(Printable::is_plain(line), "{line:?}"));
    }
}

/// A URI of the command line.
pub fn uri(text: &str) {
    match uri::parse(text) {
        Ok(uri) => assert_shown(uri.endpoint),
        Err(error) => assert_shown(format!("{error:#}")),
    }
}

/// Durations, sizes and times, from the command line and from logs.
pub fn times(text: &str) {
    if let Ok(duration) = units::duration(text) {
        assert!(duration <= Duration::from_secs(10 * 366 * 86_400));
    }
    let _ = (units::nonzero_duration(text), units::size(text));

    let now = DateTime::UNIX_EPOCH.fixed_offset() + Duration::from_secs(1_756_280_101);
    for utc in [true, false] {
        let _ = units::time(text, now, utc);
        let mut timestamps = TimestampReader::new(utc);
        for _ in 0..2 {
            let rest = timestamps.read_local(text).map(|(_, rest)| rest.len());
            assert!(rest.is_none_or(|rest| rest < text.len()));
            let _ = timestamps.read_local_bytes(text.as_bytes());
        }
        let _ = timestamps.read_rfc3339(text);
    }
}

fn assert_shown(shown: impl Display) {
    let line = shown.to_string();
    assert!(Printable::is_plain(&line), "{line:?}");
}

/// All replies in `bytes`, and the failure at their end.
fn read_all(bytes: &[u8]) -> (Vec<Reply>, Failure) {
    let all = async {
        let (mut decoder, mut replies) = (Decoder::new(bytes), Vec::new());
        loop {
            match decoder.next().await {
                Ok(reply) => replies.push(reply),
                Err(error) => return (replies, Failure::from(error)),
            }
        }
    };
    let (replies, end) = ready(all);
    assert!(end.to_string().len() <= MAX_TEXT, "{end}");
    (replies, end)
}

/// All replies in `bytes`, as a discovery reads them.
fn read_all_large(mut bytes: &[u8]) -> Vec<LargeReply> {
    ready(async {
        let (mut turn, mut replies) = (Turn::default(), Vec::new());
        loop {
            match LargeReply::read(&mut bytes, 1 << 20, &mut turn).await {
                Ok(reply) => replies.push(reply),
                Err(error) => {
                    assert_shown(Failure::from(error));
                    return replies;
                }
            }
        }
    })
}

/// The result of a future that only reads bytes in memory.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("bytes in memory are ready"),
    }
}

fn checker() -> Checker {
    let timeout = Duration::from_secs(1);
    let endpoint = Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 6379 };
    Checker {
        connect: ConnectOptions { endpoint, tls: None, credentials: None },
        resolver: Resolver::new(),
        databases: Databases::One(0),
        timeout,
        deadline: timeout,
        server_info: ServerInfo::new(true),
        expect_role: None,
        canary: Some(Canary::new()),
        in_cluster: false,
        settled: AtomicU64::new(0),
        highest: AtomicU32::new(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files in a folder of `tests`.
    fn seeds(folder: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
        let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!seeds.is_empty());
        seeds
    }

    #[test]
    fn the_seeds_keep_all_promises() {
        let folder = tempfile::TempDir::new().unwrap();
        for seed in [seeds("corpus/replies"), seeds("replies")].concat() {
            replies(&seed);
            topology(&seed);
        }
        for seed in seeds("corpus/logs") {
            log_lines(&seed);
            report(&seed, folder.path());
        }
        for line in seeds("corpus/uris").iter().chain(&seeds("corpus/times")).map(|seed| String::from_utf8_lossy(seed))
        {
            uri(&line);
            times(&line);
        }
    }
}
