//! Work that renews something in the background, such as credentials. It runs once at a time, and a check may wait for it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Whether a renewal is running. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Renewal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_running: AtomicBool,
    ended: watch::Sender<()>,
}

impl Renewal {
    pub fn is_running(&self) -> bool {
        self.0.is_running.load(Ordering::Relaxed)
    }

    /// Starts `work` in the background, unless an earlier one is still running. Returns true, because one is running
    /// now. Must be called within a Tokio runtime.
    pub fn start(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        if !self.0.is_running.swap(true, Ordering::Relaxed) {
            let end = End(self.0.clone());
            tokio::spawn(async move {
                let _end = end;
                work.await;
            });
        }
        true
    }

    /// Waits until the running work, if any, has ended, but at most for `patience`.
    pub async fn wait(&self, patience: Duration) {
        let mut ended = self.0.ended.subscribe();
        if self.is_running() {
            // The result does not matter: after the time limit the old value is used.
            let _ = tokio::time::timeout(patience, ended.changed()).await;
        }
    }
}

/// Ends the work when it is dropped, even if the work panicked.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Relaxed);
        self.0.ended.send_replace(());
    }
}
