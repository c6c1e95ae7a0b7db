//! Writes records to the log files of a run.

mod append;
pub mod rotate;

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::log::format;
use crate::log::record::{Destination, Format, Record};
use crate::model::notify::Notify;
pub use append::Append;
use append::LogFile;
use rotate::Rotate;

/// Where the log files are and how they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    pub folder: PathBuf,
    pub format: Format,
    pub rotate: Option<Rotate>,
}

/// The open log files of one run. One thread writes to them.
pub struct Log {
    format: Format,
    files: Vec<(Destination, LogFile)>,
    /// The records being written. Kept to reuse its memory.
    batch: Batch,
    /// Records without a file.
    misdirected: u64,
}

impl Log {
    /// Creates the folder if it is missing, and opens the files in `destinations`.
    ///
    /// # Errors
    /// The folder cannot be created, or a file cannot be opened for appending.
    pub fn open(files: &LogFiles, destinations: &[Destination], notify: Notify) -> anyhow::Result<Self> {
        Log::open_with(files, destinations, notify, append::one_write())
    }

    /// Like [`Log::open`], with the write system call replaced by `append`. Tests simulate a slow or full disk with it.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(
        files: &LogFiles,
        destinations: &[Destination],
        notify: Notify,
        append: Append,
    ) -> anyhow::Result<Self> {
        let folder = &files.folder;
        std::fs::create_dir_all(folder).with_context(|| {
            format!("--log-dir: cannot create folder {}; name one that can be written to", folder.display())
        })?;

        let mut open = Vec::new();
        for destination in destinations {
            let path = folder.join(destination.file_name());
            let file =
                LogFile::open(path.clone(), files.rotate, append.clone(), notify.clone()).with_context(|| {
                    format!(
                        "--log-dir: cannot open {} for appending; fix its permissions or name another folder",
                        path.display()
                    )
                })?;
            open.push((*destination, file));
        }

        Ok(Log { format: files.format, files: open, batch: Batch::default(), misdirected: 0 })
    }

    /// Writes records at once, in order.
    ///
    /// Consecutive records for the same file share one `write(2)`, up to [`MAX_WRITE`] bytes. With rotation by size,
    /// each record is written separately. A record that cannot be written is counted as lost, and the next ones are
    /// still tried.
    pub fn write(&mut self, records: &[Record]) {
        for records in records.chunk_by(|a, b| a.destination() == b.destination()) {
            self.batch.clear();
            for record in records {
                self.batch.add(record, self.format);
            }

            // A mode writes only records whose files it opened, so this does not happen.
            let destination = records.first().map(Record::destination);
            match self.files.iter_mut().find(|(of, _)| Some(*of) == destination) {
                Some((_, file)) => file.write(&self.batch),
                None => self.misdirected += records.len() as u64,
            }
        }
    }

    /// How many records could not be written so far.
    pub fn lost(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.lost()).sum::<u64>() + self.misdirected
    }
}

/// The maximum number of bytes in one write, unless a single record is longer.
const MAX_WRITE: usize = 64 << 10;

/// Formatted records of one file, each with its line end.
#[derive(Default)]
struct Batch {
    text: String,
    /// Where each record ends in `text`.
    ends: Vec<usize>,
}

