//! One log file: opened for appending, checked before each write whether its path still leads to it, and rotated.

use std::borrow::Cow;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, MAX_WRITE, Part};
use super::header::Header;
use super::rotate::{FileId, Rotate, Rotation};
use crate::files::{Opened, open_append, open_read};
use crate::model::notify::Notify;

/// Writes bytes to a file. Like `write(2)`, it may write only part of them. Tests simulate a full or slow disk with it.
pub type Append = Arc<dyn Fn(&File, &[u8]) -> io::Result<usize> + Send + Sync>;

/// One `write(2)`. The file was opened with `O_APPEND`, so no other process's record comes between its bytes.
pub fn one_write() -> Append {
    Arc::new(|mut file: &File, bytes: &[u8]| file.write(bytes))
}

/// How long another process's write may take. Longer ones only cause an empty line.
const OTHER_WRITE: Duration = Duration::from_millis(100);

/// How long after a rotation that failed another one is tried.
const RETRY: Duration = Duration::from_secs(10);

/// A log file that is reopened when its path no longer leads to it.
pub struct LogFile {
    path: PathBuf,
    rotate: Option<Rotate>,
    current: Option<OpenFile>,
    /// The file ends within a record, so the next one must begin a new line. None before the first write to it.
    torn: Option<bool>,
    /// The current file holds the header of this run.
    has_header: bool,
    /// The file could not be rotated, which was reported, and when this was tried last.
    rotation_failed: Option<Instant>,
    /// A failure was reported, and nothing has been written since.
    failing: bool,
    /// Records that could not be written.
    lost: u64,
    append: Append,
    notify: Notify,
}

struct OpenFile {
    file: File,
    /// Unique while the file is open.
    id: FileId,
    /// Where it is, after symbolic links. None for a stream such as `/dev/stdout`.
    path: Option<PathBuf>,
}

