//! Reads JSON lines.

use std::net::SocketAddr;
use std::time::Duration;

use super::fields::{
    CheckFields, Fields, Line, OrderedLine, ResultFields, ScanFields, ServerFields, SubjectFields, Text, WaitFields,
};
use crate::log::format::legacy;
use crate::log::format::timestamp::TimestampReader;
use crate::log::record::{Entry, Mark, Mode, Run, Unreadable};
use crate::model::change::{Aspect, Change};
use crate::model::clock::Stamp;
use crate::model::failure::{Failure, Kind};
use crate::model::outcome::ConnectionInfo;
use crate::model::server::{Identity, MAX_RUN_ID, MAX_VERSION, Role};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};
use crate::model::text::Printable;

/// Reads one line and emits its entries.
///
/// # Errors
/// The line is not a JSON object written by this tool.
pub fn read(line: &str, timestamps: &mut TimestampReader, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    // Marks, and lines whose fields another tool sorted, are refused before their first other field.
    let Line { at, fields } = match serde_json::from_str(line) {
        Ok(OrderedLine(line)) => line,
        Err(_) => serde_json::from_str(line).map_err(|_| Unreadable)?,
    };

    let at = read_stamp(&at, timestamps).ok_or(Unreadable)?;
    let read = match &fields {
        Fields::Check(check) => read_check(at, check).map(emit),
        Fields::Scan(scan) => read_scan(at, scan, emit),
        mark => read_mark(at, mark, timestamps).map(Entry::Mark).map(emit),
    };
    read.ok_or(Unreadable)
}

fn read_check(at: Stamp, check: &CheckFields<'_>) -> Option<Entry> {
    Some(Entry::Check {
        at,
        mode: check.mode.as_ref().and_then(|mode| Mode::named(&mode.0)),
        since_start: check.since_start_us.map(Duration::from_micros),
        subject: read_subject(&check.subject),
        result: read_result(&check.result)?,
        took: read_took(&check.result, &check.waits, check.subject.write),
        wrote: check.wrote,
    })
}

fn read_scan(at: Stamp, scan: &ScanFields<'_>, emit: &mut dyn FnMut(Entry)) -> Option<()> {
    let databases = scan.databases.as_ref()?;
    // If part of a scan cannot be read, all of it is skipped.
    let results: Vec<_> = databases.iter().map(|check| read_result(&check.result)).collect::<Option<_>>()?;

    emit(Entry::BlockBegan(at));
    if scan.canary {
        emit(Entry::BlockWrites);
    }
    for (check, result) in databases.iter().zip(results) {
        let took = read_took(&check.result, &check.waits, check.subject.write);
        let (subject, connection) = (read_subject(&check.subject), read_connection(&check.server));
        emit(Entry::CheckResult { subject, result, took, connection });
    }
    emit(Entry::BlockEnded);
    Some(())
}

fn read_mark(at: Stamp, fields: &Fields<'_>, timestamps: &mut TimestampReader) -> Option<Mark> {
    Some(match fields {
        Fields::Check(_) | Fields::Scan(_) => return None,
        Fields::RunStarted { mode, host, began, since_start_us } => {
            let (mode, host, began) = (Mode::named(&mode.0)?, &*host.0, read_stamp(began, timestamps)?);
            let run = Run::new(mode, host, began);
            Mark::RunStarted { run, at, since_start: Duration::from_micros(*since_start_us) }
        }
        Fields::CycleStarted { cycle } => Mark::CycleStarted { cycle: *cycle, at },
        Fields::CycleCompleted { cycle, pause_s } => {
            Mark::CycleCompleted { cycle: *cycle, break_duration: read_seconds(*pause_s)?, at, is_exact: true }
        }
        Fields::AllFinished => Mark::AllFinished { at },
        Fields::Stopped { signal } => Mark::Stopped { signal: Signal::named(&signal.0)?, at },
        Fields::Canary => Mark::Canary { at },
        Fields::NotObserved { from, to, missed } => {
            Mark::NotObserved { from: read_stamp(from, timestamps)?, to: read_stamp(to, timestamps)?, missed: *missed }
        }
        Fields::RecordsLost { from, to, count } => {
            Mark::RecordsLost { from: read_stamp(from, timestamps)?, to: read_stamp(to, timestamps)?, count: *count }
        }
        Fields::Change { target, what, from, to } => {
            let aspect = Aspect::ALL.into_iter().find(|aspect| aspect.as_str() == what.0)?;
            let change = Change { aspect, from: (&*from.0).into(), to: (&*to.0).into() };
            Mark::Changed { target: read_subject(target).target, at, change }
        }
        Fields::OutageBegan { subject, onset } => {
            let onset = match onset.onset_s {
                Some(onset) => Some(read_seconds(onset)?),
                None => None,
            };
            Mark::OutageBegan { subject: read_subject(subject), at, onset }
        }
        Fields::OutageEnded { subject, length } => Mark::OutageEnded {
            subject: read_subject(subject),
            at,
            first_failure: match &length.first_failure {
                Some(first_failure) => Some(read_stamp(first_failure, timestamps)?),
                None => None,
            },
            at_least: read_seconds(length.at_least_s?)?,
            at_most: match length.at_most_s {
                Some(at_most) => Some(read_seconds(at_most)?),
                None => None,
            },
        },
    })
}

