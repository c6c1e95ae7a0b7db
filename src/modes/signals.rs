//! The signals that end a run cleanly.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};

use tokio::signal::unix::{self, SignalKind};

use crate::model::signal::Signal;

/// Listens for the signals that end a run.
pub struct Signals {
    hup: Option<unix::Signal>,
    int: unix::Signal,
    term: unix::Signal,
}

impl Signals {
    /// Starts to listen. If SIGHUP was ignored at start (nohup), it stays ignored.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Signals {
            hup: if hup_is_ignored() { None } else { Some(unix::signal(SignalKind::hangup())?) },
            int: unix::signal(SignalKind::interrupt())?,
            term: unix::signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal.
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

/// Whether this process was started with SIGHUP ignored.
///
/// sigaction(2) returns this, but the crates that offer it (libc, nix, signal-hook-registry) need unsafe code, and
/// rustix does not offer it. So this reads Linux's `/proc`, and elsewhere starts a child, which inherits ignored
/// signals.
fn hup_is_ignored() -> bool {
    ignored_signals().map_or_else(|| succeeds(Command::new("sh").args(["-c", SURVIVES_HUP])), |mask| mask & 1 != 0)
}

/// The mask of ignored signals, with signal 1 in the lowest bit (proc_pid_status(5): `SigIgn`, hexadecimal).
fn ignored_signals() -> Option<u64> {
    // A single read returns the whole file, and each read costs as much as opening it.
    let mut status = [0; 4096];
    let length = std::fs::File::open("/proc/self/status").ok()?.read(&mut status).ok()?;
    let status = String::from_utf8_lossy(&status[..length]);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// A shell that was started with SIGHUP ignored cannot trap it (POSIX, `trap`), so it reaches `exit 0`. It must be
/// started before this process installs its own handler, because then SIGHUP is no longer ignored.
const SURVIVES_HUP: &str = "trap 'exit 1' HUP; kill -s HUP $$; exit 0";

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_inherits_ignored_signals() {
        let ignoring = r#"trap '' HUP; exec sh -c "$0""#;
        assert!(succeeds(Command::new("sh").args(["-c", ignoring, SURVIVES_HUP])));
        if let Some(mask) = ignored_signals() {
            assert_eq!(succeeds(Command::new("sh").args(["-c", SURVIVES_HUP])), mask & 1 != 0);
        }
    }
}
