//! Records as JSON, one object a line. One flat shape serves all of them, written and read: a field that does not apply
//! is left out.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::legacy;
use super::timestamp::Zone;
use crate::log::record::{Entry, Mark, Mode, Record, Unreadable};
use crate::model::change::{Aspect, Change};
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::{ConnectionInfo, Details};
use crate::model::server::{Identity, Role};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

/// Text that is borrowed from the line where it holds no escape.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One line, or one database of a scan. The README says what the fields mean.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    at: Option<Text<'a>>,
    #[serde(borrow, rename = "type", skip_serializing_if = "Option::is_none")]
    kind_of_line: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    mode: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    node: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    shard: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    kind: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    detail: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolve_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    select_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_us: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    peer: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    role: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    engine: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    version: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    run_id: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    databases: Option<Vec<Line<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cycle: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_s: Option<f64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    signal: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    stopped_at: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    what: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    from: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    to: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most_s: Option<f64>,
}

/// What is read of a check, or of one database of a scan: most lines are checks, and most of their fields are for other
/// readers.
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

/// What is read of a scan.
#[derive(Deserialize)]
struct ScanLine<'a> {
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(borrow)]
    databases: Vec<Line<'a>>,
    #[serde(default)]
    canary: bool,
}

/// Writes a record as one JSON object, without a line end.
pub fn write(record: &Record, f: &mut impl Write) -> fmt::Result {
    // Serialisation to memory fails only for maps with other keys than text, and there are none.
    f.write_str(&serde_json::to_string(&line(record)).map_err(|_| fmt::Error)?)
}

fn text<'a>(text: impl ToString) -> Option<Text<'a>> {
    Some(Text(Cow::Owned(text.to_string())))
}

fn stamp<'a>(at: Stamp) -> Option<Text<'a>> {
    text(at.rfc3339())
}

fn yes(it_is: bool) -> Option<bool> {
    it_is.then_some(true)
}

fn line(record: &Record) -> Line<'_> {
    match record {
        Record::Scan { at, checks, took, canary, stopped } => Line {
            at: stamp(*at),
            kind_of_line: text("scan"),
            elapsed_us: Some(micros(*took)),
            ok: Some(stopped.is_none() && checks.iter().all(|check| check.result.is_ok())),
            databases: Some(
                checks.iter().map(|check| check_line(&check.subject, &check.result, &check.details)).collect(),
            ),
            canary: yes(*canary),
            signal: stopped.and_then(|(signal, _)| text(signal)),
            stopped_at: stopped.and_then(|(_, at)| stamp(at)),
            ..Line::default()
        },
        Record::Check { at, mode, subject, count, result, details } => Line {
            at: stamp(*at),
            kind_of_line: text("check"),
            mode: text(mode_name(*mode)),
            number: Some(*count),
            ..check_line(subject, result, details)
        },
        Record::Mark(mark) => mark_line(mark),
    }
}

fn subject_line(subject: &Subject) -> Line<'_> {
    Line { db: subject.db, write: yes(subject.write), ..who_line(&subject.who) }
}

fn who_line(who: &Target) -> Line<'_> {
    let (node, shard) = match who {
        Target::Node(node) => (Some(Text(Cow::Borrowed(&**node))), None),
        Target::Shard(slots) => (None, Some(Text(Cow::Borrowed(&**slots)))),
        _ => (None, None),
    };
    Line { node, shard, held: yes(*who == Target::Held), cluster: yes(*who == Target::Cluster), ..Line::default() }
}

fn check_line<'r>(subject: &'r Subject, result: &Result<(), Failure>, details: &'r Details) -> Line<'r> {
    let Details { elapsed, select, ping, write, connection } = details;
    let ConnectionInfo { timings, peer, identity, .. } = &**connection;
    let phase = |took: Duration| Some(micros(took)).filter(|took| *took > 0);
    let told = |text: &'r Option<String>| text.as_deref().map(|text| Text(Cow::Borrowed(text)));
    Line {
        ok: Some(result.is_ok()),
        kind: result.as_ref().err().and_then(|failure| text(failure.kind)),
        detail: result.as_ref().err().and_then(|failure| text(failure.printable_detail())),
        elapsed_us: Some(micros(*elapsed)),
        resolve_us: phase(timings.resolve),
        connect_us: phase(timings.connect),
        tls_us: phase(timings.tls),
        auth_us: phase(timings.auth),
        select_us: phase(*select),
        ping_us: phase(*ping),
        write_us: phase(*write),
        peer: peer.and_then(text),
        role: identity.role.and_then(text),
        engine: told(&identity.engine),
        version: told(&identity.version),
        run_id: told(&identity.run_id),
        ..subject_line(subject)
    }
}

