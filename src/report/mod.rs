//! The report of a run or of logs: one value, rendered as text, JSON or an HTML page.
//!
//! It does not know flags, and writes no files.

pub mod build;
pub mod html;
pub mod json;
pub mod text;
mod timeline;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::history::intervals::Intervals;
use crate::history::ledger::Coverage;
use crate::history::outage::Outage;
use crate::history::time_series::Span;
use crate::log::read::Folder;
use crate::model::change::{Aspect, Change, Changed};
use crate::model::clock::{Moment, Stamp};
use crate::model::outcome::Replaced;
use crate::model::subject::Subject;

/// How long successful checks took.
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

/// The latency of folded rows in milliseconds: p50, p90, p99 and max, each as the range over the rows. None if no row has
/// any.
fn latency_cells(rows: &[Row]) -> Option<[String; 4]> {
    let known: Vec<_> = rows.iter().filter_map(|row| row.latency).collect();
    let cell = |figure: fn(&Latency) -> Duration| {
        let millis = |figure: Option<Duration>| format!("{:.1}", figure.unwrap_or_default().as_secs_f64() * 1000.0);
        let figures = || known.iter().map(figure);
        let (lowest, highest) = (millis(figures().min()), millis(figures().max()));
        if lowest == highest { highest } else { format!("{lowest}-{highest}") }
    };
    let cells = || [cell(|l| l.p50), cell(|l| l.p90), cell(|l| l.p99), cell(|l| l.max)];
    (!known.is_empty()).then(cells)
}

/// The results of one subject: a database, node, shard, persistent connection or cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub subject: Subject,
    pub checks: u64,
    pub failures: u64,
    /// Failures among them at times whose successes the logs do not contain. They do not count for availability.
    pub alone: u64,
    /// The share of checks that succeeded, from 0 to 1. None if it is unknown, or if no check could be made.
    pub availability: Option<f64>,
    /// None if the records do not contain it.
    pub latency: Option<Latency>,
    pub outages: Vec<Outage>,
    pub unlisted: Unlisted,
    /// When nothing was observed.
    pub gaps: Arc<Intervals>,
    pub coverage: Coverage,
    /// When the first and the last check of its mode began.
    pub span: Option<(Moment, Moment)>,
    /// The folder of the logs, if several were read.
    pub folder: Folder,
}

/// Outages that were not kept, because there were too many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unlisted {
    pub count: u64,
    /// When they occurred.
    pub spans: Intervals,
}

impl Row {
    /// When it was down.
    fn down(&self) -> impl Iterator<Item = (Duration, Duration)> {
        self.outages.iter().map(Outage::span).chain(self.unlisted.spans.iter())
    }

    /// When it was not observed, including the time before its first check and after its last.
    fn unobserved(&self, whole: (Duration, Duration)) -> impl Iterator<Item = (Duration, Duration)> {
        let span = self.span.map(|(first, last)| (first.since, last.since));
        let outside = span.map(|(first, last)| [(whole.0, first), (last, whole.1)]);
        let outside = outside.into_iter().flatten().filter(|(from, to)| from < to);
        self.gaps.iter().chain(self.coverage.not_made.iter()).chain(outside)
    }
}

/// The report of a run or of logs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The endpoint that was checked, in a live run.
    pub endpoint: Option<String>,
    /// When the first check began, and the last.
    pub span: Option<(Moment, Moment)>,
    pub checks: u64,
    pub failures: u64,
    /// Time in which nothing was observed: breaks, while this process or its machine was suspended, and while no check
    /// could be made.
    pub unobserved: Duration,
    /// How many checks could not be made, by the reason on our side.
    pub not_observed: BTreeMap<String, u64>,
    pub latency: Option<Latency>,
    pub rows: Vec<Row>,
    pub changes: Vec<(Folder, Changed)>,
    /// Latency over time.
    pub points: Vec<(Duration, Span)>,
    /// What the report does not contain.
    pub missing: Missing,
    /// The logs that were read, for the title.
    pub source: Option<String>,
}

/// What is missing in a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Checks that were scheduled but not run.
    pub missed_checks: u64,
    /// Checks of databases and nodes that have no row, because there are too many.
    pub unlisted_checks: u64,
    /// Live runs only: checks that a signal interrupted.
    pub unfinished_checks: Option<u64>,
    /// Records that could not be written. None for logs without a mark of such records.
    pub lost_records: Option<u64>,
    /// Logs only: lines that could not be read.
    pub skipped_lines: u64,
    /// Logs only: failures at times whose successes the logs do not contain.
    pub failures_alone: u64,
    /// Logs only: times in the repeated hour when daylight saving ends that could not be decided.
    pub guessed_times: u64,
    /// Only an error log was read, which contains no successful checks: availability and the ends of outages are
    /// unknown.
    pub failures_only: bool,
}

