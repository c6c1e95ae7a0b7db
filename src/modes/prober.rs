//! Starts the checks of a tick and tells of them as they finish: of the endpoint, of the kept connection, and of all
//! nodes and shards of a cluster. `dbs` drives it once, `cycles` at each tick.
//!
//! Each check is a task of its own with a fresh connection, so that one which hangs delays no other. It reports each
//! database at once, from within the task, so that nothing else on this thread can come between a check that is over
//! and its event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument as _, debug, debug_span};

use crate::cluster::discovery::{Discovered, Discovery};
use crate::cluster::nodes::{Member, Nodes};
use crate::cluster::shards::Route;
use crate::cluster::topology::Topology;
use crate::model::change::TopologyChange;
use crate::model::clock::Moment;
use crate::model::databases::Databases;
use crate::model::event::{CheckFinished, Event, Tick};
use crate::model::outcome::Outcome;
use crate::model::subject::{Subject, Target};
use crate::probe::checker::Checker;
use crate::probe::persistent::PersistentConnection;

/// Where events go. It must not block.
pub type SendEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// Starts checks, and knows which are under way.
pub struct Prober {
    checker: Arc<Checker>,
    /// The nodes of a cluster, which are checked in the endpoint's place.
    cluster: Option<Cluster>,
    held: Option<Arc<PersistentConnection>>,
    send: SendEvent,
    lanes: BTreeMap<Target, Arc<Lane>>,
    tasks: JoinSet<Option<Looked>>,
    /// How many checks failed, over all targets.
    failures: Arc<AtomicU64>,
    /// A single database is named too.
    names_single_db: bool,
}

struct Cluster {
    nodes: Nodes,
    discovery: Arc<Discovery>,
    /// Checks of the endpoint itself, by tick, while no node is known: as whom they report depends on what discovery
    /// finds.
    undecided: BTreeMap<u64, oneshot::Sender<Decision>>,
}

/// What a look at a cluster's topology found.
struct Looked {
    tick: Tick,
    /// When the tick's checks began.
    started: Instant,
    /// The address that was asked.
    asked: Option<SocketAddr>,
    /// None where nobody told of nodes.
    topology: Option<Topology>,
}

/// As whom the endpoint's own check reports.
enum Decision {
    /// Nobody told of nodes.
    AsEndpoint,
    /// It is the node that was asked, if the check was made at the same address; otherwise the node is checked now.
    AsNode(Report, SocketAddr, Arc<Checker>),
}

impl Prober {
    /// Checks the endpoint of `checker` at each tick. The subjects of its checks name the database where there are
    /// several, or a single one too.
    pub fn new(checker: Arc<Checker>, names_single_db: bool, send: SendEvent) -> Self {
        Prober {
            checker,
            cluster: None,
            held: None,
            send,
            lanes: BTreeMap::new(),
            tasks: JoinSet::new(),
            failures: Arc::default(),
            names_single_db,
        }
    }

    /// Checks all nodes and shards of the cluster at the endpoint instead. `keep_name` says that the name in the
    /// endpoint's certificate is every node's, whatever host name it announces.
    #[must_use]
    pub fn of_cluster(self, keep_name: bool) -> Self {
        let nodes = Nodes::new(self.checker.clone(), keep_name);
        let discovery = Arc::new(Discovery::new(self.checker.clone()));
        Prober { cluster: Some(Cluster { nodes, discovery, undecided: BTreeMap::new() }), ..self }
    }

