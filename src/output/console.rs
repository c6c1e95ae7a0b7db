//! Standard output, standard error and the live status line. A stream that is closed or stuck ends nothing and holds
//! nothing up: the logs are the record, these are for whoever watches.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

/// How many lines wait for a stream that does not take them. More are dropped.
const BACKLOG: usize = 4096;

/// How long the end of a run waits for the last lines to be taken after a signal, and without one.
const BRIEF: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

/// The two standard streams, by whole lines.
#[derive(Clone)]
pub struct Console {
    way: Arc<Way>,
    /// Lines that were dropped because the stream did not take those before them.
    dropped: Arc<AtomicU64>,
}

enum Way {
    /// Written at once: for runs that have nothing else to do meanwhile.
    Direct,
    /// Written by a thread of its own, so that a reader that pauses (`| less`, Ctrl-S) delays no check.
    Thread(SyncSender<Message>),
}

enum Message {
    Line(String),
    Notice(String),
    Status(String),
    /// The end of the status line; dropping the sender tells that all before it is written.
    Finish(SyncSender<()>),
}

/// How long the end of a run may wait for its last lines to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A signal ended the run: whoever sent it waits.
    Brief,
    /// For as long as the reader takes something every now and then.
    Long,
}

impl Console {
    pub fn direct() -> Self {
        Console { way: Arc::new(Way::Direct), dropped: Arc::default() }
    }

    pub fn thread() -> Self {
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        // Not joined: a thread that is stuck in a write may never end.
        std::thread::spawn(move || serve(&receiver));
        Console { way: Arc::new(Way::Thread(sender)), dropped: Arc::default() }
    }

    /// Writes a line, or several, to standard output.
    pub fn line(&self, text: impl Display) {
        let text = format!("{text}\n");
        match &*self.way {
            Way::Direct => write(io::stdout(), &text),
            Way::Thread(sender) => self.pass(sender, Message::Line(text)),
        }
    }

    /// Writes a line to standard error.
    pub fn notice(&self, text: impl Display) {
        let text = format!("redis-health: {text}\n");
        match &*self.way {
            Way::Direct => write(io::stderr(), &text),
            Way::Thread(sender) => self.pass(sender, Message::Notice(text)),
        }
    }

    fn pass(&self, sender: &SyncSender<Message>, message: Message) {
        if sender.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a status line would be seen.
    pub fn has_status(&self) -> bool {
        matches!(*self.way, Way::Thread(_)) && io::stderr().is_terminal()
    }

    /// Replaces the status line on standard error; it stays below all other lines.
    pub fn status(&self, text: String) {
        if let Way::Thread(sender) = &*self.way {
            let _ = sender.try_send(Message::Status(text));
        }
    }

    /// Writes the last lines, removes the status line, and waits until all is taken.
    pub fn finish(&self, last: impl Display, patience: Patience) {
        let Way::Thread(sender) = &*self.way else { return self.line(last) };
        let end = Instant::now() + if patience == Patience::Brief { BRIEF } else { LONG };
        let dropped = self.dropped.load(Ordering::Relaxed);
        let told = (dropped > 0).then(|| format!("redis-health: lines that standard output did not take: {dropped}\n"));
        let (done, finished) = mpsc::sync_channel(0);
        let messages =
            [Some(Message::Line(format!("{last}\n"))), told.map(Message::Notice), Some(Message::Finish(done))];
        for mut message in messages.into_iter().flatten() {
            while let Err(TrySendError::Full(back)) = sender.try_send(message) {
                if Instant::now() >= end {
                    return;
                }
                message = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = finished.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

fn serve(receiver: &Receiver<Message>) {
    let mut status = None;
    for message in receiver {
        match (message, &status) {
            // The status line has to make room, or a terminal would show both on one line.
            (Message::Line(text), Some(bar)) => ProgressBar::suspend(bar, || write(io::stdout(), &text)),
            (Message::Notice(text), Some(bar)) => ProgressBar::suspend(bar, || write(io::stderr(), &text)),
            (Message::Line(text), None) => write(io::stdout(), &text),
            (Message::Notice(text), None) => write(io::stderr(), &text),
            (Message::Status(text), _) => status.get_or_insert_with(status_line).set_message(text),
            (Message::Finish(done), _) => {
                if let Some(bar) = status.take() {
                    bar.finish_and_clear();
                }
                drop(done);
            }
        }
    }
}

/// A line of text that is redrawn in place, and shown on a terminal only.
fn status_line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(Narrow(Term::stderr()))));
    bar.with_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// A terminal whose last columns stay free. The line is padded to its width, and a `^C` that the terminal echoes behind a
/// full line would wrap, after which the wrong line is cleared.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(4)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A bar on a terminal's standard error, for scans that take longer than a second.
pub fn scan_bar(total: u64) -> ProgressBar {
    let template = "{pos} of {len} databases [{wide_bar}] {elapsed}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style)
}

/// A failure to write is nobody's to hear: the stream is where it would be said.
fn write(mut stream: impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}
