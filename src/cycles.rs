//! `cycles`: checks on a fixed schedule, for as long as an upgrade takes.
//!
//! Each check is a task of its own with a fresh connection, so one that hangs delays neither the next nor the schedule.
//! Records are written as soon as their check is over; outages are folded in the order in which checks began.

mod run;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;

use crate::canary::Canary;
use crate::exit::Exit;
use crate::fleet::Fleet;
use crate::held::Held;
use crate::login::Login;
use crate::metrics::Metrics;
use crate::output::{Output, Patience};
use crate::plan::{CyclesPlan, Plan};
use crate::questions::Identify;
use crate::record::{Destination, Log, seconds};
use crate::resolve::Resolver;
use crate::scan::{Databases, Scanner};
use crate::schedule::Schedule;
use crate::scout::Scout;
use crate::signal::Signals;
use crate::target::Target;
use crate::tls::Tls;
use run::Run;

/// Another `cycles` run writes to the same log folder.
#[derive(Debug, thiserror::Error)]
#[error("--log-dir: another cycles run holds {0}; wait for its end or name another folder")]
pub struct Locked(String);

/// Runs the schedule to its end or to a signal.
///
/// # Errors
/// Nothing was checked: a certificate, the password or the log folder cannot be had, or another run holds the
/// folder ([`Locked`]).
pub async fn run(CyclesPlan { plan, schedule, held, json }: CyclesPlan) -> anyhow::Result<Exit> {
    let output = Output::thread();
    if plan.verbose {
        crate::explain::start(&output);
    }
    for warning in &plan.warnings {
        output.notice(warning);
    }
    // Before anybody is asked for a password; but nothing is made while what was given may still be wrong.
    let early = plan.log.folder.is_dir().then(|| lock(&plan.log.folder, &output)).transpose()?;
    let keep_name = plan.tls.as_ref().is_some_and(|tls| tls.name.is_some());
    let tls = plan.tls.as_ref().map(|settings| Tls::load(settings, &plan.endpoint)).transpose()?;
    let login = Login::fetch(plan.login.clone(), output.clone()).await?;
    let _lock = match early {
        Some(lock) => lock,
        None => lock(&plan.log.folder, &output)?,
    };
    let notify = output.clone();
    let log =
        Log::open(&plan.log, &[Destination::Success, Destination::Error], Arc::new(move |text| notify.notice(text)))?;
    let signals = Signals::listen()?;
    raise_open_files(&plan, &schedule);

    let announcement = announcement(&plan, &schedule, held);
    let scanner = Scanner {
        target: Target { endpoint: plan.endpoint, tls, login },
        resolver: Resolver::new(plan.timeout),
        databases: plan.databases,
        timeout: plan.timeout,
        deadline: plan.deadline,
        identify: Identify::new(true),
        expect_role: plan.expect_role,
        canary: plan.canary.then(|| Canary::new().of_cluster(plan.cluster)),
        settled: AtomicU64::new(0),
    };
    let metrics = plan.metrics.map(|path| Metrics::new(path, scanner.target.endpoint.to_string()));
    let scanner = Arc::new(scanner);
    let mut run = Run::new(scanner.clone(), plan.clock, log, output, metrics, json);
    if plan.cluster {
        run.cluster = Some((Fleet::new(scanner.clone(), keep_name), Arc::new(Scout::new(scanner.clone()))));
    }
    run.held = held.then(|| Arc::new(Held::new(scanner)));
    run.say(announcement);
    run.show_said();
    let signal = run.follow(schedule, signals).await;
    let report = run.summarise(if signal.is_some() { Patience::Brief } else { Patience::Long });
    Ok(Exit::of_run(signal, report.lost.unwrap_or(0), report.failures))
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

/// Checks that hang overlap, and each holds a connection: as many as start within the time that one may take.
fn raise_open_files(plan: &Plan, schedule: &Schedule) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let longest = if matches!(plan.databases, Databases::One(_)) { plan.timeout } else { plan.deadline };
    let overlapping = longest.as_nanos() / schedule.interval.as_nanos();
    let mut limit = getrlimit(Resource::Nofile);
    // How many nodes a cluster has is not known yet.
    let overlapping = if plan.cluster { u128::MAX / 2 } else { overlapping };
    if limit.current.is_some_and(|current| u128::from(current) < overlapping + 64) {
        limit.current = limit.maximum;
        // When the system refuses, checks will say that files ran out.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

fn announcement(plan: &Plan, schedule: &Schedule, held: bool) -> String {
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
    let endpoint = &plan.endpoint;
    let (whose, each) = match (plan.cluster, held) {
        (true, _) => (format!("every node of the cluster at {endpoint}"), " of each"),
        (false, true) => (format!("{endpoint}, over fresh connections and a held one,"), " over each"),
        (false, false) => (endpoint.to_string(), ""),
    };
    let checks = schedule.checks_per_cycle() * u128::from(schedule.cycles);
    let checks = if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") };
    format!("Checking {what} of {whose} every {} s: {cycles}, {checks}{each} in all{end}", seconds(schedule.interval),)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::{Cli, Command, WhenTyped};
    use crate::plan::Sources;

    #[test]
    fn one_check_is_not_many() {
        let announced = |lasts: &str| {
            let words = ["redis-health", "cycles", "--cycles", "1", "--check-interval", "1", "--run-duration", lasts];
            let matches = Cli::command().get_matches_from(words);
            let Command::Cycles(WhenTyped(args)) = Cli::from_arg_matches(&matches).unwrap().command else {
                unreachable!()
            };
            let plan = crate::plan::cycles(args, &Sources(matches.subcommand().unwrap().1)).unwrap();
            announcement(&plan.plan, &plan.schedule, false)
        };
        assert!(announced("1").contains(": 1 cycle of 1 s, 1 check in all"), "{}", announced("1"));
        assert!(announced("2").contains(": 1 cycle of 2 s, 2 checks in all"), "{}", announced("2"));
    }
}
