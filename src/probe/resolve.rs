//! Resolves host names, again for every connection, because ElastiCache moves an endpoint by changing its DNS record.
//!
//! One set of threads makes all look-ups of the process; [`Lookups`] decides which ones.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::model::failure::{Failure, Kind, Phase};
use crate::probe::deadline::Deadline;
use crate::probe::lookups::{Answer, Lookups, MAX_UNDER_WAY, SLOW};

/// How long a thread waits for another look-up before it ends. The last one stays, because a new thread may be refused.
const IDLE: Duration = Duration::from_secs(10);

/// The longest host name, in bytes (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

/// Resolves host names with the system's resolver. Clones share the look-ups and their threads.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    has_work: Condvar,
    /// Starts a thread that makes look-ups.
    start_thread: fn(Arc<Shared>) -> io::Result<()>,
}

struct State {
    lookups: Lookups,
    threads: usize,
    idle: usize,
    /// A thread was woken or started and does not run yet.
    waking: bool,
    /// Why no further thread could be started for the look-ups that wait.
    refused: Option<Failure>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver without threads. They start with the first look-up.
    pub fn new() -> Self {
        Self::with_threads(start_thread)
    }

    fn with_threads(start_thread: fn(Arc<Shared>) -> io::Result<()>) -> Self {
        let state = State { lookups: Lookups::new(Instant::now()), threads: 0, idle: 0, waking: false, refused: None };
        Resolver(Arc::new(Shared { state: Mutex::new(state), has_work: Condvar::new(), start_thread }))
    }

