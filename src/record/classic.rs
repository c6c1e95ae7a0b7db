//! The line format of the scripts that this tool replaces. People grep these lines and programs parse them, so they
//! are an interface.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::{Mark, Record, Subject, Verdict};
use crate::identity::Aspect;

/// Writes a record's lines, without the last one's end.
pub fn write(record: &Record, f: &mut impl Write) -> fmt::Result {
    match record {
        Record::Scan { at, checks, stopped, .. } => {
            writeln!(f, "===== Redis DB Health Check at {at} =====")?;
            for Verdict { subject, result, .. } in checks {
                match result {
                    Ok(()) => writeln!(f, "{subject}: RUNNING")?,
                    Err(failure) => writeln!(f, "{subject}: NOT RUNNING ({failure})")?,
                }
            }
            match *stopped {
                Some((signal, at)) => writeln!(f, "=== {} ===", Mark::Stopped { signal, at }),
                None => Ok(()),
            }
        }
        Record::Check { at, subject, count, result, .. } => {
            write!(f, "{at} ")?;
            if *subject != Subject::default() {
                write!(f, "{subject} ")?;
            }
            match result {
                Ok(()) => write!(f, "SUCCESS {count}"),
                Err(failure) => write!(f, "FAILURE: {failure}"),
            }
        }
        Record::Mark(mark) => write!(f, "=== {mark} ==="),
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, self.db) {
            (None, None) => f.write_str("endpoint"),
            (None, Some(db)) => write!(f, "DB {db}"),
            (Some(node), None) => write!(f, "NODE {node}"),
            (Some(node), Some(db)) => write!(f, "NODE {node} DB {db}"),
        }
    }
}

impl Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::CycleStarted { cycle, at } => write!(f, "Cycle {cycle} started at {at}"),
            Mark::CycleCompleted { cycle, pause } => {
                write!(f, "Cycle {cycle} completed, sleeping for {} seconds", seconds(*pause))
            }
            Mark::AllFinished { at } => write!(f, "All cycles finished at {at}"),
            Mark::Stopped { signal, at } => write!(f, "Stopped by {signal} at {at}"),
            Mark::NotObserved { from, to, missed } => {
                write!(f, "Not observed from {from} to {to}, checks missed: {missed}")
            }
            Mark::Changed { node, at, change } => {
                let who = node.as_deref().map_or_else(|| "Endpoint".to_owned(), |node| format!("NODE {node}"));
                let (from, to) = (&change.from, &change.to);
                match change.aspect {
                    Aspect::Address => write!(f, "{who} moved from {from} to {to} at {at}"),
                    Aspect::Role | Aspect::Engine => write!(f, "{who} changed from {from} to {to} at {at}"),
                    Aspect::RunId => write!(f, "{who} was restarted at {at}, run id {from} became {to}"),
                }
            }
            Mark::OutageBegan { subject, at } => write!(f, "Outage of {subject} began at {at}"),
            Mark::OutageEnded { subject, at, at_least, at_most } => {
                write!(f, "Outage of {subject} ended at {at}, lasted at least {} s", seconds(*at_least))?;
                match at_most {
                    Some(at_most) => write!(f, ", at most {} s", seconds(*at_most)),
                    None => f.write_str(", its beginning was not observed"),
                }
            }
        }
    }
}

/// Seconds to the millisecond, as a shell script would write them: `300`, `0.5`.
pub fn seconds(duration: Duration) -> impl Display {
    let millis = (duration.as_nanos() + 500_000) / 1_000_000;
    let fraction = format!("{:03}", millis % 1000);
    match fraction.trim_end_matches('0') {
        "" => format!("{}", millis / 1000),
        fraction => format!("{}.{fraction}", millis / 1000),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::clock::Stamp;
    use crate::failure::{Failure, Kind};
    use crate::record::Details;
    use crate::signal::Signal;

    fn at(text: &str) -> Stamp {
        Stamp { at: DateTime::parse_from_rfc3339(text).unwrap(), millis: false }
    }

    fn reset() -> Failure {
        Failure::new(Kind::Reset, "Connection reset by peer")
    }

    #[test]
    fn records_are_the_scripts_lines() {
        let start = at("2025-08-27T07:35:01Z");
        let check = |db, count, result| Record::Check {
            at: start,
            subject: Subject { db, ..Subject::default() },
            count,
            result,
            details: Details::default(),
        };
        let mark = Record::Mark;
        for (record, line) in [
            (check(None, 1, Ok(())), "2025-08-27 07:35:01 SUCCESS 1"),
            (check(Some(3), 7, Ok(())), "2025-08-27 07:35:01 DB 3 SUCCESS 7"),
            (check(None, 2, Err(reset())), "2025-08-27 07:35:01 FAILURE: reset: Connection reset by peer"),
            (check(Some(2), 2, Err(reset())), "2025-08-27 07:35:01 DB 2 FAILURE: reset: Connection reset by peer"),
            (mark(Mark::CycleStarted { cycle: 1, at: start }), "=== Cycle 1 started at 2025-08-27 07:35:01 ==="),
            (
                mark(Mark::CycleCompleted { cycle: 1, pause: Duration::from_secs(300) }),
                "=== Cycle 1 completed, sleeping for 300 seconds ===",
            ),
            (mark(Mark::AllFinished { at: start }), "=== All cycles finished at 2025-08-27 07:35:01 ==="),
            (
                mark(Mark::Stopped { signal: Signal::Term, at: start }),
                "=== Stopped by SIGTERM at 2025-08-27 07:35:01 ===",
            ),
        ] {
            assert_eq!(record.to_string(), line);
        }
    }

    #[test]
    fn a_scan_is_a_block_that_an_empty_line_ends() {
        let block = Record::Scan {
            at: at("2025-08-26T11:00:00Z"),
            checks: [(0, Ok(())), (2, Err(reset()))]
                .map(|(db, result)| Verdict { subject: Subject::db(db), result, elapsed: Duration::ZERO })
                .into(),
            details: Details::default(),
            stopped: None,
        };
        // The file writer ends every record with a line end, which makes the empty line.
        assert_eq!(
            block.to_string(),
            "===== Redis DB Health Check at 2025-08-26 11:00:00 =====\n\
             DB 0: RUNNING\n\
             DB 2: NOT RUNNING (reset: Connection reset by peer)\n"
        );
    }

    #[test]
    fn seconds_as_scripts_write_them() {
        for (millis, text) in [(300_000, "300"), (500, "0.5"), (1_250, "1.25"), (0, "0"), (1, "0.001")] {
            assert_eq!(seconds(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
