//! Work that blocks, on a thread of its own.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a new thread. Unlike Tokio's `spawn_blocking`, this does not panic if no thread can be started, and the
/// end of the runtime does not wait for it.
///
/// # Errors
/// No thread can be started, or `work` panicked.
pub async fn on_thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, done) = oneshot::channel();
    let work = move || {
        // This fails only if nobody waits any more.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    done.await.map_err(io::Error::other)
}
