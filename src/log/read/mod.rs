//! Reads logs back, in one pass and in bounded memory: both formats of this tool and the scripts' lines, mixed, and
//! rotated files.
//!
//! Files are merged by the timestamps of their lines. Overlapping checks are written in the order in which they end, so
//! two minutes of records are held back and sorted.

mod evidence;
mod files;
mod reader;
mod replay;
mod source;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chrono::{DateTime, FixedOffset};

use crate::history::ledger::Ledger;
use crate::model::text::Printable;
use evidence::Evidence;
use reader::{LogEvent, LogReader};
use replay::Replay;

/// How long records are held back for sorting, and how many at most.
const HELD_BACK_MICROS: i64 = 2 * 60 * 1_000_000;
const HELD_BACK_COUNT: usize = 4096;

/// The folder that logs were read from, as given by the user. None in a live run.
pub type Folder = Option<Printable>;

/// The history in the logs of one folder.
#[derive(Default)]
pub struct Logs {
    /// The scans of `dbs` and the checks of `cycles` are separate, because each has its own gaps.
    pub dbs: Ledger,
    pub cycles: Ledger,
    /// The number of lines that could not be read.
    pub skipped_lines: u64,
    /// Only error logs were read, which contain no successful checks.
    pub failures_only: bool,
    /// Times in the repeated hour when daylight saving ends that could not be decided.
    pub guessed_times: u64,
}

/// The requested range of the logs: from `since`, up to but not including `until`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    pub since: Option<DateTime<FixedOffset>>,
    pub until: Option<DateTime<FixedOffset>>,
}

impl Range {
    /// Replays an event as one before, in, or after the range.
    fn replay(&self, replay: &mut Replay, event: LogEvent) {
        let at = event.at.at;
        if self.until.is_some_and(|until| at >= until) && !event.completes_earlier() {
            replay.look_ahead(&event);
        } else {
            replay.take(event, self.since.is_none_or(|since| at >= since));
        }
    }
}

/// What is told about the files.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'n> {
    /// A line that cannot be read.
    Line(&'n str),
    /// A file that is passed over, or the rest of it.
    File(&'n str),
}

/// Reads files and folders, and returns the logs by folder. Timestamps without an offset are in UTC or in local time,
/// unless a header gives their offset.
///
/// # Errors
/// A path cannot be opened or read, or contains no log.
pub fn read(
    paths: &[PathBuf],
    range: Range,
    utc: bool,
    tell: &mut dyn FnMut(Notice<'_>),
) -> anyhow::Result<Vec<(Folder, Logs)>> {
    let logs = files::find(paths, utc, tell)?.into_iter().map(|(folder, families)| {
        let name = if folder.as_os_str().is_empty() { Printable::line(".") } else { Printable::path(&folder) };
        Ok((Some(name), read_folder(families, range, utc, tell)?))
    });
    logs.collect()
}

fn read_folder(
    families: Vec<Vec<PathBuf>>,
    range: Range,
    utc: bool,
    tell: &mut dyn FnMut(Notice<'_>),
) -> anyhow::Result<Logs> {
    let failures_only = families.iter().flatten().all(|file| is_of_error_log(file));
    let mut readers = Vec::new();
    let is_error_log = |family: &[PathBuf]| family.iter().all(|file| is_of_error_log(file));
    let others: Rc<Vec<_>> = Rc::new(families.iter().filter(|family| !is_error_log(family)).cloned().collect());
    for family in families {
        let evidence = (!utc && is_error_log(&family)).then(|| Evidence::new(others.clone()));
        let reader = LogReader::open(family, utc)?;
        readers.push(match evidence {
            Some(evidence) => reader.with_evidence(evidence),
            None => reader,
        });
    }

    let mut replay = Replay::default();
    let mut held_back = HeldBack::default();
    let mut heads = BinaryHeap::new();
    for (index, reader) in readers.iter_mut().enumerate() {
        heads.extend(reader.next(tell)?.map(|event| Reverse(Head { event, index })));
    }

    let mut next = heads.pop().map(|Reverse(first)| first);
    while let Some(Head { event, index }) = next {
        held_back.add(event);
        while let Some(event) = held_back.take_due() {
            range.replay(&mut replay, event);
        }

        // The next event is mostly from the same log, and often there is only one log.
        next = match readers[index].next(tell)?.map(|event| Head { event, index }) {
            Some(head) if heads.peek().is_none_or(|Reverse(first)| head <= *first) => Some(head),
            head => {
                heads.extend(head.map(Reverse));
                heads.pop().map(|Reverse(first)| first)
            }
        };
    }
    for (_, event) in held_back.events {
        range.replay(&mut replay, event);
    }

    let skipped_lines = readers.iter().map(|reader| reader.skipped).sum();
    let guessed_times = readers.iter().map(LogReader::guessed).sum();
    let (dbs, cycles) = replay.into_ledgers();
    Ok(Logs { dbs, cycles, skipped_lines, failures_only, guessed_times })
}

fn is_of_error_log(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("redis_error"))
}

/// The next event of the reader with this index.
struct Head {
    event: LogEvent,
    index: usize,
}

impl Head {
    fn key(&self) -> (i64, u8, usize) {
        (self.event.place(), self.event.rank(), self.index)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Events held back for sorting, each with its time in microseconds and its rank: timestamps have at most
/// milliseconds, and numbers are compared faster than dates.
#[derive(Default)]
struct HeldBack {
    events: VecDeque<((i64, u8), LogEvent)>,
}

impl HeldBack {
    fn add(&mut self, event: LogEvent) {
        let key = (event.place(), event.rank());
        // Most events are in order.
        if self.events.back().is_none_or(|(last, _)| *last <= key) {
            self.events.push_back((key, event));
        } else {
            let place = self.events.partition_point(|(other, _)| *other <= key);
            self.events.insert(place, (key, event));
        }
    }

    fn take_due(&mut self) -> Option<LogEvent> {
        let (((first, _), _), ((last, _), _)) = (self.events.front()?, self.events.back()?);
        let due = self.events.len() > HELD_BACK_COUNT || last - first > HELD_BACK_MICROS;
        if due { self.events.pop_front().map(|(_, event)| event) } else { None }
    }
}
