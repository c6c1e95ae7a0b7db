//! The signals that end a run cleanly.

use std::io::{self, Read as _};

use tokio::signal::unix::{self, SignalKind};

use crate::model::signal::Signal;

/// Listens for the signals that end a run.
pub struct Signals {
    hup: Option<unix::Signal>,
    int: unix::Signal,
    term: unix::Signal,
}

impl Signals {
    /// Starts to listen. A SIGHUP that was ignored at start (nohup) stays ignored.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn listen() -> io::Result<Self> {
        Ok(Signals {
            hup: if hup_is_ignored() { None } else { Some(unix::signal(SignalKind::hangup())?) },
            int: unix::signal(SignalKind::interrupt())?,
            term: unix::signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) -> Signal {
        let hup = async {
            match &mut self.hup {
                Some(hup) => hup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hup => Signal::Hup,
            _ = self.int.recv() => Signal::Int,
            _ = self.term.recv() => Signal::Term,
        }
    }
}

/// Whether whoever started this process had it ignore SIGHUP.
///
/// Linux tells in `/proc` (proc_pid_status(5): `SigIgn`, a hexadecimal mask). Asking sigaction(2) would need unsafe
/// code, so where there is no `/proc`, SIGHUP ends a run.
fn hup_is_ignored() -> bool {
    // The file has no length, so a plain read would grow its buffer in eight steps.
    let mut status = String::with_capacity(4096);
    let file = std::fs::File::open("/proc/self/status");
    if file.and_then(|file| file.take(4096).read_to_string(&mut status)).is_err() {
        return false;
    }
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
