//! Writes records as JSON objects.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::Duration;

use super::fields::{
    CheckFields, DatabaseFields, Fields, LengthFields, Line, OnsetFields, ResultFields, ScanFields, ServerFields,
    SubjectFields, Text, TimingFields, Unread, WaitFields,
};
use crate::log::record::{Mark, Record, Run};
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, ConnectionInfo, Details, Timings, Verdict};
use crate::model::subject::{Subject, Target};

/// Writes a record as one JSON object, without a line end.
///
/// # Errors
/// Only if `f` fails; a `String` never does.
pub fn write(record: &Record, f: &mut impl Write) -> fmt::Result {
    let (at, fields) = match record {
        Record::Check { at, mode, since_start, subject, number, result, details, wrote } => {
            let fields = CheckFields {
                mode: Some(Text::of(mode.as_str())),
                since_start_us: since_start.map(micros),
                wrote: Some(*wrote),
                subject: subject_fields(subject),
                result: ResultFields { number: Some(*number), ..result_fields(result, details) },
                timings: Unread(timing_fields(details)),
                waits: wait_fields(details),
                server: Unread(server_fields(details)),
            };
            (*at, Fields::Check(fields))
        }
        Record::Scan { at, checks, took, canary, stopped } => {
            let ok = ok_of_scan(checks, stopped.is_some());
            let fields = ScanFields {
                ok,
                elapsed_us: Some(micros(*took)),
                databases: Some(checks.iter().map(database_fields).collect()),
                canary: *canary,
                signal: stopped.map(|(signal, _)| Text::shown(signal)),
                stopped_at: stopped.map(|(_, at)| Text::stamp(at)),
            };
            (*at, Fields::Scan(fields))
        }
        Record::Mark(mark) => mark_fields(mark),
    };

    let line = serde_json::to_string(&Line { at: Text::stamp(at), fields });
    // Serialising to memory fails only for maps whose keys are not text. There are none.
    f.write_str(&line.map_err(|_| fmt::Error)?)
}

/// Whether every check of a scan passed. None if none failed, but some could not be made.
fn ok_of_scan(checks: &[CheckResult], is_stopped: bool) -> Option<bool> {
    let any = |wanted: fn(Verdict<'_>) -> bool| checks.iter().any(|check| wanted(check.verdict()));
    if is_stopped || any(|verdict| matches!(verdict, Verdict::Failed(_))) {
        return Some(false);
    }
    (!any(|verdict| matches!(verdict, Verdict::NotObserved(_)))).then_some(true)
}

fn database_fields(CheckResult { subject, result, details, .. }: &CheckResult) -> DatabaseFields<'_> {
    DatabaseFields {
        subject: subject_fields(subject),
        result: result_fields(result, details),
        timings: Unread(timing_fields(details)),
        waits: wait_fields(details),
        server: server_fields(details),
    }
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

fn result_fields<'r>(result: &Result<(), Failure>, details: &Details) -> ResultFields<'r> {
    let failure = result.as_ref().err();
    ResultFields {
        number: None,
        // Neither true nor false if the check could not be made; its kind is `local`.
        ok: match Verdict::of(result) {
            Verdict::Passed => Some(true),
            Verdict::Failed(_) => Some(false),
            Verdict::NotObserved(_) => None,
        },
        kind: failure.map(|failure| Text::of(failure.kind.as_str())),
        detail: failure.map(|failure| Text(Cow::Owned(failure.detail.to_string()))),
        elapsed_us: Some(micros(details.elapsed)),
        onset_us: failure.map(|_| micros(details.onset)),
    }
}

fn timing_fields(Details { connection, .. }: &Details) -> TimingFields {
    let Timings { resolve, connect, tls, auth } = connection.timings;
    TimingFields {
        resolve_us: micros(resolve),
        connect_us: micros(connect),
        tls_us: micros(tls),
        auth_us: micros(auth),
    }
}

fn wait_fields(Details { select, ping, write, .. }: &Details) -> WaitFields {
    WaitFields { select_us: micros(*select), ping_us: micros(*ping), write_us: micros(*write) }
}

fn server_fields(details: &Details) -> ServerFields<'_> {
    let ConnectionInfo { peer, identity, .. } = &*details.connection;
    ServerFields {
        peer: peer.map(Text::shown),
        role: identity.role.map(Text::shown),
        engine: identity.engine.as_deref().map(Text::of),
        version: identity.version.as_deref().map(Text::of),
        run_id: identity.run_id.as_deref().map(Text::of),
        uptime_s: identity.uptime.map(|uptime| uptime.as_secs()),
    }
}

/// The time of a mark, and its fields.
fn mark_fields(mark: &Mark) -> (Stamp, Fields<'_>) {
    match mark {
        Mark::RunStarted { run: Run { mode, host, began }, at, since_start } => {
            let (mode, host, began) = (Text::of(mode.as_str()), Text::of(host), Text::stamp(*began));
            (*at, Fields::RunStarted { mode, host, began, since_start_us: micros(*since_start) })
        }
        Mark::CycleStarted { cycle, at } => (*at, Fields::CycleStarted { cycle: *cycle }),
        Mark::CycleCompleted { cycle, break_duration, at, .. } => {
            (*at, Fields::CycleCompleted { cycle: *cycle, pause_s: break_duration.as_secs_f64() })
        }
        Mark::AllFinished { at } => (*at, Fields::AllFinished),
        Mark::Stopped { signal, at } => (*at, Fields::Stopped { signal: Text::shown(signal) }),
        Mark::Canary { at } => (*at, Fields::Canary),
        Mark::NotObserved { from, to, missed } => {
            (*to, Fields::NotObserved { from: Text::stamp(*from), to: Text::stamp(*to), missed: *missed })
        }
        Mark::RecordsLost { from, to, count } => {
            (*to, Fields::RecordsLost { from: Text::stamp(*from), to: Text::stamp(*to), count: *count })
        }
        Mark::Changed { target, at, change } => {
            let (what, from, to) = (change.aspect.as_str(), &change.from, &change.to);
            let target = target_fields(target);
            (*at, Fields::Change { target, what: Text::of(what), from: Text::of(from), to: Text::of(to) })
        }
        Mark::OutageBegan { subject, at, onset } => {
            let onset = OnsetFields { onset_s: onset.map(|onset| onset.as_secs_f64()) };
            (*at, Fields::OutageBegan { subject: subject_fields(subject), onset })
        }
        Mark::OutageEnded { subject, at, first_failure, at_least, at_most } => {
            let length = LengthFields {
                first_failure: first_failure.map(Text::stamp),
                at_least_s: Some(at_least.as_secs_f64()),
                at_most_s: at_most.map(|at_most| at_most.as_secs_f64()),
            };
            (*at, Fields::OutageEnded { subject: subject_fields(subject), length })
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
