//! `dbs`: one scan, one block, and out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::canary::Canary;
use crate::exit::Exit;
use crate::failure::{Failure, Kind};
use crate::login::Login;
use crate::metrics::Metrics;
use crate::output::{Output, scan_bar};
use crate::plan::DbsPlan;
use crate::record::{Destination, Format, Log, Mode, Record, Subject, Verdict};
use crate::resolve::Resolver;
use crate::scan::{Identify, Outcome, Scanner};
use crate::signal::Signals;
use crate::target::Target;
use crate::tls::Tls;

/// Scans once and logs what it saw.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder cannot be had.
pub async fn run(DbsPlan { plan, quiet, json }: DbsPlan) -> anyhow::Result<Exit> {
    let output = Output::direct();
    if plan.verbose {
        crate::explain::start();
    }
    for warning in &plan.warnings {
        output.notice(warning);
    }
    let tls = plan.tls.as_ref().map(|settings| Tls::load(settings, &plan.endpoint)).transpose()?;
    let login = Login::fetch(plan.login, output.clone()).await?;
    let notify = output.clone();
    let log =
        Log::open(&plan.log, &[Destination::Health, Destination::Error], Arc::new(move |text| notify.notice(text)))?;
    let mut signals = Signals::listen()?;

    let scanner = Scanner {
        target: Target { endpoint: plan.endpoint, tls, login },
        resolver: Resolver::new(plan.timeout),
        databases: plan.databases,
        timeout: plan.timeout,
        deadline: plan.deadline,
        // The classic block has no room for what a server tells of itself.
        identify: Identify::new(json || plan.log.format == Format::Json),
        expect_role: plan.expect_role,
        canary: plan.canary.then(Canary::new),
        settled: AtomicU64::new(0),
    };
    let (at, start) = (plan.clock.now(), Instant::now());
    let mut outcomes = Vec::new();
    let mut emit = |outcome| outcomes.push(outcome);
    let signal = tokio::select! {
        biased;
        // First, so that replies which came before a signal are not lost to it.
        () = scanner.run(&mut emit) => None,
        signal = signals.first() => Some(signal),
        () = show_progress(&scanner) => None,
    };
    let took = start.elapsed();

    if let Some(path) = plan.metrics {
        let mut metrics = Metrics::new(path, scanner.target.endpoint.to_string());
        for outcome in &outcomes {
            let failure = outcome.result.as_ref().err();
            metrics.observe(&subject(outcome), at, outcome.details.elapsed, failure, plan.canary);
        }
        if let Err(error) = metrics.write(plan.clock.now()) {
            output.notice(format_args!("--metrics-file: cannot write {}: {error}", metrics.path().display()));
        }
    }
    let stopped = signal.map(|signal| (signal, plan.clock.now()));
    let failures = outcomes.iter().filter(|outcome| outcome.result.is_err()).count() as u64;
    let verdict = |outcome: &Outcome| Verdict {
        subject: subject(outcome),
        result: outcome.result.clone(),
        details: outcome.details.clone(),
    };
    let checks = outcomes.iter().map(verdict).collect();
    let block = Record::Scan { at, checks, took, canary: plan.canary, stopped };
    log.write(&block);
    for outcome in outcomes.iter().filter(|outcome| outcome.result.is_err()) {
        log.write(&Record::Check {
            at,
            mode: Mode::Dbs,
            subject: subject(outcome),
            count: 1,
            result: outcome.result.clone(),
            details: outcome.details.clone(),
        });
    }

    let summary = summary(&outcomes, &scanner.target.endpoint.to_string(), took);
    if json {
        output.line(block.in_format(Format::Json));
    } else if !quiet {
        output.line(format_args!("{block}\n{summary}"));
    } else if failures > 0 || signal.is_some() {
        for line in folded_failures(&outcomes) {
            output.notice(line);
        }
        output.notice(summary);
    }
    if log.lost() > 0 {
        output.notice(format_args!("records that could not be written: {}", log.lost()));
    }
    Ok(Exit::of_run(signal, log.lost(), failures))
}

fn subject(outcome: &Outcome) -> Subject {
    Subject::db(outcome.db).writing(outcome.write)
}

/// Draws a bar while a scan takes longer than a second; never ends.
async fn show_progress(scanner: &Scanner) {
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
fn summary(outcomes: &[Outcome], endpoint: &str, took: Duration) -> String {
    let mut kinds = BTreeMap::<Kind, u64>::new();
    for failure in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()) {
        *kinds.entry(failure.kind).or_default() += 1;
    }
    let failed: u64 = kinds.values().sum();
    let millis = took.as_secs_f64() * 1000.0;
    let plural = if outcomes.len() == 1 { "database" } else { "databases" };
    let mut text = format!(
        "{endpoint}: {} {plural} checked in {millis:.1} ms, {} running",
        outcomes.len(),
        outcomes.len() as u64 - failed
    );
    if failed > 0 {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let _ = write!(text, ", {failed} not running ({})", kinds.join(", "));
    }
    text
}

/// Neighbours that failed alike share a line: `DB 0-15: NOT RUNNING (refused: Connection refused)`.
fn folded_failures(outcomes: &[Outcome]) -> Vec<String> {
    let alike = |a: &Outcome, b: &Outcome| (a.write, &a.result) == (b.write, &b.result) && b.db == a.db + 1;
    let line = |first: &Outcome, last: &Outcome, failure: &Failure| {
        let range = if first.db == last.db { first.db.to_string() } else { format!("{}-{}", first.db, last.db) };
        let write = if first.write { " WRITE" } else { "" };
        format!("DB {range}{write}: NOT RUNNING ({failure})")
    };
    outcomes
        .chunk_by(alike)
        .filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            Some(line(first, last, first.result.as_ref().err()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Details;

    #[test]
    fn neighbours_that_failed_alike_share_a_line() {
        let refused = || Err(Failure::new(Kind::Refused, "Connection refused"));
        let results = [refused(), refused(), Ok(()), refused(), Err(Failure::new(Kind::Reset, "x"))];
        let outcomes: Vec<_> = results
            .into_iter()
            .zip(0..)
            .map(|(result, db)| Outcome { db, write: false, result, details: Details::default() })
            .collect();
        assert_eq!(
            folded_failures(&outcomes),
            [
                "DB 0-1: NOT RUNNING (refused: Connection refused)",
                "DB 3: NOT RUNNING (refused: Connection refused)",
                "DB 4: NOT RUNNING (reset: x)"
            ]
        );
        assert_eq!(
            summary(&outcomes, "h:1", Duration::from_micros(1340)),
            "h:1: 5 databases checked in 1.3 ms, 1 running, 4 not running (refused 3, reset 1)"
        );
    }
}
