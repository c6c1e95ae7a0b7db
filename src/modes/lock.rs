//! The lock that prevents a second `cycles` run from using the same log folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context as _;

use crate::exit_code::Locked;
use crate::output::console::Console;

/// An exclusive lock on a log folder. The system releases it when the process ends.
pub struct Lock(#[expect(dead_code, reason = "held open for its lock")] File);

impl Lock {
    /// Creates the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// The folder cannot be created or opened, or another run is using it ([`Locked`]).
    pub fn take(folder: &Path, console: &Console) -> anyhow::Result<Self> {
        let shown = folder.display();
        std::fs::create_dir_all(folder)
            .with_context(|| format!("--log-dir: cannot create folder {shown}; name one that can be written to"))?;
        let file = File::open(folder).with_context(|| format!("--log-dir: cannot open the folder {shown}"))?;

        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Locked(shown.to_string()).into()),
            // Some network file systems do not support locks. The run continues without one.
            Err(TryLockError::Error(error)) => console.notice(format_args!("{shown} cannot be locked: {error}")),
        }
        Ok(Lock(file))
    }
}
