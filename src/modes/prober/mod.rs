//! Starts the checks of a tick, and reports them as they finish: of the endpoint, of the persistent connection, and of
//! all nodes and shards of a cluster. `dbs` uses it once, `cycles` at each tick.
//!
//! Each check is a separate task with a fresh connection, so that one that hangs does not delay others. It reports each
//! database at once, from within the task, so that nothing else on this thread can run between the end of a check and
//! its event.

mod cluster;
mod lane;
mod slots;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;
use tracing::{Instrument as _, debug_span};

use cluster::{Cluster, TopologyFound};
use lane::{Lane, Owed, Reporter};
pub use slots::Slots;

use crate::model::event::{Event, SendEvent, Tick};
use crate::model::notify::Notify;
use crate::model::outcome::Tally;
use crate::model::subject::Target;
use crate::probe::checker::Checker;
use crate::probe::persistent::PersistentConnection;

/// How many tasks the runtime runs before it polls the sockets and the main task again.
pub const TASKS_PER_YIELD: u32 = 61;

/// Starts checks, and keeps track of the running ones.
pub struct Prober {
    checker: Arc<Checker>,
    /// The cluster whose nodes are checked instead of the endpoint.
    cluster: Option<Cluster>,
    held: Option<Arc<PersistentConnection>>,
    send: SendEvent,
    lanes: BTreeMap<Target, Arc<Lane>>,
    tasks: JoinSet<Option<TopologyFound>>,
    slots: Slots,
    /// How many checks did not pass, over all targets.
    tally: Arc<Mutex<Tally>>,
    /// How many outcomes the running checks still owe.
    owed: Arc<AtomicU64>,
    /// Subjects include the database even if there is only one.
    names_single_db: bool,
}

impl Prober {
    /// Checks the endpoint of `checker` at each tick. Subjects include the database if there are several, or always
    /// with `names_single_db`. Each check takes one of the `slots`.
    pub fn new(checker: Arc<Checker>, names_single_db: bool, slots: Slots, send: SendEvent) -> Self {
        Prober {
            checker,
            cluster: None,
            held: None,
            send,
            lanes: BTreeMap::new(),
            tasks: JoinSet::new(),
            slots,
            tally: Arc::default(),
            owed: Arc::default(),
            names_single_db,
        }
    }

    /// Checks all nodes and shards of the endpoint's cluster instead; see [`Cluster::new`].
    #[must_use]
    pub fn of_cluster(self, keep_name: bool, notify: Notify) -> Self {
        Prober { cluster: Some(Cluster::new(&self.checker, keep_name, notify)), ..self }
    }

    /// Also checks over a persistent connection.
    #[must_use]
    pub fn with_held(self) -> Self {
        let held = Some(Arc::new(PersistentConnection::new(self.checker.clone())));
        Prober { held, ..self }
    }

    /// Starts the checks of one tick.
    pub fn start(&mut self, tick: Tick) {
        (self.send)(Event::TickStarted(tick));
        let started = Instant::now();
        match self.cluster {
            None => {
                let checker = self.checker.clone();
                self.launch(Target::Endpoint, tick, move |report| async move {
                    checker.run_until(started + checker.deadline, &mut |outcome| report.outcome(outcome)).await;
                });
            }
            Some(_) => self.start_cluster(tick, started),
        }

        if let Some(held) = self.held.clone() {
            self.launch(Target::Held, tick, move |report| async move {
                held.check(&mut |outcome| report.outcome(outcome)).await;
            });
        }
    }

    /// Waits until a check ends. If it was a discovery, starts the checks of new nodes. Never returns while no check is
    /// running.
    pub async fn progress(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(Some(found))) => self.take_topology(found),
            // The task of a check, or an aborted one.
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Whether no check is running.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Lets each check report the replies that it has already received.
    pub async fn drain_replies(&self) {
        // Each yield polls the sockets and some of the tasks that are ready.
        for _ in 0..self.tasks.len() / TASKS_PER_YIELD as usize + 2 {
            yield_now().await;
        }
    }

    /// Ends all checks, and returns how many had no result: of each database of each target. A check that counts the
    /// databases itself is one.
    pub fn abort(&mut self) -> u64 {
        while self.tasks.try_join_next().is_some() {}
        let unfinished = self.owed.load(Ordering::Relaxed);
        self.tasks.abort_all();
        unfinished
    }

    /// How many checks did not pass so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The targets in the order of a block: the endpoint, nodes by address, shards by their slots, and the cluster as a
    /// whole.
    pub fn targets(&self) -> Vec<Target> {
        let of_cluster = self.cluster.iter().flat_map(Cluster::targets);
        std::iter::once(Target::Endpoint).chain(of_cluster).chain([Target::Cluster]).collect()
    }

    fn launch<Work, Doing>(&mut self, target: Target, tick: Tick, work: Work)
    where
        Work: FnOnce(Reporter) -> Doing + Send + 'static,
        Doing: Future<Output = ()> + Send + 'static,
    {
        self.launch_with_result(target, tick, |report| {
            // Boxed, because the block below would hold it twice.
            let doing = Box::pin(work(report));
            async move {
                doing.await;
                None
            }
        });
    }

    /// Starts a task that checks a target, unless it was already started at this tick: overlapping discoveries may
    /// report the same node.
    fn launch_with_result<Work, Doing>(&mut self, target: Target, tick: Tick, work: Work)
    where
        Work: FnOnce(Reporter) -> Doing + Send + 'static,
        Doing: Future<Output = Option<TopologyFound>> + Send + 'static,
    {
        if self.lane(&target).is_begun(tick.number) {
            return;
        }
        let endpoint = &self.checker.connect.endpoint;
        let span = debug_span!("check", number = tick.number, %target, %endpoint);
        let (checker, slots) = (self.checker.clone(), self.slots.clone());
        // The persistent connection is checked once at a time.
        let needs_slot = target != Target::Held;
        let mut report = self.reporter(target, tick);

        let check = async move {
            let start = Instant::now();
            let slot = if needs_slot { slots.take().await.map(Some) } else { Ok(None) };
            report.waited = start.elapsed();
            match slot {
                // Boxed, so that a check that waits needs little memory.
                Ok(_slot) => Box::pin(work(report)).await,
                Err(reason) => {
                    checker.skip(report.has_dbs(), &reason, &mut |outcome| report.outcome(outcome));
                    None
                }
            }
        };
        self.tasks.spawn(check.instrument(span));
    }

    fn reporter(&mut self, target: Target, mut tick: Tick) -> Reporter {
        tick.writes &= target.reads_and_writes();
        let lane = self.lane(&target);
        lane.begin(tick.number);
        let is_single = self.checker.databases.is_single();
        let has_db = match target {
            Target::Held | Target::Cluster => false,
            Target::Shard(_) => !is_single,
            Target::Endpoint | Target::Node(_) => !is_single || self.names_single_db,
        };
        let count = match target {
            Target::Held | Target::Cluster => Some(1),
            Target::Endpoint | Target::Node(_) | Target::Shard(_) => self.checker.databases.count(),
        };
        let (send, tally, owed) = (self.send.clone(), self.tally.clone(), Owed::new(count, &self.owed));
        Reporter { target, tick, lane, has_db, send, tally, owed, waited: Duration::ZERO }
    }

    fn lane(&mut self, target: &Target) -> Arc<Lane> {
        self.lanes.entry(target.clone()).or_default().clone()
    }
}
