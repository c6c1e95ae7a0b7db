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
/// sigaction(2) would tell, but the crates that can ask it (libc, nix, signal-hook-registry) take unsafe code for it,
/// and rustix leaves it out. So ask Linux's `/proc`, and elsewhere a child, which inherits what is ignored.
fn hup_is_ignored() -> bool {
    ignored_signals().map_or_else(|| succeeds(Command::new("sh").args(["-c", SURVIVES_HUP])), |mask| mask & 1 != 0)
}

/// The signals that this process ignores, the first in the lowest bit (proc_pid_status(5): `SigIgn`, hexadecimal).
fn ignored_signals() -> Option<u64> {
    // One read gives all of it, and each costs as much as opening a file.
    let mut status = [0; 4096];
    let length = std::fs::File::open("/proc/self/status").ok()?.read(&mut status).ok()?;
    let status = String::from_utf8_lossy(&status[..length]);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// A shell that was started with SIGHUP ignored cannot trap it (POSIX, `trap`), and comes to the end of this. One that
/// this process starts must come before its own handler, which no child inherits.
const SURVIVES_HUP: &str = "trap 'exit 1' HUP; kill -s HUP $$; exit 0";

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_tells_what_it_inherited() {
        let ignoring = r#"trap '' HUP; exec sh -c "$0""#;
        assert!(succeeds(Command::new("sh").args(["-c", ignoring, SURVIVES_HUP])));
        if let Some(mask) = ignored_signals() {
            assert_eq!(succeeds(Command::new("sh").args(["-c", SURVIVES_HUP])), mask & 1 != 0);
        }
    }
}
