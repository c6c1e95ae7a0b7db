//! Writes records to the log files of a run.

mod append;
mod batch;
mod header;
mod loss;
pub mod rotate;

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::{Local, MappedLocalTime, TimeZone as _};

use crate::files::create_folder;
use crate::log::record::{Destination, Format, Record, Run};
use crate::model::notify::Notify;
pub use append::Append;
use append::LogFile;
use batch::Batch;
use header::Header;
use loss::Losses;
use rotate::{Period, Rotate};

/// Where the log files are and how they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    pub folder: PathBuf,
    pub format: Format,
    pub rotate: Option<Rotate>,
}

/// One of the files.
struct OpenLog {
    destination: Destination,
    file: LogFile,
    /// The header of the run in this file. None before the run begins, and for the blocks of `dbs`, which say all about
    /// themselves except in the repeated hour when daylight saving time ends.
    header: Option<Header>,
}

/// The open log files of one run. One thread writes to them.
pub struct Log {
    format: Format,
    files: Vec<OpenLog>,
    /// The records being written. Kept to reuse its memory.
    batch: Batch,
    /// Records without a file.
    misdirected: u64,
    rotate: Option<Rotate>,
    /// The day or hour of the last write, with a rotation by time.
    period: Option<Period>,
    losses: Losses,
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
        create_folder(folder).with_context(|| {
            format!("--log-dir: cannot create folder {}; name one that can be written to", folder.display())
        })?;

        let mut open = Vec::new();
        for destination in destinations {
            let path = folder.join(destination.file_name());
            let file = LogFile::open(path.clone(), files.rotate, append.clone(), notify.clone()).map_err(|error| {
                let error = anyhow::Error::from(error);
                let is_file = !path.exists() || path.is_file();
                let remedy = if is_file { "fix its permissions" } else { "remove it" };
                error.context(format!(
                    "--log-dir: cannot open {} for appending; {remedy} or name another folder",
                    path.display()
                ))
            })?;
            open.push(OpenLog { destination: *destination, file, header: None });
        }

        let period = files.rotate.and_then(|rotate| rotate.current_period());
        let (batch, rotate) = (Batch::default(), files.rotate);
        Ok(Log { format: files.format, files: open, batch, misdirected: 0, rotate, period, losses: Losses::default() })
    }

    /// Begins a run. Its records follow its header, in each file.
    pub fn begin(&mut self, run: Run, writes: bool) {
        let local = Local.offset_from_local_datetime(&run.began.at.naive_local());
        let is_repeated = matches!(local, MappedLocalTime::Ambiguous(..));
        for log in self.files.iter_mut().filter(|log| log.destination != Destination::Health || is_repeated) {
            log.header = Some(Header::new(run.clone(), writes, self.format));
        }
    }

    /// Writes records now, those of each file in their order.
    ///
    /// Records of one file share a `write(2)`, up to [`MAX_WRITE`](batch::MAX_WRITE) bytes; with rotation by size each
    /// record has its own. A record that cannot be written is counted as lost, and the next ones are tried.
    pub fn write(&mut self, records: &[Record]) {
        let period = self.rotate.filter(|_| !records.is_empty()).and_then(|rotate| rotate.current_period());
        if period.is_some() && period != self.period {
            self.period = period;
            self.files.iter_mut().for_each(|log| log.file.begin_period());
        }

        self.write_loss(records);
        let lost_before = self.lost();
        let mut written = 0;
        for OpenLog { destination, file, header } in &mut self.files {
            self.batch.clear();
            for record in records.iter().filter(|record| record.destination() == *destination) {
                let at = header.as_mut().map(|header| {
                    let (at, is_new) = header.before(record);
                    if is_new {
                        self.batch.repeat_header(&header.lines(at));
                    }
                    at
                });
                self.batch.add(record, self.format, at);
                written += 1;
            }
            file.write(&self.batch, header.as_ref());
        }
        // A mode writes only records whose files it opened, so this stays 0.
        self.misdirected += records.len() as u64 - written;
        self.losses.note(records, self.lost() - lost_before);
    }

    /// Writes the mark of the records that were lost, once it is due. It is tried again with the next records.
    fn write_loss(&mut self, next: &[Record]) {
        let is_success_log = |log: &&mut OpenLog| log.destination == Destination::Success;
        let Some(OpenLog { file, header, .. }) = self.files.iter_mut().find(is_success_log) else { return };
        let Some(mark) = self.losses.due(next, file.is_failing()) else { return };

        self.batch.clear();
        let at = header.as_mut().map(|header| {
            let (at, is_new) = header.before(&mark);
            if is_new {
                self.batch.repeat_header(&header.lines(at));
            }
            at
        });
        self.batch.add(&mark, self.format, at);
        if file.try_write(&self.batch, header.as_ref()) {
            self.losses.told();
        }
    }

    /// How many records could not be written so far.
    pub fn lost(&self) -> u64 {
        self.files.iter().map(|log| log.file.lost()).sum::<u64>() + self.misdirected
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use chrono::DateTime;

    use super::batch::MAX_WRITE;
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
        let since_start = Some(Duration::from_secs(number));
        Record::Check { at: at(), mode, since_start, subject, number, result, details, wrote: false }
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
        assert_eq!(writes.lock().unwrap().len(), 3);
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
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap).collect();
        // Without the lock of the rotation.
        files.retain(|file| !file.file_name().to_string_lossy().starts_with('.'));
        let sizes: Vec<_> = files.iter().map(|file| file.metadata().unwrap().len()).collect();
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<u64>(), 300);
    }

    #[test]
    fn records_that_were_lost_are_marked_before_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles { folder: folder.path().to_owned(), format: Format::Classic, rotate: None };
        let full = Arc::new(Mutex::new(false));
        let is_full = full.clone();
        let append: Append = Arc::new(move |mut file, bytes| {
            if *is_full.lock().unwrap() { Err(std::io::ErrorKind::StorageFull.into()) } else { file.write(bytes) }
        });
        let destinations = [Destination::Success, Destination::Error];
        let mut log = Log::open_with(&files, &destinations, Arc::new(|_| {}), append).unwrap();
        let next = |log: &mut Log, number: u64, is_full: bool, result| {
            *full.lock().unwrap() = is_full;
            let Record::Check { at, mode, since_start, subject, number, details, wrote, .. } = check(number, Ok(()))
            else {
                unreachable!()
            };
            let at = Stamp { at: at.at + Duration::from_secs(number), ..at };
            log.write(&[Record::Check { at, mode, since_start, subject, number, result, details, wrote }]);
        };

        next(&mut log, 1, false, Ok(()));
        for number in 2..5 {
            next(&mut log, number, true, if number == 3 { refused() } else { Ok(()) });
        }
        next(&mut log, 5, false, Ok(()));
        next(&mut log, 6, false, Ok(()));

        assert_eq!(
            std::fs::read_to_string(folder.path().join("redis_success.log")).unwrap(),
            "2025-08-27 07:35:02 SUCCESS 1\n\
             === Records lost from 2025-08-27 07:35:02 to 2025-08-27 07:35:05: 3 ===\n\
             2025-08-27 07:35:06 SUCCESS 5\n2025-08-27 07:35:07 SUCCESS 6\n"
        );
        assert_eq!(log.lost(), 3);
    }

    #[test]
    fn a_record_that_belongs_to_no_open_file_is_lost() {
        let (_folder, mut log, writes) = log(None);
        log.write(&[Record::Scan { at: at(), checks: vec![], took: Default::default(), canary: false, stopped: None }]);
        assert_eq!((log.lost(), writes.lock().unwrap().len()), (1, 0));
    }
}
