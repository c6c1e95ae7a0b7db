//! Classic text lines, the format of the scripts that this tool replaces. People grep them and programs parse them, so
//! they are an interface.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::legacy;
use super::timestamp::TimestampReader;
use crate::log::record::{Entry, Mark, Mode, Record, Run, Unreadable};
use crate::model::change::{Aspect, Change};
use crate::model::clock::Stamp;
use crate::model::duration::seconds;
use crate::model::failure::Failure;
use crate::model::outcome::{CheckResult, Replaced, Verdict};
use crate::model::server::Role;
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};

const BLOCK: &str = "===== Redis DB Health Check at ";
const CANARY: &str = "Each check writes a canary key";
const CONTINUES: &str = ", continues ";
const INTO: &str = " s into the check of ";
const FIRST_FAILURE: &str = ", first failure at ";

/// Writes the lines of a record, without the final line end.
pub fn write(record: &Record, f: &mut impl Write) -> fmt::Result {
    match record {
        Record::Scan { at, checks, canary, stopped, .. } => {
            writeln!(f, "{BLOCK}{at} =====")?;
            if *canary {
                writeln!(f, "=== {CANARY} ===")?;
            }
            for CheckResult { subject, result, .. } in checks {
                match Verdict::of(result) {
                    Verdict::Passed => writeln!(f, "{subject}: RUNNING")?,
                    Verdict::Failed(failure) => writeln!(f, "{subject}: NOT RUNNING ({failure})")?,
                    Verdict::NotObserved(reason) => writeln!(f, "{subject}: NOT OBSERVED ({reason})")?,
                }
            }
            match *stopped {
                Some((signal, at)) => writeln!(f, "=== {} ===", Mark::Stopped { signal, at }),
                None => Ok(()),
            }
        }
        Record::Check { at, subject, number, result, .. } => {
            write!(f, "{at} ")?;
            match subject {
                Subject { target: Target::Endpoint, db: None, write: false } => {}
                Subject { target: Target::Endpoint, db: None, write: true } => f.write_str("WRITE ")?,
                subject => write!(f, "{subject} ")?,
            }
            match Verdict::of(result) {
                Verdict::Passed => write!(f, "SUCCESS {number}"),
                Verdict::Failed(failure) => write!(f, "FAILURE: {failure}"),
                Verdict::NotObserved(reason) => write!(f, "NOT OBSERVED: {reason}"),
            }
        }
        Record::Mark(mark) => write!(f, "=== {mark} ==="),
    }
}

