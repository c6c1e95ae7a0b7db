//! Reads log files line by line, as events with their times.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, FixedOffset};

use super::Notice;
use super::evidence::Evidence;
use super::source::{self, Source};
use crate::log::format::timestamp::TimestampReader;
use crate::log::format::{read_line, read_success};
use crate::log::record::{Entry, MAX_CLOCK_ERROR, Mark, Mode, Run};
use crate::model::clock::Stamp;
use crate::model::failure::Failure;
use crate::model::outcome::ConnectionInfo;
use crate::model::subject::Subject;
use crate::model::text::Printable;

/// Longer lines are truncated. A JSON scan of 10,000 databases takes about three million bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// A logged event, and its time.
#[derive(Debug)]
pub struct LogEvent {
    /// By the wall clock.
    pub at: Stamp,
    pub kind: EventKind,
    /// What must be added to wall-clock times of this event to get times whose differences are true durations, in
    /// microseconds: not 0 after the clock was set during a run. From the headers, and from `since_start` in JSON.
    pub shift: i64,
}

/// What was logged. Events are queued and moved often, so large or rare ones are boxed.
#[derive(Debug)]
pub enum EventKind {
    /// A classic SUCCESS line of the endpoint or of one of its databases: most lines of most logs.
    Success {
        db: Option<u32>,
    },
    Check(Box<LoggedCheck>),
    Block(Box<Block>),
    Mark(Box<Mark>),
}

/// A check with a line of its own.
#[derive(Debug)]
pub struct LoggedCheck {
    pub mode: Option<Mode>,
    pub subject: Subject,
    pub result: Result<(), Failure>,
    /// See [`Entry::Check`].
    pub took: Option<Duration>,
    pub wrote: Option<bool>,
}

/// A block of `dbs`.
#[derive(Debug)]
pub struct Block {
    pub stamp: Stamp,
    pub results: Vec<LoggedResult>,
    pub writes: bool,
    /// A subject came before one that sorts before it.
    is_unsorted: bool,
}

impl Block {
    fn new(stamp: Stamp, results: Vec<LoggedResult>) -> Self {
        Block { stamp, results, writes: false, is_unsorted: false }
    }

    /// Whether it has a result of this subject. Databases are in order, so it is mostly not searched.
    fn has(&self, subject: &Subject) -> bool {
        let is_last = self.results.last().is_none_or(|last| last.subject < *subject);
        (self.is_unsorted || !is_last) && self.results.iter().any(|known| known.subject == *subject)
    }

    fn add(&mut self, result: LoggedResult) {
        self.is_unsorted |= self.results.last().is_some_and(|last| last.subject > result.subject);
        self.results.push(result);
    }
}

/// One database of a block.
#[derive(Debug)]
pub struct LoggedResult {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    pub took: Option<Duration>,
    pub connection: Option<Box<ConnectionInfo>>,
}

impl LogEvent {
    /// Whether it tells the exact end of an outage that the check before it ended: if only a part of a log is read, that
    /// check may be in it and this mark not.
    pub fn completes_earlier(&self) -> bool {
        matches!(&self.kind, EventKind::Mark(mark) if matches!(**mark, Mark::OutageEnded { first_failure: Some(_), .. }))
    }

    fn new(at: Stamp, kind: EventKind) -> Self {
        LogEvent { at, kind, shift: 0 }
    }

    /// Its place in time, in microseconds since 1970 as if the clock had not been set.
    pub fn place(&self) -> i64 {
        // A small shift comes from timestamps that are cut to milliseconds. Marks do not have it, and would change places
        // with the checks next to them.
        let is_set = self.shift.unsigned_abs() > u64::try_from(MAX_CLOCK_ERROR.as_micros()).unwrap_or(u64::MAX);
        self.at.at.timestamp_micros() + if is_set { self.shift } else { 0 }
    }

    /// Sorts events with the same timestamp, which are frequent if timestamps are whole seconds.
    pub fn rank(&self) -> u8 {
        match &self.kind {
            EventKind::Block(_) => 0,
            EventKind::Mark(mark)
                if matches!(**mark, Mark::RunStarted { .. } | Mark::CycleStarted { .. } | Mark::Canary { .. }) =>
            {
                1
            }
            EventKind::Success { .. } | EventKind::Check(_) => 2,
            EventKind::Mark(_) => 3,
        }
    }
}

