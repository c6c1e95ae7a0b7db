//! A report as one JSON document, for programs. The README explains the fields.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Latency, Report, Row};
use crate::history::outage::Outage;
use crate::log::read::Folder;
use crate::model::change::Changed;
use crate::model::clock::Moment;
use crate::model::subject::{Subject, Target};

/// Renders the document, on one line.
pub fn render(report: &Report) -> String {
    let document = Document {
        endpoint: report.endpoint.as_deref(),
        from: report.span.map(|(first, _)| stamp(first)),
        to: report.span.map(|(_, last)| stamp(last)),
        checks: report.checks,
        failures: report.failures,
        unobserved_s: report.unobserved.as_secs_f64(),
        not_observed: &report.not_observed,
        unfinished_checks: report.missing.unfinished_checks,
        missed_checks: report.missing.missed_checks,
        unlisted_checks: report.missing.unlisted_checks,
        lost_records: report.missing.lost_records,
        skipped_lines: report.missing.skipped_lines,
        failures_alone: report.missing.failures_alone,
        guessed_times: report.missing.guessed_times,
        latency_us: report.latency.map(Into::into),
        databases: report.rows.iter().map(|row| Database::of(row, report.missing.failures_only)).collect(),
        changes: report.changes.iter().map(Into::into).collect(),
    };
    // Serialising to memory fails only for maps whose keys are not text. There are none.
    serde_json::to_string(&document).unwrap_or_default()
}

fn stamp(moment: Moment) -> String {
    moment.stamp.rfc3339()
}

#[derive(Serialize)]
struct Document<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'r str>,
    from: Option<String>,
    to: Option<String>,
    checks: u64,
    failures: u64,
    unobserved_s: f64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    not_observed: &'r BTreeMap<String, u64>,
    unfinished_checks: Option<u64>,
    missed_checks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    unlisted_checks: u64,
    lost_records: Option<u64>,
    skipped_lines: u64,
    #[serde(skip_serializing_if = "is_zero")]
    failures_alone: u64,
    #[serde(skip_serializing_if = "is_zero")]
    guessed_times: u64,
    latency_us: Option<LatencyMicros>,
    databases: Vec<Database<'r>>,
    changes: Vec<ChangeFields<'r>>,
}

#[derive(Serialize)]
struct LatencyMicros {
    p50: u128,
    p90: u128,
    p99: u128,
    max: u128,
}

impl From<Latency> for LatencyMicros {
    fn from(Latency { p50, p90, p99, max }: Latency) -> Self {
        let [p50, p90, p99, max] = [p50, p90, p99, max].map(|figure| figure.as_micros());
        LatencyMicros { p50, p90, p99, max }
    }
}

/// One row of the report.
#[derive(Serialize)]
struct Database<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<&'r str>,
    db: Option<u32>,
    node: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<&'r str>,
    #[serde(skip_serializing_if = "is_false")]
    held: bool,
    #[serde(skip_serializing_if = "is_false")]
    cluster: bool,
    #[serde(skip_serializing_if = "is_false")]
    write: bool,
    checks: u64,
    failures: u64,
    availability: Option<f64>,
    latency_us: Option<LatencyMicros>,
    outages: Vec<OutageFields>,
    #[serde(skip_serializing_if = "is_zero")]
    unlisted_outages: u64,
}

fn is_false(it: &bool) -> bool {
    !it
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl<'r> Database<'r> {
    fn of(row: &'r Row, failures_only: bool) -> Self {
        let Subject { target, db, write } = &row.subject;
        Database {
            folder: row.folder.as_deref(),
            db: *db,
            node: node(target),
            shard: shard(target),
            held: *target == Target::Held,
            cluster: *target == Target::Cluster,
            write: *write,
            checks: row.checks,
            failures: row.failures,
            // An error log contains no successful checks.
            availability: row.availability.filter(|_| !failures_only),
            latency_us: row.latency.map(Into::into),
            outages: row.outages.iter().map(Into::into).collect(),
            unlisted_outages: row.unlisted.count,
        }
    }
}

fn node(target: &Target) -> Option<&str> {
    match target {
        Target::Node(node) => Some(node),
        _ => None,
    }
}

fn shard(target: &Target) -> Option<&str> {
    match target {
        Target::Shard(slots) => Some(slots),
        _ => None,
    }
}

#[derive(Serialize)]
struct OutageFields {
    first_failure: String,
    last_failure: String,
    last_success_before: Option<String>,
    first_success_after: Option<String>,
    at_least_s: f64,
    at_most_s: Option<f64>,
    spans_gap: bool,
    failed_checks: u64,
    kinds: BTreeMap<&'static str, u64>,
    reason: String,
}

impl From<&Outage> for OutageFields {
    fn from(outage: &Outage) -> Self {
        OutageFields {
            first_failure: stamp(outage.first_failure),
            last_failure: stamp(outage.last_failure),
            last_success_before: outage.last_success_before.map(stamp),
            first_success_after: outage.first_success_after.map(stamp),
            at_least_s: outage.at_least().as_secs_f64(),
            at_most_s: outage.at_most().map(|at_most| at_most.as_secs_f64()),
            spans_gap: outage.spans_gap,
            failed_checks: outage.failed_checks,
            kinds: outage.kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            reason: outage.reason.to_string(),
        }
    }
}

#[derive(Serialize)]
struct ChangeFields<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<&'r str>,
    at: String,
    what: &'static str,
    from: &'r str,
    to: &'r str,
    node: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<&'r str>,
    #[serde(skip_serializing_if = "is_false")]
    held: bool,
}

impl<'r> From<&'r (Folder, Changed)> for ChangeFields<'r> {
    fn from((folder, changed): &'r (Folder, Changed)) -> Self {
        ChangeFields {
            folder: folder.as_deref(),
            at: changed.at.rfc3339(),
            what: changed.change.aspect.as_str(),
            from: &changed.change.from,
            to: &changed.change.to,
            node: node(&changed.target),
            shard: shard(&changed.target),
            held: changed.target == Target::Held,
        }
    }
}