impl Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::RunStarted { run: Run { mode, host, began }, at, since_start } => {
                write!(f, "Run of {} on {host} began at {}", mode.as_str(), began.exact())?;
                match since_start.as_millis() {
                    0 => Ok(()),
                    _ => write!(f, "{CONTINUES}{} s later at {}", seconds(*since_start), at.exact()),
                }
            }
            Mark::CycleStarted { cycle, at } => write!(f, "Cycle {cycle} started at {at}"),
            Mark::CycleCompleted { cycle, break_duration, .. } => {
                write!(f, "Cycle {cycle} completed, sleeping for {} seconds", seconds(*break_duration))
            }
            Mark::AllFinished { at } => write!(f, "All cycles finished at {at}"),
            Mark::Stopped { signal, at } => write!(f, "Stopped by {signal} at {at}"),
            Mark::Canary { at } => write!(f, "{CANARY} from {at}"),
            Mark::NotObserved { from, to, missed } => {
                // A line has one offset from UTC, that of its end.
                write!(f, "Not observed from {} to {to}, checks missed: {missed}", from.in_zone_of(*to))
            }
            Mark::RecordsLost { from, to, count } => {
                write!(f, "Records lost from {} to {to}: {count}", from.in_zone_of(*to))
            }
            Mark::Changed { target, at, change } => {
                let (from, to) = (&change.from, &change.to);
                match change.aspect {
                    Aspect::Address => write!(f, "{target} moved from {from} to {to} at {at}"),
                    Aspect::Role | Aspect::Engine => write!(f, "{target} changed from {from} to {to} at {at}"),
                    Aspect::RunId => write!(f, "{target} was restarted at {at}, run id {from} became {to}"),
                    Aspect::Server => write!(f, "{target}: another server answers at {at}, run id {from} became {to}"),
                    Aspect::Connection if to == Replaced::Silent.as_str() => {
                        write!(f, "{target} replaced after no reply at {at}")
                    }
                    Aspect::Connection => write!(f, "{target} closed by the server at {at}"),
                    Aspect::Member => write!(f, "{target} was {from} and is {to} at {at}"),
                }
            }
            Mark::OutageBegan { subject, at, onset } => {
                write!(f, "Outage of {subject} began at {at}")?;
                match onset {
                    Some(onset) => write!(f, ", {}{INTO}{}", seconds(*onset), at.exact()),
                    None => Ok(()),
                }
            }
            Mark::OutageEnded { subject, at, first_failure, at_least, at_most } => {
                write!(f, "Outage of {subject} ended at {at}, lasted at least {} s", seconds(*at_least))?;
                match at_most {
                    Some(at_most) => write!(f, ", at most {} s", seconds(*at_most))?,
                    None => f.write_str(", its beginning was not observed")?,
                }
                match first_failure {
                    Some(first_failure) => write!(f, "{FIRST_FAILURE}{}", first_failure.exact()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Reads one line.
///
/// # Errors
/// The line is neither in this format nor from the scripts.
pub fn read(line: &str, timestamps: &mut TimestampReader) -> Result<Entry, Unreadable> {
    let Some(first) = line.as_bytes().first() else { return Ok(Entry::BlockEnded) };
    let entry = if first.is_ascii_digit() {
        read_check(line, timestamps)
    } else if let Some(rest) = line.strip_prefix(BLOCK) {
        timestamps.expect_block();
        whole_stamp(rest.strip_suffix(" =====").ok_or(Unreadable)?, timestamps).map(Entry::BlockBegan)
    } else if let Some(rest) = line.strip_prefix("=== ") {
        match rest.strip_suffix(" ===").ok_or(Unreadable)? {
            CANARY => Some(Entry::BlockWrites),
            mark => read_mark(mark, timestamps).map(Entry::Mark),
        }
    } else {
        read_block_line(line)
    };
    entry.ok_or(Unreadable)
}

/// Reads a SUCCESS line of the endpoint or of a database of it, the most frequent lines. Returns the timestamp, the
/// database, the number, and the line's length with its line end. None for any other line, and for one whose end is not in `bytes`.
pub fn read_success(bytes: &[u8], timestamps: &mut TimestampReader) -> Option<(Stamp, Option<u32>, u64, usize)> {
    // After a timestamp without milliseconds, or with them.
    let rest = [19, 23].into_iter().find_map(|end| bytes.get(end..)?.strip_prefix(b" "))?;
    let before_subject = bytes.len() - rest.len();
    let (db, rest) = match rest.strip_prefix(b"DB ") {
        Some(rest) => {
            let (db, rest) = split_number(rest)?;
            (Some(u32::try_from(db).ok()?), rest.strip_prefix(b" ")?)
        }
        None => (None, rest),
    };
    let (number, rest) = split_number(rest.strip_prefix(b"SUCCESS ")?)?;
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest).strip_prefix(b"\n")?;

    timestamps.expect_number(number);
    let (at, stamp_length) = timestamps.read_local_bytes(bytes)?;
    (stamp_length + 1 == before_subject).then_some((at, db, number, bytes.len() - rest.len()))
}

/// Reads a number of at most 19 digits, which always fits into 64 bits, and returns it with the rest.
fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = bytes.split_at_checked(length)?;
    let number = digits.iter().fold(0_u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    (1..20).contains(&length).then_some((number, rest))
}

/// `2025-08-27 07:35:01 DB 3 FAILURE: reset: Connection reset by peer`.
fn read_check(line: &str, timestamps: &mut TimestampReader) -> Option<Entry> {
    let (at, rest) = timestamps.read_local(line)?;
    let (subject, rest) = read_subject(rest.strip_prefix(' ')?);
    let result = if let Some(text) = rest.strip_prefix("FAILURE: ") {
        // In a shell without `==`, the script logged every successful check as a failure.
        if text == "PONG" { Ok(()) } else { Err(legacy::parse_failure(text)) }
    } else if let Some(text) = rest.strip_prefix("NOT OBSERVED: ") {
        Err(read_local(text)?)
    } else {
        rest.strip_prefix("SUCCESS ")?.parse::<u64>().map(|_| ()).map(Ok).ok()?
    };
    Some(Entry::Check { at, mode: None, since_start: None, subject, result, took: None, wrote: None })
}

/// `DB 3: NOT RUNNING (reset: Connection reset by peer)`.
fn read_block_line(line: &str) -> Option<Entry> {
    let (subject, rest) = read_subject(line);
    let result: Result<(), Failure> = match rest.strip_prefix("RUNNING") {
        Some(rest) => rest.is_empty().then_some(Ok(()))?,
        // In a shell without `==`, the script logged every healthy database as not running.
        None if rest == "NOT RUNNING (PONG)" => Ok(()),
        // A script's text may contain line ends. The closing bracket is then on a later line.
        None => match rest.strip_prefix("NOT OBSERVED (") {
            Some(text) => Err(read_local(text.strip_suffix(')')?)?),
            None => {
                let text = rest.strip_prefix("NOT RUNNING (")?;
                Err(legacy::parse_failure(text.strip_suffix(')').unwrap_or(text)))
            }
        },
    };
    (subject != Subject::default()).then_some(Entry::CheckResult { subject, result, took: None, connection: None })
}

/// `local: too many open files`: why a check could not be made.
fn read_local(text: &str) -> Option<Failure> {
    text.strip_prefix("local: ").map(Failure::local)
}

/// Reads the subject at the beginning of a text, and returns it with the rest. The subject may be empty.
fn read_subject(mut rest: &str) -> (Subject, &str) {
    let mut subject = Subject::default();
    loop {
        let (word, after) = match rest.split_once([' ', ':']) {
            Some((word, after)) => (word, after.strip_prefix(' ').unwrap_or(after)),
            None => (rest, ""),
        };
        let (value, after_value) = match word {
            // A node's name contains colons, and in a block another colon follows it.
            "NODE" => match after.split_once(' ') {
                Some((value, after)) => (value.strip_suffix(':').unwrap_or(value), after),
                None => (after, ""),
            },
            _ => match after.split_once([' ', ':']) {
                Some((value, after)) => (value, after.strip_prefix(' ').unwrap_or(after)),
                None => (after, ""),
            },
        };

        rest = match (word, value.parse()) {
            ("NODE", _) => {
                subject.target = Target::Node(value.into());
                after_value
            }
            ("SHARD", _) => {
                subject.target = Target::Shard(value.into());
                after_value
            }
            ("DB", Ok(db)) => {
                subject.db = Some(db);
                after_value
            }
            ("HELD", _) => {
                subject.target = Target::Held;
                after
            }
            ("CLUSTER", _) => {
                subject.target = Target::Cluster;
                after
            }
            ("Endpoint" | "endpoint", _) => after,
            ("WRITE", _) => {
                subject.write = true;
                after
            }
            _ => return (subject, rest),
        };
    }
}

/// Reads the text between `===`.
fn read_mark(text: &str, timestamps: &mut TimestampReader) -> Option<Mark> {
    let between = |start: &str, middle: &'static str| text.strip_prefix(start)?.split_once(middle);
    if let Some((mode, rest)) = between("Run of ", " on ") {
        return read_run(Mode::named(mode)?, rest, timestamps);
    }
    if let Some((cycle, at)) = between("Cycle ", " started at ") {
        return Some(Mark::CycleStarted { cycle: cycle.parse().ok()?, at: whole_stamp(at, timestamps)? });
    }
    if let Some((cycle, seconds)) = between("Cycle ", " completed, sleeping for ") {
        let break_duration = read_seconds(seconds.strip_suffix(" seconds")?)?;
        let at = Stamp { at: timestamps.last()?, millis: false };
        timestamps.expect_break(break_duration);
        return Some(Mark::CycleCompleted { cycle: cycle.parse().ok()?, break_duration, at, is_exact: false });
    }
    if let Some(at) = text.strip_prefix("All cycles finished at ") {
        return Some(Mark::AllFinished { at: whole_stamp(at, timestamps)? });
    }
    if let Some((signal, at)) = between("Stopped by ", " at ") {
        return Some(Mark::Stopped { signal: Signal::named(signal)?, at: whole_stamp(at, timestamps)? });
    }
    if let Some(at) = text.strip_prefix(CANARY).and_then(|rest| rest.strip_prefix(" from ")) {
        return Some(Mark::Canary { at: whole_stamp(at, timestamps)? });
    }
    if let Some((from, rest)) = between("Not observed from ", " to ") {
        let (to, missed) = rest.split_once(", checks missed: ")?;
        let (from, to) = (whole_stamp(from, timestamps)?, whole_stamp(to, timestamps)?);
        return Some(Mark::NotObserved { from, to, missed: missed.parse().ok()? });
    }
    if let Some((from, rest)) = between("Records lost from ", " to ") {
        let (to, count) = rest.split_once(": ")?;
        let (from, to) = (whole_stamp(from, timestamps)?, whole_stamp(to, timestamps)?);
        return Some(Mark::RecordsLost { from, to, count: count.parse().ok()? });
    }
    if let Some((subject, at)) = between("Outage of ", " began at ") {
        return read_outage_began(whole_subject(subject)?, at, timestamps);
    }
    if let Some((subject, rest)) = between("Outage of ", " ended at ") {
        return read_outage_ended(whole_subject(subject)?, rest, timestamps);
    }

    read_change(text, timestamps)
}

/// `2025-08-27 07:35:01, 0.803 s into the check of 2025-08-27 07:35:01.250 +00:00`.
fn read_outage_began(subject: Subject, text: &str, timestamps: &mut TimestampReader) -> Option<Mark> {
    let (at, onset) = match text.split_once(INTO) {
        None => (whole_stamp(text, timestamps)?, None),
        Some((before, at)) => {
            let (_, onset) = before.rsplit_once(", ")?;
            (timestamps.read_exact(at)?, Some(read_seconds(onset)?))
        }
    };
    Some(Mark::OutageBegan { subject, at, onset })
}

/// `2025-08-27 07:36:01, lasted at least 58 s, at most 61 s, first failure at 2025-08-27 07:35:01.250 +00:00`.
fn read_outage_ended(subject: Subject, text: &str, timestamps: &mut TimestampReader) -> Option<Mark> {
    let (text, first_failure) = match text.split_once(FIRST_FAILURE) {
        Some((text, at)) => (text, Some(timestamps.read_exact(at)?)),
        None => (text, None),
    };
    let (at, rest) = text.split_once(", lasted at least ")?;
    let (at_least, rest) = rest.split_once(" s, ")?;
    let at_most = match rest.strip_prefix("at most ") {
        Some(at_most) => Some(read_seconds(at_most.strip_suffix(" s")?)?),
        None => None,
    };

    let at = whole_stamp(at, timestamps)?;
    Some(Mark::OutageEnded { subject, at, first_failure, at_least: read_seconds(at_least)?, at_most })
}

/// `checker-1 began at 2025-08-27 07:35:01.250 +02:00, continues 3600 s later at 2025-08-27 08:35:01.250 +02:00`.
fn read_run(mode: Mode, text: &str, timestamps: &mut TimestampReader) -> Option<Mark> {
    let (host, rest) = text.split_once(" began at ")?;
    let (began, now) = match rest.split_once(CONTINUES) {
        Some((began, now)) => (began, Some(now.split_once(" s later at ")?)),
        None => (rest, None),
    };

    let began = timestamps.read_exact(began)?;
    let (since_start, at) = match now {
        Some((since_start, at)) => (read_seconds(since_start)?, timestamps.read_exact(at)?),
        None => (Duration::ZERO, began),
    };
    Some(Mark::RunStarted { run: Run::new(mode, host, began), at, since_start })
}

/// `Endpoint moved from 10.0.1.5 to 10.0.2.9 at 2025-08-27 07:35:01` and similar marks.
fn read_change<'t>(text: &'t str, timestamps: &mut TimestampReader) -> Option<Mark> {
    let (Subject { target, .. }, rest) = read_subject(text);

    let change = |aspect, from: &str, to: &str| Change { aspect, from: from.into(), to: to.into() };
    let from_to_at = |rest: &str| -> Option<(String, String, String)> {
        let (from, rest) = rest.split_once(" to ")?;
        let (to, at) = rest.rsplit_once(" at ")?;
        Some((from.to_owned(), to.to_owned(), at.to_owned()))
    };

    let run_ids = |rest: &'t str| -> Option<(String, &'t str, &'t str)> {
        let (at, rest) = rest.split_once(", run id ")?;
        let (from, to) = rest.split_once(" became ")?;
        Some((at.to_owned(), from, to))
    };

    let (at, change) = if let Some(rest) = rest.strip_prefix("moved from ") {
        let (from, to, at) = from_to_at(rest)?;
        (at, change(Aspect::Address, &from, &to))
    } else if let Some(rest) = rest.strip_prefix("changed from ") {
        let (from, to, at) = from_to_at(rest)?;
        let is_role = [Role::Primary, Role::Replica].iter().any(|role| role.to_string() == from);
        (at, change(if is_role { Aspect::Role } else { Aspect::Engine }, &from, &to))
    } else if let Some(rest) = rest.strip_prefix("was restarted at ") {
        let (at, from, to) = run_ids(rest)?;
        (at, change(Aspect::RunId, from, to))
    } else if let Some(rest) = rest.strip_prefix("another server answers at ") {
        let (at, from, to) = run_ids(rest)?;
        (at, change(Aspect::Server, from, to))
    } else if let Some(at) = rest.strip_prefix("closed by the server at ") {
        (at.to_owned(), Replaced::Closed.into())
    } else if let Some(at) = rest.strip_prefix("replaced after no reply at ") {
        (at.to_owned(), Replaced::Silent.into())
    } else {
        let (from, rest) = rest.strip_prefix("was ")?.split_once(" and is ")?;
        let (to, at) = rest.rsplit_once(" at ")?;
        (at.to_owned(), change(Aspect::Member, from, to))
    };
    Some(Mark::Changed { target, at: whole_stamp(&at, timestamps)?, change })
}

