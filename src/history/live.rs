//! The history of a live run: processes its events, and derives events for outages and changes.

use std::collections::BTreeMap;

use crate::history::ledger::{Check, Ledger};
use crate::history::outage::Transition;
use crate::history::reorder::Reorder;
use crate::model::change::{Change, Changed};
use crate::model::clock::{Moment, Stamp};
use crate::model::event::{CheckFinished, Event, Tick};
use crate::model::observed::Observed;
use crate::model::subject::Target;

/// The state of one target.
#[derive(Default)]
struct TargetState {
    /// Checks that finished before an earlier one of the same target.
    order: Reorder<CheckFinished>,
    /// The last known address and identity of the server.
    observed: Observed,
}

/// Folds the events of a live run.
#[derive(Default)]
pub struct LiveHistory {
    ledger: Ledger,
    targets: BTreeMap<Target, TargetState>,
    /// Since when nothing has been observed. Ends with the next tick.
    gap: Option<Moment>,
    /// Checks that a signal interrupted.
    unfinished: u64,
}

impl LiveHistory {
    /// Processes the next event, and returns the events derived from it.
    pub fn take(&mut self, event: &Event) -> Vec<Event> {
        let mut derived = Vec::new();
        match event {
            Event::TickStarted(tick) => self.close_gap(*tick),
            Event::CheckFinished(check) => self.take_check(check, &mut derived),
            Event::CheckEnded { target, oldest } => self.fold_due(target, *oldest, &mut derived),
            Event::TopologyChanged { tick, change } => {
                for (target, change) in change.changes() {
                    self.record_change(target, tick.at.stamp, change, &mut derived);
                }
            }
            Event::CycleCompleted { at, break_duration, .. } => {
                if !break_duration.is_zero() {
                    self.begin_gap(*at);
                }
            }
            Event::NotObserved { from, missed, .. } => {
                self.ledger.absent.missed += missed;
                self.begin_gap(*from);
            }
            Event::RecordsLost { from, .. } => self.begin_gap(*from),
            Event::Stopped { unfinished, .. } => {
                self.unfinished = *unfinished;
                self.fold_all(&mut derived);
            }
            Event::AllFinished { .. } => self.fold_all(&mut derived),
            Event::RunStarted { .. }
            | Event::CycleStarted { .. }
            | Event::ScanFinished(_)
            | Event::OutageBegan { .. }
            | Event::OutageEnded { .. }
            | Event::Changed(_) => {}
        }
        derived
    }

    /// Returns the history, and how many checks a signal interrupted.
    pub fn finish(self) -> (Ledger, u64) {
        (self.ledger, self.unfinished)
    }

    fn begin_gap(&mut self, from: Moment) {
        let is_earlier = self.gap.is_none_or(|gap| from.since < gap.since);
        if is_earlier {
            self.gap = Some(from);
        }
    }

    fn close_gap(&mut self, tick: Tick) {
        if let Some(from) = self.gap.take() {
            self.ledger.gaps.add(from.since, tick.at.since);
        }
    }

    fn take_check(&mut self, check: &CheckFinished, derived: &mut Vec<Event>) {
        self.fold_due(&check.subject.target, check.oldest, derived);
        if check.tick.number <= check.oldest {
            self.fold(check, derived);
        } else {
            self.target_state(&check.subject.target).order.hold_back(check.tick.number, check.clone());
        }
    }

    fn fold_due(&mut self, target: &Target, oldest: u64, derived: &mut Vec<Event>) {
        for check in self.target_state(target).order.take_due(oldest) {
            self.fold(&check, derived);
        }
    }

    fn fold_all(&mut self, derived: &mut Vec<Event>) {
        let held_back: Vec<_> = self.targets.values_mut().flat_map(|state| state.order.take_all()).collect();
        for check in held_back {
            self.fold(&check, derived);
        }
    }

    /// Adds a check to the history, in the order in which checks began.
    fn fold(&mut self, CheckFinished { subject, tick, outcome, .. }: &CheckFinished, derived: &mut Vec<Event>) {
        let at = tick.at.stamp;
        // The cluster may be discovered at any node, and a shard's primary may be any of its nodes, so another server
        // there is not a change.
        if !matches!(subject.target, Target::Cluster | Target::Shard(_)) {
            for change in self.target_state(&subject.target).observed.update(&outcome.details.connection, tick.at.since)
            {
                self.record_change(subject.target.clone(), at, change, derived);
            }
        }

        let transitions = self.ledger.check(&Check {
            subject,
            at: tick.at,
            took: Some(outcome.took()),
            result: outcome.result.as_ref().copied(),
            writes: tick.writes,
        });
        for (subject, transition) in transitions {
            derived.extend(match (transition, &outcome.result) {
                (Transition::Began, Err(failure)) => {
                    Some(Event::OutageBegan { subject, at, kind: failure.kind, onset: outcome.took() })
                }
                (Transition::Began, Ok(())) => None,
                (Transition::Ended(outage), _) => Some(Event::OutageEnded {
                    subject,
                    // The server may have recovered at any time during this check.
                    at: at.later(outcome.details.elapsed),
                    first_failure: outage.first_failure.stamp,
                    at_least: outage.at_least(),
                    at_most: outage.at_most(),
                }),
            });
        }
    }

    fn record_change(&mut self, target: Target, at: Stamp, change: Change, derived: &mut Vec<Event>) {
        let changed = Changed { target, at, change };
        self.ledger.change(changed.clone());
        derived.push(Event::Changed(changed));
    }

    fn target_state(&mut self, target: &Target) -> &mut TargetState {
        self.targets.entry(target.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;

    fn at(millis: u64) -> Moment {
        let at = DateTime::from_timestamp_millis(i64::try_from(millis).unwrap()).unwrap().fixed_offset();
        Moment { stamp: Stamp { at, millis: true }, since: Duration::from_millis(millis) }
    }

    #[test]
    fn a_suspension_over_the_end_of_a_cycle_counts_besides_the_break() {
        let mut history = LiveHistory::default();
        let tick = |millis| Event::TickStarted(Tick { number: 1, at: at(millis), writes: false });
        // The machine was suspended for a second before the cycle ended at 3 s. The break lasts a second too.
        let events = [
            tick(1_000),
            Event::NotObserved { from: at(2_000), to: at(3_000).stamp, missed: 1 },
            Event::CycleCompleted { cycle: 1, at: at(3_000), break_duration: Duration::from_secs(1) },
            tick(4_001),
            tick(5_001),
        ];
        for event in events {
            assert!(history.take(&event).is_empty());
        }
        let (ledger, _) = history.finish();
        assert_eq!(ledger.gaps.total(), Duration::from_millis(2_001));
        assert_eq!(ledger.absent.missed, 1);
    }
}
