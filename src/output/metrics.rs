//! `--metrics-file`: the current values in Prometheus' text format, for node_exporter's textfile collector.
//!
//! The file is replaced atomically, so that a scrape never reads a partial file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::model::change::{ActiveTargets, TopologyChange};
use crate::model::clock::{Clock, Stamp};
use crate::model::event::{CheckFinished, Event, Sink};
use crate::model::failure::Kind;
use crate::model::notify::Notify;
use crate::model::outcome::Verdict;
use crate::model::subject::{Subject, Target};

/// The minimum time between two writes: checks can be far more frequent than scrapes.
const SPACING: Duration = Duration::from_millis(250);

/// The name of a series that the next run reads back.
const DOWN_SINCE: &str = "redis_health_down_since_timestamp_seconds";

/// The metrics of one run, and the file that they are written to.
pub struct Metrics {
    path: PathBuf,
    endpoint: String,
    series: BTreeMap<Subject, SubjectMetrics>,
    /// How many checks could not be made, by subject and reason. They change nothing else.
    not_observed: BTreeMap<Subject, BTreeMap<String, u64>>,
    /// The values that the previous run left in the file, by name and labels.
    before: BTreeMap<String, f64>,
    active: ActiveTargets,
    clock: Clock,
    notify: Notify,
    /// When the file was last replaced.
    written: Option<Instant>,
    /// Something was observed since then.
    is_dirty: bool,
    /// The last event was processed.
    is_last: bool,
    /// The last write failed, and the failure was reported.
    is_failing: bool,
}

/// The metrics of one subject. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
struct SubjectMetrics {
    up: bool,
    checks: u64,
    failures: BTreeMap<Kind, u64>,
    last_check: f64,
    duration: f64,
    down_since: Option<f64>,
}

impl Metrics {
    /// Reads the file of the previous run, if there is one, so that outages and counters continue across runs from
    /// cron. `notify` is called if the file cannot be written.
    pub fn new(path: PathBuf, endpoint: String, clock: Clock, notify: Notify) -> Self {
        let before = std::fs::read_to_string(&path).map(|text| series(&text)).unwrap_or_default();
        Metrics {
            path,
            endpoint,
            clock,
            notify,
            series: BTreeMap::new(),
            not_observed: BTreeMap::new(),
            before,
            active: ActiveTargets::default(),
            written: None,
            is_dirty: false,
            is_last: false,
            is_failing: false,
        }
    }

    /// Adds a check. `writes` is whether it includes a canary write.
    fn observe(&mut self, subject: &Subject, at: Stamp, took: Duration, verdict: Verdict<'_>, writes: bool) {
        self.is_dirty = true;
        // If only the write failed or was not observed, the read passed.
        let reads = if subject.write { Verdict::Passed } else { verdict };
        self.observe_one(&subject.writing(false), at, took, reads);
        if writes {
            self.observe_one(&subject.writing(true), at, took, verdict);
        }
    }

    /// Removes the targets that are no longer checked.
    fn forget(&mut self, change: &TopologyChange) {
        self.active.update(change);
        self.series.retain(|subject, _| self.active.contains(&subject.target));
        self.not_observed.retain(|subject, _| self.active.contains(&subject.target));
    }

    fn observe_one(&mut self, subject: &Subject, at: Stamp, took: Duration, verdict: Verdict<'_>) {
        let failure = match verdict {
            Verdict::Passed => None,
            Verdict::Failed(failure) => Some(failure.kind),
            Verdict::NotObserved(reason) => {
                let reasons = self.not_observed.entry(subject.clone()).or_default();
                return *reasons.entry(reason.detail.to_string()).or_default() += 1;
            }
        };
        let labels = self.labels(subject);
        let before = self.before.remove(&format!("{DOWN_SINCE}{{{labels}}}"));
        let series = self.series.entry(subject.clone()).or_default();
        series.up = failure.is_none();
        series.checks += 1;
        series.last_check = at.at.timestamp_micros() as f64 / 1e6;
        series.duration = took.as_secs_f64();
        series.down_since = failure.map(|_| before.or(series.down_since).unwrap_or(series.last_check));
        if let Some(kind) = failure {
            *series.failures.entry(kind).or_default() += 1;
        }
    }