    /// Checks over a kept connection too.
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
                self.launch(Target::Endpoint, tick, |report| async move {
                    checker.run_until(started + checker.deadline, &mut |outcome| report.outcome(outcome)).await;
                });
            }
            Some(_) => self.start_cluster(tick, started),
        }
        if let Some(held) = self.held.clone() {
            self.launch(Target::Held, tick, |report| async move {
                held.check(&mut |outcome| report.outcome(outcome)).await;
            });
        }
    }

    /// Waits until a check ended, and starts what follows from it: the nodes that a look at the topology found are
    /// checked at once. Never ends while no check is under way.
    pub async fn progress(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(Some(looked))) => self.take_look(looked),
            // A task that was aborted reports nothing.
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Whether no check is under way.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Ends all checks, and gives how many were under way.
    pub fn abort(&mut self) -> u64 {
        while self.tasks.try_join_next().is_some() {}
        let unfinished = self.tasks.len() as u64;
        self.tasks.abort_all();
        unfinished
    }

    /// How many checks failed so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The nodes by address, then the shards by their slots, then the cluster as a whole.
    pub fn order(&self) -> Vec<Target> {
        let Some(Cluster { nodes, .. }) = &self.cluster else { return vec![Target::Endpoint] };
        let shards = nodes.shards().iter().map(|shard| shard.target());
        let nodes = nodes.members().iter().map(Member::target);
        std::iter::once(Target::Endpoint).chain(nodes).chain(shards).chain([Target::Cluster]).collect()
    }

    /// Starts the checks of all nodes and shards that are known, and beside them a look at the topology.
    fn start_cluster(&mut self, tick: Tick, started: Instant) {
        let Some(Cluster { nodes, discovery, .. }) = &self.cluster else { return };
        let (known, shards, sources) = (nodes.members().to_vec(), nodes.shards().to_vec(), nodes.sources());
        let (discovery, endpoint) = (discovery.clone(), nodes.endpoint());
        let is_unknown = known.is_empty();

        for member in known {
            self.launch_node(member, tick, started);
        }
        for shard in shards {
            self.launch_route(shard.target(), shard.route, tick, started);
        }
        if is_unknown {
            self.launch_undecided(endpoint, tick, started);
        }
        self.launch_with_result(Target::Cluster, tick, |report| async move {
            let Discovered { outcome, topology } = discovery.discover(sources).await;
            let asked = outcome.details.connection.peer;
            report.outcome(outcome);
            Some(Looked { tick, started, asked, topology: topology.filter(|topology| !topology.nodes.is_empty()) })
        });
    }

    /// Checks the endpoint itself, before it is known whether it is a node: it mostly is, and need not wait until it
    /// has told of the others. A node is only read, so nothing is written before that is known.
    fn launch_undecided(&mut self, endpoint: Route, tick: Tick, started: Instant) {
        let (sender, decision) = oneshot::channel();
        if let Some(cluster) = &mut self.cluster {
            cluster.undecided.insert(tick.number, sender);
        }
        let reader = self.checker.elsewhere(self.checker.target.clone(), None);
        self.launch(Target::Endpoint, tick, |as_endpoint| async move {
            let end = started + reader.deadline;
            let mut outcomes = Vec::new();
            reader.run_until(end, &mut |outcome| outcomes.push(outcome)).await;

            let report = match decision.await {
                Ok(Decision::AsEndpoint) if endpoint.checker.canary.is_some() && any_passed(&outcomes) => {
                    return write_to_endpoint(&endpoint, started, &as_endpoint).await;
                }
                Ok(Decision::AsEndpoint) => as_endpoint,
                Ok(Decision::AsNode(as_node, asked, _)) if was_made_at(&outcomes, asked) => as_node,
                Ok(Decision::AsNode(as_node, _, checker)) => {
                    return checker.run_until(end, &mut |outcome| as_node.outcome(outcome)).await;
                }
                // The checks of the nodes stand in its place.
                Err(_) => return,
            };
            outcomes.into_iter().for_each(|outcome| report.outcome(outcome));
        });
    }

    /// Takes what a look at the topology found: nodes and shards that are new are checked at once.
    fn take_look(&mut self, Looked { tick, started, asked, topology }: Looked) {
        let Some(cluster) = &mut self.cluster else { return };
        let mut undecided = cluster.undecided.remove(&tick.number);
        let Some(topology) = topology else {
            if let Some(undecided) = undecided {
                // The task is gone only when the run is over.
                let _ = undecided.send(Decision::AsEndpoint);
            }
            return;
        };

        let found = cluster.nodes.take(tick.number, topology);
        let change = found.change();
        if change != TopologyChange::default() {
            (self.send)(Event::TopologyChanged { tick, change });
        }

        // Their lines belong to the tick; how long they last is measured from now.
        let now = Moment { since: tick.at.since + started.elapsed(), ..tick.at };
        let tick = Tick { at: now, ..tick };
        for member in found.added {
            let is_asked = asked.is_some_and(|asked| member.is_at(asked));
            match asked.zip(undecided.take_if(|_| is_asked)) {
                Some((asked, undecided)) => {
                    let report = self.report(member.target(), tick);
                    // The task is gone only when the run is over.
                    let _ = undecided.send(Decision::AsNode(report, asked, member.checker));
                }
                None => self.launch_node(member, tick, started),
            }
        }
        for shard in found.new_shards {
            self.launch_route(shard.target(), shard.route, tick, started);
        }
    }

    fn launch_node(&mut self, member: Member, tick: Tick, started: Instant) {
        self.launch(member.target(), tick, |report| async move {
            member.checker.run_until(started + member.checker.deadline, &mut |outcome| report.outcome(outcome)).await;
        });
    }

    /// Starts a check of whoever takes the writes.
    fn launch_route(&mut self, target: Target, route: Route, tick: Tick, started: Instant) {
        self.launch(target, tick, |report| async move {
            route.check_until(started + route.checker.deadline, &mut |outcome| report.outcome(outcome)).await;
        });
    }

    fn launch<Work, Doing>(&mut self, target: Target, tick: Tick, work: Work)
    where
        Work: FnOnce(Report) -> Doing,
        Doing: Future<Output = ()> + Send + 'static,
    {
        self.launch_with_result(target, tick, |report| {
            let doing = work(report);
            async move {
                doing.await;
                None
            }
        });
    }

    /// Starts a task that checks a target, unless that was begun at this tick already: a node that looks at the topology
    /// tell of in turns may have been.
    fn launch_with_result<Work, Doing>(&mut self, target: Target, tick: Tick, work: Work)
    where
        Work: FnOnce(Report) -> Doing,
        Doing: Future<Output = Option<Looked>> + Send + 'static,
    {
        if self.lane(&target).is_begun(tick.number) {
            return;
        }
        let span = debug_span!("check", number = tick.number, target = %target);
        let report = self.report(target, tick);
        self.tasks.spawn(work(report).instrument(span));
    }

    fn report(&mut self, target: Target, mut tick: Tick) -> Report {
        tick.writes &= target.reads_and_writes();
        let lane = self.lane(&target);
        lane.begin(tick.number);
        let is_single = matches!(self.checker.databases, Databases::One(_));
        let has_db = match target {
            Target::Held | Target::Cluster => false,
            Target::Shard(_) => !is_single,
            Target::Endpoint | Target::Node(_) => !is_single || self.names_single_db,
        };
        let (send, failures) = (self.send.clone(), self.failures.clone());
        Report { target, tick, lane, has_db, send, failures }
    }

    fn lane(&mut self, target: &Target) -> Arc<Lane> {
        self.lanes.entry(target.clone()).or_default().clone()
    }
}