/// Reads the files of one log in order, rotated files first.
pub struct LogReader {
    files: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, Source)>,
    /// The number of the current line in its file.
    number: u64,
    timestamps: TimestampReader,
    /// The current line, without its line end.
    bytes: Vec<u8>,
    open: OpenBlocks,
    /// Events that were read but not returned yet.
    ready: VecDeque<LogEvent>,
    /// The text of a failure continues on the next line: a script logged a text with line ends.
    unclosed: bool,
    scope: Scope,
    /// What other logs say about doubtful times in an error log.
    evidence: Option<Evidence>,
    /// What is to be told about files whose rest cannot be read: compressed files that were cut.
    broken: Vec<String>,
    /// Lines that could not be read.
    pub skipped: u64,
}

impl LogReader {
    /// Opens the first file. Timestamps without an offset are in UTC or in local time.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(files: Vec<PathBuf>, utc: bool) -> anyhow::Result<Self> {
        let mut reader = LogReader {
            files: files.into_iter(),
            current: None,
            number: 0,
            timestamps: TimestampReader::new(utc),
            bytes: Vec::new(),
            open: OpenBlocks::default(),
            ready: VecDeque::new(),
            unclosed: false,
            scope: Scope::default(),
            evidence: None,
            broken: Vec::new(),
            skipped: 0,
        };
        reader.next_file()?;
        Ok(reader)
    }

    fn next_file(&mut self) -> anyhow::Result<()> {
        self.current = match self.files.next() {
            Some(path) => {
                let source = source::open(&path).with_context(|| format!("cannot read {}", Printable::path(&path)))?;
                Some((path, source))
            }
            None => None,
        };
        self.number = 0;
        // Each file of a run begins with its header.
        self.end_run();
        self.timestamps.forget_headers();
        Ok(())
    }

    /// For an error log: what other logs say about doubtful times.
    pub fn with_evidence(self, evidence: Evidence) -> Self {
        LogReader { evidence: Some(evidence), ..self }
    }

    /// The number of the last SUCCESS line.
    pub fn number_of_success(&self) -> Option<u64> {
        self.scope.last_number
    }

    /// How many times could not be decided.
    pub fn guessed(&self) -> u64 {
        self.timestamps.guessed()
    }

    /// Takes the header of a run: the clock and the offset of the lines after it.
    fn begin_run(&mut self, run: Run, at: Stamp, since_start: Duration) {
        match run.mode {
            // JSON lines tell their mode and their offset themselves.
            Mode::Dbs if self.bytes.first() == Some(&b'{') => {}
            Mode::Dbs => self.timestamps.set_scan(run.began.at),
            Mode::Cycles => {
                let shift = run.began.later(since_start).at - at.at;
                let is_set = shift.abs().to_std().is_ok_and(|shift| shift > MAX_CLOCK_ERROR);
                self.scope.shift = if is_set { shift.num_microseconds().unwrap_or(0) } else { 0 };
                self.timestamps.set_offset(Some(*at.at.offset()));
                self.scope.run = Some(run);
            }
        }
    }

    fn end_run(&mut self) {
        (self.scope.run, self.scope.shift) = (None, 0);
        self.timestamps.set_offset(None);
    }

    /// Completes a check by the header before it, and by other logs if its time is in doubt.
    fn complete(&mut self, event: &mut LogEvent, since_start: Option<Duration>, guessed_before: u64) {
        let EventKind::Check(check) = &mut event.kind else { return };
        let is_cycles = match check.mode {
            Some(mode) => mode == Mode::Cycles,
            None if self.timestamps.is_of_scan() => {
                check.mode = Some(Mode::Dbs);
                false
            }
            None => {
                check.mode = self.scope.run.as_ref().map(|run| run.mode);
                true
            }
        };
        event.shift = match (&self.scope.run, since_start) {
            _ if !is_cycles => 0,
            (Some(run), Some(since_start)) => {
                (run.began.later(since_start).at - event.at.at).num_microseconds().unwrap_or(0)
            }
            _ => self.scope.shift,
        };

        if let (Some(evidence), Some(doubt), Err(failure)) =
            (&mut self.evidence, self.timestamps.doubt(), &check.result)
            && let Some(at) = evidence.moment_of(&check.subject, failure, doubt, event.at.at)
        {
            self.timestamps.decide(at, self.timestamps.guessed() > guessed_before);
            event.at.at = at;
        }
    }

    /// Reads the next line if it is a SUCCESS line and the whole of it is in the buffer. Most lines are, so this reads
    /// the buffer directly: without a copy, and without an entry.
    fn success(&mut self) -> Option<LogEvent> {
        let (_, reader) = self.current.as_mut()?;
        let (at, db, number, length) = read_success(reader.buffer(), &mut self.timestamps)?;
        reader.consume(length);
        self.number += 1;
        self.scope.last_number = Some(number);
        Some(LogEvent { at, kind: EventKind::Success { db }, shift: self.scope.shift })
    }

    /// Reads the next line into `bytes`. None at the end of the last file.
    fn line(&mut self) -> anyhow::Result<Option<()>> {
        while let Some((path, reader)) = &mut self.current {
            self.bytes.clear();
            let context = || format!("cannot read {}", Printable::path(path));
            let buffered = reader.buffer();
            if let Some(end) = memchr::memchr(b'\n', buffered) {
                // The whole line is in the buffer.
                self.bytes.extend_from_slice(buffered[..end].strip_suffix(b"\r").unwrap_or(&buffered[..end]));
                reader.consume(end + 1);
                self.number += 1;
                return Ok(Some(()));
            }
            match reader.take(LONGEST_LINE).read_until(b'\n', &mut self.bytes) {
                Ok(0) => {
                    self.next_file()?;
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    let path = Printable::path(path);
                    self.broken.push(format!("{path}: passed over after line {}: {error}", self.number));
                    self.next_file()?;
                    continue;
                }
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

    /// The next event. None at the end of the last file. `tell` is called for each line that cannot be read.
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub fn next(&mut self, tell: &mut dyn FnMut(Notice<'_>)) -> anyhow::Result<Option<LogEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if let Some(event) = self.success() {
                self.unclosed = false;
                return Ok(Some(event));
            }
            let line = self.line()?;
            for text in self.broken.drain(..) {
                tell(Notice::File(&text));
            }
            if line.is_none() {
                // A block that has no end is still used.
                return Ok(self.open.block.take().map(block_event));
            }

            // Checking all bytes at once is several times faster than lossy conversion.
            let text = match std::str::from_utf8(&self.bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(&self.bytes),
            };

            let (open, ready, mut orphaned, mut check) = (&mut self.open, &mut self.ready, false, None);
            let mut noted = Noted::new(ready.len(), self.timestamps.guessed());
            let mut take = |entry| {
                noted.entry(&entry);
                orphaned |= !open.add(entry, ready, &mut check);
            };
            let read = read_line(&text, &mut self.timestamps, &mut take);
            if orphaned || (read.is_err() && !self.unclosed) {
                self.skipped += 1;
                let path = self.current.as_ref().map(|(path, _)| Printable::path(path)).unwrap_or_default();
                tell(Notice::Line(&format!("{path}:{}: cannot be read: {}", self.number, shown(&text))));
            }

            let continues = self.unclosed && read.is_err() && !text.ends_with(')');
            let is_result = text.starts_with(|first: char| first.is_ascii_alphabetic());
            self.unclosed = continues || (is_result && text.contains(": NOT RUNNING (") && !text.ends_with(')'));
            if let Some(check) = self.follow(noted, check) {
                return Ok(Some(check));
            }
        }
    }

    /// Applies what a line says about the lines after it, and completes the events of the line.
    fn follow(&mut self, noted: Noted, check: Option<LogEvent>) -> Option<LogEvent> {
        let of_line = self.ready.range_mut(noted.ready..);
        for event in of_line.filter(|event| matches!(event.kind, EventKind::Mark(_))) {
            event.shift = self.scope.shift;
        }
        if let Some((run, at, since_start)) = noted.header {
            self.begin_run(run, at, since_start);
        }
        if noted.ends_run {
            self.end_run();
        }
        check.map(|mut check| {
            self.complete(&mut check, noted.since_start, noted.guessed);
            check
        })
    }
}

/// The header that was read last in a file.
#[derive(Default)]
struct Scope {
    run: Option<Run>,
    /// The shift of the events after it.
    shift: i64,
    /// The number of the last SUCCESS line.
    last_number: Option<u64>,
}

/// What a line says besides its events.
struct Noted {
    header: Option<(Run, Stamp, Duration)>,
    ends_run: bool,
    since_start: Option<Duration>,
    /// How many events were ready, and how many times were guessed, before the line.
    ready: usize,
    guessed: u64,
}

impl Noted {
    fn new(ready: usize, guessed: u64) -> Self {
        Noted { header: None, ends_run: false, since_start: None, ready, guessed }
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Mark(Mark::RunStarted { run, at, since_start }) => {
                self.header = Some((run.clone(), *at, *since_start));
            }
            Entry::Mark(Mark::AllFinished { .. } | Mark::Stopped { .. }) => self.ends_run = true,
            Entry::Check { since_start, .. } => self.since_start = *since_start,
            _ => {}
        }
    }
}