    fn write(&mut self, now: Stamp) -> io::Result<()> {
        // The temporary file is in the same folder, otherwise the rename would not be atomic. node_exporter ignores it,
        // because it reads only names that end in `.prom`.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let written =
            std::fs::write(&temporary, self.render(now)).and_then(|()| std::fs::rename(&temporary, &self.path));
        written.inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
    }

    fn labels(&self, subject: &Subject) -> String {
        let mut labels = format!("endpoint=\"{}\"", escaped(&self.endpoint));
        match &subject.target {
            Target::Endpoint => {}
            Target::Held => labels.push_str(",connection=\"held\""),
            Target::Cluster => labels.push_str(",node=\"cluster\""),
            Target::Node(node) => _ = write!(labels, ",node=\"{}\"", escaped(node)),
            Target::Shard(slots) => _ = write!(labels, ",shard=\"{}\"", escaped(slots)),
        }

        if let Some(db) = subject.db {
            let _ = write!(labels, ",db=\"{db}\"");
        }
        if subject.write {
            labels.push_str(",probe=\"write\"");
        }
        labels
    }

    /// The values of a counter of this endpoint that the previous run left.
    fn counted_before<'m>(&'m self, name: &'m str) -> impl Iterator<Item = (String, f64)> + 'm {
        let of_ours = format!("{name}{{endpoint=\"{}\"", escaped(&self.endpoint));
        let ours = self.before.iter().filter(move |(series, _)| series.starts_with(&of_ours));
        ours.map(|(series, value)| (series.clone(), *value))
    }

    fn render(&self, now: Stamp) -> String {
        let now = now.at.timestamp_micros() as f64 / 1e6;
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&SubjectMetrics) -> Option<f64>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (subject, series) in &self.series {
                if let Some(value) = value(series) {
                    let _ = writeln!(text, "{name}{{{}}} {value}", self.labels(subject));
                }
            }
            // What an earlier run observed stays until a check can be made again.
            for subject in self.not_observed.keys().filter(|subject| !self.series.contains_key(subject)) {
                let series = format!("{name}{{{}}}", self.labels(subject));
                if let Some(value) = self.before.get(&series) {
                    let _ = writeln!(text, "{series} {value}");
                }
            }
        };

        family("redis_health_up", "gauge", "Whether the last check passed.", &|s| Some(f64::from(u8::from(s.up))));
        family("redis_health_last_check_timestamp_seconds", "gauge", "When the last check began.", &|s| {
            Some(s.last_check)
        });
        family("redis_health_check_duration_seconds", "gauge", "How long the last check took.", &|s| Some(s.duration));
        family("redis_health_down_seconds", "gauge", "Time since the first failed check; 0 while up.", &|s| {
            Some(s.down_since.map_or(0.0, |since| (now - since).max(0.0)))
        });
        family(DOWN_SINCE, "gauge", "When the first failed check of the present outage began.", &|s| s.down_since);

        // Counters continue from the previous run, because `rate()` treats a lower value as a counter reset.
        let mut counters = |name: &str, help: &str, own: Vec<(String, u64)>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            let mut sums: BTreeMap<String, f64> = self.counted_before(name).collect();
            for (labels, count) in own {
                *sums.entry(format!("{name}{{{labels}}}")).or_default() += count as f64;
            }
            for (series, sum) in sums {
                let _ = writeln!(text, "{series} {sum}");
            }
        };

        let checks = self.series.iter().map(|(subject, series)| (self.labels(subject), series.checks));
        counters("redis_health_checks_total", "Checks made.", checks.collect());
        let failures = self.series.iter().flat_map(|(subject, series)| {
            let labels = self.labels(subject);
            series.failures.iter().map(move |(kind, count)| (format!("{labels},kind=\"{kind}\""), *count))
        });
        counters("redis_health_failures_total", "Failed checks, by reason.", failures.collect());
        let not_observed = self.not_observed.iter().flat_map(|(subject, reasons)| {
            let labels = self.labels(subject);
            reasons.iter().map(move |(reason, count)| (format!("{labels},reason=\"{}\"", escaped(reason)), *count))
        });
        counters("redis_health_not_observed_total", "Checks that could not be made.", not_observed.collect());
        text
    }
}

