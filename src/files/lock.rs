//! A lock that two runs cannot hold at the same time.
//!
//! It is an advisory lock (flock(2)) on a file of its own, which only its owner can open: whoever can open a file can
//! lock it, even for reading. The file is never deleted, because then two runs could hold locks on two files of the
//! same name. The system releases the lock when the process ends.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, geteuid, test_kill_process};
use rustix::system::uname;

use super::open::open_file;
use super::place::{User, folder};

/// Only its owner may open the lock file.
const MODE: u32 = 0o600;

/// How long a process that just took a lock may take to write its id.
const WRITING: Duration = Duration::from_millis(100);

/// A lock that this process holds.
pub struct Lock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{0} holds it")]
    Held(Holder),
    /// The file cannot be opened. The text says whose it is.
    #[error("{0}")]
    Unusable(String),
    /// Some network file systems do not support locks, and a full disk has no room for the file.
    #[error("{0}")]
    Unsupported(io::Error),
}

/// The process that holds a lock, as far as the file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    process: Option<u32>,
    /// The host, if it is not this one.
    host: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.process, &self.host) {
            (Some(process), Some(host)) => write!(f, "process {process} on {host}"),
            (Some(process), None) => write!(f, "process {process}"),
            (None, _) => f.write_str("another process"),
        }
    }
}

impl Lock {
    /// Takes the lock, and writes this process's id into its file.
    ///
    /// # Errors
    /// Another process holds the lock, or the file cannot be used.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = open(path)?;

        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Unsupported(error)),
        }

        // On a full disk the lock is still held, only without the process's id.
        let _ =
            file.set_len(0).and_then(|()| file.write_all(format!("{} {}\n", std::process::id(), host()).as_bytes()));
        Ok(Lock { _file: file })
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    // Truncated only when it is locked.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let file = open_file(path, &mut options).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LockError::Unsupported(error),
        _ => unusable(path, &error),
    })?;

    let metadata = file.metadata().map_err(|error| unusable(path, &error))?;
    if metadata.nlink() > 1 {
        // It is written to, and may be somebody's file.
        return Err(LockError::Unusable(format!("it has {} hard links; remove it", metadata.nlink())));
    }
    if metadata.mode() & 0o777 != MODE && metadata.uid() == geteuid().as_raw() {
        // If this fails, others may hold the lock, but nothing else.
        let _ = file.set_permissions(Permissions::from_mode(MODE));
    }
    Ok(file)
}

/// Says whose the file is, or whose the folder is if there is no file.
fn unusable(path: &Path, error: &io::Error) -> LockError {
    let of = |what: &str, path: &Path| {
        fs::symlink_metadata(path).ok().map(|metadata| format!("; the {what} belongs to {}", User(metadata.uid())))
    };
    let owner = of("lock file", path).or_else(|| of("folder", folder(path)));
    LockError::Unusable(format!("{error}{}", owner.unwrap_or_default()))
}

/// Reads who holds the lock. Waits if the holder has not written its id yet.
fn holder(file: &mut File) -> Holder {
    let end = Instant::now() + WRITING;
    loop {
        let mut text = String::new();
        let _ = file.rewind().and_then(|()| file.take(256).read_to_string(&mut text));
        match parse(&text) {
            Some(holder) if holder.host.is_some() || holder.process.is_some_and(is_running) => return holder,
            _ if Instant::now() >= end => return Holder { process: None, host: None },
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Parses the text of a lock file. Whoever owns the file may have written anything.
fn parse(text: &str) -> Option<Holder> {
    let (process, other) = text.strip_suffix('\n')?.split_once(' ')?;
    let is_name = other.len() <= 64 && other.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let other = Some(other).filter(|other| is_name && *other != host());
    Some(Holder { process: Some(process.parse().ok()?), host: other.map(str::to_owned) })
}

fn is_running(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    // A process of another user cannot be signalled, but exists.
    process.is_some_and(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

/// The name of this machine or container, in which process ids are unique.
fn host() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_process_that_holds_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let held = Lock::take(&path).err().unwrap().to_string();
        assert_eq!(held, format!("process {} holds it", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(first);
        assert!(Lock::take(&path).is_ok());
    }

    #[test]
    fn the_text_of_a_lock_file_is_not_trusted() {
        let here = Some(Holder { process: Some(12), host: None });
        let there = Some(Holder { process: Some(12), host: Some("web-1".to_owned()) });
        let cases = [
            (format!("12 {}\n", host()), here.clone()),
            ("12 web-1\n".to_owned(), there),
            ("12 a\u{1b}[1m\n".to_owned(), here),
            ("12 web-1".to_owned(), None),
            ("-1 web-1\n".to_owned(), None),
            (String::new(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&text), expected, "{text:?}");
        }
    }
}
