//! Standard output, standard error and the live status line. A stream that is closed or blocked neither ends a run nor
//! delays a check.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::model::text::Printable;

/// How many lines are queued for a blocked stream. Further lines are dropped.
const BACKLOG: usize = 4096;

/// How long a run waits at its end until its last lines are written.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a process that ends early waits until its final message is written.
const FINAL_NOTICE: Duration = Duration::from_millis(50);

/// Writes whole lines to the two standard streams.
#[derive(Clone)]
pub struct Console {
    output: Arc<Output>,
    /// Lines that were dropped because the queue was full.
    dropped: Arc<AtomicU64>,
    /// Lines of a console that writes at once could not be written.
    failed: Arc<AtomicBool>,
}

enum Output {
    /// Both are written at once, by the caller.
    Direct,
    /// Standard output is written at once, by the caller. Standard error is written by a thread, started with the first
    /// line: a caller that waited for its reader could not end at a signal.
    DirectLines(OnceLock<Option<SyncSender<Message>>>),
    /// Both are written by a separate thread, so that a reader that pauses (`| less`, Ctrl-S) does not delay checks.
    Thread(SyncSender<Message>),
}

impl Output {
    /// The thread that writes standard error. None if there is none, or the system refused to start it.
    fn thread(&self) -> Option<&SyncSender<Message>> {
        match self {
            Output::Direct => None,
            Output::DirectLines(sender) => sender.get_or_init(|| start_thread().ok()).as_ref(),
            Output::Thread(sender) => Some(sender),
        }
    }

    /// The thread that writes standard error, if it was started.
    fn running_thread(&self) -> Option<&SyncSender<Message>> {
        match self {
            Output::Direct => None,
            Output::DirectLines(sender) => sender.get()?.as_ref(),
            Output::Thread(sender) => Some(sender),
        }
    }
}

enum Message {
    Line(String),
    Notice(String),
    Status(String),
    /// Removes the status line. The sender is dropped once all earlier lines are written.
    Finish(SyncSender<()>),
}

impl Console {
    /// A console whose lines are written at once.
    pub fn direct() -> Self {
        Console { output: Arc::new(Output::Direct), dropped: Arc::default(), failed: Arc::default() }
    }

    /// A console whose lines on standard output are written at once, and those on standard error by a separate thread.
    pub fn direct_lines() -> Self {
        Console {
            output: Arc::new(Output::DirectLines(OnceLock::new())),
            dropped: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// A console whose lines are written by a separate thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn thread() -> anyhow::Result<Self> {
        Ok(Console {
            output: Arc::new(Output::Thread(start_thread()?)),
            dropped: Arc::default(),
            failed: Arc::default(),
        })
    }

    /// Writes one or more lines to standard output.
    pub fn line(&self, text: impl Display) {
        let text = format!("{text}\n");
        match &*self.output {
            Output::Direct | Output::DirectLines(_) => self.line_now(&text),
            Output::Thread(sender) => self.pass(sender, Message::Line(text)),
        }
    }

    fn line_now(&self, text: &str) {
        let mut stream = io::stdout();
        let written = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
        // A closed pipe is not an error.
        let failure = written.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        if let Some(error) = failure
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            self.notice(format_args!("cannot write to standard output: {error}"));
        }
    }

    /// Whether a line could not be written to standard output, which was told. Only known of a console that writes its
    /// lines at once.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Writes one or more lines to standard error.
    pub fn notice(&self, text: impl Display) {
        let text = format!("redis-health: {}\n", Printable::lines(&text.to_string()));
        match self.output.thread() {
            Some(sender) => self.pass(sender, Message::Notice(text)),
            None => write(io::stderr(), &text),
        }
    }

    fn pass(&self, sender: &SyncSender<Message>, message: Message) {
        if sender.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a status line would be visible.
    pub fn has_status(&self) -> bool {
        matches!(*self.output, Output::Thread(_)) && io::stderr().is_terminal()
    }

    /// Replaces the status line on standard error. It stays below all other lines.
    pub fn status(&self, text: String) {
        if let Output::Thread(sender) = &*self.output {
            let _ = sender.try_send(Message::Status(text));
        }
    }

    /// Writes the last lines to standard output, removes the status line, and waits until everything is written.
    pub fn finish(&self, last: impl Display) {
        match &*self.output {
            Output::Direct | Output::DirectLines(_) => self.line(last),
            Output::Thread(sender) => {
                send_before(Instant::now() + PATIENCE, sender, Message::Line(format!("{last}\n")));
            }
        }
        self.finish_notices();
    }

    /// Removes the status line, and waits until everything is written.
    pub fn finish_notices(&self) {
        let Some(sender) = self.output.running_thread() else { return };
        let end = Instant::now() + PATIENCE;
        let dropped = self.dropped.load(Ordering::Relaxed);
        let notice = format!("redis-health: lines dropped because the terminal or pipe was too slow: {dropped}\n");

        if dropped > 0 {
            send_before(end, sender, Message::Notice(notice));
        }
        wait_until_taken(end, sender);
    }

    /// Writes a final line to standard error, and waits briefly until it is written: the process is about to exit.
    pub fn final_notice(&self, text: impl Display) {
        self.notice(text);
        if let Some(sender) = self.output.running_thread() {
            wait_until_taken(Instant::now() + FINAL_NOTICE, sender);
        }
    }
}

fn start_thread() -> anyhow::Result<SyncSender<Message>> {
    let (sender, receiver) = mpsc::sync_channel(BACKLOG);
    let thread = std::thread::Builder::new().name("console".to_owned()).spawn(move || serve(&receiver));
    // Not joined: a thread that is blocked in a write may never end.
    thread.context("cannot start the console thread; raise the limit of processes")?;
    Ok(sender)
}

/// Removes the status line, and waits until all earlier lines are written, or until `end`.
fn wait_until_taken(end: Instant, sender: &SyncSender<Message>) {
    let (done, finished) = mpsc::sync_channel(0);
    send_before(end, sender, Message::Finish(done));
    let _ = finished.recv_timeout(end.saturating_duration_since(Instant::now()));
}

/// Sends a message, and waits until `end` if the queue is full.
fn send_before(end: Instant, sender: &SyncSender<Message>, mut message: Message) {
    while let Err(TrySendError::Full(back)) = sender.try_send(message) {
        if Instant::now() >= end {
            return;
        }
        message = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn serve(receiver: &Receiver<Message>) {
    let mut status = None;
    for message in receiver {
        match (message, &status) {
            // The status line must be removed first, or a terminal would show both on one line.
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

/// A line of text that is redrawn in place, and only on a terminal.
fn status_line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(Narrow(Term::stderr()))));
    bar.with_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// A terminal whose last columns stay free. The status line is padded to the width. If it filled the line, a `^C` that
/// the terminal echoes after it would wrap, and the wrong line would be cleared.
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

/// Write errors are ignored; there is nowhere to report them.
fn write(mut stream: impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}
