//! `-v`: what each phase did, on standard error. The second use of tracing beside the records.

use std::fmt;
use std::io;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::output::console::Console;

/// Shows this crate's debug events on standard error for the rest of the process.
pub fn start(output: &Console) {
    let output = output.clone();
    let layer = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_ansi(false)
        .event_format(Explanation)
        .with_writer(move || Lines(output.clone()))
        .with_filter(filter_fn(|metadata| {
            metadata.target().starts_with("redis_health") && *metadata.level() <= Level::DEBUG
        }));
    // A second run in the same process keeps the first one's.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer));
}

/// Each event is written at once, as one line, and goes the way of all notices: a reader that pauses delays no check.
struct Lines(Console);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.notice(String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `connected to 10.0.1.5:6379 after 412µs`.
struct Explanation;

impl<S, N> FormatEvent<S, N> for Explanation
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
