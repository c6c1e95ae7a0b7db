//! Prints the result of `dbs`: the block and a summary, only failures, or one JSON document.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::log::record::{Format, Record};
use crate::model::event::{Event, Scan, Sink};
use crate::model::failure::Kind;
use crate::model::outcome::{CheckResult, Verdict};
use crate::model::subject::{Subject, Target};
use crate::output::console::Console;

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The block, and a summary.
    All,
    /// Failures and a summary, on standard error, or nothing if all checks passed. So cron sends mail only for
    /// failures.
    Failures,
    /// The block as one JSON document.
    Json,
}

/// Prints a scan.
pub struct ScanConsole {
    console: Console,
    endpoint: String,
    shown: Shown,
    /// What is printed once the scan is logged. Printing may never end.
    pending: Text,
}

/// Text for the two standard streams.
#[derive(Default)]
struct Text {
    line: Option<String>,
    notice: Option<String>,
}

impl ScanConsole {
    /// Prints scans of `endpoint`.
    pub fn new(console: Console, endpoint: String, shown: Shown) -> Self {
        ScanConsole { console, endpoint, shown, pending: Text::default() }
    }

    fn text(&self, scan: &Scan) -> Text {
        let summary = self.summary_of(scan);
        let is_healthy = scan.stopped.is_none() && scan.checks.iter().all(|check| check.result.is_ok());
        match self.shown {
            Shown::All => Text { line: Some(format!("{}\n{summary}", block(scan))), notice: None },
            Shown::Json => Text { line: Some(block(scan).in_format(Format::Json).to_string()), notice: None },
            Shown::Failures if is_healthy => Text::default(),
            Shown::Failures => {
                let mut lines = folded_failures(&scan.checks);
                lines.push(summary);
                // One notice, so that none of its lines can be dropped.
                Text { line: None, notice: Some(lines.join("\nredis-health: ")) }
            }
        }
    }

    fn summary_of(&self, scan: &Scan) -> String {
        let mut summary = summary(&scan.checks, &self.endpoint, scan.took);
        if let Some((signal, _)) = scan.stopped {
            let _ = write!(summary, "; stopped by {signal}");
            if let Some(unchecked) = scan.unchecked {
                let _ = write!(summary, ", {unchecked} not checked");
            }
        }
        summary
    }
}

impl Sink for ScanConsole {
    fn take(&mut self, event: &Event) {
        if let Event::ScanFinished(scan) = event {
            self.pending = self.text(scan);
        }
    }

    fn flush(&mut self) {
        let Text { line, notice } = std::mem::take(&mut self.pending);
        line.iter().for_each(|line| self.console.line(line));
        notice.iter().for_each(|notice| self.console.notice(notice));
    }
}

/// The record of the scan, as in the log.
fn block(scan: &Scan) -> Record {
    let Scan { at, took, canary, stopped, .. } = *scan;
    Record::Scan { at, checks: scan.checks.clone(), took, canary, stopped }
}

/// `cache.example:6379: 16 databases checked in 1.3 ms, 14 running, 2 not running (timeout 1, reset 1)`.
fn summary(checks: &[CheckResult], endpoint: &str, took: Duration) -> String {
    let (whole, checks): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.subject.target == Target::Cluster);
    let (shards, databases): (Vec<_>, Vec<_>) =
        checks.into_iter().partition(|check| matches!(check.subject.target, Target::Shard(_)));

    let mut kinds = BTreeMap::<Kind, u64>::new();
    let mut reasons = BTreeMap::<&str, u64>::new();
    for check in &databases {
        match check.verdict() {
            Verdict::Passed => {}
            Verdict::Failed(failure) => *kinds.entry(failure.kind).or_default() += 1,
            Verdict::NotObserved(reason) => *reasons.entry(&reason.detail).or_default() += 1,
        }
    }
    let (failed, not_observed): (u64, u64) = (kinds.values().sum(), reasons.values().sum());

    let millis = took.as_secs_f64() * 1000.0;
    let plural = if databases.len() == 1 { "database" } else { "databases" };
    let mut text = format!("{endpoint}: {} {plural} ", databases.len());
    if databases.iter().any(|check| check.subject.target != Target::Endpoint) {
        let nodes = databases.chunk_by(|a, b| a.subject.target == b.subject.target).count();
        let _ = write!(text, "on {nodes} {} ", if nodes == 1 { "node" } else { "nodes" });
    }
    let _ = write!(text, "checked in {millis:.1} ms, {} running", databases.len() as u64 - failed - not_observed);

    if failed > 0 {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let _ = write!(text, ", {failed} not running ({})", kinds.join(", "));
    }
    if not_observed > 0 {
        let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = write!(text, ", {not_observed} not observed ({})", reasons.join(", "));
    }
    if !shards.is_empty() {
        let shards: Vec<_> = shards.chunk_by(|a, b| a.subject.target == b.subject.target).collect();
        let taking = shards.iter().filter(|shard| shard.iter().all(|check| check.result.is_ok())).count();
        let _ = write!(text, "; {taking} of {} shards take writes", shards.len());
    }
    match whole.first().map(|checked| checked.verdict()) {
        Some(Verdict::Failed(failure)) => _ = write!(text, "; the cluster is not running ({failure})"),
        Some(Verdict::NotObserved(reason)) => _ = write!(text, "; the cluster was not observed ({reason})"),
        Some(Verdict::Passed) | None => {}
    }
    text
}

