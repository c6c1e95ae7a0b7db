//! From a record to its file: a tracing event, one layer for each file, one format for all.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

pub mod rotate;

use crate::log::record::{Destination, Format, Record};
use rotate::{LogFile, Losses, Notify, Rotate};

/// Where the log files are and how they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    pub folder: PathBuf,
    pub format: Format,
    pub rotate: Option<Rotate>,
}

/// The open logs of one run.
///
/// It has a dispatcher of its own rather than the process's, so that neither `RUST_LOG` nor an event of another crate
/// can reach a record file.
pub struct Log {
    format: Format,
    dispatch: Dispatch,
    losses: Arc<Losses>,
}

/// An event's target names the file: tracing wants it to be constant.
const HEALTH: &str = "redis_health::record::health";
const SUCCESS: &str = "redis_health::record::success";
const ERROR: &str = "redis_health::record::error";

impl Log {
    /// Makes the folder if missing and opens the files that `destinations` names.
    ///
    /// # Errors
    /// The folder cannot be made, or a file cannot be opened for appending.
    pub fn open(files: &LogFiles, destinations: &[Destination], notify: Notify) -> anyhow::Result<Self> {
        let folder = &files.folder;
        std::fs::create_dir_all(folder).with_context(|| {
            format!("--log-dir: cannot make the folder {}; name one that can be written to", folder.display())
        })?;
        let losses = Arc::<Losses>::default();
        let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
        for destination in destinations {
            let path = folder.join(destination.file_name());
            // A block is one record however many lines it has; all others have one each.
            let lines_are_records = *destination != Destination::Health;
            let file = LogFile::open(path.clone(), lines_are_records, files.rotate, losses.clone(), notify.clone())
                .with_context(|| {
                    format!(
                        "--log-dir: cannot open {} for appending; mend its permissions or name another folder",
                        path.display()
                    )
                })?;
            let target = target(*destination);
            let layer = tracing_subscriber::fmt::layer()
                .log_internal_errors(false)
                .with_ansi(false)
                .event_format(Lines)
                .with_writer(Mutex::new(file))
                .with_filter(filter_fn(move |metadata| metadata.target() == target));
            layers.push(layer.boxed());
        }
        Ok(Log { format: files.format, dispatch: Dispatch::new(Registry::default().with(layers)), losses })
    }

    /// Writes one record, now, with one `write(2)`. A record that cannot be written is counted as lost.
    pub fn write(&mut self, records: &[Record]) {
        for record in records {
            self.write_text(record.destination(), record.in_format(self.format));
        }
    }

    fn write_text(&self, destination: Destination, record: impl fmt::Display) {
        tracing::dispatcher::with_default(&self.dispatch, || match destination {
            Destination::Health => tracing::info!(target: HEALTH, %record),
            Destination::Success => tracing::info!(target: SUCCESS, %record),
            Destination::Error => tracing::info!(target: ERROR, %record),
        });
    }

    /// How many records could not be written.
    pub fn lost(&self) -> u64 {
        self.losses.count()
    }
}

fn target(destination: Destination) -> &'static str {
    match destination {
        Destination::Health => HEALTH,
        Destination::Success => SUCCESS,
        Destination::Error => ERROR,
    }
}

/// A record as its format displays it, and a line end.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut field = RecordField { writer: writer.by_ref(), result: Ok(()) };
        event.record(&mut field);
        field.result?;
        writer.write_char('\n')
    }
}

/// Writes the one field of a record's event and nothing else, not even quotes.
struct RecordField<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Visit for RecordField<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "record" {
            self.result = write!(self.writer, "{value:?}");
        }
    }
}