    /// The addresses of `host`, in the resolver's order, before `deadline`. An IP address is returned unchanged. A text
    /// that is neither a host name nor an address is not looked up.
    ///
    /// # Errors
    /// A failure of kind `dns`: the name does not exist, or no name server answered. A failure of kind `local`: there is
    /// no thread, descriptor or memory for the look-up. A `timeout`: the look-up did not end in time.
    pub async fn resolve(&self, host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if !is_host(host) {
            return Err(Failure::new(Kind::Dns, format!("{host}: not a host name or an address")));
        }

        // Kept until the end of this function: a look-up that nobody waits for is forgotten.
        let mut answer = self.0.request(host);
        let phase = || Phase::Resolve(host.to_owned());
        let addresses = deadline.bound(phase, self.0.wait(&mut answer, host)).await;
        let addresses = addresses.map_err(|failure| match failure.kind {
            Kind::Timeout => self.0.no_thread_for(host).unwrap_or(failure),
            _ => failure,
        })?;
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver::new()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code leaves the state inconsistent while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(self: &Arc<Self>, host: &str) -> watch::Receiver<Option<Answer>> {
        let mut state = self.state();
        let answer = state.lookups.request(host);
        self.put_to_work(&mut state);
        answer
    }

    async fn wait(self: &Arc<Self>, answer: &mut watch::Receiver<Option<Answer>>, host: &str) -> Answer {
        let answer = loop {
            tokio::select! {
                biased;
                answer = answer.wait_for(Option::is_some) => break answer.ok().and_then(|answer| answer.clone()),
                () = sleep(SLOW) => self.replace_slow(host),
            }
        };
        // The sender is never dropped without an answer while somebody waits.
        answer.unwrap_or_else(|| Err(Failure::new(Kind::Dns, "the look-up was given up")))
    }

    /// Why the look-up of a host that somebody waits for did not begin, if it could have begun on another thread.
    fn no_thread_for(&self, host: &str) -> Option<Failure> {
        let state = self.state();
        let lacks_thread = state.lookups.has_next() && !state.lookups.has_begun(host);
        state.refused.clone().filter(|_| lacks_thread)
    }

    fn replace_slow(self: &Arc<Self>, host: &str) {
        let mut state = self.state();
        state.lookups.replace_slow(host, Instant::now());
        self.put_to_work(&mut state);
    }

    /// Wakes or starts a thread if there is work. Each thread that begins a look-up does this again.
    fn put_to_work(self: &Arc<Self>, state: &mut State) {
        if state.waking || !state.lookups.has_next() {
            return;
        }
        if state.idle > 0 {
            (state.waking, state.refused) = (true, None);
            self.has_work.notify_one();
        } else if state.threads < MAX_UNDER_WAY {
            match (self.start_thread)(self.clone()) {
                Ok(()) => (state.threads, state.waking, state.refused) = (state.threads + 1, true, None),
                // The threads that there are continue, but they may all be occupied until the deadline.
                Err(error) if state.threads > 0 => state.refused = Some(Failure::no_thread(&error)),
                Err(error) => state.lookups.fail_all(&Failure::no_thread(&error)),
            }
        }
    }

    /// Makes look-ups until there have been none for [`IDLE`].
    fn work(self: Arc<Self>) {
        let mut state = self.state();
        loop {
            state.waking = false;
            let Some(job) = state.lookups.next(Instant::now()) else {
                state.idle += 1;
                let (after, waited) = self.has_work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = after;
                state.idle -= 1;
                if waited.timed_out() && state.threads > 1 && !state.lookups.has_next() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            self.put_to_work(&mut state);
            drop(state);

            let (answer, is_served) = look_up(&job.host);
            state = self.state();
            state.lookups.finish(&job, answer, is_served, Instant::now());
        }
    }
}

fn start_thread(shared: Arc<Shared>) -> io::Result<()> {
    thread::Builder::new().name("name look-up".to_owned()).spawn(move || shared.work()).map(drop)
}

/// Asks the system's resolver, and returns whether a name server answered. Blocks until then, or until libc gives up.
fn look_up(host: &str) -> (Answer, bool) {
    let found = (host, 0).to_socket_addrs();
    match found {
        Ok(addresses) => (Ok(addresses.map(|address| address.ip()).collect()), true),
        Err(error) => {
            // The resolver hides why it could not read its files or ask a name server.
            let local = out_of_descriptors();
            // libc's text if no name server answered (gai_strerror(3), EAI_AGAIN).
            let is_served = local.is_none() && !error.to_string().contains("Temporary failure");
            (Err(Failure::dns(host, local.as_ref().unwrap_or(&error))), is_served)
        }
    }
}

/// The error if there are fewer descriptors left than a lookup needs: for a file, and for the sockets to the name servers.
fn out_of_descriptors() -> Option<io::Error> {
    let needed = [io::pipe(), io::pipe()];
    needed.into_iter().find_map(Result::err)
}

/// Whether a text can be looked up: a host name or an address. A name may have underscores, as in container networks,
/// and an IPv6 address a zone.
pub fn is_host(text: &str) -> bool {
    let is_word = |text: &str, marks: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
    };
    if text.len() > MAX_NAME {
        return false;
    }
    if text.contains(':') {
        let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
        return address.parse::<Ipv6Addr>().is_ok() && is_word(zone, ".-_");
    }
    let labels = text.strip_suffix('.').unwrap_or(text);
    labels.split('.').all(|label| is_word(label, "-_") && label.len() < 64 && !label.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    #[test]
    fn only_host_names_and_addresses_are_looked_up() {
        for host in ["localhost", "a-1.b_c.example.", "10.0.0.1", "::1", "fe80::1%eth0", &"a".repeat(63)] {
            assert!(is_host(host), "{host}");
        }
        let long = ["a".repeat(64), "a.".repeat(128)];
        for host in ["", ".", "a b", "a..b", "a\nb", "a/b", "bücher", "fe80::1%", "x:1", "-a", &long[0], &long[1]] {
            assert!(!is_host(host), "{host}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let failure = runtime.block_on(Resolver::new().resolve("a\nb", 1, deadline())).unwrap_err();
        assert_eq!(failure.to_string(), "dns: a\\nb: not a host name or an address");
    }

    #[test]
    fn look_ups_are_shared_and_made_by_few_threads() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let resolver = Resolver::new();
        let resolve_all = async {
            let mut tasks = tokio::task::JoinSet::new();
            for port in 1..=100 {
                let resolver = resolver.clone();
                tasks.spawn(async move { resolver.resolve("localhost", port, deadline()).await });
            }
            tasks.join_all().await
        };
        let mut ports: Vec<_> =
            runtime.block_on(resolve_all).into_iter().map(|found| found.unwrap()[0].port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, (1..=100).collect::<Vec<_>>());
        assert_eq!(resolver.0.state().threads, 1);
    }

    #[test]
    fn a_look_up_without_a_thread_is_not_a_silent_name_server() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // EAGAIN, as for a limit of processes.
        let resolver = Resolver::with_threads(|_| Err(rustix::io::Errno::AGAIN.into()));
        let resolve = |host: &'static str| {
            let deadline = Deadline::after(Duration::from_millis(20));
            runtime.block_on(resolver.resolve(host, 1, deadline)).unwrap_err().to_string()
        };
        const NO_THREAD: &str = "local: no thread: resource temporarily unavailable";
        assert_eq!(resolve("first"), NO_THREAD);

        // The only thread makes a look-up that does not end.
        let hung = resolver.0.request_on_a_thread("hung");
        assert_eq!(resolve("other"), NO_THREAD);
        assert_eq!(resolve("hung"), "timeout: no answer to the name look-up of hung within 20ms");

        // A look-up that was abandoned had begun.
        resolver.0.state().lookups.replace_slow("hung", Instant::now() + 2 * SLOW);
        assert_eq!(resolve("hung"), "timeout: no answer to the name look-up of hung within 20ms");
        drop(hung);
    }

    impl Shared {
        /// Begins a look-up as a thread does.
        fn request_on_a_thread(&self, host: &str) -> watch::Receiver<Option<Answer>> {
            let mut state = self.state();
            let answer = state.lookups.request(host);
            assert!(state.lookups.next(Instant::now()).is_some());
            state.threads = 1;
            answer
        }
    }
}
