//! `cycles`: checks on a fixed schedule, for as long as an upgrade takes.
//!
//! Each check is a task of its own with a fresh connection, so one that hangs delays neither the next nor the schedule.
//! Records are written as soon as their check is over; outages are folded in the order in which checks began.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, Stamp};
use crate::exit::Exit;
use crate::identity::Observed;
use crate::login::Login;
use crate::metrics::Metrics;
use crate::outage::{History, Moment, Observation, Transition};
use crate::output::Output;
use crate::plan::{CyclesPlan, Plan};
use crate::record::{Destination, Log, Mark, Record, Subject, seconds};
use crate::resolve::Resolver;
use crate::scan::{Databases, Identify, Scan, Scanner};
use crate::schedule::{Event, Schedule};
use crate::signal::{Signal, Signals};
use crate::status::Status;
use crate::target::Target;

/// Another `cycles` run writes to the same log folder.
#[derive(Debug, thiserror::Error)]
#[error("--log-dir: another cycles run holds {0}; wait for its end or name another folder")]
pub struct Locked(String);

/// A check that starts later than this was lost, not late, unless its interval is longer still.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Runs the schedule to its end or to a signal.
///
/// # Errors
/// Nothing was checked: the password or the log folder cannot be had, or another run holds the folder ([`Locked`]).
pub async fn run(CyclesPlan { plan, schedule }: CyclesPlan) -> anyhow::Result<Exit> {
    let output = Output::thread();
    if plan.verbose {
        crate::explain::start();
    }
    for warning in &plan.warnings {
        output.notice(warning);
    }
    let login = Login::fetch(plan.login.clone(), output.clone()).await?;
    let _lock = lock(&plan.log.folder, &output)?;
    let notify = output.clone();
    let log =
        Log::open(&plan.log, &[Destination::Success, Destination::Error], Arc::new(move |text| notify.notice(text)))?;
    let signals = Signals::listen()?;
    raise_open_files(&plan, &schedule);

    output.line(announcement(&plan, &schedule));
    let scanner = Scanner {
        target: Target { endpoint: plan.endpoint, login },
        resolver: Resolver::new(plan.timeout),
        databases: plan.databases,
        timeout: plan.timeout,
        deadline: plan.deadline,
        identify: Identify::new(true),
        settled: AtomicU64::new(0),
    };
    let metrics = plan.metrics.map(|path| Metrics::new(path, scanner.target.endpoint.to_string()));
    let mut run = Run::new(Arc::new(scanner), plan.clock, log, output, metrics);
    let signal = run.follow(schedule, signals).await;
    run.summarise();
    Ok(Exit::of_run(signal, run.log.lost(), run.failed_checks()))
}

/// Takes the log folder for this process. The lock is on the folder itself, and the system drops it with the process.
fn lock(folder: &Path, output: &Output) -> anyhow::Result<File> {
    let at = folder.display();
    std::fs::create_dir_all(folder)
        .with_context(|| format!("--log-dir: cannot make the folder {at}; name one that can be written to"))?;
    let file = File::open(folder).with_context(|| format!("--log-dir: cannot open the folder {at}"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Locked(at.to_string()).into()),
        // Some network file systems have no locks. That is no reason to watch no upgrade.
        Err(TryLockError::Error(error)) => output.notice(format_args!("{at} cannot be locked: {error}")),
    }
    Ok(file)
}

