//! Reads logs back: both of this tool's formats and the scripts' own, mixed, rotated files too, in one pass and in
//! bounded memory, and folds them as a live run does.
//!
//! The files are merged by the stamps of their lines. Checks that overlap are written in the order in which they end,
//! so a few minutes of records are held back and sorted.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, FixedOffset, TimeDelta};

use crate::clock::Stamp;
use crate::failure::Failure;
use crate::ledger::{Changed, Check, Gap, Ledger};
use crate::outage::Moment;
use crate::record::{Destination, Entry, Mark, Mode, Subject, Who, Zone, read_line};

/// A line that is longer is not one of ours: a JSON scan of 10,000 databases has some three million bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// For how long records are held back, and how many at most, so that those that were written late find their place.
const HELD_BACK: TimeDelta = TimeDelta::minutes(2);
const HELD_BACK_COUNT: usize = 4096;

/// What came of reading.
#[derive(Default)]
pub struct Logs {
    /// Of scans by `dbs`, and of `cycles`: each has breaks of its own.
    pub dbs: Ledger,
    pub cycles: Ledger,
    /// Lines that could not be read.
    pub skipped_lines: u64,
}

/// Which part of the logs is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    pub since: Option<DateTime<FixedOffset>>,
    pub until: Option<DateTime<FixedOffset>>,
}

impl Range {
    fn holds(&self, at: DateTime<FixedOffset>) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// Reads all of `paths`, files and folders. Stamps without an offset are UTC's or local. `unreadable` is told of each
/// line that cannot be read.
///
/// # Errors
/// A path cannot be opened or read, or there is no log among them.
pub fn read(paths: &[PathBuf], range: Range, utc: bool, unreadable: &mut dyn FnMut(&str)) -> anyhow::Result<Logs> {
    let mut sources = Vec::new();
    for family in families(paths)? {
        sources.push(Source::open(family, utc)?);
    }
    let mut fold = Fold::default();
    let mut held_back = HeldBack::default();
    let mut heads = BinaryHeap::new();
    for (index, source) in sources.iter_mut().enumerate() {
        heads.extend(source.next(unreadable)?.map(|event| Reverse(Head { event, index })));
    }
    while let Some(Reverse(Head { event, index })) = heads.pop() {
        if range.holds(event.at) {
            held_back.add(event);
            while let Some(event) = held_back.take_due() {
                fold.take(event);
            }
        }
        heads.extend(sources[index].next(unreadable)?.map(|event| Reverse(Head { event, index })));
    }
    held_back.events.into_iter().for_each(|event| fold.take(event));
    let skipped_lines = sources.iter().map(|source| source.skipped).sum();
    Ok(Logs { dbs: fold.dbs.ledger, cycles: fold.cycles.ledger, skipped_lines })
}

/// The files to read, those together that rotation made of one log, each family in the order of its stamps.
fn families(paths: &[PathBuf]) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let mut families = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    for path in paths {
        let metadata = std::fs::metadata(path).with_context(|| {
            format!("cannot read {}; name log files, or the folder that they are in", path.display())
        })?;
        if !metadata.is_dir() {
            families.entry(family(path)).or_default().push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
        let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file() && is_log(path));
        let mut found = false;
        for file in files {
            found = true;
            families.entry(family(&file)).or_default().push(file);
        }
        ensure!(
            found,
            "there is no health log in {}; name the folder that --log-dir named, or log files",
            path.display()
        );
    }
    for files in families.values_mut() {
        files.sort();
        files.dedup();
        if files.len() > 1 {
            let mut stamped = Vec::new();
            for file in files.drain(..) {
                stamped.push((first_stamp(&file)?, file));
            }
            stamped.sort();
            files.extend(stamped.into_iter().map(|(_, file)| file));
        }
    }
    Ok(families.into_values().collect())
}

/// `redis_error.log`, and what rotation made of it, but for compressed files.
fn is_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let compressed = [".gz", ".xz", ".bz2", ".zst"].iter().any(|end| name.ends_with(end));
    let of_ours = |destination: &Destination| {
        let rest = name.strip_prefix(destination.file_name());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    };
    !compressed && Destination::ALL.iter().any(of_ours)
}

/// What rotated files have in common: their path up to the end of `.log`.
fn family(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.find(".log") {
        Some(end) => path.with_file_name(&name[..end + ".log".len()]),
        None => path.to_owned(),
    }
}

/// The first stamp in a file; none sorts first.
fn first_stamp(path: &Path) -> anyhow::Result<Option<DateTime<FixedOffset>>> {
    const LINES: usize = 100;
    let mut source = Source::open(vec![path.to_owned()], true)?;
    for _ in 0..LINES {
        match source.line()? {
            None => break,
            Some(()) => {
                let _ = read_line(&String::from_utf8_lossy(&source.bytes), &mut source.zone, &mut |_| {});
                if let Some(at) = source.zone.last() {
                    return Ok(Some(at));
                }
            }
        }
    }
    Ok(None)
}

