//! What the other logs of a folder say about failures in the repeated hour when daylight saving time ends.
//!
//! An error log has few lines, so their order does not tell in which of the two hours they were written. But the success
//! log has no number for a check that failed, and the failures of `dbs` are also in its blocks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta};

use super::reader::{EventKind, LogReader};
use crate::log::record::Mark;
use crate::model::failure::Failure;
use crate::model::subject::Subject;

/// How long before and after the repeated hours the logs are looked at.
const AROUND: TimeDelta = TimeDelta::hours(3);

/// Timestamps may be whole seconds, and a check is logged when it ends.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// How many gaps between numbers are kept for one subject.
const KEPT: usize = 100_000;

/// The evidence for the error log of a folder. It is collected when the first doubtful line is found.
pub struct Evidence {
    /// The success log and the blocks of `dbs`, each with the files rotated from it.
    logs: Rc<Vec<Vec<PathBuf>>>,
    /// For the local times around this one.
    night: Option<DateTime<FixedOffset>>,
    subjects: BTreeMap<Subject, Numbers>,
    /// The failures in blocks by local time.
    blocks: BTreeMap<NaiveDateTime, Vec<BlockFailure>>,
}

struct BlockFailure {
    at: DateTime<FixedOffset>,
    subject: Subject,
    failure: Failure,
}

/// The numbers that are missing among the successes of a subject.
#[derive(Default)]
struct Numbers {
    gaps: Vec<NumberGap>,
    last: Option<(u64, DateTime<FixedOffset>)>,
}

/// So many checks between these times did not pass.
struct NumberGap {
    count: u64,
    from: DateTime<FixedOffset>,
    to: DateTime<FixedOffset>,
}

impl Evidence {
    /// The evidence in these logs.
    pub fn new(logs: Rc<Vec<Vec<PathBuf>>>) -> Self {
        Evidence { logs, night: None, subjects: BTreeMap::new(), blocks: BTreeMap::new() }
    }

    /// When a failure was logged whose local time occurred twice, first or second. Each place is taken once, so lines must
    /// be asked for in their order. None if the other logs do not tell; `guess` decides between two that are possible.
    pub fn moment_of(
        &mut self,
        subject: &Subject,
        failure: &Failure,
        [first, second]: [DateTime<FixedOffset>; 2],
        guess: DateTime<FixedOffset>,
    ) -> Option<DateTime<FixedOffset>> {
        if self.night.is_none_or(|night| (night - first).abs() > AROUND) {
            self.night = Some(first);
            self.collect(first);
        }

        if let Some(failures) = self.blocks.get_mut(&first.naive_local())
            && let Some(place) =
                failures.iter().position(|block| block.subject == *subject && block.failure == *failure)
        {
            return Some(failures.remove(place).at);
        }

        let gaps = &mut self.subjects.get_mut(&subject.writing(false))?.gaps;
        let room = |at: DateTime<FixedOffset>| {
            gaps.iter().position(|gap| gap.count > 0 && gap.from - TOLERANCE <= at && at <= gap.to + TOLERANCE)
        };
        let (at, gap) = match (room(first), room(second)) {
            (None, None) => return None,
            (Some(gap), None) => (first, gap),
            (None, Some(gap)) => (second, gap),
            (Some(gap), Some(_)) if guess == first => (first, gap),
            (Some(_), Some(gap)) => (second, gap),
        };
        gaps[gap].count = gaps[gap].count.saturating_sub(1);
        Some(at)
    }

    /// Collects what was logged around a night. A log that cannot be read tells nothing; that is reported elsewhere.
    fn collect(&mut self, night: DateTime<FixedOffset>) {
        self.subjects.clear();
        self.blocks.clear();
        for files in self.logs.clone().iter() {
            let Ok(mut reader) = LogReader::open(files.clone(), false) else { continue };
            while let Ok(Some(event)) = reader.next(&mut |_| {}) {
                let at = event.at.at;
                match event.kind {
                    EventKind::Success { db } => {
                        self.success(Subject { db, ..Subject::default() }, reader.number_of_success(), at);
                    }
                    EventKind::Block(block) if (at - night).abs() <= AROUND => {
                        let failures = block.results.into_iter().filter_map(|logged| {
                            let failure = logged.result.err()?;
                            Some(BlockFailure { at, subject: logged.subject, failure })
                        });
                        self.blocks.entry(at.naive_local()).or_default().extend(failures);
                    }
                    EventKind::Mark(mark) => match *mark {
                        Mark::CycleStarted { cycle: 1, .. } => self.run_ends(at),
                        Mark::AllFinished { .. } | Mark::Stopped { .. } => self.run_ends(at),
                        _ => {}
                    },
                    EventKind::Check(_) | EventKind::Block(_) => {}
                }
                if at > night + AROUND + AROUND {
                    break;
                }
            }
        }
        self.run_ends(night + AROUND);
        for numbers in self.subjects.values_mut() {
            numbers.gaps.retain(|gap| gap.to >= night - AROUND && gap.from <= night + AROUND);
        }
    }

    fn success(&mut self, subject: Subject, number: Option<u64>, at: DateTime<FixedOffset>) {
        let Some(number) = number else { return };
        let numbers = self.subjects.entry(subject).or_default();
        match numbers.last {
            Some((last, from)) if number > last => {
                numbers.add(NumberGap { count: number - last - 1, from, to: at });
                numbers.last = Some((number, at));
            }
            // Checks that overlap are logged in any order: this number was counted as missing.
            Some((_, from)) if at - from < AROUND && number > 1 => {
                if let Some(gap) = numbers.gaps.iter_mut().rev().find(|gap| gap.from <= at && at <= gap.to) {
                    gap.count = gap.count.saturating_sub(1);
                }
            }
            _ => {
                numbers.add(NumberGap { count: number.saturating_sub(1), from: at - AROUND, to: at });
                numbers.last = Some((number, at));
            }
        }
    }

    /// After the last success of a run, any number of checks may have failed.
    fn run_ends(&mut self, at: DateTime<FixedOffset>) {
        for numbers in self.subjects.values_mut() {
            if let Some((_, from)) = numbers.last.take() {
                numbers.add(NumberGap { count: u64::MAX, from, to: at });
            }
        }
    }
}

impl Numbers {
    fn add(&mut self, gap: NumberGap) {
        if gap.count > 0 && self.gaps.len() < KEPT {
            self.gaps.push(gap);
        }
    }
}