impl LogFile {
    /// Opens the file, and creates it if it is missing.
    ///
    /// # Errors
    /// The file cannot be opened for appending. A full disk is not an error here, because space may become free later.
    pub fn open(path: PathBuf, rotate: Option<Rotate>, append: Append, notify: Notify) -> io::Result<Self> {
        let mut log = LogFile {
            path,
            rotate,
            current: None,
            torn: None,
            has_header: false,
            rotation_failed: None,
            failing: false,
            lost: 0,
            append,
            notify,
        };
        match log.reopen() {
            Err(error) if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Err(error)
            }
            _ => {
                log.begin_period();
                Ok(log)
            }
        }
    }

    /// Rotates the file if its last record is of an earlier day or hour, and removes rotated files that are too old. So
    /// a log that gets few records does not outlive the others.
    pub fn begin_period(&mut self) {
        let Some(rotate) = self.rotate.filter(|rotate| rotate.current_period().is_some()) else { return };
        // Anything that fails here is reported when the next record is written.
        self.current = self.prepare(0).ok();
        if let Some(path) = self.current.as_ref().and_then(|open| open.path.as_deref()) {
            rotate.remove_old(path);
        }
    }

    /// How many records could not be written so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// Writes records that are not counted as lost, because they are tried again. Returns whether all were written.
    pub fn try_write(&mut self, batch: &Batch, header: Option<&Header>) -> bool {
        let before = self.lost;
        self.write(batch, header);
        std::mem::replace(&mut self.lost, before) == before
    }

    /// Writes records, as many as possible with one `write(2)`. Never fails: checks continue even if records are lost,
    /// and lost records are counted.
    pub fn write(&mut self, batch: &Batch, header: Option<&Header>) {
        let by_size = self.rotate.is_some_and(|rotate| matches!(rotate.when, Rotation::Size(_)));
        let limit = if by_size { 0 } else { MAX_WRITE };

        for part in batch.parts(limit) {
            match self.write_once(&part, header) {
                Ok(()) if self.failing => {
                    self.failing = false;
                    self.notice("records can be written again");
                }
                Ok(()) => {}
                Err(Incomplete { whole, error }) => {
                    self.lost += (part.ends.len() - whole) as u64;
                    if !self.failing {
                        self.failing = true;
                        self.notice(&format!("cannot write a record: {error}; checks continue"));
                    }
                }
            }
        }
    }

    /// Writes a part of a batch, after the header of the run if the file does not hold it yet.
    fn write_once(&mut self, Part { at, bytes, ends }: &Part<'_>, header: Option<&Header>) -> Result<(), Incomplete> {
        let lines = || header.zip(*at).map_or_else(String::new, |(header, at)| header.lines(at));
        let mut head = if self.has_header { String::new() } else { lines() };
        let file = self.prepare(head.len() + bytes.len()).map_err(|error| Incomplete { whole: 0, error })?;
        if !self.has_header && head.is_empty() {
            // The file is a new one.
            head = lines();
        }

        let torn = self.torn.unwrap_or_else(|| self.has_torn_line(&file).unwrap_or(false));
        let new_line = if torn { "\n" } else { "" };
        let before = new_line.len() + head.len();
        let text = match before {
            0 => Cow::Borrowed(*bytes),
            _ => Cow::Owned([new_line.as_bytes(), head.as_bytes(), bytes].concat()),
        };
        let (written, result) = write_all(&self.append, &file.file, &text);
        self.current = Some(file);

        let whole = ends.partition_point(|end| before + end <= written);
        let end_of_whole = if whole == 0 { new_line.len() } else { before + ends[whole - 1] };
        self.torn = Some(written != end_of_whole);
        self.has_header |= whole > 0;
        result.map_err(|error| Incomplete { whole, error })
    }

    /// Takes the open file, after rotating or reopening it if necessary: its path must lead to it, and it must be of
    /// the current period and have room for `bytes` more.
    fn prepare(&mut self, bytes: usize) -> io::Result<OpenFile> {
        let id = self.current.as_ref().map(|open| open.id);
        let metadata = fs::metadata(&self.path).ok().filter(|metadata| id == Some(FileId::of(metadata)));
        if metadata.is_none_or(|metadata| self.rotate_file(&metadata, bytes)) {
            self.reopen()?;
        }
        self.current.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Renames the file if rotation is due. Returns whether the path may lead to another file now.
    ///
    /// If that fails, for example in a folder that is read-only, records are appended to the file as it is.
    fn rotate_file(&mut self, metadata: &Metadata, bytes: usize) -> bool {
        let failed_just_now = self.rotation_failed.is_some_and(|at| at.elapsed() < RETRY);
        let Some(rotate) = self.rotate.filter(|rotate| !failed_just_now && rotate.is_due(metadata, bytes)) else {
            return false;
        };
        let Some(OpenFile { file, path, .. }) = &self.current else { return true };
        // A stream such as `/dev/stdout` cannot be renamed.
        let Some(path) = path else { return false };

        match rotate.rotate_file(path, file, metadata) {
            Ok(is_renamed) => {
                self.rotation_failed = None;
                is_renamed
            }
            // Another process renamed it at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                if self.rotation_failed.replace(Instant::now()).is_none() {
                    self.notice(&format!("cannot rotate this log: {error}; records are appended to it"));
                }
                false
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        // Closed first, because the space of a deleted file is freed only then.
        self.current = None;
        self.torn = None;
        self.has_header = false;

        let Opened { file, path } = self.open_or_create()?;
        let id = FileId::of(&file.metadata()?);
        self.current = Some(OpenFile { file, id, path });
        Ok(())
    }

    /// Whether the file's last line has no end, and no other process is writing it: a run that was killed, or a disk
    /// that was full, may have left half a record. An error if the file cannot be read.
    fn has_torn_line(&self, OpenFile { file, id, path }: &OpenFile) -> io::Result<bool> {
        let metadata = file.metadata()?;
        let last = metadata.len().checked_sub(1).filter(|_| metadata.is_file());
        let Some((path, last)) = path.as_deref().zip(last) else { return Ok(false) };

        let read = open_read(path)?;
        if FileId::of(&read.metadata()?) != *id {
            return Ok(false);
        }
        let mut byte = [0];
        read.read_exact_at(&mut byte, last)?;
        if byte == *b"\n" {
            return Ok(false);
        }

        // A write that crosses the border of a page is visible in two steps.
        std::thread::sleep(OTHER_WRITE);
        Ok(file.metadata()?.len() == metadata.len())
    }

    /// Opens the file for appending, and recreates its folder if it was deleted.
    fn open_or_create(&self) -> io::Result<Opened> {
        let open = || open_append(&self.path);
        match (open(), self.path.parent()) {
            (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                open()
            }
            (opened, _) => opened,
        }
    }

    fn notice(&self, text: &str) {
        (self.notify)(&format!("{}: {text}", self.path.display()));
    }
}

/// A write that failed before all bytes were written.
struct Incomplete {
    /// How many records were written completely.
    whole: usize,
    error: io::Error,
}

