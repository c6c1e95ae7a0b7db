//! Names to addresses, looked up anew for every connection, because ElastiCache moves an endpoint by DNS.
//!
//! The system's resolver cannot be interrupted: a look-up that hangs keeps its thread until libc gives up, which may
//! take far longer than a check may. So connections that open at the same time share one look-up.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::failure::Failure;

type Answer = Result<Vec<SocketAddr>, Failure>;

/// Looks host names up through the system's resolver.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// A look-up older than this is no longer joined: its query may be lost although the name server is back.
    patience: Duration,
    in_flight: Arc<Mutex<Option<Flight>>>,
}

#[derive(Clone, Debug)]
struct Flight {
    host: String,
    since: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

impl Resolver {
    /// `patience` is how long a look-up in flight may be joined by further connections: one check's timeout.
    pub fn new(patience: Duration) -> Self {
        Resolver { patience, in_flight: Arc::default() }
    }

    /// The addresses behind `host`, in the resolver's order; an IP address is its own.
    ///
    /// # Errors
    /// A failure of kind `dns` when there is no such name or no name server answered.
    pub async fn resolve(&self, host: &str, port: u16) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut answer = self.join_or_start(host, port);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            // The task that looks up never ends without an answer but when the runtime is going down.
            _ => Err(Failure::new(crate::model::failure::Kind::Dns, format!("{host}: the look-up was given up"))),
        }
    }

    fn join_or_start(&self, host: &str, port: u16) -> watch::Receiver<Option<Answer>> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = in_flight.as_ref()
            && flight.host == host
            && flight.answer.borrow().is_none()
            && flight.since.elapsed() < self.patience
        {
            return flight.answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        *in_flight = Some(Flight { host: host.to_owned(), since: Instant::now(), answer: answer.clone() });
        let host = host.to_owned();
        tokio::spawn(async move {
            let found = match tokio::net::lookup_host((host.as_str(), port)).await {
                Ok(addresses) => Ok(addresses.collect()),
                Err(error) => Err(Failure::dns(&host, &error)),
            };
            sender.send_replace(Some(found));
        });
        answer
    }
}
