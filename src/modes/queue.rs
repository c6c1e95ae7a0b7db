//! The queue of events from the checks to the recorder. It is bounded, and senders never block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::model::event::Event;

/// How many events may wait while a disk is stuck: 9 hours at two events per second, in about 30 MB. Rare events are
/// accepted beyond it.
const CAPACITY: usize = 1 << 16;

/// How many events the recorder takes at once. The records of one batch share writes.
const BATCH: usize = 2048;

/// The sender's end.
#[derive(Clone)]
pub struct Queue {
    sender: mpsc::Sender<Event>,
    counts: Arc<Counts>,
}

/// The recorder's end.
pub struct Receiver {
    receiver: mpsc::Receiver<Event>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Events that are waiting or being recorded.
    waiting: AtomicUsize,
    /// The number of records of these events.
    records: AtomicU64,
    /// Records that were lost because the queue was full.
    dropped: AtomicU64,
    /// Records that could not be written.
    unwritten: AtomicU64,
}

impl Counts {
    fn lost(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed) + self.unwritten.load(Ordering::Relaxed)
    }
}

/// A new queue.
pub fn queue() -> (Queue, Receiver) {
    let (sender, receiver) = mpsc::channel();
    let counts = Arc::<Counts>::default();
    (Queue { sender, counts: counts.clone() }, Receiver { receiver, counts })
}

impl Queue {
    /// Sends an event. If the queue is full, the records of a frequent event are counted as lost.
    pub fn send(&self, event: Event) {
        let records = event.records();
        if event.is_frequent() && !self.has_room() {
            self.counts.dropped.fetch_add(records, Ordering::Relaxed);
            return;
        }

        // Counted before it is sent, so that the recorder never subtracts more than was added.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        self.counts.records.fetch_add(records, Ordering::Relaxed);
        // After its last event the recorder takes no more, and what is sent then has no record.
        let _ = self.sender.send(event);
    }

    /// Whether frequent events are accepted.
    pub fn has_room(&self) -> bool {
        self.counts.waiting.load(Ordering::Relaxed) < CAPACITY
    }

    /// How many records were lost because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// How many records are not in the log: lost, waiting, or being written.
    pub fn unrecorded(&self) -> u64 {
        self.counts.lost() + self.counts.records.load(Ordering::Relaxed)
    }
}

impl Receiver {
    /// Waits at most `patience` for an event, and takes all that are available. None if there are no more senders.
    pub fn next_batch(&self, patience: Duration) -> Option<Vec<Event>> {
        let first = match self.receiver.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        Some(std::iter::once(first).chain(self.receiver.try_iter()).take(BATCH).collect())
    }

    /// Counts a batch as recorded. `unwritten` is how many records could not be written so far.
    pub fn recorded(&self, events: usize, records: u64, unwritten: u64) {
        self.counts.unwritten.store(unwritten, Ordering::Relaxed);
        self.counts.waiting.fetch_sub(events, Ordering::Relaxed);
        self.counts.records.fetch_sub(records, Ordering::Relaxed);
    }

    /// How many records were lost.
    pub fn lost(&self) -> u64 {
        self.counts.lost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::{Clock, Moment};
    use crate::model::event::{CheckFinished, Tick};
    use crate::model::outcome::{Details, Outcome};
    use crate::model::subject::Subject;

    fn now() -> Moment {
        Moment { stamp: Clock { utc: true, millis: false }.now(), since: Duration::ZERO }
    }

    fn passed() -> Event {
        let tick = Tick { number: 1, at: now(), writes: false };
        let outcome = Outcome { db: 0, write: false, result: Ok(()), details: Details::default() };
        Event::CheckFinished(CheckFinished { subject: Subject::default(), tick, outcome, oldest: 1 })
    }

    #[test]
    fn checks_for_a_full_queue_are_counted_as_lost() {
        let (queue, receiver) = queue();
        for _ in 0..CAPACITY + 3 {
            queue.send(passed());
        }
        assert_eq!((queue.dropped(), queue.unrecorded(), queue.has_room()), (3, CAPACITY as u64 + 3, false));

        let batch = receiver.next_batch(Duration::ZERO).unwrap();
        receiver.recorded(batch.len(), batch.iter().map(Event::records).sum(), 2);
        // Two of the batch could not be written.
        let unrecorded = (CAPACITY - BATCH) as u64 + 3 + 2;
        assert_eq!((batch.len(), queue.unrecorded(), queue.has_room()), (BATCH, unrecorded, true));
        queue.send(passed());
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn a_full_queue_accepts_the_mark_of_lost_records() {
        let (queue, receiver) = queue();
        for _ in 0..=CAPACITY {
            queue.send(passed());
        }
        queue.send(Event::RecordsLost { from: now(), to: now().stamp, count: 1 });
        queue.send(Event::AllFinished { at: now().stamp });
        assert_eq!(queue.dropped(), 1);

        let mut last = None;
        while let Some(batch) = receiver.next_batch(Duration::ZERO).filter(|batch| !batch.is_empty()) {
            last = batch.into_iter().rev().take(2).collect::<Vec<_>>().into();
        }
        assert!(matches!(last.as_deref(), Some([Event::AllFinished { .. }, Event::RecordsLost { count: 1, .. }])));
    }

    #[test]
    fn dropping_the_last_sender_ends_the_queue() {
        let (queue, receiver) = queue();
        queue.clone().send(passed());
        drop(queue);
        assert_eq!(receiver.next_batch(Duration::MAX).map(|batch| batch.len()), Some(1));
        assert!(receiver.next_batch(Duration::MAX).is_none());
    }
}
