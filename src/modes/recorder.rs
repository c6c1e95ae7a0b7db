//! The recorder thread: takes the events of a run from the queue and hands each to small sinks.
//!
//! A disk that is slow or stuck, or a fold that takes long, holds this thread up and nobody else.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::history::ledger::Ledger;
use crate::history::live::LiveHistory;
use crate::log::from_event::records_of;
use crate::log::write::Log;
use crate::model::event::{Event, Sink};
use crate::model::signal::Signal;
use crate::modes::queue::{Queue, Receiver};
use crate::modes::signals::Signals;
use crate::output::console::Console;

/// How long the sinks wait for an event before they are flushed all the same: the status line counts down.
const FLUSH: Duration = Duration::from_millis(250);

/// The least time from one batch to the next. Whoever sends an event to a recorder that waits has to wake it, which costs
/// more than the check of one database of many; so a scan of thousands wakes it twice, not a thousand times.
const SPACING: Duration = Duration::from_millis(4);

/// For how long the end of a recording is looked for before this thread sleeps.
const SPIN: Duration = Duration::from_micros(300);

/// How long the records may take to be written after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// What takes the events of a run.
pub struct Recorder {
    pub log: Log,
    pub history: LiveHistory,
    pub sinks: Vec<Box<dyn Sink>>,
}

/// What the recorder has at its end.
pub struct Recorded {
    pub ledger: Ledger,
    /// Checks that a signal cut off.
    pub unfinished: u64,
    /// Records that could not be written.
    pub lost: u64,
}

/// A recorder at work.
pub struct Recording {
    /// How many records were lost; told when all is done.
    done: oneshot::Receiver<u64>,
    queue: Queue,
}

/// How a recording ended.
pub struct Ended {
    pub signal: Option<Signal>,
    /// Records that could not be written, or not in time.
    pub lost: u64,
}

impl Recorder {
    /// Starts the thread. `finish` runs on it behind the last event, and shows what the run came to.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        self,
        (queue, receiver): (Queue, Receiver),
        finish: impl FnOnce(Recorded) + Send + 'static,
    ) -> anyhow::Result<Recording> {
        let (sender, done) = oneshot::channel();
        let run = move || {
            let recorded = self.run(&receiver);
            let lost = recorded.lost;
            finish(recorded);
            // Nobody waits any more when a second signal has come.
            let _ = sender.send(lost);
        };
        // Not joined: a thread that is stuck in a write may never end.
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(run);
        thread.context("cannot start the recorder: no thread is left; raise the limit of processes")?;
        Ok(Recording { done, queue })
    }

    fn run(mut self, receiver: &Receiver) -> Recorded {
        let mut ended = false;
        while !ended && let Some(batch) = receiver.next_batch(FLUSH) {
            ended = batch.iter().any(Event::is_last);
            let (events, count) = (batch.len(), batch.iter().map(Event::records).sum());

            let mut records = Vec::new();
            for event in batch {
                let derived = self.history.take(&event);
                for event in std::iter::once(event).chain(derived) {
                    self.sinks.iter_mut().for_each(|sink| sink.take(&event));
                    records_of(event, &mut records);
                }
            }
            self.log.write(&records);
            self.sinks.iter_mut().for_each(|sink| sink.flush());
            receiver.recorded(events, count);
            if events > 0 && !ended {
                std::thread::sleep(SPACING);
            }
        }

        let (ledger, unfinished) = self.history.finish();
        Recorded { ledger, unfinished, lost: self.log.lost() + receiver.lost() }
    }
}

impl Recording {
    /// Waits until all is recorded. After a signal that takes a few seconds at most, and a second signal ends it at once;
    /// what is left then is lost, and said so.
    pub async fn end(mut self, mut signal: Option<Signal>, signals: &mut Signals, console: &Console) -> Ended {
        // Most runs end at once, and to sleep until the other thread wakes this one takes longer than its work.
        let spun = Instant::now() + SPIN;
        while Instant::now() < spun {
            if let Ok(lost) = self.done.try_recv() {
                return Ended { signal, lost };
            }
            std::thread::yield_now();
        }

        let mut end = signal.map(|_| Instant::now() + DRAIN);
        loop {
            let patience = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                lost = &mut self.done => return Ended { signal, lost: lost.unwrap_or_else(|_| self.queue.waiting()) },
                next = signals.next() => {
                    if signal.is_some() {
                        break;
                    }
                    signal = Some(next);
                    end = Some(Instant::now() + DRAIN);
                }
                () = patience => break,
            }
        }

        let lost = self.queue.waiting() + self.queue.lost();
        console.final_notice(format_args!("records that could not be written in time: {lost}"));
        Ended { signal, lost }
    }
}
