//! The metrics of one subject, and how they are written and read back. Pure functions.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::model::failure::Kind;

/// Names that the next run reads back.
pub const CHECKS: &str = "redis_health_checks_total";
pub const FAILURES: &str = "redis_health_failures_total";
pub const NOT_OBSERVED: &str = "redis_health_not_observed_total";
pub const UP: &str = "redis_health_up";
pub const DURATION: &str = "redis_health_check_duration_seconds";
pub const LAST_CHECK: &str = "redis_health_last_check_timestamp_seconds";
pub const DOWN_SINCE: &str = "redis_health_down_since_timestamp_seconds";

/// Begins a comment that keeps a value for later runs, of a subject that is not checked at present. Prometheus ignores
/// it.
const KEPT: &str = "# kept ";

/// The metrics of one subject. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubjectMetrics {
    pub checks: u64,
    pub failures: BTreeMap<Kind, u64>,
    /// How many checks could not be made, by reason. They change nothing else.
    pub not_observed: BTreeMap<String, u64>,
    /// When the newest check began. 0 if there was none.
    pub last_check: f64,
    /// The result of the newest check. None if it is not known.
    pub latest: Option<Latest>,
    /// The number of the newest check.
    newest: u64,
    /// The number of the newest check that passed.
    passed: u64,
    /// When the failed checks since then began, by number. Those that no check can precede any more are left out,
    /// except the first. Number 0 stands for the previous run.
    failing: BTreeMap<u64, f64>,
}

/// The result of the newest check.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latest {
    pub up: bool,
    /// In seconds.
    pub duration: f64,
}

/// A check that ended.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Counts the ticks of the run.
    pub number: u64,
    /// The lowest number of a check that is still running.
    pub oldest: u64,
    /// When it began.
    pub at: f64,
    pub took: Duration,
}

impl SubjectMetrics {
    /// Adds a check. Checks overlap and end in any order: one that began before the newest one says nothing about the
    /// present.
    pub fn observe(&mut self, check: Check, failure: Option<Kind>) {
        let Check { number, oldest, at, took } = check;
        self.checks += 1;
        if number >= self.newest {
            self.newest = number;
            self.last_check = at;
            self.latest = Some(Latest { up: failure.is_none(), duration: took.as_secs_f64() });
        }

        match failure {
            Some(kind) => {
                *self.failures.entry(kind).or_default() += 1;
                if number > self.passed {
                    self.failing.insert(number, at);
                }
            }
            None => {
                self.passed = self.passed.max(number);
                self.failing.retain(|failed, _| *failed > number);
            }
        }

        let first = self.failing.first_key_value().map(|(first, _)| *first);
        self.failing.retain(|failed, _| Some(*failed) == first || *failed >= oldest);
    }

    /// Adds a check that could not be made. What an earlier check observed stays until one can be made again.
    pub fn miss(&mut self, reason: &str) {
        *self.not_observed.entry(escaped(reason)).or_default() += 1;
    }

    /// When the first failed check of the present outage began.
    pub fn down_since(&self) -> Option<f64> {
        self.failing.first_key_value().map(|(_, at)| *at)
    }

    /// What is kept of a subject that is not checked any more: only its counters and the time of its last check.
    #[must_use]
    pub fn counters(self) -> Self {
        let SubjectMetrics { checks, failures, not_observed, last_check, .. } = self;
        SubjectMetrics { checks, failures, not_observed, last_check, ..SubjectMetrics::default() }
    }

    /// Reads a line that [`write_kept`] or the metrics of an active subject left. Returns whether it belongs here.
    fn read(&mut self, sample: &Sample<'_>) {
        match (sample.name, sample.reason) {
            (UP, _) => self.latest.get_or_insert_default().up = sample.value > 0.0,
            (DURATION, _) => self.latest.get_or_insert_default().duration = sample.value,
            (LAST_CHECK, _) => self.last_check = sample.value,
            (DOWN_SINCE, _) => _ = self.failing.insert(0, sample.value),
            (CHECKS, _) => self.checks = sample.value as u64,
            (FAILURES, Some(kind)) => {
                if let Ok(kind) = kind.parse() {
                    self.failures.insert(kind, sample.value as u64);
                }
            }
            (NOT_OBSERVED, Some(reason)) => _ = self.not_observed.insert(reason.to_owned(), sample.value as u64),
            _ => {}
        }
    }
}

/// One line of the file: `name{labels} value`.
struct Sample<'l> {
    name: &'l str,
    labels: &'l str,
    /// The label of a counter that has several for one subject: the kind of failure, or why a check was not made.
    reason: Option<&'l str>,
    value: f64,
    /// It was not shown to Prometheus.
    is_kept: bool,
}

impl<'l> Sample<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let shown = line.strip_prefix(KEPT);
        let (series, value) = shown.unwrap_or(line).rsplit_once(' ').filter(|(series, _)| !series.starts_with('#'))?;
        let (name, labels) = series.strip_suffix('}')?.split_once('{')?;
        let last = match name {
            FAILURES => labels.rsplit_once(",kind=\""),
            NOT_OBSERVED => labels.rsplit_once(",reason=\""),
            _ => None,
        };
        let (labels, reason) = match last {
            Some((labels, reason)) => (labels, Some(reason.strip_suffix('"')?)),
            None => (labels, None),
        };
        let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Sample { name, labels, reason, value, is_kept: shown.is_some() })
    }
}