/// Checks the endpoint once more, with the write that is part of its check where nobody tells of nodes.
async fn write_to_endpoint(endpoint: &Route, started: Instant, report: &Report) {
    let before = started.elapsed();
    let mut emit = |mut outcome: Outcome| {
        outcome.details.elapsed += before;
        report.outcome(outcome);
    };
    endpoint.check_until(started + endpoint.checker.deadline, &mut emit).await;
}

fn any_passed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().any(|outcome| outcome.result.is_ok())
}

fn was_made_at(outcomes: &[Outcome], address: SocketAddr) -> bool {
    outcomes.first().is_some_and(|outcome| outcome.details.connection.peer == Some(address))
}

/// The checks of one target that are under way, and whether the target is up.
#[derive(Default)]
struct Lane(Mutex<LaneState>);

#[derive(Default)]
struct LaneState {
    under_way: BTreeSet<u64>,
    /// The number of the last check that began, and of the last that reported an outcome.
    begun: u64,
    reported: u64,
    /// The last outcome was a failure.
    is_down: bool,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        // Nothing is left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_begun(&self, number: u64) -> bool {
        self.state().begun >= number
    }

    fn begin(&self, number: u64) {
        let mut state = self.state();
        state.under_way.insert(number);
        state.begun = state.begun.max(number);
    }
}

impl LaneState {
    /// The lowest number of a check that is under way; the highest of all where there is none.
    fn oldest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(u64::MAX)
    }
}

/// How a task reports the check that it makes. Dropped, the check is over.
struct Report {
    target: Target,
    tick: Tick,
    lane: Arc<Lane>,
    /// Its subjects name the database.
    has_db: bool,
    send: SendEvent,
    failures: Arc<AtomicU64>,
}

impl Report {
    /// Reports what came of one database.
    fn outcome(&self, outcome: Outcome) {
        let mut state = self.lane.state();
        state.reported = state.reported.max(self.tick.number);
        let oldest = state.oldest();
        let was_down = std::mem::replace(&mut state.is_down, outcome.result.is_err());
        drop(state);

        if let Err(failure) = &outcome.result {
            self.failures.fetch_add(1, Ordering::Relaxed);
            if !was_down {
                debug!("{} is down: {failure}", self.target);
            }
        } else if was_down {
            debug!("{} is up again", self.target);
        }
        let subject = self.subject(&outcome);
        (self.send)(Event::CheckFinished(CheckFinished { subject, tick: self.tick, outcome, oldest }));
    }

    fn subject(&self, outcome: &Outcome) -> Subject {
        Subject {
            who: self.target.clone(),
            db: self.has_db.then_some(outcome.db),
            write: outcome.write && self.target.reads_and_writes(),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.under_way.remove(&self.tick.number);
        let (oldest, has_held_back) = (state.oldest(), state.reported > self.tick.number);
        drop(state);

        // Only what a later check brought can have been held back.
        if has_held_back {
            (self.send)(Event::CheckEnded { target: self.target.clone(), oldest });
        }
    }
}
