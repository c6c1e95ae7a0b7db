//! Converts events to records.

use crate::log::record::{Mark, Mode, Record};
use crate::model::change::Changed;
use crate::model::event::{CheckFinished, Event, Scan};

/// Appends the records of an event, if it has any, in the order in which they are written.
pub fn records_of(event: Event, records: &mut Vec<Record>) {
    let mark = match event {
        Event::CycleStarted { cycle, at, writes } => {
            records.push(Record::Mark(Mark::CycleStarted { cycle, at }));
            if !writes {
                return;
            }
            // Repeated in each cycle, because the current log file may have been rotated.
            Mark::Canary { at }
        }
        Event::CycleCompleted { cycle, at, break_duration } => {
            Mark::CycleCompleted { cycle, break_duration, at: at.stamp, is_exact: true }
        }
        Event::CheckFinished(CheckFinished { subject, tick, outcome, .. }) => {
            let since_start = Some(tick.at.since);
            return records.push(Record::Check {
                at: tick.at.stamp,
                mode: Mode::Cycles,
                since_start,
                subject,
                number: tick.number,
                result: outcome.result,
                details: outcome.details,
                wrote: tick.writes,
            });
        }
        Event::NotObserved { from, to, missed } => Mark::NotObserved { from: from.stamp, to, missed },
        Event::RecordsLost { from, to, count } => Mark::RecordsLost { from: from.stamp, to, count },
        Event::Stopped { signal, at, .. } => Mark::Stopped { signal, at },
        Event::AllFinished { at } => Mark::AllFinished { at },
        Event::ScanFinished(scan) => return records.extend(records_of_scan(scan)),
        Event::OutageBegan { subject, at, onset, .. } => Mark::OutageBegan { subject, at, onset: Some(onset) },
        Event::OutageEnded { subject, at, first_failure, at_least, at_most } => {
            Mark::OutageEnded { subject, at, first_failure: Some(first_failure), at_least, at_most }
        }
        Event::Changed(Changed { target, at, change }) => Mark::Changed { target, at, change },
        // The log writer puts the header of the run wherever it is needed.
        Event::RunStarted { .. } | Event::TickStarted(_) | Event::CheckEnded { .. } | Event::TopologyChanged { .. } => {
            return;
        }
    };
    records.push(Record::Mark(mark));
}

/// The block of a scan, followed by its failures for the error log.
fn records_of_scan(scan: Scan) -> Vec<Record> {
    let Scan { at, checks, took, canary, stopped, .. } = scan;
    let failed = checks.iter().filter(|check| check.result.is_err()).map(|check| Record::Check {
        at,
        mode: Mode::Dbs,
        since_start: None,
        subject: check.subject.clone(),
        number: 1,
        result: check.result.clone(),
        details: check.details.clone(),
        wrote: check.writes,
    });
    let failed: Vec<_> = failed.collect();
    std::iter::once(Record::Scan { at, checks, took, canary, stopped }).chain(failed).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::record::Run;
    use crate::model::change::TopologyChange;
    use crate::model::clock::{Clock, Moment};
    use crate::model::event::Tick;
    use crate::model::failure::{Failure, Kind};
    use crate::model::outcome::{CheckResult, Details, Outcome};
    use crate::model::signal::Signal;
    use crate::model::subject::{Subject, Target};

    #[test]
    fn an_event_becomes_as_many_records_as_it_counts() {
        let stamp = Clock { utc: true, millis: false }.now();
        let at = Moment { stamp, since: Duration::ZERO };
        let tick = Tick { number: 1, at, writes: false };
        let (subject, details) = (Subject::default(), Details::default());
        let result = |db| if db == 0 { Ok(()) } else { Err(Failure::new(Kind::Reset, "x")) };
        let checks = |count| {
            let check = |db| CheckResult {
                subject: Subject::db(db),
                result: result(db),
                details: details.clone(),
                writes: false,
            };
            (0..count).map(check).collect()
        };
        let scan = |count| Scan {
            at: stamp,
            checks: checks(count),
            took: Duration::ZERO,
            canary: false,
            stopped: None,
            unchecked: None,
        };
        let outcome = Outcome { db: 0, write: false, result: Ok(()), details: details.clone() };
        let events = [
            Event::RunStarted { run: Run::new(Mode::Cycles, "host", stamp), writes: true },
            Event::CycleStarted { cycle: 1, at: stamp, writes: false },
            Event::CycleStarted { cycle: 1, at: stamp, writes: true },
            Event::CycleCompleted { cycle: 1, at, break_duration: Duration::ZERO },
            Event::TickStarted(tick),
            Event::CheckFinished(CheckFinished { subject: subject.clone(), tick, outcome, oldest: 1 }),
            Event::CheckEnded { target: Target::Endpoint, oldest: 1 },
            Event::TopologyChanged { tick, change: TopologyChange::default() },
            Event::NotObserved { from: at, to: stamp, missed: 1 },
            Event::RecordsLost { from: at, to: stamp, count: 1 },
            Event::Stopped { signal: Signal::Term, at: stamp, unfinished: 1 },
            Event::AllFinished { at: stamp },
            Event::ScanFinished(scan(1)),
            Event::ScanFinished(scan(3)),
            Event::OutageBegan { subject: subject.clone(), at: stamp, kind: Kind::Reset, onset: Duration::ZERO },
            Event::OutageEnded { subject, at: stamp, first_failure: stamp, at_least: Duration::ZERO, at_most: None },
        ];
        for event in events {
            let (name, count) = (format!("{event:?}"), event.records());
            let mut records = Vec::new();
            records_of(event, &mut records);
            assert_eq!(records.len() as u64, count, "{name}");
        }
    }
}
