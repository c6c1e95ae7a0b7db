//! Resolves host names, again for every connection, because ElastiCache moves an endpoint by changing its DNS record.
//!
//! The system's resolver cannot be interrupted: a lookup that hangs keeps its thread until libc gives up, which may
//! take far longer than a check. So connections that open at the same time share one lookup.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::failure::{Failure, Kind};
use crate::probe::lookup_pool::LookupPool;

type Answer = Result<Vec<SocketAddr>, Failure>;

/// Resolves host names with the system's resolver.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// A lookup older than this is not shared: its query may be lost although the name server works again.
    patience: Duration,
    pending: Arc<Mutex<Option<Lookup>>>,
    threads: Arc<LookupPool>,
}

/// A lookup whose answer is shared.
#[derive(Clone, Debug)]
struct Lookup {
    host: String,
    since: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

impl Resolver {
    /// `patience` is how long connections may share a pending lookup: the timeout of one check.
    pub fn new(patience: Duration) -> Self {
        Resolver { patience, pending: Arc::default(), threads: Arc::default() }
    }

    /// A resolver for another server, with the same threads.
    #[must_use]
    pub fn for_server(&self) -> Self {
        Resolver { pending: Arc::default(), ..self.clone() }
    }

    /// The addresses of `host`, in the resolver's order. An IP address is returned unchanged.
    ///
    /// # Errors
    /// A failure of kind `dns`: the name does not exist, or no name server answered. A failure of kind `local`: there is
    /// no thread, descriptor or memory for the lookup.
    pub async fn resolve(&self, host: &str, port: u16) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }

        let mut answer = self.join_or_start(host, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            // The task ends without an answer only when the runtime shuts down.
            _ => Err(Failure::new(Kind::Dns, format!("{host}: the look-up was given up"))),
        }
    }

    fn join_or_start(&self, host: &str, port: u16) -> watch::Receiver<Option<Answer>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = pending.as_ref()
            && lookup.host == host
            && lookup.answer.borrow().is_none()
            && lookup.since.elapsed() < self.patience
        {
            return lookup.answer.clone();
        }

        let (sender, answer) = watch::channel(None);
        *pending = Some(Lookup { host: host.to_owned(), since: Instant::now(), answer: answer.clone() });
        let host = host.to_owned();
        let job = move || {
            sender.send_replace(Some(look_up(&host, port)));
        };
        match self.threads.run(Box::new(job)) {
            Ok(()) => answer,
            Err(error) => {
                *pending = None;
                watch::channel(Some(Err(Failure::no_thread(&error)))).1
            }
        }
    }
}

/// Asks the system's resolver. Blocks until it answers or gives up.
fn look_up(host: &str, port: u16) -> Answer {
    let found = (host, port).to_socket_addrs();
    found.map(Iterator::collect).map_err(|error| match out_of_descriptors() {
        // The resolver hides why it could not read its files or ask a name server.
        Some(reason) => Failure::dns(host, &reason),
        None => Failure::dns(host, &error),
    })
}

/// The error if there are fewer descriptors left than a lookup needs: for a file, and for the sockets to the name servers.
fn out_of_descriptors() -> Option<io::Error> {
    let needed = [io::pipe(), io::pipe()];
    needed.into_iter().find_map(Result::err)
}