fn mark_line(mark: &Mark) -> Line<'_> {
    let of = |kind: &str, at: Stamp| Line { at: stamp(at), kind_of_line: text(kind), ..Line::default() };
    match mark {
        Mark::CycleStarted { cycle, at } => Line { cycle: Some(*cycle), ..of("cycle_started", *at) },
        Mark::CycleCompleted { cycle, pause, at } => {
            Line { cycle: Some(*cycle), pause_s: Some(pause.as_secs_f64()), ..of("cycle_completed", *at) }
        }
        Mark::AllFinished { at } => of("all_finished", *at),
        Mark::Stopped { signal, at } => Line { signal: text(signal), ..of("stopped", *at) },
        Mark::Canary { at } => of("canary", *at),
        Mark::NotObserved { from, to, missed } => {
            Line { from: stamp(*from), to: stamp(*to), missed: Some(*missed), ..of("not_observed", *to) }
        }
        Mark::RecordsLost { from, to, count } => {
            Line { from: stamp(*from), to: stamp(*to), count: Some(*count), ..of("records_lost", *to) }
        }
        Mark::Changed { who, at, change } => Line {
            at: stamp(*at),
            kind_of_line: text("change"),
            what: text(change.aspect.as_str()),
            from: text(&change.from),
            to: text(&change.to),
            ..who_line(who)
        },
        Mark::OutageBegan { subject, at } => {
            Line { at: stamp(*at), kind_of_line: text("outage_began"), ..subject_line(subject) }
        }
        Mark::OutageEnded { subject, at, at_least, at_most } => Line {
            at: stamp(*at),
            kind_of_line: text("outage_ended"),
            at_least_s: Some(at_least.as_secs_f64()),
            at_most_s: at_most.map(|at_most| at_most.as_secs_f64()),
            ..subject_line(subject)
        },
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

/// Reads one line and emits its entries.
///
/// # Errors
/// It is not an object of the shape that is written here.
pub fn read(line: &str, zone: &mut Zone, emit: &mut dyn FnMut(Entry)) -> Result<(), Unreadable> {
    let check: CheckLine<'_> = serde_json::from_str(line).map_err(|_| Unreadable)?;
    let read = match check.kind_of_line.as_ref().map(|kind| &*kind.0) {
        Some("check") => read_check(&check, zone).map(emit),
        Some("scan") => serde_json::from_str(line).ok().and_then(|scan| read_scan(&scan, zone, emit)),
        Some(mark) => {
            serde_json::from_str(line).ok().and_then(|line| read_mark(mark, &line, zone)).map(Entry::Mark).map(emit)
        }
        None => None,
    };
    read.ok_or(Unreadable)
}

fn read_scan(line: &ScanLine<'_>, zone: &mut Zone, emit: &mut dyn FnMut(Entry)) -> Option<()> {
    let at = read_stamp(&line.at, zone)?;
    // Nothing of a scan that cannot be read whole is taken.
    let result = |line: &Line<'_>| result_of(line.ok, &line.kind, &line.detail);
    let results: Vec<_> = line.databases.iter().map(result).collect::<Option<_>>()?;
    emit(Entry::BlockBegan(at));
    if line.canary {
        emit(Entry::BlockWrites);
    }
    for (database, result) in line.databases.iter().zip(results) {
        let elapsed = database.elapsed_us.map(Duration::from_micros);
        emit(Entry::CheckResult { subject: subject_of(database), result, elapsed, contact: read_contact(database) });
    }
    emit(Entry::BlockEnded);
    Some(())
}

fn read_check(line: &CheckLine<'_>, zone: &mut Zone) -> Option<Entry> {
    Some(Entry::Check {
        at: read_stamp(&line.at, zone)?,
        mode: match line.mode.as_ref().map(|mode| &*mode.0) {
            Some("dbs") => Some(Mode::Dbs),
            Some("cycles") => Some(Mode::Cycles),
            _ => None,
        },
        subject: read_subject(line),
        result: read_result(line)?,
        elapsed: read_elapsed(line),
    })
}

fn read_mark(kind: &str, line: &Line<'_>, zone: &mut Zone) -> Option<Mark> {
    let at = read_stamp(&line.at, zone)?;
    Some(match kind {
        "cycle_started" => Mark::CycleStarted { cycle: line.cycle?, at },
        "cycle_completed" => Mark::CycleCompleted { cycle: line.cycle?, pause: read_seconds(line.pause_s?)?, at },
        "all_finished" => Mark::AllFinished { at },
        "stopped" => Mark::Stopped { signal: Signal::named(&line.signal.as_ref()?.0)?, at },
        "canary" => Mark::Canary { at },
        "not_observed" => Mark::NotObserved {
            from: read_stamp(&line.from, zone)?,
            to: read_stamp(&line.to, zone)?,
            missed: line.missed?,
        },
        "records_lost" => Mark::RecordsLost {
            from: read_stamp(&line.from, zone)?,
            to: read_stamp(&line.to, zone)?,
            count: line.count?,
        },
        "change" => {
            let what = &*line.what.as_ref()?.0;
            let aspect = Aspect::ALL.into_iter().find(|aspect| aspect.as_str() == what)?;
            let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
            let change = Change { aspect, from: text(&line.from)?, to: text(&line.to)? };
            Mark::Changed { who: subject_of(line).who, at, change }
        }
        "outage_began" => Mark::OutageBegan { subject: subject_of(line), at },
        "outage_ended" => Mark::OutageEnded {
            subject: subject_of(line),
            at,
            at_least: read_seconds(line.at_least_s?)?,
            at_most: match line.at_most_s {
                Some(at_most) => Some(read_seconds(at_most)?),
                None => None,
            },
        },
        _ => return None,
    })
}

fn read_stamp(text: &Option<Text<'_>>, zone: &mut Zone) -> Option<Stamp> {
    zone.read_rfc3339(&text.as_ref()?.0)
}

fn read_subject(line: &CheckLine<'_>) -> Subject {
    subject(&line.node, &line.shard, (line.held, line.cluster, line.write), line.db)
}

fn subject_of(line: &Line<'_>) -> Subject {
    let is = |flag: Option<bool>| flag == Some(true);
    subject(&line.node, &line.shard, (is(line.held), is(line.cluster), is(line.write)), line.db)
}

fn subject(
    node: &Option<Text<'_>>,
    shard: &Option<Text<'_>>,
    (held, cluster, write): (bool, bool, bool),
    db: Option<u32>,
) -> Subject {
    let who = match (node, shard, held, cluster) {
        (Some(node), ..) => Target::Node((&*node.0).into()),
        (None, Some(slots), ..) => Target::Shard((&*slots.0).into()),
        (None, None, true, _) => Target::Held,
        (None, None, false, true) => Target::Cluster,
        (None, None, false, false) => Target::Endpoint,
    };
    Subject { who, db, write }
}

/// Whom a database of a scan was asked of, as far as that is told.
fn read_contact(line: &Line<'_>) -> Option<Box<ConnectionInfo>> {
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

fn read_result(line: &CheckLine<'_>) -> Option<Result<(), Failure>> {
    result_of(line.ok, &line.kind, &line.detail)
}

fn result_of(ok: Option<bool>, kind: &Option<Text<'_>>, detail: &Option<Text<'_>>) -> Option<Result<(), Failure>> {
    if ok? {
        return Some(Ok(()));
    }
    let detail = detail.as_ref().map_or("", |detail| &*detail.0);
    let kind = kind.as_ref()?.0.parse();
    Some(Err(kind.map_or_else(|_| legacy::failure(detail), |kind| Failure::new(kind, detail))))
}

fn read_elapsed(line: &CheckLine<'_>) -> Option<Duration> {
    line.elapsed_us.map(Duration::from_micros)
}

fn read_seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::model::failure::Kind;

    #[test]
    fn a_check_is_one_object() {
        let at = Stamp { at: DateTime::parse_from_rfc3339("2025-08-27T07:35:01.250+02:00").unwrap(), millis: false };
        let record = Record::Check {
            at,
            mode: Mode::Cycles,
            subject: Subject::db(3),
            count: 7,
            result: Err(Failure::new(Kind::Reset, "Connection reset by \x1b peer")),
            details: Details { elapsed: Duration::from_micros(412), ..Details::default() },
        };
        let mut line = String::new();
        write(&record, &mut line).unwrap();
        assert_eq!(
            line,
            r#"{"at":"2025-08-27T07:35:01.250+02:00","type":"check","mode":"cycles","db":3,"number":7,"ok":false,"kind":"reset","detail":"Connection reset by \\u{1b} peer","elapsed_us":412}"#
        );
    }
}
