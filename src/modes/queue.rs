//! The queue from those who check to the recorder. It is bounded, and whoever sends never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::model::event::Event;

/// How many events may wait, while a disk is stuck: 9 hours of a check each second, in some 30 MB.
const CAPACITY: usize = 1 << 16;

/// How many events the recorder takes at once, so that the records of a scan of many databases share writes.
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
    /// Events that wait, or are being recorded.
    waiting: AtomicUsize,
    /// The records that those stand for.
    records: AtomicU64,
    /// Records whose events found no room.
    lost: AtomicU64,
}

/// A new queue.
pub fn queue() -> (Queue, Receiver) {
    let (sender, receiver) = mpsc::channel();
    let counts = Arc::<Counts>::default();
    (Queue { sender, counts: counts.clone() }, Receiver { receiver, counts })
}

impl Queue {
    /// Sends an event; one that finds no room is counted as lost.
    pub fn send(&self, event: Event) {
        let records = event.records();
        // The last event always has room: without it the recorder would not end.
        let has_room = event.is_last() || self.counts.waiting.load(Ordering::Relaxed) < CAPACITY;
        if !has_room {
            self.counts.lost.fetch_add(records, Ordering::Relaxed);
            return;
        }

        // Counted before it is sent, so that the recorder never takes more than was counted.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        self.counts.records.fetch_add(records, Ordering::Relaxed);
        // The recorder ends after the last sender.
        let _ = self.sender.send(event);
    }

    /// How many records were lost because their events found no room.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// How many records wait, or are being written.
    pub fn waiting(&self) -> u64 {
        self.counts.records.load(Ordering::Relaxed)
    }
}

impl Receiver {
    /// Waits for events, for `patience` at most, and takes those that are there. None when no more will come.
    pub fn next_batch(&self, patience: Duration) -> Option<Vec<Event>> {
        let first = match self.receiver.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        Some(std::iter::once(first).chain(self.receiver.try_iter()).take(BATCH).collect())
    }

    /// Counts a batch as recorded.
    pub fn recorded(&self, events: usize, records: u64) {
        self.counts.waiting.fetch_sub(events, Ordering::Relaxed);
        self.counts.records.fetch_sub(records, Ordering::Relaxed);
    }

    /// How many records were lost because their events found no room.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::{Clock, Moment};

    fn changed() -> Event {
        let stamp = Clock { utc: true, millis: false }.now();
        Event::RecordsLost { from: Moment { stamp, since: Duration::ZERO }, to: stamp, count: 1 }
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (queue, receiver) = queue();
        for _ in 0..CAPACITY + 3 {
            queue.send(changed());
        }
        assert_eq!((queue.lost(), queue.waiting()), (3, CAPACITY as u64));

        let batch = receiver.next_batch(Duration::ZERO).unwrap();
        receiver.recorded(batch.len(), batch.iter().map(Event::records).sum());
        assert_eq!((batch.len(), queue.waiting()), (BATCH, (CAPACITY - BATCH) as u64));
        queue.send(changed());
        assert_eq!(queue.lost(), 3);
    }

    #[test]
    fn the_end_of_the_last_sender_ends_the_queue() {
        let (queue, receiver) = queue();
        queue.clone().send(changed());
        drop(queue);
        assert_eq!(receiver.next_batch(Duration::MAX).map(|batch| batch.len()), Some(1));
        assert!(receiver.next_batch(Duration::MAX).is_none());
    }
}