/// Checks that hang overlap, and each holds a connection: as many as start within one timeout.
fn raise_open_files(plan: &Plan, schedule: &Schedule) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let overlapping = plan.timeout.as_nanos() / schedule.interval.as_nanos();
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| u128::from(current) < overlapping + 64) {
        limit.current = limit.maximum;
        // When the system refuses, checks will say that files ran out.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

fn announcement(plan: &Plan, schedule: &Schedule) -> String {
    let what = match plan.databases {
        Databases::One(db) => format!("DB {db}"),
        Databases::UpTo(last) => format!("DB 0 to {last}"),
        Databases::Auto => "all databases".to_owned(),
    };
    let cycles = match schedule.cycles {
        1 => format!("1 cycle of {} s", seconds(schedule.run)),
        n => format!("{n} cycles of {} s with breaks of {} s", seconds(schedule.run), seconds(schedule.pause)),
    };
    let total = schedule.total().unwrap_or(Duration::MAX);
    let end = plan.clock.after(total).map_or_else(String::new, |end| format!(", until {end}"));
    format!(
        "Checking {what} of {} every {} s: {cycles}, {} checks in all{end}",
        plan.endpoint,
        seconds(schedule.interval),
        schedule.checks_per_cycle() * u128::from(schedule.cycles),
    )
}

/// How often the status line is drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// A check that is over.
struct Done {
    number: u64,
    at: Moment,
    after_gap: bool,
    scan: Scan,
}

/// Checks that were due but could not be started.
struct Missed {
    since: Instant,
    count: u64,
}

/// The state of a run.
struct Run {
    scanner: Arc<Scanner>,
    clock: Clock,
    log: Log,
    output: Output,
    metrics: Option<Metrics>,
    status: Status,
    start: Instant,
    /// How many checks were started.
    started: u64,
    running: BTreeMap<u64, AbortHandle>,
    sender: UnboundedSender<Done>,
    done: UnboundedReceiver<Done>,
    /// The next check to fold, and those that were over before an earlier one.
    next: u64,
    waiting: BTreeMap<u64, Done>,
    histories: BTreeMap<Subject, History>,
    observed: Observed,
    missed: Option<Missed>,
    missed_in_all: u64,
    /// Checks that a signal cut off.
    unfinished: u64,
    /// Time passed unobserved before the next check.
    gap: bool,
}

impl Run {
    fn new(scanner: Arc<Scanner>, clock: Clock, log: Log, output: Output, metrics: Option<Metrics>) -> Self {
        let (sender, done) = unbounded_channel();
        Run {
            scanner,
            clock,
            log,
            output,
            metrics,
            status: Status::default(),
            start: Instant::now(),
            started: 0,
            running: BTreeMap::new(),
            sender,
            done,
            next: 1,
            waiting: BTreeMap::new(),
            histories: BTreeMap::new(),
            observed: Observed::default(),
            missed: None,
            missed_in_all: 0,
            unfinished: 0,
            gap: false,
        }
    }

    /// Follows the schedule to its end, or to a signal, which it returns.
    async fn follow(&mut self, schedule: Schedule, mut signals: Signals) -> Option<Signal> {
        self.status.cycles = schedule.cycles;
        let mut redraw = tokio::time::interval(REDRAW);
        let has_status = self.output.has_status();
        for (offset, event) in schedule.events() {
            let due = self.start + offset;
            loop {
                tokio::select! {
                    biased;
                    signal = signals.first() => return Some(self.stop(signal)),
                    () = sleep_until(due) => break,
                    Some(done) = self.done.recv() => self.settle(done),
                    _ = redraw.tick(), if has_status => self.show_status(&schedule),
                }
            }
            self.act(event, due, &schedule);
        }
        // The last checks may still be under way; each is bounded by its deadline.
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                signal = signals.first() => return Some(self.stop(signal)),
                Some(done) = self.done.recv() => self.settle(done),
            }
        }
        self.mark(Mark::AllFinished { at: self.clock.now() });
        None
    }

    fn act(&mut self, event: Event, due: Instant, schedule: &Schedule) {
        let late = due.elapsed();
        match event {
            Event::CheckStarts if late >= schedule.interval.max(TOLERANCE) => {
                self.missed.get_or_insert(Missed { since: due, count: 0 }).count += 1;
            }
            Event::CheckStarts => {
                self.say_missed();
                self.check();
            }
            Event::CycleStarts(cycle) => {
                self.say_missed();
                (self.status.cycle, self.status.in_break) = (cycle, false);
                self.mark(Mark::CycleStarted { cycle, at: self.clock.now() });
            }
            Event::CycleEnds(cycle) => {
                self.say_missed();
                if cycle < schedule.cycles {
                    self.status.in_break = true;
                    self.mark(Mark::CycleCompleted { cycle, pause: schedule.pause });
                    self.gap |= !schedule.pause.is_zero();
                }
            }
        }
    }

    /// Starts a check. It goes on by itself until it sends what came of it.
    fn check(&mut self) {
        self.started += 1;
        let number = self.started;
        let at = Moment { stamp: self.clock.now(), since: self.start.elapsed() };
        let after_gap = std::mem::take(&mut self.gap);
        let (scanner, sender) = (self.scanner.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let mut scan = Scan::default();
            scanner.run(&mut scan).await;
            // The receiver is gone only when the run is over.
            let _ = sender.send(Done { number, at, after_gap, scan });
        });
        self.running.insert(number, task.abort_handle());
    }

    /// Writes the records of a check that is over, and folds all checks that are now complete in their order.
    fn settle(&mut self, done: Done) {
        self.running.remove(&done.number);
        for outcome in &done.scan.outcomes {
            let result = outcome.result.clone();
            let subject = self.subject(outcome.db);
            let record = Record::Check {
                at: done.at.stamp,
                subject: subject.clone(),
                count: done.number,
                result,
                details: done.scan.details(outcome),
            };
            self.log.write(&record);
            let kind = outcome.result.as_ref().err().map(|failure| failure.kind);
            match kind {
                Some(_) => {
                    self.status.failures += 1;
                    self.output.line(&record);
                }
                None => self.status.latency = Some(outcome.elapsed),
            }
            self.status.checks += 1;
            if let Some(metrics) = &mut self.metrics {
                metrics.observe(&subject, done.at.stamp, outcome.elapsed, kind);
            }
        }
        self.write_metrics(Metrics::write_soon);
        self.waiting.insert(done.number, done);
        while let Some(done) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.fold(&done);
        }
    }

    fn fold(&mut self, done: &Done) {
        for change in self.observed.update(done.scan.peer, &done.scan.identity) {
            self.mark(Mark::Changed { node: None, at: done.at.stamp, change });
        }
        for outcome in &done.scan.outcomes {
            let subject = self.subject(outcome.db);
            let observation = Observation {
                at: done.at,
                took: outcome.elapsed,
                failure: outcome.result.as_ref().err(),
                after_gap: done.after_gap,
            };
            let at = done.at.stamp;
            match self.histories.entry(subject.clone()).or_default().observe(&observation) {
                Some(Transition::Began) => self.mark(Mark::OutageBegan { subject, at }),
                Some(Transition::Ended(outage)) => {
                    let (at_least, at_most) = (outage.at_least(), outage.at_most());
                    self.mark(Mark::OutageEnded { subject, at, at_least, at_most });
                }
                None => {}
            }
        }
    }

    /// Lines name the database only where a run checks several.
    fn subject(&self, db: u32) -> Subject {
        match self.scanner.databases {
            Databases::One(_) => Subject::default(),
            _ => Subject::db(db),
        }
    }

    fn say_missed(&mut self) {
        if let Some(Missed { since, count }) = self.missed.take() {
            self.missed_in_all += count;
            self.gap = true;
            let to = self.clock.now();
            self.mark(Mark::NotObserved { from: to.earlier(since.elapsed()), to, missed: count });
        }
    }

    fn stop(&mut self, signal: Signal) -> Signal {
        // What is over already was seen, and is recorded.
        while let Ok(done) = self.done.try_recv() {
            self.settle(done);
        }
        for task in std::mem::take(&mut self.running).into_values() {
            task.abort();
            self.unfinished += 1;
        }
        for done in std::mem::take(&mut self.waiting).into_values() {
            self.fold(&done);
        }
        self.say_missed();
        self.mark(Mark::Stopped { signal, at: self.clock.now() });
        signal
    }

    fn show_status(&mut self, schedule: &Schedule) {
        let cycle_end = (schedule.run + schedule.pause) * self.status.cycle.saturating_sub(1) + schedule.run;
        let end = if self.status.in_break { cycle_end + schedule.pause } else { cycle_end };
        self.status.left = end.saturating_sub(self.start.elapsed());
        let down = self.histories.values().find_map(History::ongoing);
        self.status.down = down.map(|outage| (outage.first_failure.stamp, outage.reason.kind));
        self.output.status(self.status.line());
    }

    /// Writes the metrics file, if one was asked for. That it cannot be written is said once.
    fn write_metrics(&mut self, write: fn(&mut Metrics, Stamp) -> io::Result<()>) {
        let Some(metrics) = &mut self.metrics else { return };
        if let Err(error) = write(metrics, self.clock.now()) {
            let path = metrics.path().display();
            self.output.notice(format_args!("--metrics-file: cannot write {path}: {error}; it is given up"));
            self.metrics = None;
        }
    }

    fn mark(&self, mark: Mark) {
        let record = Record::Mark(mark);
        self.log.write(&record);
        self.output.line(record);
    }

    fn failed_checks(&self) -> u64 {
        self.histories.values().map(|history| history.failures).sum()
    }

    /// Prints what the whole run came to.
    fn summarise(&mut self) {
        self.write_metrics(Metrics::write);
        let output = &self.output;
        for (subject, history) in &self.histories {
            let name = if *subject == Subject::default() {
                self.scanner.target.endpoint.to_string()
            } else {
                subject.to_string()
            };
            let availability = history.availability().unwrap_or_default() * 100.0;
            output.line(format_args!(
                "{name}: {} checks, {} failed, availability {availability:.3} %",
                history.checks, history.failures
            ));
            for outage in history.outages() {
                output.line(format_args!("  {outage}"));
            }
        }
        for (what, count) in [
            ("checks still under way at the end", self.unfinished),
            ("checks missed", self.missed_in_all),
            ("records that could not be written", self.log.lost()),
        ] {
            if count > 0 {
                output.line(format_args!("{what}: {count}"));
            }
        }
        output.finish();
    }
}
