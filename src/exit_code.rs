//! The exit codes of a run.

use std::process::ExitCode;

use crate::model::signal::Signal;

/// Another `cycles` run is using this log folder.
#[derive(Debug, thiserror::Error)]
#[error("--log-dir: another cycles run is using {0}; wait until it ends, or name another folder")]
pub struct Locked(pub String);

/// The exit codes, documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every check passed.
    Healthy,
    /// At least one check failed.
    Failed,
    /// Wrong usage or configuration; nothing was checked.
    Usage,
    /// Another `cycles` run is using the log folder.
    Locked,
    /// A record could not be written.
    Lost,
    /// A signal ended the run, after its marks and summary were written.
    Signal(Signal),
}

impl Exit {
    /// The exit code of a run that ended before anything was checked.
    pub fn of_error(error: &anyhow::Error) -> Self {
        if error.is::<Locked>() { Exit::Locked } else { Exit::Usage }
    }

    /// The exit code of a run that checked. A signal takes precedence over lost records, and lost records over failed
    /// checks.
    pub fn of_run(signal: Option<Signal>, lost: u64, failures: u64) -> Self {
        match (signal, lost, failures) {
            (Some(signal), _, _) => Exit::Signal(signal),
            (None, 1.., _) => Exit::Lost,
            (None, 0, 1..) => Exit::Failed,
            (None, 0, 0) => Exit::Healthy,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Healthy => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Locked => 3,
            Exit::Lost => 4,
            Exit::Signal(signal) => 128 + signal.number(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_outcome_decides() {
        assert_eq!(Exit::of_run(None, 0, 0), Exit::Healthy);
        assert_eq!(Exit::of_run(None, 0, 2), Exit::Failed);
        assert_eq!(Exit::of_run(None, 1, 2), Exit::Lost);
        assert_eq!(Exit::of_run(Some(Signal::Term), 1, 2), Exit::Signal(Signal::Term));
    }
}
