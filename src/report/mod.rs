//! What a run or a log comes to: one value, shown as text, as JSON and as a page.

pub mod html;
pub mod json;
pub mod text;
mod timeline;

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::Stamp;
use crate::ledger::{Changed, Gap, Ledger};
use crate::outage::{Moment, Outage};
use crate::record::Subject;
use crate::series::Span;

/// How long checks took that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Latency {
    fn of(histogram: &Histogram<u32>) -> Option<Self> {
        let micros = Duration::from_micros;
        let quantile = |q| micros(histogram.value_at_quantile(q).min(histogram.max()));
        (!histogram.is_empty()).then(|| Latency {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: micros(histogram.max()),
        })
    }
}

/// What is known of one database, node, kept connection or cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub subject: Subject,
    pub checks: u64,
    pub failures: u64,
    /// The share of observed checks that succeeded, from 0 to 1.
    pub availability: f64,
    /// None where the records do not tell.
    pub latency: Option<Latency>,
    pub outages: Vec<Outage>,
    /// Outages that are counted and not kept, since there were too many.
    pub unlisted: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was checked, where that is known.
    pub endpoint: Option<String>,
    /// When the first check began, and the last.
    pub span: Option<(Moment, Moment)>,
    pub checks: u64,
    pub failures: u64,
    /// Time in which nothing was observed: breaks, and while the process or its machine did not run.
    pub unobserved: Duration,
    pub gaps: Vec<Gap>,
    pub latency: Option<Latency>,
    pub rows: Vec<Row>,
    pub changes: Vec<Changed>,
    /// Latency over time.
    pub points: Vec<(Duration, Span)>,
    /// Of a run: checks still under way at its end, checks that were due and not made, records that could not be
    /// written.
    pub unfinished: u64,
    pub missed: u64,
    pub lost: u64,
    /// Of logs: lines that could not be read.
    pub skipped_lines: u64,
}

impl Report {
    /// How many outages there were, over all rows.
    pub fn outages(&self) -> u64 {
        self.rows.iter().map(|row| row.outages.len() as u64 + row.unlisted).sum()
    }

    /// Neighbours of which the same is known, as ranges of rows.
    fn folded(&self) -> Vec<&[Row]> {
        self.rows.chunk_by(same_but_for_the_database).collect()
    }
}

fn same_but_for_the_database(a: &Row, b: &Row) -> bool {
    let neighbours = a.subject.db.zip(b.subject.db).is_some_and(|(a, b)| b == a + 1);
    let same_who = (&a.subject.who, a.subject.write) == (&b.subject.who, b.subject.write);
    let counts = |row: &Row| (row.checks, row.failures, row.unlisted);
    // How fast each was differs by microseconds and is no reason to show sixteen rows.
    neighbours && same_who && counts(a) == counts(b) && a.outages.iter().map(seen).eq(b.outages.iter().map(seen))
}

/// What two databases have to share for an outage to be the same.
fn seen(outage: &Outage) -> impl PartialEq {
    let stamp = |moment: Option<Moment>| moment.map(|moment| moment.stamp.at);
    (
        (outage.first_failure.stamp.at, outage.last_failure.stamp.at),
        (stamp(outage.last_success_before), stamp(outage.first_success_after)),
        (outage.spans_gap, outage.failed_checks, outage.kinds.clone()),
    )
}

/// `DB 0-15`, `NODE 10.0.1.5:6379 DB 3`, `endpoint`.
fn name_of(rows: &[Row]) -> String {
    match rows {
        [] => String::new(),
        [one] => one.subject.to_string(),
        [first, .., last] => {
            let end = last.subject.db.map(|db| format!("-{db}")).unwrap_or_default();
            let write = if first.subject.write { " WRITE" } else { "" };
            format!("{}{end}{write}", first.subject.writing(false))
        }
    }
}

impl From<Ledger> for Report {
    fn from(ledger: Ledger) -> Self {
        let rows = ledger.accounts.into_iter().map(|(subject, account)| Row {
            subject,
            checks: account.history.checks,
            failures: account.history.failures,
            availability: account.history.availability().unwrap_or(1.0),
            latency: account.latency.as_deref().and_then(Latency::of),
            outages: account.history.outages().cloned().collect(),
            unlisted: account.history.unlisted,
        });
        Report {
            span: ledger.first.zip(ledger.last),
            checks: ledger.checks,
            failures: ledger.failures,
            unobserved: ledger.unobserved,
            gaps: ledger.gaps,
            latency: ledger.latency.as_deref().and_then(Latency::of),
            rows: rows.collect(),
            changes: ledger.changes,
            points: ledger.series.points().collect(),
            ..Report::default()
        }
    }
}

/// A moment as the report prints it: with milliseconds where they are known.
fn stamp(at: Stamp) -> String {
    at.to_string()
}
