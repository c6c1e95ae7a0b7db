//! Prints marks, failures and the status line while `cycles` runs.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Instant;

use crate::log::from_event::records_of;
use crate::log::record::Record;
use crate::model::change::ActiveTargets;
use crate::model::clock::Stamp;
use crate::model::event::{CheckFinished, Event, Sink};
use crate::model::failure::Kind;
use crate::model::outcome::Verdict;
use crate::model::schedule::Schedule;
use crate::model::subject::Subject;
use crate::output::console::Console;
use crate::output::status::Status;

/// Prints the events of a run.
pub struct CyclesConsole {
    console: Console,
    schedule: Schedule,
    start: Instant,
    /// Nothing is printed during the run: with `--json`, standard output gets one document at the end.
    is_silent: bool,
    /// Lines that will be written together.
    lines: String,
    status: Status,
    /// The subjects that are down, each with the time and kind of its first failure.
    down: BTreeMap<Subject, (Stamp, Kind)>,
    active: ActiveTargets,
}

impl CyclesConsole {
    /// Prints to `console`, or only the status line if `is_silent`. The run starts now.
    pub fn new(console: Console, schedule: Schedule, is_silent: bool) -> Self {
        CyclesConsole {
            console,
            schedule,
            start: Instant::now(),
            is_silent,
            lines: String::new(),
            status: Status { cycles: schedule.cycles, ..Status::default() },
            down: BTreeMap::new(),
            active: ActiveTargets::default(),
        }
    }

    fn print(&mut self, line: impl Display) {
        if self.is_silent {
            return;
        }
        let separator = if self.lines.is_empty() { "" } else { "\n" };
        // Writing to memory does not fail.
        let _ = write!(self.lines, "{separator}{line}");
    }

    fn show(&mut self) {
        if !self.lines.is_empty() {
            self.console.line(std::mem::take(&mut self.lines));
        }
    }

    fn update_status(&mut self, event: &Event) {
        match event {
            Event::CycleStarted { cycle, .. } => {
                self.status.cycle = *cycle;
                self.status.in_break = false;
            }
            Event::CycleCompleted { .. } => self.status.in_break = true,
            Event::CheckFinished(CheckFinished { outcome, .. }) => {
                match outcome.verdict() {
                    Verdict::Passed => self.status.latency = Some(outcome.details.elapsed),
                    Verdict::Failed(_) => self.status.failures += 1,
                    Verdict::NotObserved(_) => {
                        self.status.not_observed += 1;
                        return;
                    }
                }
                self.status.checks += 1;
            }
            Event::OutageBegan { subject, at, kind, .. } => _ = self.down.insert(subject.clone(), (*at, *kind)),
            Event::OutageEnded { subject, .. } => _ = self.down.remove(subject),
            Event::TopologyChanged { change, .. } => self.active.update(change),
            _ => {}
        }
    }

    fn show_status(&mut self) {
        let Schedule { run_duration, break_duration, .. } = self.schedule;
        let cycle_end = (run_duration + break_duration) * self.status.cycle.saturating_sub(1) + run_duration;
        let end = if self.status.in_break { cycle_end + break_duration } else { cycle_end };
        self.status.left = end.saturating_sub(self.start.elapsed());

        let down = self.down.iter().find(|(subject, _)| self.active.contains(&subject.target));
        self.status.down = down.map(|(_, since)| *since);
        self.console.status(self.status.line());
    }
}

impl Sink for CyclesConsole {
    fn take(&mut self, event: &Event) {
        self.update_status(event);
        let is_success = matches!(event, Event::CheckFinished(check) if check.outcome.result.is_ok());
        if self.is_silent || is_success {
            return;
        }

        let mut records: Vec<Record> = Vec::new();
        records_of(event.clone(), &mut records);
        records.into_iter().for_each(|record| self.print(record));
    }

    fn flush(&mut self) {
        self.show();
        if self.console.has_status() {
            self.show_status();
        }
    }
}
