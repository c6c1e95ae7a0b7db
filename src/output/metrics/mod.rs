//! `--metrics-file`: the current values in Prometheus' text format, for node_exporter's textfile collector.
//!
//! The file is replaced atomically, so that a scrape never reads a partial file.

mod file;
mod series;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::model::change::{ActiveTargets, TopologyChange};
use crate::model::clock::{Clock, Stamp};
use crate::model::event::{CheckFinished, Event, Sink};
use crate::model::notify::Notify;
use crate::model::outcome::Verdict;
use crate::model::subject::{Subject, Target};
use crate::model::text::Printable;
use file::MetricsFile;
use series::{
    CHECKS, Check, DOWN_SINCE, DURATION, FAILURES, LAST_CHECK, NOT_OBSERVED, SubjectMetrics, UP, escaped, read_back,
    write_kept,
};

/// How long the counters of a subject are kept that is not checked any more, in seconds: a node may return.
const KEEP_SECONDS: f64 = 7.0 * 86_400.0;

/// For how many such subjects. The oldest are dropped first.
const KEEP_COUNT: usize = 4096;

/// The metrics of one run, and the file that they are written to.
pub struct Metrics {
    file: MetricsFile,
    /// The label that all series have.
    endpoint: String,
    series: BTreeMap<Subject, SubjectMetrics>,
    /// Counters of subjects that this run does not check, or not yet, or not any more. By labels.
    kept: BTreeMap<String, SubjectMetrics>,
    active: ActiveTargets,
    clock: Clock,
    /// Something was observed since the file was written.
    is_dirty: bool,
    /// The last event was processed.
    is_last: bool,
}

impl Metrics {
    /// Locks the file, and reads what the previous run left in it, so that outages and counters continue across runs
    /// from cron. `notify` is called if the file cannot be written later, or holds the metrics of another endpoint.
    ///
    /// # Errors
    /// The file cannot be written, or another run is writing it.
    pub fn open(path: &Path, endpoint: &str, clock: Clock, notify: Notify) -> anyhow::Result<Self> {
        let file = MetricsFile::open(path, notify)?;
        let endpoint = format!("endpoint=\"{}\"", escaped(endpoint));
        let previous = read_back(file.lines(), &endpoint);
        if let Some(other) = previous.other {
            let other = Printable::from(other);
            file.notice(&format!("the metrics of {other} in it are replaced; give each endpoint a file of its own"));
        }

        let mut kept = previous.subjects;
        let now = seconds(clock.now());
        for subject in kept.values_mut().filter(|subject| subject.last_check == 0.0) {
            // No check could be made, so their age is not known.
            subject.last_check = now;
        }
        kept.retain(|_, subject| now - subject.last_check < KEEP_SECONDS);
        Ok(Metrics {
            file,
            endpoint,
            clock,
            series: BTreeMap::new(),
            kept,
            active: ActiveTargets::default(),
            is_dirty: false,
            is_last: false,
        })
    }

    /// Adds a check. `writes` is whether it includes a canary write.
    fn observe(&mut self, subject: &Subject, check: Check, verdict: Verdict<'_>, writes: bool) {
        self.is_dirty = true;
        // If only the write failed or was not observed, the read passed.
        let reads = if subject.write { Verdict::Passed } else { verdict };
        self.observe_one(&subject.writing(false), check, reads);
        if writes {
            self.observe_one(&subject.writing(true), check, verdict);
        }
    }

    fn observe_one(&mut self, subject: &Subject, check: Check, verdict: Verdict<'_>) {
        if !self.series.contains_key(subject) {
            let kept = self.kept.remove(&self.labels(subject)).unwrap_or_default();
            self.series.insert(subject.clone(), kept);
        }
        if let Some(series) = self.series.get_mut(subject) {
            match verdict {
                Verdict::Passed => series.observe(check, None),
                Verdict::Failed(failure) => series.observe(check, Some(failure.kind)),
                Verdict::NotObserved(reason) => series.miss(&reason.detail),
            }
        }
    }

    /// Hides the targets that are no longer checked, and keeps their counters: they must not fall if a node returns.
    fn forget(&mut self, change: &TopologyChange) {
        self.active.update(change);
        let all = std::mem::take(&mut self.series).into_iter();
        let (active, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.partition(|(subject, _)| self.active.contains(&subject.target));
        self.series = active;
        self.is_dirty |= !gone.is_empty();
        for (subject, series) in gone {
            self.kept.insert(self.labels(&subject), series.counters());
        }

        while self.kept.len() > KEEP_COUNT {
            let oldest = self.kept.iter().min_by(|(_, a), (_, b)| a.last_check.total_cmp(&b.last_check));
            let Some(oldest) = oldest.map(|(labels, _)| labels.clone()) else { return };
            self.kept.remove(&oldest);
        }
    }

    fn labels(&self, subject: &Subject) -> String {
        let mut labels = self.endpoint.clone();
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

    fn render(&self, now: Stamp) -> String {
        let now = seconds(now);
        let subjects: Vec<_> = self.series.iter().map(|(subject, series)| (self.labels(subject), series)).collect();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&SubjectMetrics) -> Option<f64>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, series) in &subjects {
                if let Some(value) = value(series) {
                    let _ = writeln!(text, "{name}{{{labels}}} {value}");
                }
            }
        };