impl Batch {
    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_WRITE);
        self.ends.clear();
    }

    fn add(&mut self, record: &Record, format: Format) {
        // Writing to memory does not fail.
        let _ = format::write(record, format, &mut self.text);
        self.text.push('\n');
        self.ends.push(self.text.len());
    }

    /// Splits the batch into writes, each with the ends of its records relative to its start: as many whole records as
    /// fit into `limit` bytes, but at least one.
    fn parts(&self, limit: usize) -> impl Iterator<Item = (&[u8], Vec<usize>)> {
        let mut from = 0;
        let mut rest = &self.ends[..];
        std::iter::from_fn(move || {
            let fitting = rest.partition_point(|end| end - from <= limit).max(1);
            let (ends, after) = rest.split_at_checked(fitting)?;
            rest = after;

            let bytes: Range<usize> = from..*ends.last()?;
            let ends = ends.iter().map(|end| end - bytes.start).collect();
            from = bytes.end;
            Some((&self.text.as_bytes()[bytes], ends))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};

    use chrono::DateTime;

    use super::*;
    use crate::log::record::{Mark, Mode};
    use crate::model::clock::Stamp;
    use crate::model::failure::{Failure, Kind};
    use crate::model::outcome::Details;
    use crate::model::subject::Subject;
    use rotate::Rotation;

    fn at() -> Stamp {
        Stamp { at: DateTime::parse_from_rfc3339("2025-08-27T07:35:01Z").unwrap(), millis: false }
    }

    fn check(number: u64, result: Result<(), Failure>) -> Record {
        let (mode, subject, details) = (Mode::Cycles, Subject::default(), Details::default());
        Record::Check { at: at(), mode, subject, number, result, details }
    }

    fn refused() -> Result<(), Failure> {
        Err(Failure::new(Kind::Refused, "Connection refused"))
    }

    /// A log in a new folder, and the lengths of its writes.
    fn log(rotate: Option<Rotate>) -> (tempfile::TempDir, Log, Arc<Mutex<Vec<usize>>>) {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles { folder: folder.path().to_owned(), format: Format::Classic, rotate };
        let writes = Arc::<Mutex<Vec<usize>>>::default();
        let noted = writes.clone();
        let append: Append = Arc::new(move |mut file, bytes| {
            noted.lock().unwrap().push(bytes.len());
            file.write(bytes)
        });
        let destinations = [Destination::Success, Destination::Error];
        let log = Log::open_with(&files, &destinations, Arc::new(|text| panic!("{text}")), append).unwrap();
        (folder, log, writes)
    }

    #[test]
    fn the_recorder_may_be_a_thread() {
        fn is_send<T: Send>() {}
        is_send::<Log>();
    }

    #[test]
    fn neighbours_of_one_file_share_a_write() {
        let (folder, mut log, writes) = log(None);
        log.write(&[]);
        log.write(&[check(1, Ok(())), check(2, Ok(())), check(3, refused()), check(4, refused()), check(5, Ok(()))]);
        log.write(&[Record::Mark(Mark::AllFinished { at: at() })]);
        assert_eq!(writes.lock().unwrap().len(), 4);
        assert_eq!(
            std::fs::read_to_string(folder.path().join("redis_success.log")).unwrap(),
            "2025-08-27 07:35:01 SUCCESS 1\n2025-08-27 07:35:01 SUCCESS 2\n2025-08-27 07:35:01 SUCCESS 5\n\
             === All cycles finished at 2025-08-27 07:35:01 ===\n"
        );
        let errors = std::fs::read_to_string(folder.path().join("redis_error.log")).unwrap();
        assert_eq!(errors, "2025-08-27 07:35:01 FAILURE: refused: Connection refused\n".repeat(2));
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn one_write_is_bounded_but_never_splits_a_record() {
        let (folder, mut log, writes) = log(None);
        let records: Vec<_> = (0..10_000).map(|number| check(number, Ok(()))).collect();
        log.write(&records);
        let writes = writes.lock().unwrap();
        let text = std::fs::read_to_string(folder.path().join("redis_success.log")).unwrap();
        assert!(writes.iter().all(|bytes| *bytes <= MAX_WRITE), "{writes:?}");
        assert_eq!(writes.len(), text.len().div_ceil(MAX_WRITE));
        assert_eq!(text.lines().count(), 10_000);
    }

    #[test]
    fn a_size_limit_holds_for_each_record() {
        let rotate = Rotate { when: Rotation::Size(100), keep: None, utc: true };
        let (folder, mut log, writes) = log(Some(rotate));
        log.write(&(0..10).map(|number| check(number, Ok(()))).collect::<Vec<_>>());
        assert_eq!(*writes.lock().unwrap(), [30; 10]);
        let sizes: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<u64>(), 300);
    }

    #[test]
    fn a_record_that_belongs_to_no_open_file_is_lost() {
        let (_folder, mut log, writes) = log(None);
        log.write(&[Record::Scan { at: at(), checks: vec![], took: Default::default(), canary: false, stopped: None }]);
        assert_eq!((log.lost(), writes.lock().unwrap().len()), (1, 0));
    }

    #[test]
    fn parts_hold_whole_records() {
        let batch = Batch { text: "a\nbb\ncccccc\nd\n".into(), ends: vec![2, 5, 12, 14] };
        let parts = |limit| -> Vec<_> { batch.parts(limit).map(|(bytes, ends)| (bytes.len(), ends)).collect() };
        assert_eq!(parts(5), [(5, vec![2, 5]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(0), [(2, vec![2]), (3, vec![3]), (7, vec![7]), (2, vec![2])]);
        assert_eq!(parts(100), [(14, vec![2, 5, 12, 14])]);
        assert_eq!(Batch::default().parts(5).count(), 0);
    }
}
