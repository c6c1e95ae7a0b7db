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
            Mark::CycleCompleted { cycle, break_duration, at: at.stamp }
        }
        Event::CheckFinished(CheckFinished { subject, tick, outcome, .. }) => {
            return records.push(Record::Check {
                at: tick.at.stamp,
                mode: Mode::Cycles,
                subject,
                number: tick.number,
                result: outcome.result,
                details: outcome.details,
            });
        }
        Event::NotObserved { from, to, missed } => Mark::NotObserved { from: from.stamp, to, missed },
        Event::RecordsLost { from, to, count } => Mark::RecordsLost { from: from.stamp, to, count },
        Event::Stopped { signal, at, .. } => Mark::Stopped { signal, at },
        Event::AllFinished { at } => Mark::AllFinished { at },
        Event::ScanFinished(scan) => return records.extend(records_of_scan(scan)),
        Event::OutageBegan { subject, at, .. } => Mark::OutageBegan { subject, at },
        Event::OutageEnded { subject, at, at_least, at_most } => Mark::OutageEnded { subject, at, at_least, at_most },
        Event::Changed(Changed { target, at, change }) => Mark::Changed { target, at, change },
        Event::TickStarted(_) | Event::CheckEnded { .. } | Event::TopologyChanged { .. } => return,
    };
    records.push(Record::Mark(mark));
}

/// The block of a scan, followed by its failures for the error log.
fn records_of_scan(scan: Scan) -> Vec<Record> {
    let Scan { at, checks, took, canary, stopped, .. } = scan;
    let failed = checks.iter().filter(|check| check.result.is_err()).map(|check| Record::Check {
        at,
        mode: Mode::Dbs,
        subject: check.subject.clone(),
        number: 1,
        result: check.result.clone(),
        details: check.details.clone(),
    });
    let failed: Vec<_> = failed.collect();
    std::iter::once(Record::Scan { at, checks, took, canary, stopped }).chain(failed).collect()
}
