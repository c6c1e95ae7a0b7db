//! Writes records as JSON objects, composed of the target, the result and the server's identity.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::{Line, MarkFields, SubjectFields, Text, is_default};
use crate::log::record::{Mark, Mode, Record};
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, ConnectionInfo, Details};
use crate::model::subject::{Subject, Target};

/// The fields of a check or a scan.
#[derive(Serialize)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and only until it is written")]
#[serde(tag = "type", rename_all = "snake_case")]
enum CheckFields<'a> {
    Check {
        mode: Text<'a>,
        #[serde(flatten)]
        subject: SubjectFields<'a>,
        number: u64,
        #[serde(flatten)]
        result: ResultFields<'a>,
    },
    Scan {
        ok: bool,
        elapsed_us: u64,
        databases: Vec<DatabaseFields<'a>>,
        #[serde(skip_serializing_if = "is_default")]
        canary: bool,
        #[serde(flatten)]
        stopped: Option<StoppedFields<'a>>,
    },
}

/// One database of a scan.
#[derive(Serialize)]
struct DatabaseFields<'a> {
    #[serde(flatten)]
    subject: SubjectFields<'a>,
    #[serde(flatten)]
    result: ResultFields<'a>,
}

/// The result of a check. Durations are in microseconds.
#[derive(Serialize)]
struct ResultFields<'a> {
    ok: bool,
    #[serde(flatten)]
    failure: Option<FailureFields<'a>>,
    elapsed_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    resolve_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    connect_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    tls_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    auth_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    select_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    ping_us: u64,
    #[serde(skip_serializing_if = "is_default")]
    write_us: u64,
    #[serde(flatten)]
    server: ServerFields<'a>,
}

#[derive(Serialize)]
struct FailureFields<'a> {
    kind: Text<'a>,
    detail: Text<'a>,
}

/// The server that answered.
#[derive(Serialize)]
struct ServerFields<'a> {
    #[serde(skip_serializing_if = "is_default")]
    peer: Option<Text<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    role: Option<Text<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    engine: Option<Text<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    version: Option<Text<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    run_id: Option<Text<'a>>,
}

/// The signal that ended a scan.
#[derive(Serialize)]
struct StoppedFields<'a> {
    signal: Text<'a>,
    stopped_at: Text<'a>,
}

/// Writes a record as one JSON object, without a line end.
///
/// # Errors
/// Only if `f` fails; a `String` never does.
pub fn write(record: &Record, f: &mut impl Write) -> fmt::Result {
    let line = match record {
        Record::Check { at, mode, subject, number, result, details } => text_of(
            *at,
            CheckFields::Check {
                mode: Text::of(mode_name(*mode)),
                subject: subject_fields(subject),
                number: *number,
                result: result_fields(result, details),
            },
        ),
        Record::Scan { at, checks, took, canary, stopped } => text_of(
            *at,
            CheckFields::Scan {
                ok: stopped.is_none() && checks.iter().all(|check| check.result.is_ok()),
                elapsed_us: micros(*took),
                databases: checks.iter().map(database_fields).collect(),
                canary: *canary,
                stopped: stopped
                    .map(|(signal, at)| StoppedFields { signal: Text::shown(signal), stopped_at: Text::stamp(at) }),
            },
        ),
        Record::Mark(mark) => {
            let (at, fields) = mark_fields(mark);
            text_of(at, fields)
        }
    };
    // Serialising to memory fails only for maps whose keys are not text. There are none.
    f.write_str(&line.map_err(|_| fmt::Error)?)
}

fn text_of(at: Stamp, fields: impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(&Line { at: Text::stamp(at), fields })
}

fn database_fields(check: &CheckResult) -> DatabaseFields<'_> {
    DatabaseFields { subject: subject_fields(&check.subject), result: result_fields(&check.result, &check.details) }
}

fn subject_fields(subject: &Subject) -> SubjectFields<'_> {
    SubjectFields { db: subject.db, write: subject.write, ..target_fields(&subject.target) }
}

fn target_fields(target: &Target) -> SubjectFields<'_> {
    let mut fields = SubjectFields::default();
    match target {
        Target::Endpoint => {}
        Target::Held => fields.held = true,
        Target::Cluster => fields.cluster = true,
        Target::Node(node) => fields.node = Some(Text::of(node)),
        Target::Shard(slots) => fields.shard = Some(Text::of(slots)),
    }
    fields
}

fn result_fields<'r>(result: &Result<(), Failure>, details: &'r Details) -> ResultFields<'r> {
    let Details { elapsed, select, ping, write, connection } = details;
    let ConnectionInfo { timings, peer, identity, .. } = &**connection;
    let failure = |failure: &Failure| FailureFields {
        kind: Text::of(failure.kind.as_str()),
        detail: Text(Cow::Owned(failure.printable_detail())),
    };

    ResultFields {
        ok: result.is_ok(),
        failure: result.as_ref().err().map(failure),
        elapsed_us: micros(*elapsed),
        resolve_us: micros(timings.resolve),
        connect_us: micros(timings.connect),
        tls_us: micros(timings.tls),
        auth_us: micros(timings.auth),
        select_us: micros(*select),
        ping_us: micros(*ping),
        write_us: micros(*write),
        server: ServerFields {
            peer: peer.map(Text::shown),
            role: identity.role.map(Text::shown),
            engine: identity.engine.as_deref().map(Text::of),
            version: identity.version.as_deref().map(Text::of),
            run_id: identity.run_id.as_deref().map(Text::of),
        },
    }
}

/// The time of a mark, and its fields.
fn mark_fields(mark: &Mark) -> (Stamp, MarkFields<'_>) {
    match mark {
        Mark::CycleStarted { cycle, at } => (*at, MarkFields::CycleStarted { cycle: *cycle }),
        Mark::CycleCompleted { cycle, break_duration, at } => {
            (*at, MarkFields::CycleCompleted { cycle: *cycle, pause_s: break_duration.as_secs_f64() })
        }
        Mark::AllFinished { at } => (*at, MarkFields::AllFinished),
        Mark::Stopped { signal, at } => (*at, MarkFields::Stopped { signal: Text::shown(signal) }),
        Mark::Canary { at } => (*at, MarkFields::Canary),
        Mark::NotObserved { from, to, missed } => {
            (*to, MarkFields::NotObserved { from: Text::stamp(*from), to: Text::stamp(*to), missed: *missed })
        }
        Mark::RecordsLost { from, to, count } => {
            (*to, MarkFields::RecordsLost { from: Text::stamp(*from), to: Text::stamp(*to), count: *count })
        }
        Mark::Changed { target, at, change } => {
            let (what, from, to) = (change.aspect.as_str(), &change.from, &change.to);
            let target = target_fields(target);
            (*at, MarkFields::Change { target, what: Text::of(what), from: Text::of(from), to: Text::of(to) })
        }
        Mark::OutageBegan { subject, at } => (*at, MarkFields::OutageBegan { subject: subject_fields(subject) }),
        Mark::OutageEnded { subject, at, at_least, at_most } => {
            let (at_least_s, at_most_s) = (at_least.as_secs_f64(), at_most.map(|at_most| at_most.as_secs_f64()));
            (*at, MarkFields::OutageEnded { subject: subject_fields(subject), at_least_s, at_most_s })
        }
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Dbs => "dbs",
        Mode::Cycles => "cycles",
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
