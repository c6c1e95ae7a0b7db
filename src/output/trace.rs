//! The diagnostic trace of each phase of each check: on standard error with `-v`, and in one file per UTC day with
//! `--trace-dir`.
//!
//! A lost trace line does not count as a lost record.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{NaiveDate, Utc};
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::files::open_append;
use crate::model::clock::Clock;
use crate::model::text::Printable;
use crate::output::console::Console;

/// Flushes the trace file when it is dropped.
pub struct Trace {
    _guard: Option<WorkerGuard>,
}

impl Trace {
    /// Shows this crate's trace events on standard error, or writes them to files in `folder`, or both, until the
    /// process ends.
    ///
    /// # Errors
    /// The folder or a file in it cannot be written, or there is no thread to write it.
    pub fn start(verbose: bool, folder: Option<&Path>, clock: Clock, console: &Console) -> anyhow::Result<Self> {
        if !verbose && folder.is_none() {
            return Ok(Trace { _guard: None });
        }

        let time = Time(Clock { millis: true, ..clock });
        let console = console.clone();
        let shown = verbose.then(|| layer(time, move || Lines(console.clone())));
        let (written, guard) = match folder {
            Some(folder) => {
                let files = DailyFile::open(folder).with_context(|| {
                    format!("--trace-dir: cannot write in {}; name another folder", Printable::path(folder))
                })?;
                check_thread()?;
                let (writer, guard) = tracing_appender::non_blocking(files);
                (Some(layer(time, move || Escaped(writer.clone()))), Some(guard))
            }
            None => (None, None),
        };
        // A second run in the same process keeps the subscriber of the first.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(shown).with(written));
        Ok(Trace { _guard: guard })
    }
}

/// Whether the system allows one more thread. The trace writer panics if it does not.
fn check_thread() -> anyhow::Result<()> {
    let thread = std::thread::Builder::new().spawn(|| {});
    let thread = thread.context("--trace-dir: cannot start a thread; raise the limit of processes")?;
    // Its closure cannot panic.
    let _ = thread.join();
    Ok(())
}

/// One file per UTC day, `redis-health.2025-08-27.trace`.
struct DailyFile {
    folder: PathBuf,
    open: Option<(NaiveDate, File)>,
}

impl DailyFile {
    /// Creates the folder if it is missing, and opens the file of today.
    fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files = DailyFile { folder: folder.to_owned(), open: None };
        files.of(Utc::now().date_naive())?;
        Ok(files)
    }

    fn of(&mut self, today: NaiveDate) -> io::Result<&mut File> {
        let open = match self.open.take() {
            Some((day, file)) if day == today => (day, file),
            _ => (today, open_append(&self.folder.join(format!("redis-health.{today}.trace")))?.file),
        };
        Ok(&mut self.open.insert(open).1)
    }
}

impl io::Write for DailyFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.of(Utc::now().date_naive())?.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line per event: time, message, and the check that it belongs to.
fn layer<S, W>(time: Time, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .with_timer(time)
        .compact()
        .with_writer(writer)
        .with_filter(filter_fn(|metadata| {
            metadata.target().starts_with("redis_health") && *metadata.level() <= Level::DEBUG
        }))
}

/// Timestamps as in the logs, with milliseconds.
#[derive(Clone, Copy)]
struct Time(Clock);

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", self.0.now())
    }
}

/// An event without its line end, on one line.
fn escaped(event: &[u8]) -> Printable {
    Printable::line(String::from_utf8_lossy(event).trim_end_matches('\n'))
}

/// Escapes each event before it is written.
struct Escaped<W>(W);

impl<W: io::Write> io::Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(format!("{}\n", escaped(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes each event as one line through the console, so that a reader that pauses does not delay checks.
struct Lines(Console);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.notice(escaped(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
