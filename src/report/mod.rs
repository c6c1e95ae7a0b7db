//! What a run or a log comes to: one value, shown as text, as JSON and as a page.

pub mod html;
pub mod json;
pub mod text;
mod timeline;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;

use crate::clock::Stamp;
use crate::exit::Exit;
use crate::ledger::{Changed, Gap, Ledger};
use crate::logs::{self, Logs};
use crate::outage::{Moment, Outage};
use crate::output::Output;
use crate::plan::ReportPlan;
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
    /// When it was not observed.
    pub gaps: Arc<[Gap]>,
    /// When it was first and last observed, and all that was like it.
    pub span: Option<(Moment, Moment)>,
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

    /// All outages by their beginnings; one that several databases shared is one.
    fn incidents(&self) -> Vec<Incident<'_>> {
        let mut incidents = BTreeMap::<_, Incident<'_>>::new();
        for row in &self.rows {
            for outage in &row.outages {
                let key = (seen(outage), &row.subject.who, row.subject.write);
                let incident =
                    incidents.entry(key).or_insert_with(|| Incident { subjects: Vec::new(), outage, at_most: None });
                incident.subjects.push(&row.subject);
                incident.at_most = incident.at_most.max(outage.at_most());
            }
        }
        incidents.into_values().collect()
    }

    /// Neighbours of which the same is known, as ranges of rows.
    fn folded(&self) -> Vec<&[Row]> {
        self.rows.chunk_by(same_but_for_the_database).collect()
    }
}

/// An outage, and whose it was.
struct Incident<'r> {
    subjects: Vec<&'r Subject>,
    outage: &'r Outage,
    /// The longest of their upper bounds: they end with the checks that found each database well again.
    at_most: Option<Duration>,
}