/// Something that was logged, with its time.
#[derive(Debug)]
struct Event {
    at: DateTime<FixedOffset>,
    what: What,
}

#[derive(Debug)]
enum What {
    Block(Box<Block>),
    Check {
        stamp: Stamp,
        mode: Option<Mode>,
        subject: Subject,
        result: Result<(), Box<Failure>>,
        elapsed: Option<Duration>,
    },
    Mark(Box<Mark>),
}

#[derive(Debug)]
struct Block {
    stamp: Stamp,
    verdicts: Vec<(Subject, Result<(), Failure>, Option<Duration>)>,
    writes: bool,
}

impl Event {
    /// What goes first of what has the same stamp: stamps of whole seconds are often alike.
    fn rank(&self) -> u8 {
        match &self.what {
            What::Block(_) => 0,
            What::Mark(mark) if matches!(**mark, Mark::CycleStarted { .. } | Mark::Canary { .. }) => 1,
            What::Check { .. } => 2,
            What::Mark(_) => 3,
        }
    }

    fn key(&self) -> (DateTime<FixedOffset>, u8) {
        (self.at, self.rank())
    }
}

/// The next event of a source.
struct Head {
    event: Event,
    index: usize,
}

impl Head {
    fn key(&self) -> (DateTime<FixedOffset>, u8, usize) {
        (self.event.at, self.event.rank(), self.index)
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

/// Events that wait for others which belong before them.
#[derive(Default)]
struct HeldBack {
    events: VecDeque<Event>,
}

impl HeldBack {
    fn add(&mut self, event: Event) {
        // Most come in order, so the place is found from the end.
        let key = event.key();
        let mut place = self.events.len();
        while place > 0 && self.events[place - 1].key() > key {
            place -= 1;
        }
        if place == self.events.len() { self.events.push_back(event) } else { self.events.insert(place, event) }
    }

    fn take_due(&mut self) -> Option<Event> {
        let (first, last) = (self.events.front()?, self.events.back()?);
        let due = self.events.len() > HELD_BACK_COUNT || last.at - first.at > HELD_BACK;
        if due { self.events.pop_front() } else { None }
    }
}

/// The files of one family, read one after the other.
struct Source {
    files: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, BufReader<File>)>,
    number: u64,
    zone: Zone,
    /// The present line, without its end.
    bytes: Vec<u8>,
    block: Option<Box<Block>>,
    ready: VecDeque<Event>,
    /// A verdict's text goes on in the next line: a script logged a text with line ends.
    unclosed: bool,
    skipped: u64,
}

impl Source {
    fn open(files: Vec<PathBuf>, utc: bool) -> anyhow::Result<Self> {
        let mut source = Source {
            files: files.into_iter(),
            current: None,
            number: 0,
            zone: Zone::new(utc),
            bytes: Vec::new(),
            block: None,
            ready: VecDeque::new(),
            unclosed: false,
            skipped: 0,
        };
        source.next_file()?;
        Ok(source)
    }

    fn next_file(&mut self) -> anyhow::Result<()> {
        self.current = match self.files.next() {
            Some(path) => {
                let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Some((path, BufReader::with_capacity(64 << 10, file)))
            }
            None => None,
        };
        self.number = 0;
        Ok(())
    }

    /// Reads the next line into `bytes`; none at the end of the last file.
    fn line(&mut self) -> anyhow::Result<Option<()>> {
        while let Some((path, reader)) = &mut self.current {
            self.bytes.clear();
            let context = || format!("cannot read {}", path.display());
            if reader.take(LONGEST_LINE).read_until(b'\n', &mut self.bytes).with_context(context)? == 0 {
                self.next_file()?;
                continue;
            }
            self.number += 1;
            if self.bytes.last() == Some(&b'\n') {
                self.bytes.pop();
            } else if self.bytes.len() as u64 == LONGEST_LINE {
                skip_line(reader).with_context(context)?;
            }
            if self.bytes.last() == Some(&b'\r') {
                self.bytes.pop();
            }
            return Ok(Some(()));
        }
        Ok(None)
    }

