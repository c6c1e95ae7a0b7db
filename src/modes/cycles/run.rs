//! A run under way: the one place where its parts meet, and the only state that changes.

mod nodes;

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::cluster::discovery::Discovery;
use crate::cluster::nodes::Nodes;
use crate::cluster::topology::Topology;
use crate::history::ledger::{Check, Gap, Ledger};
use crate::history::outage::Transition;
use crate::history::reorder::Reorder;
use crate::log::record::{Mark, Mode, Record};
use crate::log::write::Log;
use crate::model::change::Changed;
use crate::model::change::{Change, Observed};
use crate::model::clock::Moment;
use crate::model::clock::{Clock, Stamp};
use crate::model::databases::Databases;
use crate::model::outcome::Outcome;
use crate::model::schedule::{Event, Schedule};
use crate::model::signal::Signal;
use crate::model::subject::{Subject, Target};
use crate::modes::cycles::suspension::machine_suspended;
use crate::modes::signals::Signals;
use crate::output::console::{Console, Patience};
use crate::output::metrics::Metrics;
use crate::output::status::Status;
use crate::probe::checker::Checker;
use crate::probe::persistent::PersistentConnection;
use crate::report::text::Look;
use crate::report::{self, Report};

/// A check that starts later than this was lost, not late, unless its interval is longer still.
const TOLERANCE: Duration = Duration::from_millis(100);

/// How often the status line is drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// When a check began, and its number: the same for all who are checked at the same time.
#[derive(Clone, Copy, Debug)]
struct Tick {
    number: u64,
    at: Moment,
    /// How many gaps there were before.
    gaps: u64,
    /// A write is part of it, and told apart.
    writes: bool,
}

/// What a task tells of the check that it makes.
struct News {
    who: Target,
    tick: Tick,
    what: What,
}

/// What there is to tell.
enum What {
    Settled(Outcome),
    /// A look at a cluster found these nodes.
    Nodes(Topology),
    /// No more will come.
    Over,
}

/// Those who are checked side by side: each one's checks are folded in the order in which they began.
#[derive(Default)]
struct Lane {
    order: Reorder<(Tick, Outcome)>,
    /// The number of the last check that began.
    begun: u64,
    observed: Observed,
}

/// Checks that were due but could not be started.
struct Missed {
    since: Moment,
    count: u64,
}

/// The state of a run.
pub struct Run {
    scanner: Arc<Checker>,
    /// The nodes of a cluster, which are checked in the endpoint's place, and who asks for them.
    pub cluster: Option<(Nodes, Arc<Discovery>)>,
    pub held: Option<Arc<PersistentConnection>>,
    clock: Clock,
    log: Log,
    output: Console,
    /// Lines that wait to be shown together.
    said: String,
    metrics: Option<Metrics>,
    /// The metrics file could not be written the last time, which was said.
    metrics_fail: bool,
    status: Status,
    start: Instant,
    /// How many checks were started.
    started: u64,
    running: BTreeMap<(Target, u64), AbortHandle>,
    sender: UnboundedSender<News>,
    news: UnboundedReceiver<News>,
    lanes: BTreeMap<Target, Lane>,
    ledger: Ledger,
    /// When the run began, and the last check.
    started_at: Moment,
    last_check: Option<Moment>,
    missed: Option<Missed>,
    missed_in_all: u64,
    /// For how long the machine had been suspended when the last check began.
    suspended: Duration,
    /// For how long it had been when the run began.
    suspended_before: Duration,
    /// One JSON document is all that standard output gets.
    json: bool,
    /// Since when nothing has been observed, before the next check.
    gap: Option<Moment>,
    /// Checks that a signal cut off.
    unfinished: u64,
}

impl Run {
    pub fn new(
        scanner: Arc<Checker>,
        clock: Clock,
        log: Log,
        output: Console,
        metrics: Option<Metrics>,
        json: bool,
    ) -> Self {
        let (sender, news) = unbounded_channel();
        let suspended = machine_suspended();
        Run {
            scanner,
            cluster: None,
            held: None,
            clock,
            log,
            output,
            said: String::new(),
            metrics,
            metrics_fail: false,
            status: Status::default(),
            start: Instant::now(),
            started: 0,
            running: BTreeMap::new(),
            sender,
            news,
            lanes: BTreeMap::new(),
            ledger: Ledger::default(),
            started_at: Moment { stamp: clock.now(), since: Duration::ZERO },
            last_check: None,
            missed: None,
            missed_in_all: 0,
            suspended,
            suspended_before: suspended,
            json,
            gap: None,
            unfinished: 0,
        }
    }