impl Missing {
    /// The counters that are not zero, with their names.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        [
            ("checks still running at the end", self.unfinished_checks.unwrap_or(0)),
            ("checks scheduled but not run", self.missed_checks),
            ("checks of further databases or nodes, which have no row", self.unlisted_checks),
            ("records that could not be written", self.lost_records.unwrap_or(0)),
            ("lines that could not be read", self.skipped_lines),
            ("failures at times without successes in the logs", self.failures_alone),
            ("times guessed in the hour that the clock repeated", self.guessed_times),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
    }
}

impl Report {
    /// How many outages there were, over all rows.
    pub fn outages(&self) -> u64 {
        self.rows.iter().map(|row| row.outages.len() as u64 + row.unlisted.count).sum()
    }

    /// How many checks could not be made, and why: `checks not observed: 3 (too many open files 3)`.
    fn not_observed_in_words(&self) -> Option<String> {
        let count: u64 = self.not_observed.values().sum();
        let reasons: Vec<_> = self.not_observed.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        (count > 0).then(|| format!("checks not observed: {count} ({})", reasons.join(", ")))
    }

    /// All outages, sorted by their beginning. An outage that several databases share is one incident.
    fn incidents(&self) -> Vec<Incident<'_>> {
        let mut incidents = BTreeMap::<_, Incident<'_>>::new();
        for row in &self.rows {
            for outage in &row.outages {
                let key = (observed_as(outage), &row.folder, &row.subject.target, row.subject.write);
                let at_least = outage.at_least();
                let new = || Incident { folder: &row.folder, subjects: Vec::new(), outage, at_least, at_most: None };
                let incident = incidents.entry(key).or_insert_with(new);
                incident.subjects.push(&row.subject);
                incident.at_least = incident.at_least.min(at_least);
                incident.at_most = incident.at_most.max(outage.at_most());
            }
        }
        incidents.into_values().collect()
    }

    /// Groups rows of consecutive databases with the same results.
    fn folded(&self) -> Vec<&[Row]> {
        self.rows.chunk_by(same_but_for_the_database).collect()
    }
}

/// An outage, and the subjects that share it.
struct Incident<'r> {
    folder: &'r Folder,
    subjects: Vec<&'r Subject>,
    outage: &'r Outage,
    /// The lowest of their lower bounds and the highest of their upper bounds. They differ because each database is asked
    /// and answers at its own time.
    at_least: Duration,
    at_most: Option<Duration>,
}

impl Incident<'_> {
    /// `DB 0-2, 4-15`.
    fn name(&self) -> String {
        let ranges = self.subjects.chunk_by(|a, b| a.is_before(b)).map(|run| Subject::range(run.iter().copied()));
        let ranges: Vec<_> = ranges.collect();
        in_folder(self.folder, ranges.join(", "))
    }
}

fn same_but_for_the_database(a: &Row, b: &Row) -> bool {
    let counts = |row: &Row| (row.checks, row.failures, row.unlisted.count);
    // Latency is not compared, because it always differs a little: the folded row shows its range.
    a.subject.is_before(&b.subject)
        && a.folder == b.folder
        && counts(a) == counts(b)
        && (&a.unlisted, &a.coverage.not_made) == (&b.unlisted, &b.coverage.not_made)
        && a.outages.iter().map(observed_as).eq(b.outages.iter().map(observed_as))
}

/// What must be equal for the outages of two databases to be one incident.
fn observed_as(outage: &Outage) -> impl Ord + use<> {
    let stamp = |moment: Option<Moment>| moment.map(|moment| moment.stamp.at);
    (
        (outage.first_failure.stamp.at, outage.last_failure.stamp.at),
        (stamp(outage.last_success_before), stamp(outage.first_success_after)),
        (outage.spans_gap, outage.failed_checks, outage.kinds.clone()),
    )
}

fn name_of_rows(rows: &[Row]) -> String {
    let folder = rows.first().and_then(|row| row.folder.clone());
    in_folder(&folder, Subject::range(rows.iter().map(|row| &row.subject)))
}

fn in_folder(folder: &Folder, name: String) -> String {
    match folder {
        Some(folder) => format!("{folder}: {name}"),
        None => name,
    }
}

/// A change in the wording of the logs, without its time and with shortened run ids.
fn change_in_words((folder, changed): &(Folder, Changed)) -> String {
    let Change { aspect, from, to } = &changed.change;
    let target = in_folder(folder, changed.target.to_string());
    let short =
        |id: &str| if id.chars().count() > 9 { id.chars().take(8).chain(['…']).collect() } else { id.to_owned() };
    match aspect {
        Aspect::Address => format!("{target} moved from {from} to {to}"),
        Aspect::Role | Aspect::Engine => format!("{target} changed from {from} to {to}"),
        Aspect::RunId => format!("{target} was restarted, run id {} became {}", short(from), short(to)),
        Aspect::Server => format!("{target}: another server answers, run id {} became {}", short(from), short(to)),
        Aspect::Connection if to == Replaced::Silent.as_str() => format!("{target} replaced after no reply"),
        Aspect::Connection => format!("{target} closed by the server"),
        Aspect::Member => format!("{target} was {from} and is {to}"),
    }
}

/// A timestamp as the report prints it: with milliseconds if they are known.
fn stamp(at: Stamp) -> String {
    at.to_string()
}
