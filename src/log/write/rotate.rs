//! One log file: appended to with one `write(2)` a record, found again by its path, and rotated.
//!
//! The writes themselves are tracing-appender's. It keeps writing to a file that was renamed or deleted, and its own
//! rotation deletes whatever shares a prefix, so both are done here, around a replaceable appender.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, FixedOffset, Local, NaiveDateTime, Utc};
use tracing_appender::rolling::{RollingFileAppender, Rotation as AppenderRotation};

/// When a log file is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    Daily,
    Hourly,
    /// Before it would grow beyond so many bytes.
    Size(u64),
}

/// Rotation as the user asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    pub when: Rotation,
    /// How many rotated files stay; all without it.
    pub keep: Option<usize>,
    /// Days and hours are UTC's instead of local ones.
    pub utc: bool,
}

/// Records that could not be written, over all files of a run.
#[derive(Default)]
pub struct Losses {
    count: AtomicU64,
}

impl Losses {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Where notices about the log files themselves go.
pub type Notify = Arc<dyn Fn(&str) + Send + Sync>;

/// A log file that is opened again when its path no longer leads to it.
pub struct LogFile {
    path: PathBuf,
    /// Each line is a record, and counts as one when it is lost.
    lines_are_records: bool,
    rotate: Option<Rotate>,
    current: Option<Open>,
    /// The last write broke off inside a line, so the next record has to begin a new one.
    torn: bool,
    /// A failure was said already, and nothing was written since.
    failing: bool,
    losses: Arc<Losses>,
    notify: Notify,
}

struct Open {
    appender: RollingFileAppender,
    /// Kept open so that the inode cannot be given to another file meanwhile; also what rotation locks.
    file: File,
    inode: (u64, u64),
}

impl LogFile {
    /// Opens the file, creating it if missing.
    ///
    /// # Errors
    /// The file cannot be opened for appending, other than for want of space: space may come back.
    pub fn open(
        path: PathBuf,
        lines_are_records: bool,
        rotate: Option<Rotate>,
        losses: Arc<Losses>,
        notify: Notify,
    ) -> io::Result<Self> {
        let mut log =
            LogFile { path, lines_are_records, rotate, current: None, torn: false, failing: false, losses, notify };
        match log.reopen() {
            Err(error) if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Err(error)
            }
            _ => Ok(log),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.current = None;
        // The appender does not tell which file it opened. Another process may rotate between the two openings; then
        // the path shows a third file, and another try settles it.
        for _ in 0..8 {
            let file = self.open_or_create()?;
            let inode = inode(&file.metadata()?);
            let appender = appender(&self.path)?;
            if fs::metadata(&self.path).is_ok_and(|now| self::inode(&now) == inode) {
                self.current = Some(Open { appender, file, inode });
                return Ok(());
            }
        }
        Err(io::Error::other("the file is replaced faster than it can be opened"))
    }

    /// Opens the file for appending, and makes its folder anew if that vanished.
    fn open_or_create(&self) -> io::Result<File> {
        let open = || OpenOptions::new().append(true).create(true).open(&self.path);
        match (open(), self.path.parent()) {
            (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                open()
            }
            (opened, _) => opened,
        }
    }

    /// Makes sure that the path leads to the open file, and that it is of the current period and has room.
    fn prepare(&mut self, bytes: usize) -> io::Result<()> {
        let metadata = fs::metadata(&self.path).ok();
        match (&self.current, metadata) {
            (Some(open), Some(metadata)) if inode(&metadata) == open.inode => {
                if let Some(rotate) = self.rotate
                    && rotate.is_due(&metadata, bytes)
                    && self.put_aside(rotate, &metadata)?
                {
                    self.reopen()?;
                }
                Ok(())
            }
            _ => {
                self.torn = false;
                self.reopen()
            }
        }
    }

    /// Renames the full file, unless another process is just doing that. Then this record goes to the old file still,
    /// and the next one finds the new file.
    fn put_aside(&mut self, rotate: Rotate, metadata: &Metadata) -> io::Result<bool> {
        let Some(open) = &self.current else { return Ok(false) };
        match open.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held the lock before may have renamed the file already.
        if fs::metadata(&self.path).is_ok_and(|now| inode(&now) == open.inode) {
            fs::rename(&self.path, rotate.free_name(&self.path, metadata))?;
            if let Some(keep) = rotate.keep {
                remove_oldest(&self.path, keep);
            }
        }
        Ok(true)
    }

