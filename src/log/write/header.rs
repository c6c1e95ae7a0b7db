//! The header of a run: which lines precede its records in a file, and when they are repeated. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, TimeDelta};

use crate::log::format;
use crate::log::record::{Format, MAX_CLOCK_ERROR, Mark, Mode, Record, Run};
use crate::model::clock::Moment;

/// The header of a run in one file.
pub struct Header {
    run: Run,
    /// Each check also writes a canary key.
    writes: bool,
    format: Format,
    /// The beginning of the run by the wall clock as it is set now, with the current offset from UTC: the time of a record
    /// less the time since the run began.
    origin: DateTime<FixedOffset>,
}

impl Header {
    pub fn new(run: Run, writes: bool, format: Format) -> Self {
        Header { origin: run.began.at, run, writes, format }
    }

    /// The moment that a header before this record says, and whether it must be written in any case, because the wall
    /// clock or its offset from UTC changed since the last record.
    pub fn before(&mut self, record: &Record) -> (Moment, bool) {
        let at = record.at();
        let since_start = match record {
            Record::Check { since_start: Some(since_start), .. } => Some(*since_start),
            _ => None,
        };

        let origin = since_start.map_or(self.origin, |since_start| at.earlier(since_start).at);
        let moved = (origin - self.origin).abs() > TimeDelta::from_std(MAX_CLOCK_ERROR).unwrap_or_default();
        let is_new = moved || at.at.offset() != self.origin.offset();
        if is_new {
            self.origin = origin.with_timezone(at.at.offset());
        }

        let since_start = since_start.unwrap_or_else(|| (at.at - self.origin).to_std().unwrap_or_default());
        (Moment { stamp: at, since: since_start }, is_new)
    }

    /// The lines of the header before a record of this moment.
    pub fn lines(&self, Moment { stamp: at, since: since_start }: Moment) -> String {
        let began = self.run.began;
        let is_beginning =
            since_start < MAX_CLOCK_ERROR && self.origin == began.at && at.at.offset() == began.at.offset();
        let (at, since_start) = if is_beginning { (began, Duration::ZERO) } else { (at, since_start) };

        let mut marks = vec![Mark::RunStarted { run: self.run.clone(), at, since_start }];
        // In the error log, this line would be read as one about the checks of `cycles`.
        if self.writes && self.run.mode == Mode::Cycles {
            marks.push(Mark::Canary { at });
        }

        let mut lines = String::new();
        for mark in marks {
            // Writing to memory does not fail.
            let _ = format::write(&Record::Mark(mark), self.format, &mut lines);
            let _ = writeln!(lines);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Stamp;
    use crate::model::outcome::Details;
    use crate::model::subject::Subject;

    fn stamp(text: &str) -> Stamp {
        Stamp { at: DateTime::parse_from_rfc3339(text).unwrap(), millis: false }
    }

    fn check(at: &str, millis: u64) -> Record {
        Record::Check {
            at: stamp(at),
            mode: Mode::Cycles,
            since_start: Some(Duration::from_millis(millis)),
            subject: Subject::default(),
            number: 1,
            result: Ok(()),
            details: Details::default(),
            wrote: false,
        }
    }

    #[test]
    fn a_header_is_repeated_when_the_clock_or_its_offset_changes() {
        let run = Run::new(Mode::Cycles, "checker-1", stamp("2025-10-26T02:58:00+02:00"));
        let mut header = Header::new(run, false, Format::Classic);
        let began = "=== Run of cycles on checker-1 began at 2025-10-26 02:58:00.000 +02:00";
        let mark = |at| Record::Mark(Mark::AllFinished { at: stamp(at) });
        for (record, is_new, end) in [
            (mark("2025-10-26T02:58:00+02:00"), false, ""),
            (
                check("2025-10-26T02:58:01.500+02:00", 1_200),
                false,
                ", continues 1.2 s later at 2025-10-26 02:58:01.500 +02:00",
            ),
            (
                check("2025-10-26T02:00:01+01:00", 121_000),
                true,
                ", continues 121 s later at 2025-10-26 02:00:01.000 +01:00",
            ),
            // A check that began before the one above and ended after it.
            (
                check("2025-10-26T02:59:59+02:00", 119_000),
                true,
                ", continues 119 s later at 2025-10-26 02:59:59.000 +02:00",
            ),
            (mark("2025-10-26T02:00:02+01:00"), true, ", continues 122 s later at 2025-10-26 02:00:02.000 +01:00"),
            // The clock is set back by two minutes.
            (
                check("2025-10-26T01:58:03+01:00", 123_000),
                true,
                ", continues 123 s later at 2025-10-26 01:58:03.000 +01:00",
            ),
            (mark("2025-10-26T01:58:05+01:00"), false, ", continues 125 s later at 2025-10-26 01:58:05.000 +01:00"),
        ] {
            let (moment, repeats) = header.before(&record);
            assert_eq!((header.lines(moment), repeats), (format!("{began}{end} ===\n"), is_new), "{record:?}");
        }
    }
}