        family(UP, "gauge", "Whether the last check passed.", &|s| {
            s.latest.map(|latest| f64::from(u8::from(latest.up)))
        });
        family(LAST_CHECK, "gauge", "When the last check began.", &|s| s.latest.map(|_| s.last_check));
        family(DURATION, "gauge", "How long the last check took.", &|s| s.latest.map(|latest| latest.duration));
        family("redis_health_down_seconds", "gauge", "Time since the first failed check; 0 while up.", &|s| {
            s.latest.map(|_| s.down_since().map_or(0.0, |since| (now - since).max(0.0)))
        });
        family(DOWN_SINCE, "gauge", "When the first failed check of the present outage began.", &|s| s.down_since());
        family(CHECKS, "counter", "Checks made.", &|s| Some(s.checks as f64));

        let _ = writeln!(text, "# HELP {FAILURES} Failed checks, by reason.\n# TYPE {FAILURES} counter");
        for (labels, series) in &subjects {
            for (kind, count) in &series.failures {
                let _ = writeln!(text, "{FAILURES}{{{labels},kind=\"{kind}\"}} {count}");
            }
        }
        let _ = writeln!(text, "# HELP {NOT_OBSERVED} Checks that could not be made.\n# TYPE {NOT_OBSERVED} counter");
        for (labels, series) in &subjects {
            for (reason, count) in &series.not_observed {
                let _ = writeln!(text, "{NOT_OBSERVED}{{{labels},reason=\"{reason}\"}} {count}");
            }
        }
        for (labels, kept) in &self.kept {
            let _ = write_kept(&mut text, labels, kept);
        }
        text
    }
}

impl Sink for Metrics {
    fn take(&mut self, event: &Event) {
        match event {
            Event::CheckFinished(check) if self.active.contains(&check.subject.target) => {
                let CheckFinished { subject, tick, outcome, oldest } = check;
                let (at, took) = (seconds(tick.at.stamp), outcome.details.elapsed);
                let check = Check { number: tick.number, oldest: *oldest, at, took };
                self.observe(subject, check, outcome.verdict(), tick.writes);
            }
            Event::TopologyChanged { change, .. } => self.forget(change),
            Event::ScanFinished(scan) => {
                for result in &scan.checks {
                    let (at, took) = (seconds(scan.at), result.details.elapsed);
                    let check = Check { number: 1, oldest: 1, at, took };
                    self.observe(&result.subject, check, result.verdict(), result.writes);
                }
            }
            _ => {}
        }
        self.is_last |= event.is_last();
    }

    /// Replaces the file, unless it was replaced just now: then a later flush does.
    fn flush(&mut self) {
        if self.is_last || (self.is_dirty && !self.file.is_fresh()) {
            self.file.replace(&self.render(self.clock.now()));
            self.is_dirty = false;
        }
    }
}