/// The current block, and an older one that has not ended: the script writes line by line, so if one run hangs and the
/// next one starts, their blocks are interleaved.
#[derive(Default)]
struct OpenBlocks {
    block: Option<Box<Block>>,
    older: Option<Stamp>,
}

impl OpenBlocks {
    /// Collects the lines of blocks, and converts other entries to events. Returns false for a block line outside any
    /// block. A check is stored in `check` instead of the queue: a line has only one.
    fn add(&mut self, entry: Entry, ready: &mut VecDeque<LogEvent>, check: &mut Option<LogEvent>) -> bool {
        match entry {
            Entry::BlockBegan(stamp) => {
                let new = Box::new(Block::new(stamp, Vec::new()));
                if let Some(before) = self.block.replace(new) {
                    self.older = Some(before.stamp);
                    ready.push_back(block_event(before));
                }
            }
            Entry::CheckResult { subject, result, took, connection } => {
                let is_new = |block: &&mut Box<Block>| !block.has(&subject);
                let logged = LoggedResult { subject: subject.clone(), result, took, connection };
                match (self.block.as_mut().filter(is_new), self.older) {
                    (Some(block), _) => block.add(logged),
                    (None, Some(stamp)) => {
                        let late = Block::new(stamp, vec![logged]);
                        ready.push_back(block_event(Box::new(late)));
                    }
                    (None, None) => return false,
                }
            }
            Entry::BlockWrites => {
                if let Some(block) = &mut self.block {
                    block.writes = true;
                }
            }
            Entry::BlockEnded => match self.block.take() {
                Some(block) => ready.push_back(block_event(block)),
                None => self.older = None,
            },
            Entry::Check { at, mode, subject, result, took, wrote, .. } => {
                let logged = Box::new(LoggedCheck { mode, subject, result, took, wrote });
                *check = Some(LogEvent::new(at, EventKind::Check(logged)));
            }
            // The mark of an interrupted scan is inside its block.
            Entry::Mark(Mark::Stopped { .. }) if self.block.is_some() => {}
            Entry::Mark(mark) => ready.push_back(LogEvent::new(time_of(&mark), EventKind::Mark(Box::new(mark)))),
        }
        true
    }
}