/// Writes all bytes, with one system call unless it writes only part of them: on a full disk the first call writes what
/// still fits, and the next one returns the error. Returns how many bytes were written, even if it fails.
fn write_all(append: &Append, file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match append(file, &bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// What one `write(2)` does.
    #[derive(Clone, Copy, Debug)]
    enum Disk {
        Takes(usize),
        Interrupted,
        Full,
    }
    use Disk::{Full, Interrupted, Takes};

    struct Fixture {
        folder: tempfile::TempDir,
        file: LogFile,
        disk: Arc<Mutex<VecDeque<Disk>>>,
        notices: Arc<Mutex<Vec<String>>>,
    }

    impl Fixture {
        /// A file on a disk whose behaviour is set by `disk`; without an entry there, writes succeed.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disk = Arc::<Mutex<VecDeque<Disk>>>::default();
            let script = disk.clone();
            let append: Append = Arc::new(move |mut file, bytes| match script.lock().unwrap().pop_front() {
                Some(Takes(some)) => file.write(&bytes[..some.min(bytes.len())]),
                Some(Interrupted) => Err(io::ErrorKind::Interrupted.into()),
                Some(Full) => Err(io::Error::from(io::ErrorKind::StorageFull)),
                None => file.write(bytes),
            });
            let notices = Arc::<Mutex<Vec<String>>>::default();
            let recorded = notices.clone();
            let notify: Notify = Arc::new(move |text| recorded.lock().unwrap().push(text.to_owned()));
            let file = LogFile::open(folder.path().join("log"), None, append, notify).unwrap();
            Fixture { folder, file, disk, notices }
        }

        /// Writes records while the disk behaves as in `disk`.
        fn write(&mut self, records: &[&str], disk: &[Disk]) {
            self.disk.lock().unwrap().extend(disk);
            self.file.write(&Batch::of(records), None);
            assert!(self.disk.lock().unwrap().is_empty());
        }

        fn text(&self) -> String {
            fs::read_to_string(self.folder.path().join("log")).unwrap()
        }

        /// The notices so far, without the path.
        fn notices(&self) -> Vec<String> {
            let path = format!("{}: ", self.folder.path().join("log").display());
            self.notices.lock().unwrap().iter().map(|notice| notice.strip_prefix(&path).unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn a_partial_write_is_continued() {
        let mut fixture = Fixture::new();
        fixture.write(&["one\n", "two\n"], &[Interrupted, Takes(2), Interrupted, Takes(3)]);
        assert_eq!((fixture.text().as_str(), fixture.file.lost()), ("one\ntwo\n", 0));
        assert!(fixture.notices().is_empty());
    }

    #[test]
    fn only_incomplete_records_are_lost() {
        for (taken, whole) in [(0, 0), (1, 0), (3, 0), (4, 1), (5, 1), (7, 1), (8, 2), (9, 2), (13, 2)] {
            let mut fixture = Fixture::new();
            let disk = [Takes(taken), Full];
            fixture.write(&["one\n", "two\n", "three\n"], if taken == 0 { &disk[1..] } else { &disk });
            assert_eq!(fixture.file.lost(), 3 - whole, "{taken}");
            // The next record begins a new line.
            fixture.write(&["four\n"], &[]);
            let text = fixture.text();
            let new_line = if [0, 4, 8].contains(&taken) { "" } else { "\n" };
            assert_eq!(text, format!("{}{new_line}four\n", &"one\ntwo\nthree\n"[..taken]), "{taken}");
            let reason = io::Error::from(io::ErrorKind::StorageFull);
            assert_eq!(
                fixture.notices(),
                [
                    format!("cannot write a record: {reason}; checks continue"),
                    "records can be written again".to_owned()
                ]
            );
        }
    }

    #[test]
    fn a_torn_line_is_ended_once() {
        let mut fixture = Fixture::new();
        fixture.write(&["one\n"], &[Takes(2), Full]);
        fixture.write(&["two\n"], &[Full]);
        // Of the third record, only the line end before it is written.
        fixture.write(&["three\n"], &[Takes(1), Full]);
        fixture.write(&["four\n", "five\n"], &[Takes(6), Full]);
        fixture.write(&["six\n"], &[]);
        assert_eq!(fixture.text(), "on\nfour\nf\nsix\n");
        assert_eq!(fixture.file.lost(), 4);
        assert_eq!(fixture.notices().len(), 2);
    }

    #[test]
    fn a_block_that_is_cut_at_the_end_of_a_line_is_lost_too() {
        let mut fixture = Fixture::new();
        fixture.write(&["block\nDB 0\n\n"], &[Takes(6), Full]);
        fixture.write(&["block\n\n"], &[]);
        assert_eq!((fixture.text().as_str(), fixture.file.lost()), ("block\n\nblock\n\n", 1));
    }

    #[test]
    fn a_file_that_accepts_nothing_is_not_an_endless_loop() {
        let mut fixture = Fixture::new();
        fixture.write(&["one\n"], &[Takes(0)]);
        assert_eq!((fixture.text().as_str(), fixture.file.lost()), ("", 1));
    }

    #[test]
    fn a_line_that_an_earlier_run_did_not_end_is_ended() {
        let mut fixture = Fixture::new();
        let path = fixture.folder.path().join("log");
        fs::write(&path, "one\ntw").unwrap();
        fixture.file = LogFile::open(path, None, one_write(), Arc::new(|_| {})).unwrap();
        fixture.write(&["three\n"], &[]);
        assert_eq!(fixture.text(), "one\ntw\nthree\n");
    }

    #[test]
    fn records_follow_the_path() {
        let mut fixture = Fixture::new();
        let (log, aside) = (fixture.folder.path().join("log"), fixture.folder.path().join("aside"));
        fixture.write(&["one\n"], &[Takes(2), Full]);
        fs::rename(&log, &aside).unwrap();
        // The new file has no torn line.
        fixture.write(&["two\n"], &[]);
        assert_eq!((fs::read_to_string(&aside).unwrap().as_str(), fixture.text().as_str()), ("on", "two\n"));
        fs::remove_dir_all(fixture.folder.path()).unwrap();
        fixture.write(&["three\n"], &[]);
        assert_eq!(fixture.text(), "three\n");
    }
}
