//! The probe thread: runs the schedule and the checks, handles signals, and sends events.
//!
//! It never touches a file or a terminal, and never waits for the recorder.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::gaps::{GapTracker, MAX_DELAY};
use super::suspension::machine_suspended;
use crate::model::clock::{Clock, Moment, Stamp};
use crate::model::event::{Event, Tick};
use crate::model::outcome::Tally;
use crate::model::run::{Mode, Run};
use crate::model::schedule::{Schedule, Step};
use crate::model::signal::Signal;
use crate::modes::prober::Prober;
use crate::modes::queue::Queue;
use crate::modes::session::host_name;
use crate::modes::signals::Signals;

/// A run of the schedule.
pub struct ProbeThread {
    schedule: Schedule,
    clock: Clock,
    prober: Prober,
    queue: Queue,
    gap_tracker: GapTracker,
    /// When the run began, by both clocks.
    start: Instant,
    began: Stamp,
    /// The total time that the machine was suspended before the run.
    suspended_before: Duration,
    /// The number of the last tick.
    number: u64,
    /// Each check includes a canary write.
    writes: bool,
}

impl ProbeThread {
    /// A run that starts now. `writes` is whether each check includes a canary write.
    pub fn new(schedule: Schedule, clock: Clock, prober: Prober, queue: Queue, writes: bool) -> Self {
        let suspended_before = machine_suspended();
        let (start, began) = (Instant::now(), clock.now());
        let now = Moment { stamp: began, since: Duration::ZERO };
        let gap_tracker = GapTracker::new(schedule.check_interval, now, suspended_before);

        ProbeThread { schedule, clock, prober, queue, gap_tracker, start, began, suspended_before, number: 0, writes }
    }

    /// Follows the schedule until it ends or a signal arrives. Returns the signal, and how many checks did not pass.
    pub async fn run(mut self, signals: &mut Signals) -> (Option<Signal>, Tally) {
        let run = Run::new(Mode::Cycles, &host_name(), self.began);
        self.queue.send(Event::RunStarted { run, writes: self.writes });
        let signal = self.follow_schedule(signals).await;
        match signal {
            Some(signal) => self.stop(signal).await,
            None => {
                self.send_marks();
                self.queue.send(Event::AllFinished { at: self.clock.now() });
            }
        }
        (signal, self.prober.tally())
    }

    async fn follow_schedule(&mut self, signals: &mut Signals) -> Option<Signal> {
        for (offset, step) in self.schedule.steps() {
            let due = self.start + offset;
            loop {
                tokio::select! {
                    biased;
                    signal = signals.next() => return Some(signal),
                    () = sleep_until(due) => break,
                    () = self.prober.progress() => {}
                }
            }
            // Checks that have their replies report first, even if this step is late.
            self.prober.drain_replies().await;
            self.act(step, due.elapsed());
        }

        // The last checks may still be running. Each is bounded by its deadline.
        while !self.prober.is_idle() {
            tokio::select! {
                biased;
                signal = signals.next() => return Some(signal),
                () = self.prober.progress() => {}
            }
        }
        None
    }

    /// Runs a step of the schedule that is late by `late`.
    fn act(&mut self, step: Step, late: Duration) {
        let now = self.now();
        // If this process did not run, the cycle still began or ended at its scheduled time.
        let scheduled = if late >= MAX_DELAY { now.earlier(late) } else { now };

        match step {
            Step::CheckStarts if self.gap_tracker.is_missed(late) => self.gap_tracker.miss(now, late),
            Step::CheckStarts => self.start_checks(),
            Step::CycleStarts(cycle) => {
                self.queue.send(Event::CycleStarted { cycle, at: scheduled.stamp, writes: self.writes });
            }
            Step::CycleEnds(cycle) if cycle < self.schedule.cycles => {
                // The time of a suspension before the break is not observed either.
                self.send_suspension();
                let break_duration = self.schedule.break_duration;
                self.queue.send(Event::CycleCompleted { cycle, at: scheduled, break_duration });
            }
            Step::CycleEnds(_) => {}
        }
    }

    /// Starts the checks of one tick.
    fn start_checks(&mut self) {
        self.send_missed();
        self.send_suspension();
        self.send_lost(self.queue.has_room());

        self.number += 1;
        let at = self.now();
        self.gap_tracker.begin_tick(at);
        self.prober.start(Tick { number: self.number, at, writes: self.writes });
    }

    fn send_suspension(&mut self) {
        if let Some(event) = self.gap_tracker.take_suspension(self.now(), machine_suspended()) {
            self.queue.send(event);
        }
    }

    /// Marks everything since the last tick that the log does not contain.
    fn send_marks(&mut self) {
        self.send_missed();
        self.send_lost(true);
    }

    fn send_lost(&mut self, is_over: bool) {
        if let Some(event) = self.gap_tracker.take_lost(self.now(), self.queue.dropped(), is_over) {
            self.queue.send(event);
        }
    }

    fn send_missed(&mut self) {
        if let Some(event) = self.gap_tracker.take_missed(self.now()) {
            self.queue.send(event);
        }
    }

    /// Ends all checks at once.
    async fn stop(&mut self, signal: Signal) {
        // Checks that have their replies are still recorded.
        self.prober.drain_replies().await;
        let unfinished = self.prober.abort();
        self.send_marks();
        self.queue.send(Event::Stopped { signal, at: self.clock.now(), unfinished });
    }

    /// The monotonic clock stands still while the machine is suspended, so that time is added.
    fn now(&self) -> Moment {
        let slept = machine_suspended().saturating_sub(self.suspended_before);
        Moment { stamp: self.clock.now(), since: self.start.elapsed() + slept }
    }
}