    /// One record, one `write(2)`.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.prepare(record.len())?;
        let Some(open) = &mut self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let mended;
        let bytes = if self.torn {
            mended = [b"\n", record].concat();
            &mended
        } else {
            record
        };
        let written = open.appender.write(bytes)?;
        if written == bytes.len() {
            self.torn = false;
            return Ok(());
        }
        // A full disk takes what still fits. The rest is tried once, which gives the error's name or mends the line.
        self.torn = true;
        match open.appender.write(&bytes[written..])? {
            more if written + more == bytes.len() => {
                self.torn = false;
                Ok(())
            }
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn notice(&self, text: &str) {
        (self.notify)(&format!("{}: {text}", self.path.display()));
    }
}

impl Write for LogFile {
    /// Always takes the whole record: a checker goes on when it cannot write, and counts what it lost.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        match self.append(record) {
            Ok(()) if self.failing => {
                self.failing = false;
                self.notice("records can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                let lines = record.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.losses.count.fetch_add(if self.lines_are_records { lines } else { 1 }, Ordering::Relaxed);
                if !self.failing {
                    self.failing = true;
                    self.notice(&format!("cannot write a record: {error}; checking goes on"));
                }
            }
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn appender(path: &Path) -> io::Result<RollingFileAppender> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidInput)?;
    RollingFileAppender::builder()
        .rotation(AppenderRotation::NEVER)
        .filename_prefix(name)
        .build(folder)
        .map_err(io::Error::other)
}

/// How the stamps in rotated files' names are written, for reading them back.
const STAMPS: [&str; 3] = ["%Y-%m-%d", "%Y-%m-%d_%H", "%Y-%m-%d_%H%M%S"];

impl Rotate {
    fn is_due(&self, metadata: &Metadata, bytes: usize) -> bool {
        let period = |at: DateTime<FixedOffset>| at.format(self.stamp_format()).to_string();
        metadata.len() > 0
            && match self.when {
                Rotation::Size(limit) => metadata.len() + bytes as u64 > limit,
                // The last write tells the period, also when another process made it.
                Rotation::Daily | Rotation::Hourly => period(self.modified(metadata)) != period(self.now()),
            }
    }

    fn stamp_format(&self) -> &'static str {
        match self.when {
            Rotation::Daily => STAMPS[0],
            Rotation::Hourly => STAMPS[1],
            Rotation::Size(_) => STAMPS[2],
        }
    }

    fn now(&self) -> DateTime<FixedOffset> {
        if self.utc { Utc::now().fixed_offset() } else { Local::now().fixed_offset() }
    }

    fn modified(&self, metadata: &Metadata) -> DateTime<FixedOffset> {
        let at = DateTime::from_timestamp(metadata.mtime(), 0).unwrap_or_default();
        if self.utc { at.fixed_offset() } else { at.with_timezone(&Local).fixed_offset() }
    }

    /// A name that nobody has: `redis_success.log.2025-08-27`, then `….2025-08-27.1` and so on.
    ///
    /// A number that was free again would make the newest file look like the oldest, so the next is above all that
    /// there are.
    fn free_name(&self, path: &Path, metadata: &Metadata) -> PathBuf {
        let at = match self.when {
            Rotation::Size(_) => self.now(),
            Rotation::Daily | Rotation::Hourly => self.modified(metadata),
        };
        let base = PathBuf::from(format!("{}.{}", path.display(), at.format(self.stamp_format())));
        let stamp =
            base.file_name().and_then(OsStr::to_str).and_then(|name| rotated(path.file_name()?.to_str()?, name));
        let taken = rotated_files(path).into_iter().filter(|((at, _), _)| stamp.is_some_and(|(stamp, _)| stamp == *at));
        let next = taken.map(|((_, number), _)| number + 1).max().unwrap_or(0);
        let numbered = (next.max(1)..).map(|number| PathBuf::from(format!("{}.{number}", base.display())));
        let first = (next == 0).then(|| base.clone());
        first.into_iter().chain(numbered).find(|name| name.symlink_metadata().is_err()).unwrap_or(base)
    }
}

/// The stamp and number in the name of a file that rotation made of `live`; none for any other file.
fn rotated(live: &str, name: &str) -> Option<(NaiveDateTime, u64)> {
    let rest = name.strip_prefix(live)?.strip_prefix('.')?;
    let (stamp, number) = match rest.split_once('.') {
        Some((stamp, number)) => (stamp, number.parse().ok().filter(|n: &u64| n.to_string() == number)?),
        None => (rest, 0),
    };
    // A day or an hour alone is no complete time; the missing part is that of its beginning.
    let whole = match stamp.len() {
        10 => format!("{stamp}_000000"),
        13 => format!("{stamp}0000"),
        17 => stamp.to_owned(),
        _ => return None,
    };
    let at = NaiveDateTime::parse_from_str(&whole, STAMPS[2]).ok()?;
    (at.format(STAMPS[2]).to_string() == whole).then_some((at, number))
}

/// The files that rotation made of `path`, by stamp and number.
fn rotated_files(path: &Path) -> Vec<((NaiveDateTime, u64), PathBuf)> {
    let (Some(folder), Some(live)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| Some((rotated(live, entry.file_name().to_str()?)?, entry.path())))
        .collect()
}

/// Removes all but the newest `keep` rotated files of `path`. What cannot be removed stays: it is no reason to stop.
fn remove_oldest(path: &Path, keep: usize) {
    let mut ours = rotated_files(path);
    ours.sort();
    for (_, path) in ours.iter().rev().skip(keep) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_rotation_makes_are_ours() {
        let live = "redis_error.log";
        for ours in ["2025-08-27", "2025-08-27.1", "2025-08-27_13", "2025-08-27_130501", "2025-08-27_130501.12"] {
            assert!(rotated(live, &format!("{live}.{ours}")).is_some(), "{ours}");
        }
        for theirs in [
            "1",
            "gz",
            "2025-08-27.gz",
            "2025-08-27.1.gz",
            "20250827",
            "2025-13-01",
            "2025-08-27_",
            "2025-08-27.01",
            "2025-08-27.+1",
            "bak",
            "2025-8-27",
            "2025-08-27_1",
            "2025-08-27.",
            "",
        ] {
            assert_eq!(rotated(live, &format!("{live}.{theirs}")), None, "{theirs}");
        }
        assert_eq!(rotated(live, live), None);
        assert_eq!(rotated(live, "report.2025-08-27"), None);
    }
}
