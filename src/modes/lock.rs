//! The lock that prevents a second `cycles` run from using the same log folder.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use crate::exit_code::Locked;
use crate::files::create_folder;
use crate::files::lock::{Lock, LockError};
use crate::model::text::Printable;
use crate::output::console::Console;

/// The lock file in the log folder. `report` ignores it.
const NAME: &str = ".redis-health.lock";

/// Creates the log folder if it is missing, and locks it. None if its file system does not support locks: the run
/// continues without one.
///
/// # Errors
/// The folder cannot be created, the lock file cannot be opened, or another run is using the folder ([`Locked`]).
pub fn lock_folder(folder: &Path, console: &Console) -> anyhow::Result<Option<Lock>> {
    let shown = Printable::path(folder);
    create_folder(folder)
        .with_context(|| format!("--log-dir: cannot create folder {shown}; name one that can be written to"))?;

    match Lock::take(&folder.join(NAME)) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held(holder)) => Err(Locked { folder: shown.to_string(), holder: holder.to_string() }.into()),
        Err(LockError::Unusable(reason)) => {
            Err(anyhow!("--log-dir: cannot lock {shown} with its file {NAME}: {reason}; name another folder"))
        }
        Err(LockError::Unsupported(error)) => {
            console.notice(format_args!("{shown} cannot be locked: {error}"));
            Ok(None)
        }
    }
}
