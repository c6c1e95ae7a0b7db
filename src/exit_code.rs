//! The exit codes of a run.

use std::process::ExitCode;

use crate::model::outcome::Tally;
use crate::model::signal::Signal;

/// Another `cycles` run is using this log folder.
#[derive(Debug, thiserror::Error)]
#[error("--log-dir: another cycles run ({holder}) is using {folder}; wait until it ends, or name another folder")]
pub struct Locked {
    pub folder: String,
    /// The process that holds the lock.
    pub holder: String,
}

/// A signal came before anything was checked.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {0} before the first check")]
pub struct Interrupted(pub Signal);

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
    /// A record could not be written, or the result to standard output.
    Lost,
    /// No check failed, but one could not be made for a reason on our side.
    NotObserved,
    /// A signal ended the run, after its marks and summary were written.
    Signal(Signal),
}

impl Exit {
    /// The exit code of a run that ended before anything was checked.
    pub fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(Interrupted(signal)) => Exit::Signal(*signal),
            None if error.is::<Locked>() => Exit::Locked,
            None => Exit::Usage,
        }
    }

    /// The exit code of a run that checked. A signal takes precedence over lost records, lost records over failed
    /// checks, and failed checks over those that could not be made.
    pub fn of_run(signal: Option<Signal>, lost: u64, tally: Tally) -> Self {
        match (signal, lost, tally) {
            (Some(signal), ..) => Exit::Signal(signal),
            (None, 1.., _) => Exit::Lost,
            (None, 0, Tally { failures: 1.., .. }) => Exit::Failed,
            (None, 0, Tally { not_observed: 1.., .. }) => Exit::NotObserved,
            (None, 0, Tally { failures: 0, not_observed: 0 }) => Exit::Healthy,
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
            Exit::NotObserved => 5,
            Exit::Signal(signal) => 128 + signal.number(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_outcome_decides() {
        let of_run =
            |signal, lost, failures, not_observed| Exit::of_run(signal, lost, Tally { failures, not_observed });
        assert_eq!(of_run(None, 0, 0, 0), Exit::Healthy);
        assert_eq!(of_run(None, 0, 0, 3), Exit::NotObserved);
        assert_eq!(of_run(None, 0, 2, 3), Exit::Failed);
        assert_eq!(of_run(None, 1, 0, 3), Exit::Lost);
        assert_eq!(of_run(None, 1, 2, 3), Exit::Lost);
        assert_eq!(of_run(Some(Signal::Term), 1, 2, 3), Exit::Signal(Signal::Term));
    }
}