fn read_stamp(text: &Text<'_>, timestamps: &mut TimestampReader) -> Option<Stamp> {
    timestamps.read_rfc3339(&text.0)
}

fn read_subject(fields: &SubjectFields<'_>) -> Subject {
    let target = match (&fields.node, &fields.shard, fields.held, fields.cluster) {
        (Some(node), ..) => Target::Node((&*node.0).into()),
        (None, Some(slots), ..) => Target::Shard((&*slots.0).into()),
        (None, None, true, _) => Target::Held,
        (None, None, false, true) => Target::Cluster,
        (None, None, false, false) => Target::Endpoint,
    };
    Subject { target, db: fields.db, write: fields.write }
}

fn read_result(fields: &ResultFields<'_>) -> Option<Result<(), Failure>> {
    let detail = fields.detail.as_ref().map_or("", |detail| &*detail.0);
    let kind = fields.kind.as_ref().map(|kind| kind.0.parse());
    match fields.ok {
        Some(true) => return Some(Ok(())),
        // A check that could not be made has no `ok`.
        None => return (kind? == Ok(Kind::Local)).then(|| Err(Failure::local(detail))),
        Some(false) => {}
    }
    let kind = kind?;
    Some(Err(kind.map_or_else(|_| legacy::failure(detail), |kind| Failure::new(kind, detail))))
}

/// How long a check took; of a failed one, the time before its failing phase.
fn read_took(result: &ResultFields<'_>, waits: &WaitFields, write: bool) -> Option<Duration> {
    let elapsed = result.elapsed_us?;
    let took = match (&result.kind, result.onset_us) {
        (None, _) => elapsed,
        (Some(_), Some(onset)) => onset,
        // Records of version 0.1.0 do not contain the onset. They do not say when the phase that timed out began.
        (Some(_), None) if write => elapsed.saturating_sub(waits.write_us),
        (Some(kind), None) if kind.0 == Kind::Timeout.as_str() => 0,
        (Some(_), None) => {
            let WaitFields { select_us, ping_us, write_us } = *waits;
            elapsed.saturating_sub(select_us.saturating_add(ping_us).saturating_add(write_us))
        }
    };
    Some(Duration::from_micros(took))
}

/// The server that answered, if the line contains it.
fn read_connection(server: &ServerFields<'_>) -> Option<Box<ConnectionInfo>> {
    let text = |text: &Option<Text<'_>>, limit| text.as_ref().map(|text| Printable::new(&text.0, limit));
    let role = server.role.as_ref().map(|role| &*role.0);
    let identity = Identity {
        role: [Role::Primary, Role::Replica].into_iter().find(|known| role == Some(&*known.to_string())),
        engine: text(&server.engine, MAX_VERSION),
        version: text(&server.version, MAX_VERSION),
        run_id: text(&server.run_id, MAX_RUN_ID),
        uptime: server.uptime_s.map(Duration::from_secs),
    };
    let peer: Option<SocketAddr> = server.peer.as_ref().and_then(|peer| peer.0.parse().ok());
    let known = peer.is_some() || identity != Identity::default();
    let addresses = peer.iter().map(SocketAddr::ip).collect();
    known.then(|| Box::new(ConnectionInfo { peer, addresses, identity, ..ConnectionInfo::default() }))
}

fn read_seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}