fn block_event(block: Box<Block>) -> LogEvent {
    LogEvent::new(block.stamp, EventKind::Block(block))
}

/// The time by which a mark is sorted. For a range of time: its beginning.
fn time_of(mark: &Mark) -> Stamp {
    match mark {
        Mark::NotObserved { from, .. } | Mark::RecordsLost { from, .. } => *from,
        _ => mark.at(),
    }
}

/// Skips the rest of a line.
fn skip_line(reader: &mut Source) -> io::Result<()> {
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

/// A line for a message: escaped and truncated.
fn shown(line: &str) -> Printable {
    Printable::new(line, 120)
}

/// When the first line of a file was written: between these times, which differ in the repeated hour when daylight saving
/// time ends. None if its first lines have no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStamp(Option<(DateTime<FixedOffset>, DateTime<FixedOffset>)>);

impl FirstStamp {
    /// Whether it is certainly earlier. Without a time it is.
    pub fn is_before(&self, other: &FirstStamp) -> bool {
        match (self.0, other.0) {
            (None, other) => other.is_some(),
            (Some(_), None) => false,
            (Some((_, latest)), Some((earliest, _))) => latest < earliest,
        }
    }
}

/// The first timestamp in a file. Timestamps without an offset are in UTC or in local time.
///
/// # Errors
/// The file cannot be opened.
pub fn first_stamp(path: &Path, utc: bool) -> anyhow::Result<FirstStamp> {
    const LINES: usize = 100;
    let mut reader = LogReader::open(vec![path.to_owned()], utc)?;
    for _ in 0..LINES {
        // What cannot be read is told when the whole file is.
        let Ok(Some(())) = reader.line() else { break };
        let mut header = None;
        let mut take = |entry| {
            if let Entry::Mark(Mark::RunStarted { at, .. }) = entry {
                header = Some((at.at, at.at));
            }
        };
        let _ = read_line(&String::from_utf8_lossy(&reader.bytes), &mut reader.timestamps, &mut take);
        if let Some(range) = header.or_else(|| reader.timestamps.last_range()) {
            return Ok(FirstStamp(Some(range)));
        }
    }
    Ok(FirstStamp(None))
}
