//! The metrics file: only one run at a time writes it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::files::lock::{Lock, LockError};
use crate::files::replace::Replaceable;
use crate::files::{beside, open_read};
use crate::model::notify::Notify;
use crate::model::text::Printable;

/// The minimum time between two writes: checks can be far more frequent than scrapes.
const SPACING: Duration = Duration::from_millis(250);

/// Permissions of a new file, whatever the umask is: node_exporter runs as another user, and the file has no secrets.
const MODE: u32 = 0o644;

/// How much of the file of the previous run is read: the series of far more subjects than a cluster has.
const MAX_READ: u64 = 32 << 20;

/// The file that metrics are written to.
pub struct MetricsFile {
    /// As the user gave it.
    path: PathBuf,
    file: Replaceable,
    _lock: Option<Lock>,
    notify: Notify,
    /// When the file was last replaced.
    written: Option<Instant>,
    /// The last write failed, and the failure was reported.
    is_failing: bool,
}

impl MetricsFile {
    /// Locks the file for this run. `notify` is called if the file cannot be locked, or not be written later.
    ///
    /// # Errors
    /// The file cannot be replaced, or another run is writing it.
    pub fn open(path: &Path, notify: Notify) -> anyhow::Result<Self> {
        let shown = Printable::path(path);
        let unwritable =
            || format!("--metrics-file: cannot write {shown}; name a file in a folder that can be written to");
        let file = Replaceable::of(path, Some(MODE)).with_context(unwritable)?;
        let Some(target) = file.path() else {
            bail!(
                "--metrics-file: cannot write {shown}: it is not a regular file, and cannot be replaced; name another one"
            )
        };
        file.probe().with_context(unwritable)?;

        let lock = match Lock::take(&beside(target, ".lock")) {
            Ok(lock) => Some(lock),
            Err(LockError::Held(holder)) => {
                bail!("--metrics-file: another run ({holder}) is writing {shown}; give each run a file of its own")
            }
            Err(LockError::Unusable(reason)) => {
                let lock = beside(target, ".lock");
                bail!(
                    "--metrics-file: cannot lock {shown} with {}: {reason}; name another file",
                    Printable::path(&lock)
                )
            }
            Err(LockError::Unsupported(error)) => {
                notify(&format!("{shown} cannot be locked: {error}"));
                None
            }
        };
        Ok(MetricsFile { path: path.to_owned(), file, _lock: lock, notify, written: None, is_failing: false })
    }

    /// The lines that the previous run left. None if the file is missing or cannot be read.
    pub fn lines(&self) -> impl Iterator<Item = String> + use<> {
        let lines = |file: File| BufReader::new(file.take(MAX_READ)).lines().map_while(Result::ok);
        self.file.path().and_then(|path| open_read(path).ok()).into_iter().flat_map(lines)
    }

    /// Whether the file was replaced just now.
    pub fn is_fresh(&self) -> bool {
        self.written.is_some_and(|written| written.elapsed() < SPACING)
    }

    /// Replaces the content. A failure is reported once, until a write succeeds again.
    pub fn replace(&mut self, text: &str) {
        let written = self.file.write(text.as_bytes());
        if let Err(error) = &written
            && !self.is_failing
        {
            self.notice(&cannot_write(error));
        }
        self.is_failing = written.is_err();
        self.written = Some(Instant::now());
    }

    /// Tells the user something about the file.
    pub fn notice(&self, text: &str) {
        (self.notify)(&format!("--metrics-file: {}: {text}", Printable::path(&self.path)));
    }
}

fn cannot_write(error: &io::Error) -> String {
    format!("cannot write it: {error}")
}