    /// The next event of the family; none at its end.
    fn next(&mut self, unreadable: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.line()?.is_none() {
                // A block whose end was cut off was seen all the same.
                return Ok(self.block.take().map(block_event));
            }
            // The check of all bytes at once is several times as fast as that piece by piece.
            let text = match std::str::from_utf8(&self.bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(&self.bytes),
            };
            let (block, ready) = (&mut self.block, &mut self.ready);
            let read = read_line(&text, &mut self.zone, &mut |entry| sort_in(entry, block, ready));
            if read.is_err() && !self.unclosed {
                self.skipped += 1;
                let path = self.current.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
                unreadable(&format!("{path}:{}: cannot be read: {}", self.number, shown(&text)));
            }
            let continues = self.unclosed && read.is_err() && !text.ends_with(')');
            let is_verdict = text.starts_with(|first: char| first.is_ascii_alphabetic());
            self.unclosed = continues || (is_verdict && text.contains(": NOT RUNNING (") && !text.ends_with(')'));
        }
    }
}

/// Gathers a block's lines, and passes on all else.
fn sort_in(entry: Entry, block: &mut Option<Box<Block>>, ready: &mut VecDeque<Event>) {
    match entry {
        Entry::BlockBegan(stamp) => {
            let new = Box::new(Block { stamp, verdicts: Vec::new(), writes: false });
            ready.extend(block.replace(new).map(block_event));
        }
        Entry::Verdict { subject, result, elapsed } => {
            if let Some(block) = block {
                block.verdicts.push((subject, result, elapsed));
            }
        }
        Entry::BlockWrites => {
            if let Some(block) = block {
                block.writes = true;
            }
        }
        Entry::BlockEnded => ready.extend(block.take().map(block_event)),
        Entry::Check { at, mode, subject, result, elapsed } => {
            let what = What::Check { stamp: at, mode, subject, result: result.map_err(Box::new), elapsed };
            ready.push_back(Event { at: at.at, what });
        }
        // A scan that a signal ended says so inside its block.
        Entry::Mark(Mark::Stopped { .. }) if block.is_some() => {}
        Entry::Mark(mark) => ready.extend(time_of(&mark).map(|at| Event { at, what: What::Mark(Box::new(mark)) })),
    }
}

fn block_event(block: Box<Block>) -> Event {
    Event { at: block.stamp.at, what: What::Block(block) }
}

/// When a mark has its place; none for those that only repeat what the checks tell.
fn time_of(mark: &Mark) -> Option<DateTime<FixedOffset>> {
    match mark {
        Mark::CycleStarted { at, .. }
        | Mark::CycleCompleted { at, .. }
        | Mark::AllFinished { at }
        | Mark::Stopped { at, .. }
        | Mark::Canary { at }
        | Mark::Changed { at, .. } => Some(at.at),
        Mark::NotObserved { from, .. } => Some(from.at),
        Mark::OutageBegan { .. } | Mark::OutageEnded { .. } => None,
    }
}

fn skip_line(reader: &mut BufReader<File>) -> io::Result<()> {
    loop {
        let buffered = reader.fill_buf()?;
        let end = buffered.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffered.len(), |end| end + 1);
        reader.consume(length);
        if end.is_some() || length == 0 {
            return Ok(());
        }
    }
}

fn shown(line: &str) -> String {
    let mut shown = String::new();
    crate::failure::escape_into(&mut shown, line, 120);
    shown
}

/// A mode's checks, and where they pause.
#[derive(Default)]
struct Stream {
    ledger: Ledger,
    pace: Pace,
    /// Since when nothing has been observed, before the next check.
    gap: Option<Moment>,
    /// How long the break is that follows the cycle which ended last.
    rest: Duration,
    /// Each check writes a canary too.
    writes: bool,
}

impl Stream {
    fn check(&mut self, at: Stamp, subject: &Subject, result: Result<(), &Failure>, took: Option<Duration>) {
        let at = moment(at);
        let unpaced = self.pace.gap_before(at);
        if let Some(from) = self.gap.take().or(unpaced) {
            self.ledger.gap(Gap { from, to: at });
        }
        // Of nodes only the primaries are written to, and lines do not tell which those were.
        let writes = self.writes && matches!(subject.who, Who::Endpoint | Who::Held);
        let gaps = self.ledger.gap_count;
        self.ledger.check(&Check { subject, at, took, result, writes, gaps });
    }

    fn pause(&mut self, from: Moment) {
        self.gap.get_or_insert(from);
    }
}

/// What the logs tell, folded.
#[derive(Default)]
struct Fold {
    dbs: Stream,
    cycles: Stream,
    repeated: Repeated,
}

/// The failures in the blocks of one stamp: the error log repeats them.
#[derive(Default)]
struct Repeated {
    at: Option<DateTime<FixedOffset>>,
    failures: Vec<(Subject, Failure)>,
}

impl Repeated {
    fn add(&mut self, at: DateTime<FixedOffset>, failures: impl Iterator<Item = (Subject, Failure)>) {
        if self.at.replace(at) != Some(at) {
            self.failures.clear();
        }
        self.failures.extend(failures);
    }

