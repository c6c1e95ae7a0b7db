//! The threads on which names are looked up. The system's resolver blocks its thread and cannot be interrupted.
//!
//! Not the runtime's own threads: the runtime panics if the system refuses to start one, and ends idle ones, so that each
//! later lookup could be refused its thread.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most threads. Each lookup that hangs occupies one of them; further lookups wait for one that is free.
const MAX_THREADS: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that are started as needed, and are then kept until the process ends.
#[derive(Debug, Default)]
pub struct LookupPool {
    state: Mutex<State>,
    has_job: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads without a job.
    idle: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { jobs, threads, idle } = self;
        write!(f, "{} jobs on {threads} threads, {idle} idle", jobs.len())
    }
}

impl LookupPool {
    /// Runs a job on a thread of its own, as soon as there is one.
    ///
    /// # Errors
    /// No thread is idle, and the system refused to start another one.
    pub fn run(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let mut state = self.state();
        if state.idle <= state.jobs.len() && state.threads < MAX_THREADS {
            let pool = self.clone();
            thread::Builder::new().name("lookup".to_owned()).spawn(move || pool.serve())?;
            state.threads += 1;
            state.idle += 1;
        }
        state.jobs.push_back(job);
        drop(state);
        self.has_job.notify_one();
        Ok(())
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            let Some(job) = state.jobs.pop_front() else {
                state = self.has_job.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.idle -= 1;
            drop(state);
            job();
            state = self.state();
            state.idle += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code leaves the state inconsistent while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_share_idle_threads_and_wait_for_one_at_the_limit() {
        let pool = Arc::<LookupPool>::default();
        let (done, ended) = mpsc::channel();
        let run = |wait: mpsc::Receiver<()>| {
            let done = done.clone();
            let job = move || {
                let _ = wait.recv();
                done.send(()).unwrap();
            };
            pool.run(Box::new(job)).unwrap();
        };

        // Those after the limit wait, and none is lost.
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..MAX_THREADS + 8).map(|_| mpsc::channel()).unzip();
        receivers.into_iter().for_each(run);
        assert_eq!(pool.state().threads, MAX_THREADS);
        assert!(ended.try_recv().is_err());
        drop(senders);
        (0..MAX_THREADS + 8).for_each(|_| ended.recv().unwrap());

        // Once they are idle, no further thread is started.
        while pool.state().idle < MAX_THREADS {
            thread::yield_now();
        }
        run(mpsc::channel().1);
        ended.recv().unwrap();
        assert_eq!(pool.state().threads, MAX_THREADS);
    }
}