    /// Follows the schedule to its end, or to a signal, which it returns.
    pub async fn follow(&mut self, schedule: Schedule, mut signals: Signals) -> Option<Signal> {
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
                    Some(news) = self.news.recv() => self.take(news),
                    _ = redraw.tick(), if has_status => self.show_status(&schedule),
                }
            }
            self.act(event, due, &schedule);
            self.show_said();
        }
        // The last checks may still be under way; each is bounded by its deadline.
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                signal = signals.first() => return Some(self.stop(signal)),
                Some(news) = self.news.recv() => self.take(news),
            }
        }
        self.say_missed();
        self.mark(Mark::AllFinished { at: self.clock.now() });
        None
    }

    /// The monotonic clock stands still while the machine sleeps, and outages do not.
    fn now(&self) -> Moment {
        let slept = machine_suspended().saturating_sub(self.suspended_before);
        Moment { stamp: self.clock.now(), since: self.start.elapsed() + slept }
    }

    fn act(&mut self, event: Event, due: Instant, schedule: &Schedule) {
        let late = due.elapsed();
        match event {
            Event::CheckStarts if self.is_lost(late, schedule.interval) => {
                // What was lost begins behind the last check that was made.
                let last = self.last_check.unwrap_or(self.started_at);
                let due = self.now().earlier(late);
                let since = if due.since < last.since { last } else { due };
                self.missed.get_or_insert(Missed { since, count: 0 }).count += 1;
            }
            Event::CheckStarts => {
                self.say_missed();
                self.say_suspended(schedule.interval);
                self.check();
            }
            Event::CycleStarts(cycle) => {
                (self.status.cycle, self.status.in_break) = (cycle, false);
                // While this process did not run, a cycle began when it was due all the same.
                let at = if late >= TOLERANCE { self.clock.now().earlier(late) } else { self.clock.now() };
                self.mark(Mark::CycleStarted { cycle, at });
                // Anew in each cycle, since a log that is rotated away takes the mark with it.
                if self.scanner.canary.is_some() {
                    self.mark(Mark::Canary { at });
                }
            }
            Event::CycleEnds(cycle) => {
                if cycle < schedule.cycles {
                    self.status.in_break = true;
                    let now = if late >= TOLERANCE { self.now().earlier(late) } else { self.now() };
                    self.mark(Mark::CycleCompleted { cycle, break_duration: schedule.pause, at: now.stamp });
                    if !schedule.pause.is_zero() {
                        self.gap.get_or_insert(now);
                    }
                }
            }
        }
    }

    /// Whether a check that is late by so much is lost. Once one is, so are all that are overdue: there is no burst of
    /// those that a busy machine could just have made.
    fn is_lost(&self, late: Duration, interval: Duration) -> bool {
        late >= interval && (late >= TOLERANCE || self.missed.is_some())
    }

    /// Starts the checks of one tick.
    fn check(&mut self) {
        self.started += 1;
        let at = self.now();
        if let Some(from) = self.gap.take() {
            self.ledger.gap(Gap { from, to: at });
        }
        self.last_check = Some(at);
        let writes = self.scanner.canary.is_some();
        let tick = Tick { number: self.started, at, gaps: self.ledger.gap_count, writes };
        match &self.cluster {
            None => self.launch_scan(Target::Endpoint, tick, self.scanner.clone()),
            Some(_) => self.launch_nodes(tick),
        }
        if let Some(held) = self.held.clone() {
            self.launch(Target::Held, tick, |mut tell| async move { held.check(&mut *tell).await });
        }
    }

    /// Starts a check of all databases over a fresh connection.
    fn launch_scan(&mut self, who: Target, tick: Tick, scanner: Arc<Checker>) {
        self.launch(who, tick, |mut tell| async move { scanner.run(&mut *tell).await });
    }

    /// Starts a task that checks `who`. It goes on by itself and tells what comes of it.
    fn launch<Work, Doing>(&mut self, who: Target, mut tick: Tick, work: Work)
    where
        Work: FnOnce(Tell) -> Doing,
        Doing: Future<Output = ()> + Send + 'static,
    {
        tick.writes &= who.reads_and_writes();
        let lane = self.lane(&who);
        lane.begun = tick.number;
        lane.order.begin(tick.number);
        let sender = self.sender.clone();
        // The receiver is gone only when the run is over.
        let tell: Tell = {
            let (who, sender) = (who.clone(), sender.clone());
            Box::new(move |outcome| drop(sender.send(News { who: who.clone(), tick, what: What::Settled(outcome) })))
        };
        let doing = work(tell);
        let over = News { who: who.clone(), tick, what: What::Over };
        let task = tokio::spawn(async move {
            doing.await;
            let _ = sender.send(over);
        });
        self.running.insert((who, tick.number), task.abort_handle());
    }

    /// Takes news and whatever else is there already, so that what they make known is shown together.
    fn take(&mut self, news: News) {
        self.settle(news);
        while let Ok(news) = self.news.try_recv() {
            self.settle(news);
        }
        self.write_metrics(Metrics::write_soon);
        self.show_said();
    }

    /// Writes the record of a check, and folds what is now complete in order.
    fn settle(&mut self, News { who, tick, what }: News) {
        let due = match what {
            What::Nodes(topology) => return self.meet(tick, topology),
            What::Settled(outcome) => {
                self.record(&who, tick, &outcome);
                self.lane(&who).order.bring(tick.number, (tick, outcome)).into_iter().collect()
            }
            What::Over => {
                self.running.remove(&(who.clone(), tick.number));
                self.lane(&who).order.end(tick.number)
            }
        };
        for (tick, outcome) in due {
            self.fold(&who, tick, &outcome);
        }
    }

    fn lane(&mut self, who: &Target) -> &mut Lane {
        self.lanes.entry(who.clone()).or_default()
    }

    fn record(&mut self, who: &Target, tick: Tick, outcome: &Outcome) {
        let subject = self.subject(who, outcome);
        let record = Record::Check {
            at: tick.at.stamp,
            mode: Mode::Cycles,
            subject: subject.clone(),
            number: tick.number,
            result: outcome.result.clone(),
            details: outcome.details.clone(),
        };
        self.log.write(std::slice::from_ref(&record));
        match &outcome.result {
            Ok(()) => self.status.latency = Some(outcome.details.elapsed),
            Err(_) => {
                self.status.failures += 1;
                self.say(&record);
            }
        }
        self.status.checks += 1;
        let is_checked = self.is_checked(who);
        if let Some(metrics) = self.metrics.as_mut().filter(|_| is_checked) {
            let failure = outcome.result.as_ref().err();
            metrics.observe(&subject, tick.at.stamp, outcome.details.elapsed, failure, tick.writes);
        }
    }

    fn fold(&mut self, who: &Target, tick: Tick, outcome: &Outcome) {
        let (at, details) = (tick.at.stamp, &outcome.details);
        // Any node may tell of the cluster, and any of a shard's be its primary: that it was another one is no change.
        if !matches!(who, Target::Cluster | Target::Shard(_)) {
            for change in self.lane(who).observed.update(&details.connection) {
                self.note_change(who.clone(), tick, change);
            }
        }
        let transitions = self.ledger.check(&Check {
            subject: &self.subject(who, outcome),
            at: tick.at,
            took: Some(outcome.took()),
            result: outcome.result.as_ref().copied(),
            writes: tick.writes,
            gaps: tick.gaps,
        });
        for (subject, transition) in transitions {
            self.mark(match transition {
                Transition::Began => Mark::OutageBegan { subject, at },
                Transition::Ended(outage) => Mark::OutageEnded {
                    subject,
                    // The server may have come back while this check waited for it.
                    at: at.later(details.elapsed),
                    at_least: outage.at_least(),
                    at_most: outage.at_most(),
                },
            });
        }
    }

    fn note_change(&mut self, who: Target, tick: Tick, change: Change) {
        let at = tick.at.stamp;
        self.ledger.change(Changed { who: who.clone(), at, change: change.clone() });
        self.mark(Mark::Changed { who, at, change });
    }

    /// Lines name the database only where a run checks several.
    fn subject(&self, who: &Target, outcome: &Outcome) -> Subject {
        let db = match (self.scanner.databases, who) {
            (Databases::One(_), _) | (_, Target::Held | Target::Cluster) => None,
            _ => Some(outcome.db),
        };
        Subject { who: who.clone(), db, write: outcome.write && who.reads_and_writes() }
    }

    fn say_missed(&mut self) {
        if let Some(Missed { since, count }) = self.missed.take() {
            self.missed_in_all += count;
            self.gap.get_or_insert(since);
            self.mark(Mark::NotObserved { from: since.stamp, to: self.clock.now(), missed: count });
        }
    }

    /// The clock that the schedule follows stands still while the machine sleeps, so checks do not come late then: the
    /// system tells how long it slept.
    fn say_suspended(&mut self, interval: Duration) {
        let suspended = machine_suspended();
        let slept = suspended.saturating_sub(std::mem::replace(&mut self.suspended, suspended));
        if slept < interval.max(TOLERANCE) {
            return;
        }
        let now = self.now();
        let missed = u64::try_from(slept.as_nanos() / interval.as_nanos()).unwrap_or(u64::MAX);
        self.missed_in_all += missed;
        let from = now.earlier(slept);
        self.gap.get_or_insert(from);
        self.mark(Mark::NotObserved { from: from.stamp, to: now.stamp, missed });
    }

    fn stop(&mut self, signal: Signal) -> Signal {
        // What is settled already was seen, and is recorded.
        while let Ok(news) = self.news.try_recv() {
            self.settle(news);
        }
        for task in std::mem::take(&mut self.running).into_values() {
            task.abort();
            self.unfinished += 1;
        }
        let lanes: Vec<Target> = self.lanes.keys().cloned().collect();
        for who in lanes {
            for (tick, outcome) in self.lane(&who).order.finish() {
                self.fold(&who, tick, &outcome);
            }
        }
        self.say_missed();
        self.mark(Mark::Stopped { signal, at: self.clock.now() });
        signal
    }

    fn show_status(&mut self, schedule: &Schedule) {
        let cycle_end = (schedule.run + schedule.pause) * self.status.cycle.saturating_sub(1) + schedule.run;
        let end = if self.status.in_break { cycle_end + schedule.pause } else { cycle_end };
        self.status.left = end.saturating_sub(self.start.elapsed());
        let down = self.ledger.ongoing().find(|(subject, _)| self.is_checked(&subject.who));
        self.status.down = down.map(|(_, outage)| (outage.first_failure.stamp, outage.reason.kind));
        self.output.status(self.status.line());
    }

    /// Writes the metrics file, if one was asked for. That it cannot be written is said once, until it can be again.
    fn write_metrics(&mut self, write: fn(&mut Metrics, Stamp) -> io::Result<()>) {
        let Some(metrics) = &mut self.metrics else { return };
        let written = write(metrics, self.clock.now());
        if let Err(error) = &written
            && !self.metrics_fail
        {
            let path = metrics.path().display();
            self.output.notice(format_args!("--metrics-file: cannot write {path}: {error}; trying on"));
        }
        self.metrics_fail = written.is_err();
    }

    fn mark(&mut self, mark: Mark) {
        let record = Record::Mark(mark);
        self.log.write(std::slice::from_ref(&record));
        self.say(&record);
    }

    /// Has a line shown with the next that are.
    pub fn say(&mut self, line: impl Display) {
        if self.json {
            return;
        }
        let separator = if self.said.is_empty() { "" } else { "\n" };
        // Writing to memory does not fail.
        let _ = write!(self.said, "{separator}{line}");
    }

    pub fn show_said(&mut self) {
        if !self.said.is_empty() {
            self.output.line(std::mem::take(&mut self.said));
        }
    }

    /// Shows what the whole run came to.
    pub fn summarise(mut self, patience: Patience) -> Report {
        self.write_metrics(Metrics::write);
        let report = Report {
            endpoint: Some(self.scanner.target.endpoint.to_string()),
            unfinished: Some(self.unfinished),
            missed: self.missed_in_all,
            lost: Some(self.log.lost()),
            ..Report::from(std::mem::take(&mut self.ledger))
        };
        self.show_said();
        let last = match self.json {
            true => report::json::render(&report),
            false => format!("\n{}", report::text::render(&report, &Look::of_standard_output())),
        };
        self.output.finish(last, patience);
        report
    }
}

/// How a task tells of a check that is settled.
type Tell = Box<dyn FnMut(Outcome) + Send>;