    /// Whether a failure was told by a block already; each is repeated once.
    fn take(&mut self, at: DateTime<FixedOffset>, subject: &Subject, failure: &Failure) -> bool {
        let place = self.failures.iter().position(|(s, f)| s == subject && f == failure);
        self.at == Some(at) && place.map(|place| self.failures.swap_remove(place)).is_some()
    }
}

impl Fold {
    fn take(&mut self, Event { at, what }: Event) {
        match what {
            What::Block(block) => self.block(at, *block),
            What::Check { stamp, mode, subject, result, elapsed } => {
                if let Err(failure) = &result
                    && mode != Some(Mode::Cycles)
                    && self.repeated.take(at, &subject, failure)
                {
                    return;
                }
                let stream = if mode == Some(Mode::Dbs) { &mut self.dbs } else { &mut self.cycles };
                stream.check(stamp, &subject, result.as_ref().copied().map_err(|failure| &**failure), elapsed);
            }
            What::Mark(mark) => self.mark(*mark),
        }
    }

    fn block(&mut self, at: DateTime<FixedOffset>, block: Block) {
        self.dbs.writes = block.writes;
        for (subject, result, elapsed) in &block.verdicts {
            self.dbs.check(block.stamp, subject, result.as_ref().copied(), *elapsed);
        }
        let failures = block.verdicts.into_iter().filter_map(|(subject, result, _)| Some((subject, result.err()?)));
        self.repeated.add(at, failures);
    }

    fn mark(&mut self, mark: Mark) {
        let cycles = &mut self.cycles;
        match mark {
            Mark::CycleStarted { cycle: 1, .. } => {
                // A run that was killed left no mark at its end.
                if let Some(last) = cycles.ledger.last {
                    cycles.pause(last);
                }
                cycles.writes = false;
            }
            Mark::CycleStarted { at, .. } => {
                let length = std::mem::take(&mut cycles.rest);
                if !length.is_zero() {
                    cycles.pause(moment(at).earlier(length));
                }
            }
            // The classic line does not say when that was, and the next cycle's beginning does.
            Mark::CycleCompleted { pause, .. } => cycles.rest = pause,
            Mark::AllFinished { at } | Mark::Stopped { at, .. } => cycles.pause(moment(at)),
            Mark::Canary { .. } => cycles.writes = true,
            Mark::NotObserved { from, .. } => cycles.pause(moment(from)),
            Mark::Changed { who, at, change } => cycles.ledger.change(Changed { who, at, change }),
            Mark::OutageBegan { .. } | Mark::OutageEnded { .. } => {}
        }
    }
}

fn moment(stamp: Stamp) -> Moment {
    let since = stamp.at.timestamp_micros();
    Moment { stamp, since: Duration::from_micros(u64::try_from(since).unwrap_or(0)) }
}

/// Finds where checks that came at a steady pace did not come: a cron job that did not run, a machine that was off.
#[derive(Default)]
struct Pace {
    last: Option<Moment>,
    usual: Option<Duration>,
    /// The last distance that was out of pace: when the next is like it, the pace has changed.
    odd: Option<Duration>,
}

/// Stamps of whole seconds and a busy machine make distances differ.
const JITTER: Duration = Duration::from_secs(1);

impl Pace {
    /// Takes the next check; gives the one before when more than one and a half of the usual time lies between.
    fn gap_before(&mut self, at: Moment) -> Option<Moment> {
        let last = self.last.replace(at)?;
        let distance = at.since.saturating_sub(last.since);
        if distance.is_zero() {
            return None;
        }
        let is_odd = self.usual.is_some_and(|usual| distance > usual * 3 / 2 + JITTER);
        let is_new_pace = self.odd.is_some_and(|odd| distance <= odd * 3 / 2 && odd <= distance * 3 / 2);
        if is_odd && !is_new_pace {
            self.odd = Some(distance);
            return Some(last);
        }
        (self.usual, self.odd) = (Some(distance), None);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        let at = DateTime::from_timestamp(i64::try_from(second).unwrap(), 0).unwrap().fixed_offset();
        moment(Stamp { at, millis: false })
    }

    #[test]
    fn a_pause_out_of_pace_is_a_gap() {
        let gaps = |seconds: &[u64]| -> Vec<u64> {
            let mut pace = Pace::default();
            seconds.iter().filter_map(|second| pace.gap_before(at(*second))).map(|from| from.since.as_secs()).collect()
        };
        assert!(gaps(&[0, 300, 600, 901, 1200]).is_empty());
        assert_eq!(gaps(&[0, 300, 600, 1500, 1800]), [600]);
        // Another pace from 600 on: only its first distance is a surprise.
        assert_eq!(gaps(&[0, 60, 120, 420, 720, 1020]), [120]);
        assert!(gaps(&[0, 300, 300, 300, 360, 420, 420]).is_empty());
    }
}
