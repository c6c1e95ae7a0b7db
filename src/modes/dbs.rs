//! `dbs`: one scan, one block, and out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::auth::credentials::CredentialsProvider;
use crate::cli::plan::DbsPlan;
use crate::cluster::nodes::{self, Checked};
use crate::exit_code::Exit;
use crate::log::record::{Destination, Format, Mode, Record};
use crate::log::write::Log;
use crate::model::databases::Databases;
use crate::model::failure::Kind;
use crate::model::outcome::CheckResult;
use crate::model::outcome::Outcome;
use crate::model::subject::{Subject, Target};
use crate::modes::signals::Signals;
use crate::output::console::{Console, scan_bar};
use crate::output::metrics::Metrics;
use crate::probe::canary::Canary;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;
use crate::probe::resolve::Resolver;
use crate::probe::server_info::ServerInfo;
use crate::probe::tls::Tls;

/// Scans once and logs what it saw.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder cannot be had.
pub async fn run(DbsPlan { plan, quiet, json }: DbsPlan) -> anyhow::Result<Exit> {
    let output = Console::direct();
    if plan.verbose {
        crate::output::trace::start(&output);
    }
    for warning in &plan.warnings {
        output.notice(warning);
    }
    let keep_name = plan.tls.as_ref().is_some_and(|tls| tls.name.is_some());
    let tls = plan.tls.as_ref().map(|settings| Tls::load(settings, &plan.endpoint)).transpose()?;
    let login = CredentialsProvider::fetch(plan.login, output.clone()).await?;
    let notify = output.clone();
    let mut log =
        Log::open(&plan.log, &[Destination::Health, Destination::Error], Arc::new(move |text| notify.notice(text)))?;
    let mut signals = Signals::listen()?;

    let scanner = Checker {
        target: ConnectOptions { endpoint: plan.endpoint, tls, login },
        resolver: Resolver::new(plan.timeout),
        databases: plan.databases,
        timeout: plan.timeout,
        deadline: plan.deadline,
        // The classic block has no room for what a server tells of itself.
        identify: ServerInfo::new(json || plan.log.format == Format::Json),
        expect_role: plan.expect_role,
        canary: plan.canary.then(|| Canary::new().of_cluster(plan.cluster)),
        settled: AtomicU64::new(0),
    };
    let endpoint = scanner.target.endpoint.to_string();
    let (at, start) = (plan.clock.now(), Instant::now());
    let count = scanner.databases.count().filter(|_| !plan.cluster);
    let mut checks = Vec::new();
    let signal = if plan.cluster {
        let mut checked = Vec::new();
        let mut emit = |check| checked.push(check);
        let signal = tokio::select! {
            biased;
            () = nodes::scan(scanner, keep_name, &mut emit) => None,
            signal = signals.first() => Some(signal),
        };
        // Nodes answer in any order, and each one's databases in their own.
        checked.sort_by_key(|check| check.place);
        checks.extend(checked.into_iter().map(|checked| verdict(checked, plan.databases, plan.canary)));
        signal
    } else {
        let who = Target::Endpoint;
        let mut emit = |outcome| {
            let checked = Checked { who: who.clone(), place: 0, outcome };
            checks.push(verdict(checked, plan.databases, plan.canary));
        };
        tokio::select! {
            biased;
            // First, so that replies which came before a signal are not lost to it.
            () = scanner.run(&mut emit) => None,
            signal = signals.first() => Some(signal),
            () = show_progress(&scanner) => None,
        }
    };
    let took = start.elapsed();

    if let Some(path) = plan.metrics {
        let mut metrics = Metrics::new(path, endpoint.clone());
        for CheckResult { subject, result, details, writes } in &checks {
            metrics.observe(subject, at, details.elapsed, result.as_ref().err(), *writes);
        }
        if let Err(error) = metrics.write(plan.clock.now()) {
            output.notice(format_args!("--metrics-file: cannot write {}: {error}", metrics.path().display()));
        }
    }
    let stopped = signal.map(|signal| (signal, plan.clock.now()));
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.result.is_err())
        .map(|CheckResult { subject, result, details, .. }| Record::Check {
            at,
            mode: Mode::Dbs,
            subject: subject.clone(),
            number: 1,
            result: result.clone(),
            details: details.clone(),
        })
        .collect();
    let failures = failed.len() as u64;
    let mut summary = summary(&checks, &endpoint, took);
    if let Some((signal, _)) = stopped {
        let _ = write!(summary, "; stopped by {signal}");
        if let Some(count) = count {
            let _ = write!(summary, ", {} not checked", count.saturating_sub(checks.len() as u64));
        }
    }
    let folded = folded_failures(&checks);
    let block = Record::Scan { at, checks, took, canary: plan.canary, stopped };
    log.write(std::slice::from_ref(&block));
    log.write(&failed);

    if json {
        output.line(block.in_format(Format::Json));
    } else if !quiet {
        output.line(format_args!("{block}\n{summary}"));
    } else if failures > 0 || signal.is_some() {
        for line in folded {
            output.notice(line);
        }
        output.notice(summary);
    }
    if log.lost() > 0 {
        output.notice(format_args!("records that could not be written: {}", log.lost()));
    }
    Ok(Exit::of_run(signal, log.lost(), failures))
}