impl Incident<'_> {
    /// `DB 0-2, 4-15`.
    fn name(&self) -> String {
        let neighbours = |a: &&Subject, b: &&Subject| a.db.zip(b.db).is_some_and(|(a, b)| b == a + 1);
        let ranges: Vec<_> = self.subjects.chunk_by(neighbours).map(name_of).collect();
        ranges.join(", ")
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
fn seen(outage: &Outage) -> impl Ord + use<> {
    let stamp = |moment: Option<Moment>| moment.map(|moment| moment.stamp.at);
    (
        (outage.first_failure.stamp.at, outage.last_failure.stamp.at),
        (stamp(outage.last_success_before), stamp(outage.first_success_after)),
        (outage.spans_gap, outage.failed_checks, outage.kinds.clone()),
    )
}

/// `DB 0-15`, `NODE 10.0.1.5:6379 DB 3`, `endpoint`.
fn name_of(subjects: &[&Subject]) -> String {
    match subjects {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => {
            let end = last.db.map(|db| format!("-{db}")).unwrap_or_default();
            let write = if first.write { " WRITE" } else { "" };
            format!("{}{end}{write}", first.writing(false))
        }
    }
}

fn name_of_rows(rows: &[Row]) -> String {
    name_of(&rows.iter().map(|row| &row.subject).collect::<Vec<_>>())
}

impl From<Ledger> for Report {
    fn from(ledger: Ledger) -> Self {
        let span = ledger.first.zip(ledger.last);
        let gaps: Arc<[Gap]> = ledger.gaps.into();
        let rows = ledger.accounts.into_iter().map(|(subject, account)| Row {
            subject,
            checks: account.history.checks,
            failures: account.history.failures,
            availability: account.history.availability().unwrap_or(1.0),
            latency: account.latency.as_deref().and_then(Latency::of),
            outages: account.history.outages().cloned().collect(),
            unlisted: account.history.unlisted,
            gaps: gaps.clone(),
            span,
        });
        Report {
            span,
            checks: ledger.checks,
            failures: ledger.failures,
            unobserved: ledger.unobserved,
            latency: ledger.latency.as_deref().and_then(Latency::of),
            rows: rows.collect(),
            changes: ledger.changes,
            points: ledger.series.points().collect(),
            ..Report::default()
        }
    }
}

impl From<Logs> for Report {
    fn from(logs: Logs) -> Self {
        let (dbs, cycles) = (Report::from(logs.dbs), Report::from(logs.cycles));
        let mut report = match (dbs.span, cycles.span) {
            (_, None) => dbs.with_changes(cycles.changes),
            (None, _) => cycles,
            (Some(_), Some(_)) => dbs.beside(cycles),
        };
        report.skipped_lines = logs.skipped_lines;
        report
    }
}

impl Report {
    fn with_changes(mut self, changes: Vec<Changed>) -> Self {
        self.changes.extend(changes);
        self
    }

    /// Both, where the one fills gaps of the other.
    fn beside(self, other: Report) -> Report {
        let spans = [&self, &other].map(|report| report.span);
        let first = spans.iter().flatten().map(|(first, _)| *first).min_by_key(|moment| moment.since);
        let last = spans.iter().flatten().map(|(_, last)| *last).max_by_key(|moment| moment.since);
        let observed = observed(self.observed().chain(other.observed()).collect());
        let whole = first.zip(last).map_or(Duration::ZERO, |(first, last)| last.since - first.since);
        Report {
            span: first.zip(last),
            checks: self.checks + other.checks,
            failures: self.failures + other.failures,
            unobserved: whole.saturating_sub(observed),
            // Their checks take unlike times: one of all databases, the other of one.
            latency: other.latency.or(self.latency),
            points: if other.points.is_empty() { self.points } else { other.points },
            rows: other.rows.into_iter().chain(self.rows).collect(),
            changes: other.changes,
            ..Report::default()
        }
    }

    /// The times between gaps.
    fn observed(&self) -> impl Iterator<Item = (Duration, Duration)> {
        let gaps = self.rows.first().map(|row| row.gaps.clone()).unwrap_or_default();
        let (first, last) =
            self.span.map_or((Duration::ZERO, Duration::ZERO), |(first, last)| (first.since, last.since));
        let begins = std::iter::once(first).chain(gaps.iter().map(|gap| gap.to.since).collect::<Vec<_>>());
        let ends = gaps.iter().map(|gap| gap.from.since).collect::<Vec<_>>().into_iter().chain([last]);
        begins.zip(ends)
    }
}

/// How long all of these times are together, without what they share.
fn observed(mut times: Vec<(Duration, Duration)>) -> Duration {
    times.sort_unstable();
    let (mut sum, mut end) = (Duration::ZERO, Duration::ZERO);
    for (from, to) in times {
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    sum
}

/// Reads logs and shows what they come to.
///
/// # Errors
/// There is nothing to read, or the page cannot be written.
pub fn run(plan: &ReportPlan) -> anyhow::Result<Exit> {
    let output = Output::direct();
    let mut unreadable = |line: &str| {
        if plan.verbose {
            output.notice(line);
        }
    };
    let logs = logs::read(&plan.paths, plan.range, plan.utc, &mut unreadable)?;
    let report = Report::from(logs);
    ensure!(
        report.checks > 0,
        "no check was found in {}{}; name other logs, or another --since and --until",
        plan.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        if report.skipped_lines > 0 {
            format!(", {} lines cannot be read", report.skipped_lines)
        } else {
            String::new()
        }
    );
    if let Some(path) = &plan.html {
        fs::write(path, html::render(&report)?)
            .with_context(|| format!("--html: cannot write {}; name a file that can be written", path.display()))?;
    }
    match plan.json {
        true => output.line(json::render(&report)),
        false => output.line(text::render(&report, &text::Look::of_standard_output())),
    }
    Ok(if report.outages() > 0 { Exit::Failed } else { Exit::Healthy })
}

/// A moment as the report prints it: with milliseconds where they are known.
fn stamp(at: Stamp) -> String {
    at.to_string()
}
