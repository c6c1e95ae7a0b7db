//! What this machine must give a run: open files, memory, and a size that files may reach. What it refuses is said before
//! the first check, in one line.

use std::fs::File;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::modes::prober::Slots;

/// The most checks that may be under way at once: enough for one tick of the largest cluster, and a bound on what a
/// server that hangs has to hold open for us.
const MAX_CHECKS: u64 = 2048;

/// Descriptors for everything except checks: files, standard streams, name lookups, the runtime.
const RESERVED: u64 = 160;

/// The most descriptors of one check. If a TLS handshake hangs, it asks over a second connection whether the server speaks
/// TLS at all.
const PER_CHECK: u64 = 2;

/// How many descriptors a run needs at least besides the standard streams: the runtime and its signals, log files and
/// locks, trace and metrics, a name lookup and a connection.
const FEWEST: usize = 18;

/// From this limit on, a run certainly has [`FEWEST`].
const MANY: u64 = 512;

/// The memory that a small run needs at least, in bytes: stacks of its threads, buffers, the records of a scan.
const MEMORY: usize = 24 << 20;

/// Prepares a run of `dbs` or `cycles`.
///
/// # Errors
/// This machine gives less than the smallest run needs.
pub fn prepare() -> anyhow::Result<()> {
    check_memory()?;
    let limit = raise_open_files();

    // Otherwise the runtime would panic.
    if limit < MANY {
        let opened: io::Result<Vec<File>> = (0..FEWEST).map(|_| File::open("/dev/null")).collect();
        opened.with_context(|| {
            format!("cannot open enough files with a limit of {limit}; raise it (ulimit -n), for example to 64")
        })?;
    }
    survive_size_limit()
}

/// Makes a write beyond the limit of file sizes fail. By default it ends the process (setrlimit(2), `RLIMIT_FSIZE`).
///
/// # Errors
/// No handler can be installed.
pub fn survive_size_limit() -> anyhow::Result<()> {
    if getrlimit(Resource::Fsize).current.is_none() {
        return Ok(());
    }
    // The handler stays when the runtime ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot handle the limit of file sizes")?;
    let _entered = runtime.enter();
    let handled = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    handled.map(drop).context("cannot handle the limit of file sizes")
}

/// How many checks may be under way at once. A check that would exceed this waits for at most `patience`.
pub fn slots(patience: Duration) -> Slots {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Slots::new(usize::try_from(checks_at_once(limit)).unwrap_or(2), patience)
}

/// How many checks the limit of open files allows at once. At least two: the endpoint of a cluster and its discovery wait
/// for each other.
fn checks_at_once(limit: u64) -> u64 {
    let reserved = RESERVED.min(limit / 2);
    ((limit - reserved) / PER_CHECK).clamp(2, MAX_CHECKS)
}

/// Raises the limit of open files, as far as it may be, to what the most checks need. Returns the limit.
fn raise_open_files() -> u64 {
    const WANTED: u64 = MAX_CHECKS * PER_CHECK + RESERVED;

    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < WANTED) {
        limit.current = Some(limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED)));
        // If this fails, fewer checks may be under way at once.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// An allocation that fails later ends the process without a word.
fn check_memory() -> anyhow::Result<()> {
    let has_room = Vec::<u8>::new().try_reserve_exact(MEMORY).is_ok();
    ensure!(has_room, "cannot get {} MiB of memory; raise its limit (ulimit -v, ulimit -d)", MEMORY >> 20);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_bounds_the_checks_under_way() {
        for (limit, checks) in
            [(0, 2), (1, 2), (20, 5), (64, 16), (256, 64), (1024, 432), (8352, 2048), (u64::MAX, 2048)]
        {
            assert_eq!(checks_at_once(limit), checks, "{limit}");
        }
    }
}