fn verdict(Checked { who, outcome, .. }: Checked, databases: Databases, canary: bool) -> CheckResult {
    let Outcome { db, write, result, details } = outcome;
    let has_db = match who {
        Target::Cluster => false,
        Target::Shard(_) => !matches!(databases, Databases::One(_)),
        _ => true,
    };
    let apart = who.reads_and_writes();
    let subject = Subject { who, db: has_db.then_some(db), write: write && apart };
    CheckResult { subject, result, details, writes: canary && apart }
}

/// Draws a bar while a scan takes longer than a second; never ends.
async fn show_progress(scanner: &Checker) {
    let shown = std::io::stderr().is_terminal().then(|| scanner.databases.count()).flatten();
    let Some(total) = shown else { return std::future::pending().await };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bar = ClearedBar(scan_bar(total));
    loop {
        bar.0.set_position(scanner.settled.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A bar that leaves no trace, also when the scan ends while it is drawn.
struct ClearedBar(ProgressBar);

impl Drop for ClearedBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `cache.example:6379: 16 databases checked in 1.3 ms, 14 running, 2 not running (timeout 1, reset 1)`.
fn summary(checks: &[CheckResult], endpoint: &str, took: Duration) -> String {
    let (whole, checks): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.subject.who == Target::Cluster);
    let (shards, databases): (Vec<_>, Vec<_>) =
        checks.into_iter().partition(|check| matches!(check.subject.who, Target::Shard(_)));
    let mut kinds = BTreeMap::<Kind, u64>::new();
    for failure in databases.iter().filter_map(|check| check.result.as_ref().err()) {
        *kinds.entry(failure.kind).or_default() += 1;
    }
    let failed: u64 = kinds.values().sum();
    let millis = took.as_secs_f64() * 1000.0;
    let plural = if databases.len() == 1 { "database" } else { "databases" };
    let mut text = format!("{endpoint}: {} {plural} ", databases.len());
    if databases.iter().any(|check| check.subject.who != Target::Endpoint) {
        let nodes = databases.chunk_by(|a, b| a.subject.who == b.subject.who).count();
        let _ = write!(text, "on {nodes} {} ", if nodes == 1 { "node" } else { "nodes" });
    }
    let _ = write!(text, "checked in {millis:.1} ms, {} running", databases.len() as u64 - failed);
    if failed > 0 {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let _ = write!(text, ", {failed} not running ({})", kinds.join(", "));
    }
    if !shards.is_empty() {
        let shards: Vec<_> = shards.chunk_by(|a, b| a.subject.who == b.subject.who).collect();
        let taking = shards.iter().filter(|shard| shard.iter().all(|check| check.result.is_ok())).count();
        let _ = write!(text, "; {taking} of {} shards take writes", shards.len());
    }
    if let Some(failure) = whole.iter().find_map(|checked| checked.result.as_ref().err()) {
        let _ = write!(text, "; the cluster is not running ({failure})");
    }
    text
}

/// Neighbours that failed alike share a line: `DB 0-15: NOT RUNNING (refused: Connection refused)`.
fn folded_failures(checks: &[CheckResult]) -> Vec<String> {
    let alike = |a: &CheckResult, b: &CheckResult| a.result == b.result && a.subject.is_before(&b.subject);
    let line = |run: &[CheckResult]| {
        let failure = run.first()?.result.as_ref().err()?;
        Some(format!("{}: NOT RUNNING ({failure})", Subject::range(run.iter().map(|check| &check.subject))))
    };
    checks.chunk_by(alike).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Failure;
    use crate::model::outcome::Details;

    #[test]
    fn neighbours_that_failed_alike_share_a_line() {
        let refused = || Err(Failure::new(Kind::Refused, "Connection refused"));
        let results = [refused(), refused(), Ok(()), refused(), Err(Failure::new(Kind::Reset, "x"))];
        let checked = |who, db, result| {
            let outcome = Outcome { db, write: false, result, details: Details::default() };
            verdict(Checked { who, place: 0, outcome }, Databases::UpTo(4), false)
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
