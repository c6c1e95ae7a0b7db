//! Compares the documents and pages of the program with the expected figures.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;

use super::arithmetic::{Expected, Micros, Outage, Row, Who, percentile};

/// How exact the figures are that the program had.
#[derive(Clone, Copy, Debug)]
pub struct Exactness {
    /// Of timestamps.
    pub stamps: Micros,
    /// Of durations.
    pub bounds: Micros,
    /// Of each unobserved time.
    pub gaps: Micros,
}

/// The differences between a document of `--json` and the expected figures.
pub fn document(expected: &Expected, document: &Value, exactness: Exactness) -> Vec<String> {
    let mut differences = Differences { exactness, found: Vec::new() };
    differences.stamp("from", &document["from"], expected.from);
    differences.stamp("to", &document["to"], expected.to);
    differences.number("checks", &document["checks"], expected.checks);
    differences.number("failures", &document["failures"], expected.failures);
    differences.number("missed_checks", &document["missed_checks"], expected.missed);
    differences.duration("unobserved_s", &document["unobserved_s"], Some(expected.unobserved), exactness.gaps);
    let reasons = document["not_observed"].as_object().cloned().unwrap_or_default();
    let reasons: BTreeMap<_, _> =
        reasons.into_iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect();
    if reasons != expected.not_observed {
        differences.differ("not_observed", &document["not_observed"], &expected.not_observed);
    }
    differences.latency("latency_us", &document["latency_us"], &expected.latency);

    let none = Vec::new();
    let rows = document["databases"].as_array().unwrap_or(&none);
    let names = |rows: Vec<Who>| rows.iter().map(name).collect::<Vec<_>>().join(", ");
    let mut found = BTreeMap::<Who, Vec<&Value>>::new();
    for row in rows {
        found.entry(who(row)).or_default().push(row);
    }
    let mut wanted = BTreeMap::<Who, Vec<&Row>>::new();
    for row in &expected.rows {
        wanted.entry(row.who.clone()).or_default().push(row);
    }
    let count = |rows: Vec<usize>| rows.into_iter().sum::<usize>();
    if !found.keys().eq(wanted.keys())
        || count(found.values().map(Vec::len).collect()) != count(wanted.values().map(Vec::len).collect())
    {
        let (found, wanted) = (found.keys().cloned().collect(), wanted.keys().cloned().collect());
        differences.found.push(format!("rows: {} instead of {}", names(found), names(wanted)));
        return differences.found;
    }

    // A target of both commands has two rows.
    for (found, wanted) in found.into_values().zip(wanted.into_values()) {
        for (found, wanted) in found.into_iter().zip(wanted) {
            differences.row(found, wanted);
        }
    }
    differences.found
}

fn who(row: &Value) -> Who {
    let db = row["db"].as_u64().and_then(|db| u32::try_from(db).ok());
    Who { held: row["held"] == true, db, write: row["write"] == true }
}

/// The name of a target in texts and pages.
pub fn name(who: &Who) -> String {
    let words = [
        (who.held, "HELD".to_owned()),
        (!who.held && who.db.is_none(), "endpoint".to_owned()),
        (who.db.is_some(), format!("DB {}", who.db.unwrap_or(0))),
        (who.write, "WRITE".to_owned()),
    ];
    words.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect::<Vec<_>>().join(" ")
}

/// The time of a timestamp in a document.
pub fn micros(stamp: &Value) -> Option<Micros> {
    DateTime::parse_from_rfc3339(stamp.as_str()?).ok().map(|at| at.timestamp_micros())
}

/// A duration in seconds.
pub fn seconds(duration: &Value) -> Option<Micros> {
    duration.as_f64().map(|seconds| (seconds * 1e6).round() as Micros)
}

struct Differences {
    exactness: Exactness,
    found: Vec<String>,
}

impl Differences {
    fn differ(&mut self, what: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Debug) {
        self.found.push(format!("{what}: {found} instead of {wanted:?}"));
    }

    fn number(&mut self, what: &str, found: &Value, wanted: u64) {
        if found.as_u64() != Some(wanted) {
            self.differ(what, found, wanted);
        }
    }

