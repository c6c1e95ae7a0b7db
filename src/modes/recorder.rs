//! The recorder thread: takes the events of a run from the queue, and passes each one to the log, the history and the
//! sinks.
//!
//! A slow or stuck disk blocks only this thread, not the checks.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::history::ledger::Ledger;
use crate::history::live::LiveHistory;
use crate::log::from_event::records_of;
use crate::model::event::{Event, Sink};
use crate::model::signal::Signal;
use crate::modes::queue::{Queue, Receiver};
use crate::modes::session::Files;
use crate::modes::signals::Signals;
use crate::output::console::Console;
use crate::output::trace::Trace;

/// Without events, the sinks are still flushed this often, because the status line counts down.
const FLUSH: Duration = Duration::from_millis(250);

/// For how long the end of the recording is polled before this thread sleeps.
const SPIN: Duration = Duration::from_micros(300);

/// How long writing the remaining records may take after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// How long writing the records may still take after a second signal.
const LAST_WAIT: Duration = Duration::from_millis(50);

/// Records the events of a run.
pub struct Recorder {
    pub files: Files,
    pub history: LiveHistory,
    pub sinks: Vec<Box<dyn Sink>>,
    /// The pause after each batch.
    pub pause: Duration,
}

/// The result of a recorder.
pub struct Recorded {
    pub ledger: Ledger,
    /// Checks that a signal interrupted.
    pub unfinished: u64,
    /// Records that could not be written.
    pub lost: u64,
}

/// A running recorder.
pub struct Recording {
    /// Receives the number of lost records when everything is recorded.
    done: oneshot::Receiver<u64>,
    queue: Queue,
}

/// How a recording ended.
pub struct Ended {
    /// Records that could not be written, or not in time.
    pub lost: u64,
    /// The first signal, if writing and printing did not end in time after it.
    pub cut_by: Option<Signal>,
}

impl Recorder {
    /// Starts the thread. `finish` runs on it after the last event, and shows the result of the run.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        self,
        (queue, receiver): (Queue, Receiver),
        finish: impl FnOnce(Recorded) + Send + 'static,
    ) -> anyhow::Result<Recording> {
        let (sender, done) = oneshot::channel();
        let run = move || {
            let (recorded, trace) = self.run(&receiver);
            let lost = recorded.lost;
            finish(recorded);
            drop(trace);
            // After a second signal there is no receiver any more.
            let _ = sender.send(lost);
        };
        // Not joined: a thread that is blocked in a write may never end.
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(run);
        thread.context("cannot start the recorder thread; raise the limit of processes")?;
        Ok(Recording { done, queue })
    }

    fn run(mut self, receiver: &Receiver) -> (Recorded, Trace) {
        let mut ended = false;
        while !ended && let Some(batch) = receiver.next_batch(FLUSH) {
            ended = batch.iter().any(Event::is_last);
            let (events, count) = (batch.len(), batch.iter().map(Event::records).sum());

            let mut records = Vec::new();
            for event in batch {
                let derived = self.history.take(&event);
                // Nothing follows the last event.
                let (before, after) = if event.is_last() { (derived, Vec::new()) } else { (Vec::new(), derived) };
                for event in before.into_iter().chain([event]).chain(after) {
                    if let Event::RunStarted { run, writes } = &event {
                        self.files.log.begin(run.clone(), *writes);
                    }
                    self.sinks.iter_mut().for_each(|sink| sink.take(&event));
                    records_of(event, &mut records);
                }
            }
            self.files.log.write(&records);
            receiver.recorded(events, count, self.files.log.lost());
            self.sinks.iter_mut().for_each(|sink| sink.flush());
            if events > 0 && !ended && !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }

        let (ledger, unfinished) = self.history.finish();
        (Recorded { ledger, unfinished, lost: receiver.lost() }, self.files.trace)
    }
}

impl Recording {
    /// Waits until everything is recorded: after a signal at most [`DRAIN`], after a second signal [`LAST_WAIT`]. Records
    /// that are not written by then are counted and reported as lost. A signal that comes while everything is still recorded
    /// in time has no effect.
    pub async fn end(mut self, mut signal: Option<Signal>, signals: &mut Signals, console: &Console) -> Ended {
        // Most recordings end at once, and being woken by another thread takes longer than its remaining work.
        let spun = Instant::now() + SPIN;
        while Instant::now() < spun {
            if let Ok(lost) = self.done.try_recv() {
                return Ended { lost, cut_by: None };
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
                lost = &mut self.done => {
                    let lost = lost.unwrap_or_else(|_| self.queue.unrecorded());
                    return Ended { lost, cut_by: None };
                }
                next = signals.next() => {
                    let limit = if signal.is_some() { LAST_WAIT } else { DRAIN };
                    signal.get_or_insert(next);
                    end = Some(Instant::now() + limit);
                }
                () = patience => break,
            }
        }

        let lost = self.queue.unrecorded();
        if lost > 0 {
            console.final_notice(format_args!("records that could not be written in time: {lost}"));
        } else {
            console.final_notice("all records were written, but the output could not be printed in time");
        }
        Ended { lost, cut_by: signal }
    }
}
