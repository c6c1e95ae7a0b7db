//! `dbs`: one scan, logged as one block.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::cli::plan::DbsPlan;
use crate::exit_code::Exit;
use crate::history::live::LiveHistory;
use crate::log::record::{Destination, Format};
use crate::model::clock::Moment;
use crate::model::event::{CheckFinished, Event, Scan, Sink, Tick};
use crate::model::outcome::CheckResult;
use crate::model::signal::Signal;
use crate::model::subject::Target;
use crate::modes::prober::Prober;
use crate::modes::queue::queue;
use crate::modes::recorder::{Recorded, Recorder};
use crate::modes::session::{Session, SessionOptions};
use crate::output::console::Console;
use crate::output::progress;
use crate::output::scan_console::{ScanConsole, Shown};

/// Scans once, and records the results.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder is not available.
pub async fn run(DbsPlan { plan, quiet, json }: DbsPlan) -> anyhow::Result<Exit> {
    let options = SessionOptions {
        console: Console::direct(),
        logs: &[Destination::Health, Destination::Error],
        // Classic blocks do not contain the server's identity.
        server_info: json || plan.log.format == Format::Json,
        lock: false,
    };
    let mut session = Session::open(&plan, options).await?;
    let finished = Arc::<Mutex<Vec<CheckFinished>>>::default();
    let mut prober = session.prober(true, collect_into(&finished));

    let tick = Tick {
        number: 1,
        at: Moment { stamp: plan.clock.now(), since: Default::default() },
        gaps: 0,
        writes: plan.canary,
    };
    let start = Instant::now();
    prober.start(tick);
    let count = plan.databases.count().filter(|_| !plan.cluster);
    let settled = session.checker.clone();
    let signal = tokio::select! {
        biased;
        // First, so that replies received before a signal are not lost.
        () = until_idle(&mut prober) => None,
        signal = session.signals.next() => Some(signal),
        () = progress::show(count, || settled.settled.load(Ordering::Relaxed)) => None,
    };
    let took = start.elapsed();
    prober.abort();

    let finished = std::mem::take(&mut *finished.lock().unwrap_or_else(PoisonError::into_inner));
    let checks = in_order(finished, &prober.targets());
    let scan = Scan {
        at: tick.at.stamp,
        unchecked: count.map(|count| count.saturating_sub(checks.len() as u64)),
        checks,
        took,
        canary: plan.canary,
        stopped: signal.map(|signal| (signal, plan.clock.now())),
    };
    let shown = if json {
        Shown::Json
    } else if quiet {
        Shown::Failures
    } else {
        Shown::All
    };
    record(session, scan, shown, signal, prober.failures()).await
}

/// Waits until every check has ended.
async fn until_idle(prober: &mut Prober) {
    while !prober.is_idle() {
        prober.progress().await;
    }
}

/// Collects the results of checks as they finish.
fn collect_into(finished: &Arc<Mutex<Vec<CheckFinished>>>) -> Arc<dyn Fn(Event) + Send + Sync> {
    let finished = finished.clone();
    Arc::new(move |event| {
        if let Event::CheckFinished(check) = event {
            finished.lock().unwrap_or_else(PoisonError::into_inner).push(check);
        }
    })
}

/// Sorts results by target, because nodes answer in any order. Each target's databases are in order already.
fn in_order(mut finished: Vec<CheckFinished>, order: &[Target]) -> Vec<CheckResult> {
    if order.len() > 1 {
        finished.sort_by_key(|check| order.iter().position(|target| *target == check.subject.target));
    }
    let result = |CheckFinished { subject, tick, outcome, .. }: CheckFinished| CheckResult {
        subject,
        result: outcome.result,
        details: outcome.details,
        writes: tick.writes,
    };
    finished.into_iter().map(result).collect()
}

/// Records and shows the scan, and returns the exit code.
async fn record(
    session: Session,
    scan: Scan,
    shown: Shown,
    signal: Option<Signal>,
    failures: u64,
) -> anyhow::Result<Exit> {
    let metrics = session.metrics();
    let Session { console, checker, log, mut signals, .. } = session;
    let scan_console = ScanConsole::new(console.clone(), checker.connect.endpoint.to_string(), shown);
    let sinks = metrics.into_iter().chain([Box::new(scan_console) as Box<dyn Sink>]).collect();
    let recorder = Recorder { log, history: LiveHistory::default(), sinks };

    let (queue, receiver) = queue();
    queue.send(Event::ScanFinished(scan));
    let notices = console.clone();
    let recording = recorder.start((queue, receiver), move |Recorded { lost, .. }| {
        if lost > 0 {
            notices.notice(format_args!("records that could not be written: {lost}"));
        }
    })?;
    let ended = recording.end(signal, &mut signals, &console).await;
    Ok(Exit::of_run(ended.signal, ended.lost, failures))
}
