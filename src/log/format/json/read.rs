//! Reads JSON lines. Most lines are checks, and serde reads flattened structs several times more slowly than plain
//! ones, so checks and the databases of scans are plain structs here.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::{Line, MarkFields, SubjectFields, Text};
use crate::log::format::legacy;
use crate::log::format::timestamp::TimestampReader;
use crate::log::record::{Entry, Mark, Mode, Unreadable};
use crate::model::change::{Aspect, Change};
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::ConnectionInfo;
use crate::model::server::{Identity, Role};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// The fields read from a check. The server's identity is not read: that would take an eighth longer, and the marks
/// contain the changes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct CheckLine<'a> {
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind_of_line: Option<Text<'a>>,
    #[serde(borrow)]
    mode: Option<Text<'a>>,
    #[serde(borrow)]
    node: Option<Text<'a>>,
    #[serde(borrow)]
    shard: Option<Text<'a>>,
    db: Option<u32>,
    held: bool,
    cluster: bool,
    write: bool,
    ok: Option<bool>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    detail: Option<Text<'a>>,
    elapsed_us: Option<u64>,
}

/// The fields read from one database of a scan.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DatabaseLine<'a> {
    #[serde(borrow)]
    node: Option<Text<'a>>,
    #[serde(borrow)]
    shard: Option<Text<'a>>,
    db: Option<u32>,
    held: bool,
    cluster: bool,
    write: bool,
    ok: Option<bool>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    detail: Option<Text<'a>>,
    elapsed_us: Option<u64>,
    #[serde(borrow)]
    peer: Option<Text<'a>>,
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow)]
    engine: Option<Text<'a>>,
    #[serde(borrow)]
    version: Option<Text<'a>>,
    #[serde(borrow)]
    run_id: Option<Text<'a>>,
}

/// The fields read from a scan.
#[derive(Deserialize)]
struct ScanLine<'a> {
    #[serde(borrow)]
    at: Text<'a>,
    #[serde(borrow)]
    databases: Vec<DatabaseLine<'a>>,
    #[serde(default)]
    canary: bool,
}

/// Reads one line and emits its entries.
///
/// # Errors
/// The line is not a JSON object written by this tool.
pub fn read(line: &str, timestamps: &mut TimestampReader, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    let check: CheckLine<'_> = serde_json::from_str(line).map_err(|_| Unreadable)?;
    let read = match check.kind_of_line.as_ref().map(|kind| &*kind.0) {
        Some("check") => read_check(&check, timestamps).map(emit),
        Some("scan") => serde_json::from_str(line).ok().and_then(|scan| read_scan(&scan, timestamps, emit)),
        Some(_) => {
            serde_json::from_str(line).ok().and_then(|mark| read_mark(&mark, timestamps)).map(Entry::Mark).map(emit)
        }
        None => None,
    };
    read.ok_or(Unreadable)
}

fn read_check(line: &CheckLine<'_>, timestamps: &mut TimestampReader) -> Option<Entry> {
    Some(Entry::Check {
        at: read_stamp(line.at.as_ref()?, timestamps)?,
        mode: match line.mode.as_ref().map(|mode| &*mode.0) {
            Some("dbs") => Some(Mode::Dbs),
            Some("cycles") => Some(Mode::Cycles),
            _ => None,
        },
        subject: subject(&line.node, &line.shard, (line.held, line.cluster, line.write), line.db),
        result: result(line.ok, &line.kind, &line.detail)?,
        elapsed: line.elapsed_us.map(Duration::from_micros),
    })
}

fn read_scan(line: &ScanLine<'_>, timestamps: &mut TimestampReader, emit: &mut dyn FnMut(Entry)) -> Option<()> {
    let at = read_stamp(&line.at, timestamps)?;
    // If part of a scan cannot be read, all of it is skipped.
    let results: Vec<_> =
        line.databases.iter().map(|line| result(line.ok, &line.kind, &line.detail)).collect::<Option<_>>()?;

    emit(Entry::BlockBegan(at));
    if line.canary {
        emit(Entry::BlockWrites);
    }
    for (line, result) in line.databases.iter().zip(results) {
        let elapsed = line.elapsed_us.map(Duration::from_micros);
        let subject = subject(&line.node, &line.shard, (line.held, line.cluster, line.write), line.db);
        emit(Entry::CheckResult { subject, result, elapsed, connection: read_connection(line) });
    }
    emit(Entry::BlockEnded);
    Some(())
}

