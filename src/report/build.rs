//! Builds a report from ledgers: of a run, of the logs in one folder, or in several.

use std::sync::Arc;
use std::time::Duration;

use super::{Latency, Missing, Report, Row, Unlisted};
use crate::history::intervals::Intervals;
use crate::history::ledger::Ledger;
use crate::log::read::{Folder, Logs};

impl From<Ledger> for Report {
    fn from(mut ledger: Ledger) -> Self {
        ledger.complete();
        let span = ledger.first.zip(ledger.last);
        let gaps = Arc::new(ledger.gaps);
        let failures_alone = ledger.accounts.values().map(|account| account.history.alone).sum();
        let rows = ledger.accounts.into_iter().map(|(subject, account)| Row {
            subject,
            checks: account.history.checks,
            failures: account.history.failures,
            alone: account.history.alone,
            availability: account.history.availability(),
            latency: account.latency.as_deref().and_then(Latency::of),
            outages: account.history.outages().cloned().collect(),
            unlisted: Unlisted { count: account.history.unlisted, spans: account.history.unlisted_spans.clone() },
            gaps: gaps.clone(),
            // Before its first check that could be made, and after the last, it was not observed.
            span: if account.coverage.not_made.iter().next().is_some() { account.observed } else { span },
            coverage: account.coverage,
            folder: None,
        });

        let rows: Vec<_> = rows.collect();
        // Gaps are common to all rows. With checks that could not be made, each row has times of its own.
        let unobserved = match span {
            Some((first, last)) if !ledger.not_observed.is_empty() => {
                last.since.saturating_sub(first.since).saturating_sub(observed(&rows))
            }
            _ => gaps.total(),
        };

        Report {
            span,
            checks: ledger.checks,
            failures: ledger.failures,
            unobserved,
            not_observed: ledger.not_observed,
            latency: ledger.latency.as_deref().and_then(Latency::of),
            rows,
            changes: ledger.changes.into_iter().map(|changed| (None, changed)).collect(),
            points: ledger.series.points().collect(),
            missing: Missing {
                missed_checks: ledger.absent.missed,
                unlisted_checks: ledger.absent.unlisted,
                lost_records: Some(ledger.absent.lost).filter(|lost| *lost > 0),
                failures_alone,
                ..Missing::default()
            },
            ..Report::default()
        }
    }
}

/// Builds the report of the logs in one folder or in several. Each folder holds the logs of one endpoint.
pub fn of_logs(folders: Vec<(Folder, Logs)>) -> Report {
    let several = folders.len() > 1;
    let reports = folders.into_iter().map(|(folder, logs)| {
        // Scans of all databases and checks of a single one have different latencies, so latency is from one mode only.
        let (dbs, mut cycles) = (Report::from(logs.dbs), Report::from(logs.cycles));
        if cycles.latency.is_none() {
            cycles.latency = dbs.latency;
            cycles.points.clone_from(&dbs.points);
        }

        let mut both = cycles.merge(Report { latency: None, ..dbs });
        both.missing.skipped_lines = logs.skipped_lines;
        // A log of failures alone may hold no run of `cycles` that is known to be one.
        both.missing.failures_only =
            both.missing.failures_alone == both.checks && both.checks > 0 || logs.failures_only;
        both.missing.guessed_times = logs.guessed_times;
        if several { both.named(&folder) } else { both }
    });
    reports.reduce(Report::merge).unwrap_or_default()
}

impl Missing {
    fn merge(self, other: Missing) -> Missing {
        Missing {
            missed_checks: self.missed_checks + other.missed_checks,
            unlisted_checks: self.unlisted_checks + other.unlisted_checks,
            lost_records: [self.lost_records, other.lost_records].into_iter().flatten().reduce(|a, b| a + b),
            skipped_lines: self.skipped_lines + other.skipped_lines,
            guessed_times: self.guessed_times + other.guessed_times,
            failures_alone: self.failures_alone + other.failures_alone,
            failures_only: self.failures_only && other.failures_only,
            ..Missing::default()
        }
    }
}

impl Report {
    fn named(mut self, folder: &Folder) -> Self {
        self.rows.iter_mut().for_each(|row| row.folder.clone_from(folder));
        self.changes.iter_mut().for_each(|(of, _)| of.clone_from(folder));
        self
    }

    /// Merges two reports. Time that either of them observed is not a gap.
    fn merge(self, other: Report) -> Report {
        let missing = self.missing.merge(other.missing);
        let (first, second) = match (self.span, other.span) {
            (_, None) => return Report { changes: [self.changes, other.changes].concat(), missing, ..self },
            (None, _) => {
                let (latency, changes) = (other.latency.or(self.latency), [self.changes, other.changes].concat());
                return Report { latency, changes, missing, ..other };
            }
            (Some(first), Some(second)) => (first, second),
        };

        let begin = if first.0.since <= second.0.since { first.0 } else { second.0 };
        let end = if first.1.since >= second.1.since { first.1 } else { second.1 };
        let mut changes = [self.changes, other.changes].concat();
        changes.sort_by_key(|(_, changed)| changed.at.at);

        let mut not_observed = self.not_observed;
        for (reason, count) in other.not_observed {
            *not_observed.entry(reason).or_default() += count;
        }

        let mut report = Report {
            span: Some((begin, end)),
            checks: self.checks + other.checks,
            failures: self.failures + other.failures,
            not_observed,
            missing,
            // Percentiles of different checks cannot be combined.
            latency: if self.latency.is_some() && other.latency.is_some() {
                None
            } else {
                self.latency.or(other.latency)
            },
            points: if self.points.is_empty() { other.points } else { self.points },
            rows: self.rows.into_iter().chain(other.rows).collect(),
            changes,
            ..Report::default()
        };

        report.unobserved = (end.since - begin.since).saturating_sub(observed(&report.rows));
        report
    }
}

/// For how long at least one row was observed.
fn observed(rows: &[Row]) -> Duration {
    let mut times = Vec::new();
    let mut known: Vec<(&Arc<Intervals>, &Intervals)> = Vec::new();
    for row in rows {
        // All rows of one mode share their gaps, and mostly the times of their checks.
        let same = |(gaps, watched): &(&Arc<Intervals>, &Intervals)| {
            Arc::ptr_eq(gaps, &row.gaps) && **watched == row.coverage.made
        };
        if known.iter().any(same) {
            continue;
        }
        known.push((&row.gaps, &row.coverage.made));

        for (first, last) in row.coverage.made.iter() {
            let mut from = first;
            for (begin, end) in row.gaps.within(first, last).iter() {
                times.push((from, begin));
                from = end;
            }
            times.push((from, last));
        }
    }

    times.sort_unstable();
    let (mut sum, mut end) = (Duration::ZERO, Duration::ZERO);
    for (from, to) in times {
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    sum
}
