//! How many checks may be under way at once. A server that hangs must not make us hold ever more connections, and a
//! cluster of a thousand nodes must not need more descriptors than there are.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::model::failure::Failure;

/// The slots of a run. Clones share them.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    count: usize,
    /// How long a check waits for a slot.
    patience: Duration,
}

impl Slots {
    pub fn new(count: usize, patience: Duration) -> Self {
        Slots { free: Arc::new(Semaphore::new(count)), count, patience }
    }

    /// Takes a slot, which is free again when the permit is dropped. Waits for one if none is free.
    ///
    /// # Errors
    /// None became free in time. The check cannot be made for this reason on our side.
    pub async fn take(&self) -> Result<OwnedSemaphorePermit, Failure> {
        // Mostly there is one, and creating a timer would take longer.
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            return Ok(slot);
        }
        match timeout(self.patience, self.free.clone().acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Failure::local(format!("{} checks are under way already", self.count))),
        }
    }
}