impl Sink for Metrics {
    fn take(&mut self, event: &Event) {
        match event {
            Event::CheckFinished(check) if self.active.contains(&check.subject.target) => {
                let CheckFinished { subject, tick, outcome, .. } = check;
                self.observe(subject, tick.at.stamp, outcome.details.elapsed, outcome.verdict(), tick.writes);
            }
            Event::TopologyChanged { change, .. } => self.forget(change),
            Event::ScanFinished(scan) => {
                for check in &scan.checks {
                    self.observe(&check.subject, scan.at, check.details.elapsed, check.verdict(), check.writes);
                }
            }
            _ => {}
        }
        self.is_last |= event.is_last();
    }

    /// Replaces the file, unless it was replaced just now. A failure is reported once, until a write succeeds again.
    fn flush(&mut self) {
        let is_soon = self.written.is_some_and(|written| written.elapsed() < SPACING);
        if !self.is_last && (!self.is_dirty || is_soon) {
            return;
        }

        let written = self.write(self.clock.now());
        if let Err(error) = &written
            && !self.is_failing
        {
            (self.notify)(&format!("--metrics-file: cannot write {}: {error}", self.path.display()));
        }
        self.is_failing = written.is_err();
        self.is_dirty = false;
        self.written = Some(Instant::now());
    }
}

/// The series in a file, by name and labels.
fn series(text: &str) -> BTreeMap<String, f64> {
    let series = |line: &str| {
        let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(series).collect()
}

/// Escapes backslashes, quotes and line ends in the value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::model::failure::Failure;

    fn at(seconds: i64) -> Stamp {
        Stamp { at: DateTime::from_timestamp(seconds, 0).unwrap().fixed_offset(), millis: false }
    }

    #[test]
    fn an_outage_continues_across_runs() {
        let path = std::env::temp_dir().join(format!("redis-health-metrics-{}.prom", std::process::id()));
        let took = Duration::from_millis(2);
        let run = |second, result: Result<(), Failure>| {
            let clock = Clock { utc: true, millis: false };
            let mut metrics = Metrics::new(path.clone(), "cache\"1".into(), clock, Arc::new(|_| {}));
            metrics.observe_one(&Subject::db(0), at(second), took, Verdict::of(&result));
            metrics.observe_one(&Subject::db(1), at(second), took, Verdict::Passed);
            metrics.write(at(second + 1)).unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        let has = |text: &str, line: &str| assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        let first = run(1_000, Err(Failure::new(Kind::Refused, "")));
        has(&first, "redis_health_up{endpoint=\"cache\\\"1\",db=\"0\"} 0");
        has(&first, "redis_health_up{endpoint=\"cache\\\"1\",db=\"1\"} 1");
        has(&first, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 1");
        has(&first, "redis_health_check_duration_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 0.002");
        has(&first, "redis_health_failures_total{endpoint=\"cache\\\"1\",db=\"0\",kind=\"refused\"} 1");
        let failing = run(1_100, Err(Failure::local("too many open files")));
        has(&failing, "redis_health_up{endpoint=\"cache\\\"1\",db=\"0\"} 0");
        has(&failing, "redis_health_down_since_timestamp_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 1000");
        has(&failing, "redis_health_checks_total{endpoint=\"cache\\\"1\",db=\"0\"} 1");
        let reason = "reason=\"too many open files\"";
        has(&failing, &format!("redis_health_not_observed_total{{endpoint=\"cache\\\"1\",db=\"0\",{reason}}} 1"));
        let second = run(1_300, Err(Failure::new(Kind::Timeout, "")));
        has(&second, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 301");
        has(&second, "redis_health_checks_total{endpoint=\"cache\\\"1\",db=\"0\"} 2");
        has(&second, "redis_health_failures_total{endpoint=\"cache\\\"1\",db=\"0\",kind=\"refused\"} 1");
        let third = run(1_600, Ok(()));
        has(&third, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 0");
        std::fs::remove_file(&path).unwrap();
    }
}
