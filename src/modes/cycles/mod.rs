//! `cycles`: checks on a fixed schedule, for example during an upgrade.
//!
//! It has two threads. The probe thread runs the schedule and the checks and handles signals, and never touches a file
//! or a terminal. The recorder thread writes the log, updates the history and prints. They are connected by a bounded
//! queue of events.

mod announcement;
mod gaps;
mod probe_thread;
mod suspension;

use std::sync::Arc;
use std::time::Duration;

use announcement::announcement;
use gaps::MAX_DELAY;
use probe_thread::ProbeThread;

use crate::cli::plan::{CyclesPlan, Plan};
use crate::exit_code::Exit;
use crate::history::live::LiveHistory;
use crate::log::record::Destination;
use crate::modes::queue::queue;
use crate::modes::recorder::{Recorded, Recorder};
use crate::modes::session::{Session, SessionOptions};
use crate::modes::signals::Signals;
use crate::output::console::Console;
use crate::output::cycles_console::CyclesConsole;
use crate::report::text::Style;
use crate::report::{Report, json, text};

/// Runs the schedule to its end or to a signal.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder is not available, or another run is using the
/// folder ([`Locked`](crate::exit_code::Locked)).
pub async fn run(plan: CyclesPlan) -> anyhow::Result<Exit> {
    let console = Console::thread()?;
    let options = SessionOptions {
        console: console.clone(),
        logs: &[Destination::Success, Destination::Error],
        server_info: true,
        lock: true,
    };
    let (mut session, files) = Session::open(&plan.plan, options).await?;
    let mut signals = Signals::listen()?;

    let (queue, receiver) = queue();
    let sender = queue.clone();
    // As late as an overdue check may begin.
    let patience = plan.schedule.check_interval.max(MAX_DELAY);
    let prober = session.prober(false, patience, Arc::new(move |event| sender.send(event)));
    let prober = if plan.held { prober.with_held() } else { prober };

    let printed = CyclesConsole::new(console.clone(), plan.schedule, plan.json);
    let recorder =
        Recorder { files, history: LiveHistory::default(), sinks: session.sinks(printed), pause: pause(&plan.plan) };
    let endpoint = plan.plan.endpoint.to_string();
    let summary = {
        let console = console.clone();
        move |recorded| console.finish(summary(recorded, endpoint, plan.json))
    };
    let recording = recorder.start((queue.clone(), receiver), summary)?;
    if !plan.json {
        console.line(announcement(&plan));
    }

    let probe_thread = ProbeThread::new(plan.schedule, plan.plan.clock, prober, queue, plan.plan.canary);
    let (signal, tally) = probe_thread.run(&mut signals).await;
    let ended = recording.end(signal, &mut signals, &console).await;
    Ok(Exit::of_run(ended.cut_by.or(signal), ended.lost, tally))
}

/// The report of the whole run.
fn summary(Recorded { ledger, unfinished, lost }: Recorded, endpoint: String, is_json: bool) -> String {
    let mut report = Report { endpoint: Some(endpoint), ..Report::from(ledger) };
    report.missing.unfinished_checks = Some(unfinished);
    report.missing.lost_records = Some(lost);

    if is_json { json::render(&report) } else { format!("\n{}", text::render(&report, &Style::of_standard_output())) }
}

/// The recorder's pause with many databases.
const PAUSE: Duration = Duration::from_millis(4);

/// Up to this number of databases, the recorder does not pause.
const FEW: u64 = 8;

/// The recorder's pause after each batch. Waking the waiting recorder costs the sender more than checking one of many
/// databases. With this pause a scan of thousands wakes it twice, not a thousand times. The records of a few databases
/// are written without a pause.
fn pause(plan: &Plan) -> Duration {
    let is_small = !plan.cluster && plan.databases.count().is_some_and(|count| count <= FEW);
    if is_small { Duration::ZERO } else { PAUSE }
}
