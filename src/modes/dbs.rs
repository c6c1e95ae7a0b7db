//! `dbs`: one scan, logged as one block.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use crate::cli::plan::DbsPlan;
use crate::exit_code::Exit;
use crate::history::live::LiveHistory;
use crate::log::record::{Destination, Format};
use crate::model::clock::Moment;
use crate::model::event::{CheckFinished, Event, Scan, SendEvent, Tick};
use crate::model::outcome::CheckResult;
use crate::model::run::{Mode, Run};
use crate::model::subject::Target;
use crate::modes::prober::Prober;
use crate::modes::queue::{Queue, Receiver, queue};
use crate::modes::recorder::{Recorded, Recorder, Recording};
use crate::modes::session::{Files, Session, SessionOptions, host_name};
use crate::modes::signals::Signals;
use crate::output::console::Console;
use crate::output::progress;
use crate::output::scan_console::{ScanConsole, Shown};

/// Scans once, and records the results.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder is not available.
pub async fn run(DbsPlan { plan, quiet, json }: DbsPlan) -> anyhow::Result<Exit> {
    let console = Console::direct_lines();
    let options = SessionOptions {
        console: console.clone(),
        logs: &[Destination::Health, Destination::Error],
        // Classic blocks do not contain the server's identity.
        server_info: json || plan.log.format == Format::Json,
        lock: false,
    };
    let (mut session, files) = Session::open(&plan, options).await?;
    let checker = session.checker.clone();
    let (queue, receiver) = queue();
    let recording = start_recorder(&mut session, files, (queue.clone(), receiver), shown(quiet, json))?;
    let finished = Arc::<Mutex<Vec<CheckFinished>>>::default();
    // A check that waited for others still has its own time before the deadline, or at least half of that.
    let patience = plan.deadline.saturating_sub(plan.timeout).max(plan.deadline / 2);
    let mut prober = session.prober(true, patience, collect_into(&finished));

    let at = Moment { stamp: plan.clock.now(), since: Duration::ZERO };
    let run = Run::new(Mode::Dbs, &host_name(), at.stamp);
    queue.send(Event::RunStarted { run, writes: plan.canary });
    let start = Instant::now();
    prober.start(Tick { number: 1, at, writes: plan.canary });
    // The server accepts the connection while the signals are set up.
    yield_now().await;
    let mut signals = Signals::listen()?;

    let count = plan.databases.count().filter(|_| !plan.cluster);
    let signal = tokio::select! {
        biased;
        () = until_idle(&mut prober) => None,
        signal = signals.next() => Some(signal),
        () = progress::show(count, || checker.settled.load(Ordering::Relaxed)) => None,
    };
    let stopped = match signal {
        Some(_) if is_complete(&mut prober).await => None,
        signal => signal,
    };
    let took = start.elapsed();
    prober.abort();

    let finished = std::mem::take(&mut *finished.lock().unwrap_or_else(PoisonError::into_inner));
    let checks = in_order(finished, &prober.targets());
    queue.send(Event::ScanFinished(Scan {
        at: at.stamp,
        unchecked: count.map(|count| count.saturating_sub(checks.len() as u64)),
        checks,
        took,
        canary: plan.canary,
        stopped: stopped.map(|signal| (signal, plan.clock.now())),
    }));
    let ended = recording.end(signal, &mut signals, &console).await;
    let lost = ended.lost + u64::from(console.has_failed());
    // A signal that came too late to interrupt anything does not change the result.
    Ok(Exit::of_run(ended.cut_by.or(stopped), lost, prober.tally()))
}

fn shown(quiet: bool, json: bool) -> Shown {
    if json {
        Shown::Json
    } else if quiet {
        Shown::Failures
    } else {
        Shown::All
    }
}

/// Waits until every check has ended.
async fn until_idle(prober: &mut Prober) {
    while !prober.is_idle() {
        prober.progress().await;
    }
}

/// Whether every check has ended, or has received all its replies.
async fn is_complete(prober: &mut Prober) -> bool {
    prober.drain_replies().await;
    tokio::select! {
        biased;
        () = until_idle(prober) => true,
        () = std::future::ready(()) => false,
    }
}

/// Collects the results of checks as they finish.
fn collect_into(finished: &Arc<Mutex<Vec<CheckFinished>>>) -> SendEvent {
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
        let places: BTreeMap<_, _> = order.iter().zip(0..).collect();
        finished.sort_by_key(|check| places.get(&check.subject.target).copied());
    }
    let result = |CheckFinished { subject, tick, outcome, .. }: CheckFinished| CheckResult {
        subject,
        result: outcome.result,
        details: outcome.details,
        writes: tick.writes,
    };
    finished.into_iter().map(result).collect()
}

/// Starts the thread that records the scan and shows it.
fn start_recorder(
    session: &mut Session,
    files: Files,
    queue: (Queue, Receiver),
    shown: Shown,
) -> anyhow::Result<Recording> {
    let console = session.console.clone();
    let scan_console = ScanConsole::new(console.clone(), session.checker.connect.endpoint.to_string(), shown);
    let sinks = session.sinks(scan_console);
    let recorder = Recorder { files, history: LiveHistory::default(), sinks, pause: Duration::ZERO };

    recorder.start(queue, move |Recorded { lost, .. }| {
        if lost > 0 {
            console.notice(format_args!("records that could not be written: {lost}"));
        }
        console.finish_notices();
    })
}
