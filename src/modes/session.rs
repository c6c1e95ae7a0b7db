//! Opens everything that `dbs` and `cycles` need before the first check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use crate::auth::credentials::{CredentialsProvider, forbid_core_dumps};
use crate::auth::password::PasswordSource;
use crate::cli::plan::Plan;
use crate::exit_code::Interrupted;
use crate::files::lock::Lock;
use crate::log::record::Destination;
use crate::log::write::Log;
use crate::model::databases::Databases;
use crate::model::event::{SendEvent, Sink};
use crate::model::notify::Notify;
use crate::modes::limits;
use crate::modes::lock::lock_folder;
use crate::modes::prober::Prober;
use crate::modes::signals::Signals;
use crate::output::auto_bound::AutoBound;
use crate::output::console::Console;
use crate::output::metrics::Metrics;
use crate::output::trace::Trace;
use crate::probe::canary::Canary;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;
use crate::probe::resolve::Resolver;
use crate::probe::server_info::ServerInfo;
use crate::probe::tls::Tls;

/// The differences between the modes.
pub struct SessionOptions {
    pub console: Console,
    /// The log files that the mode writes.
    pub logs: &'static [Destination],
    /// Checks query the server's identity.
    pub server_info: bool,
    /// The log folder is locked for this process.
    pub lock: bool,
}

/// Everything that is open during a run.
pub struct Session {
    pub console: Console,
    pub checker: Arc<Checker>,
    plan: Plan,
    metrics: Option<Metrics>,
    _lock: Option<Lock>,
}

/// The files that the recorder writes, and closes: closing the trace waits for its disk.
pub struct Files {
    pub log: Log,
    pub trace: Trace,
}

impl Session {
    /// Opens what a mode needs, and its files.
    ///
    /// # Errors
    /// A certificate, the password, the log folder or the metrics file is not available, or another run is using them.
    pub async fn open(plan: &Plan, options: SessionOptions) -> anyhow::Result<(Self, Files)> {
        let console = options.console.clone();
        // The process ends with the error, and the notices explain it.
        Self::open_all(plan, options).await.inspect_err(|_| console.finish_notices())
    }

    async fn open_all(plan: &Plan, options: SessionOptions) -> anyhow::Result<(Self, Files)> {
        let SessionOptions { console, logs, server_info, lock } = options;
        if plan.credentials.is_some() {
            forbid_core_dumps();
        }
        let trace = Trace::start(plan.verbose, plan.trace_dir.as_deref(), plan.clock, &console)?;
        for warning in &plan.warnings {
            console.notice(warning);
        }

        // An existing folder is locked before the user is prompted for a password. A missing folder is created only
        // after certificates and password are known to be usable.
        let folder = &plan.log.folder;
        let take = || lock_folder(folder, &console);
        let early = (lock && folder.is_dir()).then(take).transpose()?;
        let metrics = plan
            .metrics
            .as_deref()
            .map(|path| Metrics::open(path, &plan.endpoint.to_string(), plan.clock, notify(&console)));
        let metrics = metrics.transpose()?;
        let tls = plan.tls.as_ref().map(|settings| Tls::load(settings, &plan.endpoint)).transpose()?;
        let credentials = fetch_credentials(plan, notify(&console)).await?;
        let lock = match early {
            None if lock => take()?,
            early => early.flatten(),
        };

        let log = Log::open(&plan.log, logs, notify(&console))?;
        let checker = Checker {
            connect: ConnectOptions { endpoint: plan.endpoint.clone(), tls, credentials },
            resolver: Resolver::new(),
            databases: plan.databases,
            timeout: plan.timeout,
            deadline: plan.deadline,
            server_info: ServerInfo::new(server_info && plan.databases.selects()),
            expect_role: plan.expect_role,
            canary: plan.canary.then(|| Canary::new().of_cluster(plan.cluster)),
            in_cluster: plan.cluster,
            settled: AtomicU64::new(0),
            highest: AtomicU32::new(0),
        };
        let checker = Arc::new(checker);
        Ok((Session { console, checker, plan: plan.clone(), metrics, _lock: lock }, Files { log, trace }))
    }

    /// The prober: of the endpoint, or of all nodes of its cluster.
    /// A check waits for at most `patience` if too many others are under way.
    pub fn prober(&self, names_single_db: bool, patience: Duration, send: SendEvent) -> Prober {
        let prober = Prober::new(self.checker.clone(), names_single_db, limits::slots(patience), send);
        let keep_name = self.plan.tls.as_ref().is_some_and(|tls| tls.name.is_some());
        if self.plan.cluster { prober.of_cluster(keep_name, notify(&self.console)) } else { prober }
    }

    /// The sinks besides log and history: the metrics file, if one is configured, and what is printed.
    pub fn sinks(&mut self, printed: impl Sink + 'static) -> Vec<Box<dyn Sink>> {
        let metrics = self.metrics.take().map(|metrics| Box::new(metrics) as Box<dyn Sink>);
        let is_auto = self.plan.databases == Databases::Auto;
        let bound = is_auto.then(|| Box::new(AutoBound::new(self.console.clone())) as Box<dyn Sink>);
        metrics.into_iter().chain(bound).chain([Box::new(printed) as Box<dyn Sink>]).collect()
    }
}

/// Fetches the password for the first time. A signal ends a prompt as it ends a run, so that the terminal gets its echo
/// back.
async fn fetch_credentials(plan: &Plan, notify: Notify) -> anyhow::Result<Option<CredentialsProvider>> {
    let fetch = CredentialsProvider::fetch(plan.credentials.clone(), notify);
    if !matches!(plan.credentials, Some((_, PasswordSource::Prompt))) {
        return fetch.await;
    }

    let mut signals = Signals::listen()?;
    tokio::select! {
        biased;
        signal = signals.next() => Err(Interrupted(signal).into()),
        fetched = fetch => fetched,
    }
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn notify(console: &Console) -> Notify {
    let console = console.clone();
    Arc::new(move |text: &str| console.notice(text))
}
