//! Log files, line by line, as events with their times.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, FixedOffset};

use crate::clock::Stamp;
use crate::failure::Failure;
use crate::record::{Contact, Entry, Mark, Mode, Subject, Zone, read_line, read_success};

/// A line that is longer is not one of ours: a JSON scan of 10,000 databases has some three million bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// Something that was logged, with its time.
#[derive(Debug)]
pub struct Event {
    pub at: DateTime<FixedOffset>,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
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
pub struct Block {
    pub stamp: Stamp,
    pub verdicts: Vec<Judged>,
    pub writes: bool,
}

/// One database of a block.
#[derive(Debug)]
pub struct Judged {
    pub subject: Subject,
    pub result: Result<(), Failure>,
    pub elapsed: Option<Duration>,
    pub contact: Option<Box<Contact>>,
}

impl Event {
    /// What goes first of what has the same stamp: stamps of whole seconds are often alike.
    pub fn rank(&self) -> u8 {
        match &self.what {
            What::Block(_) => 0,
            What::Mark(mark) if matches!(**mark, Mark::CycleStarted { .. } | Mark::Canary { .. }) => 1,
            What::Check { .. } => 2,
            What::Mark(_) => 3,
        }
    }
}

/// The files of one family, read one after the other.
pub struct Source {
    files: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, BufReader<File>)>,
    number: u64,
    zone: Zone,
    /// The present line, without its end.
    bytes: Vec<u8>,
    open: Open,
    ready: VecDeque<Event>,
    /// A verdict's text goes on in the next line: a script logged a text with line ends.
    unclosed: bool,
    /// Lines that could not be read.
    pub skipped: u64,
}

impl Source {
    pub fn open(files: Vec<PathBuf>, utc: bool) -> anyhow::Result<Self> {
        let mut source = Source {
            files: files.into_iter(),
            current: None,
            number: 0,
            zone: Zone::new(utc),
            bytes: Vec::new(),
            open: Open::default(),
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
            let buffered = reader.buffer();
            if let Some(end) = memchr::memchr(b'\n', buffered) {
                // All of it is there, and shorter than the buffer.
                self.bytes.extend_from_slice(buffered[..end].strip_suffix(b"\r").unwrap_or(&buffered[..end]));
                reader.consume(end + 1);
                self.number += 1;
                return Ok(Some(()));
            }
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
    pub fn next(&mut self, unreadable: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.line()?.is_none() {
                // A block whose end was cut off was seen all the same.
                return Ok(self.open.block.take().map(block_event));
            }
            // The check of all bytes at once is several times as fast as that piece by piece.
            let text = match std::str::from_utf8(&self.bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(&self.bytes),
            };
            // The way through an entry takes twice as long as all of this.
            if let Some(stamp) = read_success(&text, &mut self.zone) {
                self.unclosed = false;
                let subject = Subject::default();
                let what = What::Check { stamp, mode: None, subject, result: Ok(()), elapsed: None };
                return Ok(Some(Event { at: stamp.at, what }));
            }
            let (open, ready, mut homeless, mut check) = (&mut self.open, &mut self.ready, false, None);
            let read =
                read_line(&text, &mut self.zone, &mut |entry| homeless |= !open.sort_in(entry, ready, &mut check));
            if homeless || (read.is_err() && !self.unclosed) {
                self.skipped += 1;
                let path = self.current.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
                unreadable(&format!("{path}:{}: cannot be read: {}", self.number, shown(&text)));
            }
            let continues = self.unclosed && read.is_err() && !text.ends_with(')');
            let is_verdict = text.starts_with(|first: char| first.is_ascii_alphabetic());
            self.unclosed = continues || (is_verdict && text.contains(": NOT RUNNING (") && !text.ends_with(')'));
            if check.is_some() {
                return Ok(check);
            }
        }
    }
}

/// The block whose lines are being read, and an older one that is not over: the script writes line by line, so runs of
/// it that overlap, because one hangs, mix their blocks.
#[derive(Default)]
struct Open {
    block: Option<Box<Block>>,
    older: Option<Stamp>,
}

impl Open {
    /// Gathers a block's lines, and passes on all else; false for a line that belongs nowhere. A check, of which a line
    /// has one and nothing else, goes to `check` rather than through the queue.
    fn sort_in(&mut self, entry: Entry, ready: &mut VecDeque<Event>, check: &mut Option<Event>) -> bool {
        match entry {
            Entry::BlockBegan(stamp) => {
                let new = Box::new(Block { stamp, verdicts: Vec::new(), writes: false });
                if let Some(before) = self.block.replace(new) {
                    self.older = Some(before.stamp);
                    ready.push_back(block_event(before));
                }
            }
            Entry::Verdict { subject, result, elapsed, contact } => {
                let known = |block: &&mut Box<Block>| !block.verdicts.iter().any(|known| known.subject == subject);
                let judged = Judged { subject: subject.clone(), result, elapsed, contact };
                match (self.block.as_mut().filter(known), self.older) {
                    (Some(block), _) => block.verdicts.push(judged),
                    (None, Some(stamp)) => {
                        let late = Block { stamp, verdicts: vec![judged], writes: false };
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
            Entry::Check { at, mode, subject, result, elapsed } => {
                let what = What::Check { stamp: at, mode, subject, result: result.map_err(Box::new), elapsed };
                *check = Some(Event { at: at.at, what });
            }
            // A scan that a signal ended says so inside its block.
            Entry::Mark(Mark::Stopped { .. }) if self.block.is_some() => {}
            Entry::Mark(mark) => ready.extend(time_of(&mark).map(|at| Event { at, what: What::Mark(Box::new(mark)) })),
        }
        true
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
        | Mark::Changed { at, .. }
        | Mark::OutageEnded { at, .. } => Some(at.at),
        Mark::NotObserved { from, .. } => Some(from.at),
        Mark::OutageBegan { .. } => None,
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

/// The first stamp in a file; none sorts first.
pub fn first_stamp(path: &Path) -> anyhow::Result<Option<DateTime<FixedOffset>>> {
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