/// A timestamp and nothing else.
fn whole_stamp(text: &str, timestamps: &mut TimestampReader) -> Option<Stamp> {
    timestamps.read_local(text).filter(|(_, rest)| rest.is_empty()).map(|(stamp, _)| stamp)
}

/// A subject and nothing else.
fn whole_subject(text: &str) -> Option<Subject> {
    let (subject, rest) = read_subject(text);
    rest.is_empty().then_some(subject)
}

fn read_seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::log::record::Mode;
    use crate::model::failure::Kind;
    use crate::model::outcome::Details;

    fn at(text: &str) -> Stamp {
        Stamp { at: DateTime::parse_from_rfc3339(text).unwrap(), millis: false }
    }

    fn reset() -> Failure {
        Failure::new(Kind::Reset, "Connection reset by peer")
    }

    #[test]
    fn records_are_written_as_the_scripts_did() {
        let start = at("2025-08-27T07:35:01Z");
        let check = |db, number, result| Record::Check {
            at: start,
            mode: Mode::Cycles,
            since_start: None,
            subject: Subject { db, ..Subject::default() },
            number,
            result,
            details: Details::default(),
            wrote: false,
        };
        let mark = Record::Mark;
        for (record, line) in [
            (check(None, 1, Ok(())), "2025-08-27 07:35:01 SUCCESS 1"),
            (check(Some(3), 7, Ok(())), "2025-08-27 07:35:01 DB 3 SUCCESS 7"),
            (check(None, 2, Err(reset())), "2025-08-27 07:35:01 FAILURE: reset: Connection reset by peer"),
            (
                check(Some(2), 2, Err(Failure::local("too many open files"))),
                "2025-08-27 07:35:01 DB 2 NOT OBSERVED: local: too many open files",
            ),
            (check(Some(2), 2, Err(reset())), "2025-08-27 07:35:01 DB 2 FAILURE: reset: Connection reset by peer"),
            (mark(Mark::CycleStarted { cycle: 1, at: start }), "=== Cycle 1 started at 2025-08-27 07:35:01 ==="),
            (
                mark(Mark::CycleCompleted {
                    cycle: 1,
                    break_duration: Duration::from_secs(300),
                    at: start,
                    is_exact: true,
                }),
                "=== Cycle 1 completed, sleeping for 300 seconds ===",
            ),
            (mark(Mark::AllFinished { at: start }), "=== All cycles finished at 2025-08-27 07:35:01 ==="),
            (
                mark(Mark::Stopped { signal: Signal::Term, at: start }),
                "=== Stopped by SIGTERM at 2025-08-27 07:35:01 ===",
            ),
            (
                mark(Mark::RecordsLost { from: start, to: at("2025-08-27T07:36:01Z"), count: 12 }),
                "=== Records lost from 2025-08-27 07:35:01 to 2025-08-27 07:36:01: 12 ===",
            ),
        ] {
            assert_eq!(record.to_string(), line);
        }
    }

    #[test]
    fn marks_say_what_the_lines_of_the_scripts_cannot() {
        let start = at("2025-08-27T07:35:01Z");
        for (mark, line) in [
            (
                Mark::RunStarted {
                    run: Run::new(Mode::Cycles, "checker-1", start),
                    at: at("2025-08-28T00:00:01+02:00"),
                    since_start: Duration::from_secs(3600),
                },
                "=== Run of cycles on checker-1 began at 2025-08-27 07:35:01.000 +00:00, continues 3600 s later \
                 at 2025-08-28 00:00:01.000 +02:00 ===",
            ),
            (
                Mark::OutageBegan {
                    subject: Subject::db(3),
                    at: at("2025-08-27T07:35:01.250Z"),
                    onset: Some(Duration::from_millis(803)),
                },
                "=== Outage of DB 3 began at 2025-08-27 07:35:01, 0.803 s into the check of \
                 2025-08-27 07:35:01.250 +00:00 ===",
            ),
            (
                Mark::OutageEnded {
                    subject: Subject::db(3),
                    at: at("2025-08-27T07:36:01Z"),
                    first_failure: Some(at("2025-08-27T07:35:01.250Z")),
                    at_least: Duration::from_secs(58),
                    at_most: None,
                },
                "=== Outage of DB 3 ended at 2025-08-27 07:36:01, lasted at least 58 s, its beginning was not observed, \
                 first failure at 2025-08-27 07:35:01.250 +00:00 ===",
            ),
        ] {
            assert_eq!(Record::Mark(mark).to_string(), line);
        }
    }

    #[test]
    fn a_scan_is_a_block_that_an_empty_line_ends() {
        let block = Record::Scan {
            at: at("2025-08-26T11:00:00Z"),
            checks: [(0, Ok(())), (2, Err(reset())), (3, Err(Failure::local("too many open files")))]
                .map(|(db, result)| CheckResult {
                    subject: Subject::db(db),
                    result,
                    details: Details::default(),
                    writes: false,
                })
                .into(),
            took: Duration::ZERO,
            canary: false,
            stopped: None,
        };
        // The log writer adds a line end after each record, which creates the empty line.
        assert_eq!(
            block.to_string(),
            "===== Redis DB Health Check at 2025-08-26 11:00:00 =====\n\
             DB 0: RUNNING\n\
             DB 2: NOT RUNNING (reset: Connection reset by peer)\n\
             DB 3: NOT OBSERVED (local: too many open files)\n"
        );
    }
}