/// Seconds since 1970.
fn seconds(stamp: Stamp) -> f64 {
    stamp.at.timestamp_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;
    use crate::model::clock::Moment;
    use crate::model::event::Tick;
    use crate::model::failure::{Failure, Kind};

    fn at(seconds: i64) -> Stamp {
        Stamp { at: DateTime::from_timestamp(seconds, 0).unwrap().fixed_offset(), millis: false }
    }

    /// Recent, so that the counters of another run are not too old.
    fn now() -> i64 {
        Clock { utc: true, millis: false }.now().at.timestamp()
    }

    struct Run {
        path: std::path::PathBuf,
        notices: Arc<Mutex<Vec<String>>>,
        metrics: Metrics,
    }

    impl Run {
        fn start(folder: &tempfile::TempDir, endpoint: &str) -> Self {
            let path = folder.path().join("metrics.prom");
            let notices = Arc::<Mutex<Vec<String>>>::default();
            let noted = notices.clone();
            let notify: Notify = Arc::new(move |text| noted.lock().unwrap().push(text.to_owned()));
            let clock = Clock { utc: true, millis: false };
            let metrics = Metrics::open(&path, endpoint, clock, notify).unwrap();
            Run { path, notices, metrics }
        }

        fn check(&mut self, subject: &Subject, second: i64, result: Result<(), Failure>) {
            let check = Check { number: 1, oldest: 1, at: second as f64, took: Duration::from_millis(2) };
            self.metrics.observe_one(subject, check, Verdict::of(&result));
        }

        fn write(&mut self, second: i64) -> String {
            self.metrics.file.replace(&self.metrics.render(at(second)));
            std::fs::read_to_string(&self.path).unwrap()
        }
    }

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }

    #[test]
    fn an_outage_continues_across_runs() {
        let folder = tempfile::tempdir().unwrap();
        let start = now();
        let run = |second, result| {
            let mut run = Run::start(&folder, "cache\"1");
            run.check(&Subject::db(0), start + second, result);
            run.check(&Subject::db(1), start + second, Ok(()));
            run.write(start + second + 1)
        };

        let first = run(0, Err(Failure::new(Kind::Refused, "")));
        has(&first, "redis_health_up{endpoint=\"cache\\\"1\",db=\"0\"} 0");
        has(&first, "redis_health_up{endpoint=\"cache\\\"1\",db=\"1\"} 1");
        has(&first, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 1");
        has(&first, "redis_health_check_duration_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 0.002");
        has(&first, "redis_health_failures_total{endpoint=\"cache\\\"1\",db=\"0\",kind=\"refused\"} 1");
        let failing = run(100, Err(Failure::local("too many open files")));
        has(&failing, "redis_health_up{endpoint=\"cache\\\"1\",db=\"0\"} 0");
        has(
            &failing,
            &format!("redis_health_down_since_timestamp_seconds{{endpoint=\"cache\\\"1\",db=\"0\"}} {start}"),
        );
        has(&failing, "redis_health_checks_total{endpoint=\"cache\\\"1\",db=\"0\"} 1");
        let reason = "reason=\"too many open files\"";
        has(&failing, &format!("redis_health_not_observed_total{{endpoint=\"cache\\\"1\",db=\"0\",{reason}}} 1"));
        let second = run(300, Err(Failure::new(Kind::Timeout, "")));
        has(&second, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 301");
        has(&second, "redis_health_checks_total{endpoint=\"cache\\\"1\",db=\"0\"} 2");
        has(&second, "redis_health_failures_total{endpoint=\"cache\\\"1\",db=\"0\",kind=\"refused\"} 1");
        let third = run(600, Ok(()));
        has(&third, "redis_health_down_seconds{endpoint=\"cache\\\"1\",db=\"0\"} 0");
    }

    #[test]
    fn counters_of_a_node_that_left_are_hidden_and_do_not_fall() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| Subject { target: Target::Node(name.into()), ..Subject::default() };
        let topology = |added: &[&str], removed: &[&str]| {
            let targets = |names: &[&str]| names.iter().map(|name| node(name).target).collect();
            let change = TopologyChange { added: targets(added), removed: targets(removed), ..Default::default() };
            let at = Moment { stamp: at(0), since: Duration::ZERO };
            Event::TopologyChanged { tick: Tick { number: 1, at, writes: false }, change }
        };
        let series = "redis_health_checks_total{endpoint=\"h\",node=\"a:1\"}";
        let start = now();

        let mut run = Run::start(&folder, "h");
        (0..3).for_each(|second| run.check(&node("a:1"), start + second, Ok(())));
        has(&run.write(start), &format!("{series} 3"));
        run.metrics.take(&topology(&[], &["a:1"]));
        let gone = run.write(start);
        assert!(!gone.lines().any(|line| line.contains("a:1") && !line.starts_with('#')), "{gone}");
        run.metrics.take(&topology(&["a:1"], &[]));
        run.check(&node("a:1"), start + 3, Ok(()));
        has(&run.write(start), &format!("{series} 4"));

        // It is away during a whole run.
        drop(run);
        let mut run = Run::start(&folder, "h");
        run.check(&node("b:1"), start + 4, Ok(()));
        let gone = run.write(start);
        assert!(!gone.lines().any(|line| line.contains("a:1") && !line.starts_with('#')), "{gone}");
        drop(run);
        let mut run = Run::start(&folder, "h");
        run.check(&node("a:1"), start + 5, Ok(()));
        has(&run.write(start), &format!("{series} 5"));

        // The counters of nodes that do not return take bounded space.
        for number in 0..KEEP_COUNT + 10 {
            run.check(&node(&number.to_string()), start + 6, Ok(()));
            run.metrics.take(&topology(&[], &[&number.to_string()]));
        }
        assert_eq!(run.metrics.kept.len(), KEEP_COUNT);
    }

    #[test]
    fn old_counters_expire() {
        let folder = tempfile::tempdir().unwrap();
        let old = now() - 8 * 86_400;
        let mut run = Run::start(&folder, "h");
        run.check(&Subject::db(0), old, Err(Failure::new(Kind::Refused, "")));
        run.write(old);
        drop(run);
        let mut run = Run::start(&folder, "h");
        run.check(&Subject::db(1), now(), Ok(()));
        assert!(!run.write(now()).contains("db=\"0\""));
    }

    #[test]
    fn another_endpoint_in_the_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        for (endpoint, notices) in [("a:1", 0), ("a:1", 0), ("b:1", 1), ("b:1", 0)] {
            let mut run = Run::start(&folder, endpoint);
            run.check(&Subject::db(0), now(), Ok(()));
            run.write(now());
            let told = run.notices.lock().unwrap();
            assert_eq!(told.len(), notices, "{endpoint}: {told:?}");
            assert!(told.iter().all(|notice| notice.contains("the metrics of a:1 in it are replaced")), "{told:?}");
        }
    }
}
