//! Standard output and standard error. A stream that is closed or stuck ends nothing and holds nothing up: the logs
//! are the record, these are for whoever watches.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

/// How many lines wait for a stream that does not take them. More are dropped.
const BACKLOG: usize = 4096;

/// How long the end of a run waits for the last lines to be taken.
const LAST_LINES: Duration = Duration::from_millis(50);

/// The two standard streams, by whole lines.
#[derive(Clone)]
pub struct Output {
    way: Arc<Way>,
}

enum Way {
    /// Written at once: for runs that have nothing else to do meanwhile.
    Direct,
    /// Written by a thread for each stream, so that a reader that pauses (`| less`, Ctrl-S) delays no check.
    Threads { out: Stream, err: Stream },
}

impl Output {
    pub fn direct() -> Self {
        Output { way: Arc::new(Way::Direct) }
    }

    pub fn threads() -> Self {
        let (out, err) =
            (Stream::start(|text| write(io::stdout(), text)), Stream::start(|text| write(io::stderr(), text)));
        Output { way: Arc::new(Way::Threads { out, err }) }
    }

    /// Writes a line, or several, to standard output.
    pub fn line(&self, text: impl Display) {
        let text = format!("{text}\n");
        match &*self.way {
            Way::Direct => write(io::stdout(), &text),
            Way::Threads { out, .. } => out.send(text),
        }
    }

    /// Writes a line to standard error.
    pub fn notice(&self, text: impl Display) {
        let text = format!("redis-health: {text}\n");
        match &*self.way {
            Way::Direct => write(io::stderr(), &text),
            Way::Threads { err, .. } => err.send(text),
        }
    }

    /// Waits, briefly, until all lines are taken.
    pub fn flush(&self) {
        if let Way::Threads { out, err } = &*self.way {
            out.flush();
            err.flush();
        }
    }
}

/// A failure to write is nobody's to hear: the stream is where it would be said.
fn write(mut stream: impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

enum Message {
    Text(String),
    Flush(SyncSender<()>),
}

struct Stream {
    sender: SyncSender<Message>,
}

impl Stream {
    fn start(write: fn(&str)) -> Self {
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        // Not joined: a thread that is stuck in a write may never end.
        std::thread::spawn(move || Self::serve(&receiver, write));
        Stream { sender }
    }

    fn serve(receiver: &Receiver<Message>, write: fn(&str)) {
        for message in receiver {
            match message {
                Message::Text(text) => write(&text),
                Message::Flush(done) => drop(done),
            }
        }
    }

    fn send(&self, text: String) {
        let _ = self.sender.try_send(Message::Text(text));
    }

    fn flush(&self) {
        let (done, flushed) = mpsc::sync_channel(0);
        if self.sender.try_send(Message::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(LAST_LINES);
        }
    }
}