/// What the previous runs left in a file.
#[derive(Debug, Default, PartialEq)]
pub struct Previous {
    /// By labels.
    pub subjects: BTreeMap<String, SubjectMetrics>,
    /// The first label of a series of another endpoint.
    pub other: Option<String>,
}

/// Reads the lines of a file back. `endpoint` is the label of this run's endpoint.
pub fn read_back(lines: impl Iterator<Item = String>, endpoint: &str) -> Previous {
    let mut previous = Previous::default();
    for line in lines {
        let Some(sample) = Sample::parse(&line) else { continue };
        let rest = sample.labels.strip_prefix(endpoint);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(',')) {
            previous.subjects.entry(sample.labels.to_owned()).or_default().read(&sample);
        } else if !sample.is_kept && sample.name == CHECKS && previous.other.is_none() {
            let label = sample.labels.split("\",").next().unwrap_or_default();
            previous.other = Some(label.trim_start_matches("endpoint=\"").trim_end_matches('"').to_owned());
        }
    }
    previous
}

/// Writes the values of a subject that is not checked at present, as comments.
pub fn write_kept(text: &mut String, labels: &str, kept: &SubjectMetrics) -> fmt::Result {
    writeln!(text, "{KEPT}{CHECKS}{{{labels}}} {}", kept.checks)?;
    for (kind, count) in &kept.failures {
        writeln!(text, "{KEPT}{FAILURES}{{{labels},kind=\"{kind}\"}} {count}")?;
    }
    for (reason, count) in &kept.not_observed {
        writeln!(text, "{KEPT}{NOT_OBSERVED}{{{labels},reason=\"{reason}\"}} {count}")?;
    }
    writeln!(text, "{KEPT}{LAST_CHECK}{{{labels}}} {}", kept.last_check)?;
    match kept.down_since() {
        Some(since) => writeln!(text, "{KEPT}{DOWN_SINCE}{{{labels}}} {since}"),
        None => Ok(()),
    }
}

/// Escapes backslashes, quotes and line ends in the value of a label.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_end_late_do_not_hide_later_ones() {
        const F: Option<Kind> = Some(Kind::Timeout);
        // Each check: number, oldest check still running, failure; then whether up, and since when down.
        type Case<'c> = (&'c [(u64, u64, Option<Kind>)], bool, Option<f64>);
        let cases: &[Case<'_>] = &[
            (&[(1, 2, None)], true, None),
            (&[(1, 2, F)], false, Some(1.0)),
            // The later check passed first.
            (&[(2, 1, None), (1, 3, F)], true, None),
            (&[(2, 1, F), (1, 3, F)], false, Some(1.0)),
            // The earlier check passed last.
            (&[(2, 1, F), (1, 3, None)], false, Some(2.0)),
            (&[(1, 2, F), (3, 2, F), (4, 2, F), (2, 5, None)], false, Some(3.0)),
            (&[(2, 1, None), (3, 1, F), (1, 4, F)], false, Some(3.0)),
            (&[(1, 2, F), (2, 3, None)], true, None),
        ];
        for (checks, up, since) in cases {
            let mut metrics = SubjectMetrics::default();
            for (number, oldest, failure) in *checks {
                let (number, oldest) = (*number, *oldest);
                metrics.observe(Check { number, oldest, at: number as f64, took: Duration::ZERO }, *failure);
            }
            assert_eq!((metrics.latest.unwrap().up, metrics.down_since()), (*up, *since), "{checks:?}");
            assert_eq!(metrics.checks, checks.len() as u64);
        }
    }

    #[test]
    fn a_long_outage_takes_no_memory() {
        let mut metrics = SubjectMetrics::default();
        for number in 1..1000 {
            metrics.observe(
                Check { number, oldest: number.saturating_sub(3), at: 0.0, took: Duration::ZERO },
                Some(Kind::Refused),
            );
        }
        assert!(metrics.failing.len() < 10);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let kept = SubjectMetrics {
            checks: 12,
            failures: [(Kind::Timeout, 3), (Kind::Reset, 1)].into(),
            not_observed: [("a \\\"b\\\"".to_owned(), 2)].into(),
            last_check: 1_756_280_101.25,
            failing: [(0, 1_756_280_100.5)].into(),
            ..SubjectMetrics::default()
        };
        let labels = r#"endpoint="a \" b",node="c:1""#;
        let mut text = String::new();
        write_kept(&mut text, labels, &kept).unwrap();
        let lines = || text.lines().map(str::to_owned);
        let read = read_back(lines(), r#"endpoint="a \" b""#);
        assert_eq!(read, Previous { subjects: [(labels.to_owned(), kept)].into(), other: None });

        // A series that Prometheus sees is read in the same way; another endpoint's is reported.
        let shown = lines().map(|line| line.strip_prefix(KEPT).unwrap().to_owned());
        assert_eq!(read_back(shown.clone(), r#"endpoint="a \" b""#), read);
        let other = read_back(shown, r#"endpoint="a""#);
        assert_eq!(other, Previous { subjects: BTreeMap::new(), other: Some(r#"a \" b"#.to_owned()) });
    }

    #[test]
    fn other_lines_are_ignored() {
        for line in
            ["", "# TYPE a gauge", "a 1", "a{b} x", "a{b}", "redis_health_checks_total{} NaN", "}{ 1", "# kept "]
        {
            let read = read_back([line.to_owned()].into_iter(), "endpoint=\"a\"");
            assert_eq!(read, Previous::default(), "{line}");
        }
    }
}