fn read_mark(Line { at, fields }: &Line<'_, MarkFields<'_>>, timestamps: &mut TimestampReader) -> Option<Mark> {
    let at = read_stamp(at, timestamps)?;
    Some(match fields {
        MarkFields::CycleStarted { cycle } => Mark::CycleStarted { cycle: *cycle, at },
        MarkFields::CycleCompleted { cycle, pause_s } => {
            Mark::CycleCompleted { cycle: *cycle, break_duration: read_seconds(*pause_s)?, at }
        }
        MarkFields::AllFinished => Mark::AllFinished { at },
        MarkFields::Stopped { signal } => Mark::Stopped { signal: Signal::named(&signal.0)?, at },
        MarkFields::Canary => Mark::Canary { at },
        MarkFields::NotObserved { from, to, missed } => {
            Mark::NotObserved { from: read_stamp(from, timestamps)?, to: read_stamp(to, timestamps)?, missed: *missed }
        }
        MarkFields::RecordsLost { from, to, count } => {
            Mark::RecordsLost { from: read_stamp(from, timestamps)?, to: read_stamp(to, timestamps)?, count: *count }
        }
        MarkFields::Change { target, what, from, to } => {
            let aspect = Aspect::ALL.into_iter().find(|aspect| aspect.as_str() == what.0)?;
            let change = Change { aspect, from: from.0.to_string(), to: to.0.to_string() };
            Mark::Changed { target: read_subject(target).target, at, change }
        }
        MarkFields::OutageBegan { subject } => Mark::OutageBegan { subject: read_subject(subject), at },
        MarkFields::OutageEnded { subject, at_least_s, at_most_s } => Mark::OutageEnded {
            subject: read_subject(subject),
            at,
            at_least: read_seconds(*at_least_s)?,
            at_most: match at_most_s {
                Some(at_most) => Some(read_seconds(*at_most)?),
                None => None,
            },
        },
    })
}

fn read_stamp(text: &Text<'_>, timestamps: &mut TimestampReader) -> Option<Stamp> {
    timestamps.read_rfc3339(&text.0)
}

fn read_subject(fields: &SubjectFields<'_>) -> Subject {
    subject(&fields.node, &fields.shard, (fields.held, fields.cluster, fields.write), fields.db)
}

fn subject(
    node: &Option<Text<'_>>,
    shard: &Option<Text<'_>>,
    (held, cluster, write): (bool, bool, bool),
    db: Option<u32>,
) -> Subject {
    let target = match (node, shard, held, cluster) {
        (Some(node), ..) => Target::Node((&*node.0).into()),
        (None, Some(slots), ..) => Target::Shard((&*slots.0).into()),
        (None, None, true, _) => Target::Held,
        (None, None, false, true) => Target::Cluster,
        (None, None, false, false) => Target::Endpoint,
    };
    Subject { target, db, write }
}

fn result(ok: Option<bool>, kind: &Option<Text<'_>>, detail: &Option<Text<'_>>) -> Option<Result<(), Failure>> {
    if ok? {
        return Some(Ok(()));
    }
    let detail = detail.as_ref().map_or("", |detail| &*detail.0);
    let kind = kind.as_ref()?.0.parse();
    Some(Err(kind.map_or_else(|_| legacy::failure(detail), |kind| Failure::new(kind, detail))))
}

/// The server that answered, if the line contains it.
fn read_connection(line: &DatabaseLine<'_>) -> Option<Box<ConnectionInfo>> {
    let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
    let role = text(&line.role);
    let identity = Identity {
        role: [Role::Primary, Role::Replica].into_iter().find(|known| role.as_ref() == Some(&known.to_string())),
        engine: text(&line.engine),
        version: text(&line.version),
        run_id: text(&line.run_id),
    };
    let peer: Option<SocketAddr> = line.peer.as_ref().and_then(|peer| peer.0.parse().ok());
    let known = peer.is_some() || identity != Identity::default();
    let addresses = peer.iter().map(SocketAddr::ip).collect();
    known.then(|| Box::new(ConnectionInfo { peer, addresses, identity, ..ConnectionInfo::default() }))
}

fn read_seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}
