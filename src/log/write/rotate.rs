//! Rotation: when a log file is renamed, to which name, and which old files are removed.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, FixedOffset, Local, NaiveDate, NaiveDateTime, TimeDelta, Timelike as _, Utc};

use crate::files::beside;
use crate::files::lock::{Lock, LockError};

/// When a log file is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    Daily,
    Hourly,
    /// Before it grows beyond this many bytes.
    Size(u64),
}

/// The rotation settings of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    pub when: Rotation,
    /// How much to keep: rotated files by size; days or hours of rotated files otherwise, because a log with few records is
    /// seldom rotated and must not outlive the others. None keeps all.
    pub keep: Option<usize>,
    /// Days and hours are in UTC instead of local time.
    pub utc: bool,
}

/// Identifies a file while it exists or is open: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    pub fn of(metadata: &Metadata) -> Self {
        FileId(metadata.dev(), metadata.ino())
    }
}

/// A day, or an hour of it.
pub type Period = (NaiveDate, Option<u32>);

/// The formats of the timestamps in the names of rotated files.
const STAMPS: [&str; 3] = ["%Y-%m-%d", "%Y-%m-%d_%H", "%Y-%m-%d_%H%M%S"];

impl Rotate {
    /// Whether the file must be rotated before `bytes` more are appended. An empty file is never rotated.
    pub fn is_due(&self, metadata: &Metadata, bytes: usize) -> bool {
        metadata.len() > 0
            && match self.when {
                Rotation::Size(limit) => metadata.len() + bytes as u64 > limit,
                // The period is that of the last write, even if another process made it.
                Rotation::Daily | Rotation::Hourly => self.period(self.modified(metadata)) != self.period(self.now()),
            }
    }

    /// The current day or hour, for a rotation by time.
    pub fn current_period(&self) -> Option<Period> {
        (!matches!(self.when, Rotation::Size(_))).then(|| self.period(self.now()))
    }

    /// Renames the file at `path`, and removes rotated files that are not kept.
    ///
    /// Returns whether the path may lead to another file now. If another process is renaming the file at this moment,
    /// returns false: this record still goes to the old file, and the next one to the new file.
    ///
    /// # Errors
    /// The file cannot be locked or renamed.
    pub fn rotate_file(&self, path: &Path, file: &File, metadata: &Metadata) -> io::Result<bool> {
        let _lock = match Lock::take(&beside(path, ".rotate.lock")) {
            Ok(lock) => Some(lock),
            Err(LockError::Held(_)) => return Ok(false),
            Err(LockError::Unsupported(error)) => return Err(error),
            // Another user's, or none can be created. The log itself can be locked by everybody who can read it, so it
            // is only second best.
            Err(LockError::Unusable(_)) => match file.try_lock() {
                Ok(()) => None,
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(error),
            },
        };

        // The previous holder of the lock may have renamed the file already.
        if fs::metadata(path).is_ok_and(|now| FileId::of(&now) == FileId::of(metadata)) {
            let at = match self.when {
                Rotation::Size(_) => self.now(),
                Rotation::Daily | Rotation::Hourly => self.modified(metadata),
            };
            fs::rename(path, self.free_name(path, at))?;
            self.remove_old(path);
        }
        Ok(true)
    }

    /// Removes files rotated from `path` that are not kept. Errors are ignored: they must not stop the run.
    pub fn remove_old(&self, path: &Path) {
        let Some(keep) = self.keep else { return };
        let mut files = rotated_files(path);
        files.sort();

        let end = match self.when {
            Rotation::Size(_) => files.len().saturating_sub(keep),
            Rotation::Daily | Rotation::Hourly => {
                let oldest = self.oldest_kept(keep);
                files.partition_point(|((at, _), _)| oldest.is_some_and(|oldest| *at < oldest))
            }
        };
        for (_, path) in &files[..end] {
            let _ = fs::remove_file(path);
        }
    }

    /// When the oldest period that is kept begins: the current one, less `keep` days or hours.
    fn oldest_kept(&self, keep: usize) -> Option<NaiveDateTime> {
        let (date, hour) = self.period(self.now());
        let keep = i64::try_from(keep).ok()?;
        let age = if hour.is_some() { TimeDelta::try_hours(keep) } else { TimeDelta::try_days(keep) };
        date.and_hms_opt(hour.unwrap_or(0), 0, 0)?.checked_sub_signed(age?)
    }

    /// The day, or the day and hour, that a time belongs to.
    fn period(&self, at: DateTime<FixedOffset>) -> Period {
        let local = at.naive_local();
        (local.date(), (self.when != Rotation::Daily).then(|| local.hour()))
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

    /// An unused name: `redis_success.log.2025-08-27`, then `….2025-08-27.1` and so on.
    ///
    /// Reusing a free number would make the newest file look like the oldest, so the new number is higher than all
    /// existing ones.
    fn free_name(&self, path: &Path, at: DateTime<FixedOffset>) -> PathBuf {
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

/// The timestamp and number in the name of a file rotated from `live`. None for other files.
fn rotated(live: &str, name: &str) -> Option<(NaiveDateTime, u64)> {
    let rest = name.strip_prefix(live)?.strip_prefix('.')?;
    let (stamp, number) = match rest.split_once('.') {
        Some((stamp, number)) => (stamp, number.parse().ok().filter(|n: &u64| n.to_string() == number)?),
        None => (rest, 0),
    };

    // A day or an hour is completed to the time at which it begins.
    let whole = match stamp.len() {
        10 => format!("{stamp}_000000"),
        13 => format!("{stamp}0000"),
        17 => stamp.to_owned(),
        _ => return None,
    };
    let at = NaiveDateTime::parse_from_str(&whole, STAMPS[2]).ok()?;
    (at.format(STAMPS[2]).to_string() == whole).then_some((at, number))
}

/// The files rotated from `path`, with their timestamps and numbers.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_rotation_makes_are_recognised() {
        let live = "redis_error.log";
        for name in ["2025-08-27", "2025-08-27.1", "2025-08-27_13", "2025-08-27_130501", "2025-08-27_130501.12"] {
            assert!(rotated(live, &format!("{live}.{name}")).is_some(), "{name}");
        }
        for name in [
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
            assert_eq!(rotated(live, &format!("{live}.{name}")), None, "{name}");
        }
        assert_eq!(rotated(live, live), None);
        assert_eq!(rotated(live, "report.2025-08-27"), None);
    }
}