    fn within(&mut self, what: &str, value: Option<Micros>, found: &Value, wanted: Option<Micros>, exactness: Micros) {
        let agrees = match (value, wanted) {
            (None, None) => found.is_null(),
            (Some(found), Some(wanted)) => found.abs_diff(wanted) <= exactness.unsigned_abs(),
            _ => false,
        };
        if !agrees {
            self.differ(what, found, wanted);
        }
    }

    fn stamp(&mut self, what: &str, found: &Value, wanted: Option<Micros>) {
        self.within(what, micros(found), found, wanted, self.exactness.stamps);
    }

    fn duration(&mut self, what: &str, found: &Value, wanted: Option<Micros>, exactness: Micros) {
        self.within(what, seconds(found), found, wanted, exactness);
    }

    /// Percentiles have two significant digits and are never too low.
    fn latency(&mut self, what: &str, found: &Value, wanted: &[Micros]) {
        for (name, percent) in [("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
            let wanted = percentile(wanted, percent);
            let agrees = match (found[name].as_i64(), wanted) {
                (None, None) => true,
                (Some(found), Some(wanted)) => (wanted.max(1)..=wanted + wanted / 100 + 1).contains(&found),
                _ => false,
            };
            if !agrees {
                self.differ(&format!("{what} {name}"), found, wanted);
            }
        }
    }

    fn row(&mut self, found: &Value, wanted: &Row) {
        let name = name(&wanted.who);
        self.number(&format!("{name} checks"), &found["checks"], wanted.checks);
        self.number(&format!("{name} failures"), &found["failures"], wanted.failures);
        let share = (wanted.checks > 0).then(|| (wanted.checks - wanted.failures) as f64 / wanted.checks as f64);
        let agrees = match (found["availability"].as_f64(), share) {
            (Some(found), Some(share)) => (found - share).abs() < 1e-9,
            (found, share) => found.is_none() && share.is_none(),
        };
        if !agrees {
            self.differ(&format!("{name} availability"), &found["availability"], share);
        }
        self.latency(&format!("{name} latency_us"), &found["latency_us"], &wanted.latency);

        let none = Vec::new();
        let outages = found["outages"].as_array().unwrap_or(&none);
        if outages.len() != wanted.outages.len() {
            let wanted: Vec<_> =
                wanted.outages.iter().map(|outage| (outage.first_failure, outage.failed_checks)).collect();
            let found: Vec<_> =
                outages.iter().map(|outage| (&outage["first_failure"], &outage["failed_checks"])).collect();
            self.differ(&format!("{name} outages"), format!("{found:?}"), wanted);
            return;
        }
        for (number, (found, wanted)) in outages.iter().zip(&wanted.outages).enumerate() {
            self.outage(&format!("{name} outage {}", number + 1), found, wanted);
        }
    }

    fn outage(&mut self, name: &str, found: &Value, wanted: &Outage) {
        self.stamp(&format!("{name} first_failure"), &found["first_failure"], Some(wanted.first_failure));
        self.stamp(&format!("{name} last_failure"), &found["last_failure"], Some(wanted.last_failure));
        self.stamp(&format!("{name} last_success_before"), &found["last_success_before"], wanted.before);
        self.stamp(&format!("{name} first_success_after"), &found["first_success_after"], wanted.after);
        let exactness = self.exactness.bounds + wanted.slack;
        self.duration(&format!("{name} at_least_s"), &found["at_least_s"], Some(wanted.at_least), exactness);
        self.duration(&format!("{name} at_most_s"), &found["at_most_s"], wanted.at_most, exactness);
        self.number(&format!("{name} failed_checks"), &found["failed_checks"], wanted.failed_checks);
        if found["spans_gap"] != wanted.spans_gap {
            self.differ(&format!("{name} spans_gap"), &found["spans_gap"], wanted.spans_gap);
        }
        let kinds = serde_json::to_value(&wanted.kinds).unwrap_or_default();
        if found["kinds"] != kinds {
            self.differ(&format!("{name} kinds"), &found["kinds"], kinds);
        }
        if found["reason"] != wanted.reason.as_str() {
            self.differ(&format!("{name} reason"), &found["reason"], &wanted.reason);
        }
    }
}