/// Consecutive databases with the same failure share a line: `DB 0-15: NOT RUNNING (refused: Connection refused)`.
fn folded_failures(checks: &[CheckResult]) -> Vec<String> {
    let alike = |a: &CheckResult, b: &CheckResult| a.result == b.result && a.subject.is_before(&b.subject);
    let line = |run: &[CheckResult]| {
        let (what, why) = match run.first()?.verdict() {
            Verdict::Passed => return None,
            Verdict::Failed(failure) => ("NOT RUNNING", failure),
            Verdict::NotObserved(reason) => ("NOT OBSERVED", reason),
        };
        Some(format!("{}: {what} ({why})", Subject::range(run.iter().map(|check| &check.subject))))
    };
    checks.chunk_by(alike).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::Clock;
    use crate::model::failure::Failure;
    use crate::model::outcome::Details;

    #[test]
    fn failures_are_one_notice_so_that_none_is_dropped() {
        let check = |db| CheckResult {
            subject: Subject::db(db),
            result: if db % 2 == 0 { Ok(()) } else { Err(Failure::new(Kind::Reset, "x")) },
            details: Details::default(),
            writes: false,
        };
        let at = Clock { utc: true, millis: false }.now();
        let checks = (0..20_000).map(check).collect();
        let scan = Scan { at, checks, took: Duration::ZERO, canary: false, stopped: None, unchecked: None };
        let console = ScanConsole::new(Console::direct_lines(), "h:1".to_owned(), Shown::Failures);

        let Text { line: None, notice: Some(notice) } = console.text(&scan) else { unreachable!() };
        assert_eq!(notice.lines().count(), 10_001);
        assert!(notice.starts_with("DB 1: NOT RUNNING (reset: x)\nredis-health: DB 3: NOT RUNNING (reset: x)\n"));
    }

    #[test]
    fn databases_with_the_same_failure_share_a_line() {
        let refused = || Err(Failure::new(Kind::Refused, "Connection refused"));
        let results = [refused(), refused(), Ok(()), refused(), Err(Failure::new(Kind::Reset, "x"))];
        let checked = |target: Target, db, result| {
            let db = (target != Target::Cluster).then_some(db);
            let subject = Subject { target, db, write: false };
            CheckResult { subject, result, details: Details::default(), writes: false }
        };
        let mut checks: Vec<_> =
            results.into_iter().zip(0..).map(|(result, db)| checked(Target::Endpoint, db, result)).collect();
        assert_eq!(
            folded_failures(&checks),
            [
                "DB 0-1: NOT RUNNING (refused: Connection refused)",
                "DB 3: NOT RUNNING (refused: Connection refused)",
                "DB 4: NOT RUNNING (reset: x)"
            ]
        );
        assert_eq!(
            summary(&checks, "h:1", Duration::from_micros(1340)),
            "h:1: 5 databases checked in 1.3 ms, 1 running, 4 not running (refused 3, reset 1)"
        );
        let slots = || Err(Failure::new(Kind::ClusterDown, "1 slot without a primary"));
        checks = vec![
            checked(Target::Node("a:1".into()), 0, refused()),
            checked(Target::Node("b:1".into()), 1, refused()),
            checked(Target::Cluster, 0, slots()),
        ];
        assert_eq!(
            folded_failures(&checks),
            [
                "NODE a:1 DB 0: NOT RUNNING (refused: Connection refused)",
                "NODE b:1 DB 1: NOT RUNNING (refused: Connection refused)",
                "CLUSTER: NOT RUNNING (clusterdown: 1 slot without a primary)"
            ]
        );
        assert_eq!(
            summary(&checks, "h:1", Duration::from_micros(1340)),
            "h:1: 2 databases on 2 nodes checked in 1.3 ms, 0 running, 2 not running (refused 2); \
             the cluster is not running (clusterdown: 1 slot without a primary)"
        );
    }
}
