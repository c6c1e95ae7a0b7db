//! Opening a connection: resolve, connect, TLS, authenticate. Each phase is timed and named, and all share one
//! deadline.
//!
//! The redis crate's connection setup is not used, because it hides which phase failed and what the server replied.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::auth::credentials::CredentialsProvider;
use crate::model::duration::brief;
use crate::model::endpoint::Endpoint;
use crate::model::failure::{Failure, Kind, Phase};
use crate::model::outcome::ConnectionInfo;
use crate::model::secret::{Credentials, Intake, Secret};
use crate::model::text::Printable;
use crate::probe::deadline::Deadline;
use crate::probe::large_reply::{LargeReply, Turn};
use crate::probe::resolve::Resolver;
use crate::probe::resp::{self, Decoder, ReadError, Reply, unexpected};
use crate::probe::tls::{self, Tls};

/// An endpoint, and what is needed to connect to it.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub endpoint: Endpoint,
    pub tls: Option<Tls>,
    pub credentials: Option<CredentialsProvider>,
}

/// A byte stream to a server: TCP, TLS over TCP, or a Unix socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open, authenticated connection. Commands can be pipelined on it.
pub struct Connection {
    decoder: Decoder<Box<dyn Stream>>,
    /// The credentials that AUTH sent last. Their password must not appear in any reply.
    presented: Option<Arc<Credentials>>,
    tls: Option<Tls>,
    /// Why the connection broke, once it has.
    broken: Option<Failure>,
    /// TCP without TLS, and no reply was received yet: a server that requires TLS closes such a connection.
    may_require_tls: bool,
}

impl Connection {
    /// Opens a connection before `deadline`. `info` is filled in on the way, even if the connection fails to open.
    ///
    /// # Errors
    /// The failure of the first phase that failed.
    pub async fn open(
        options: &ConnectOptions,
        resolver: &Resolver,
        deadline: Deadline,
        info: &mut ConnectionInfo,
    ) -> Result<Self, Failure> {
        let stream: Box<dyn Stream> = match &options.endpoint {
            Endpoint::Unix(path) => Box::new(connect_to_socket(path, deadline, info).await?),
            Endpoint::Tcp { host, port } => {
                let addresses = resolve(resolver, host, *port, deadline, info).await?;
                let (stream, address) = connect(&addresses, deadline, info).await?;
                match &options.tls {
                    None => Box::new(stream),
                    // Boxed, so that checks without TLS need no memory for it.
                    Some(tls) => Box::new(Box::pin(negotiate_tls(tls, stream, address, deadline, info)).await?),
                }
            }
        };
        let mut connection = Connection {
            decoder: Decoder::new(stream),
            presented: None,
            tls: options.tls.clone(),
            broken: None,
            may_require_tls: options.tls.is_none() && matches!(options.endpoint, Endpoint::Tcp { .. }),
        };

        if let Some(provider) = &options.credentials {
            timed(&mut info.timings.auth, connection.authenticate(provider, deadline)).await?;
            debug!("authenticated after {}", brief(info.timings.auth));
        }
        Ok(connection)
    }

    /// Sends the current credentials. If the server rejects the password, the provider is notified.
    async fn authenticate(&mut self, provider: &CredentialsProvider, deadline: Deadline) -> Result<(), Failure> {
        let credentials = provider.for_login(deadline.left() / 2).await;
        self.presented = Some(credentials.clone());

        let authenticated = self.send_auth(&credentials, deadline).await;
        match &authenticated {
            Ok(()) => provider.accepted(&credentials),
            Err(failure) if failure.is_wrong_password() => provider.rejected(&credentials),
            Err(_) => {}
        }
        authenticated
    }

    /// Authenticates again if the credentials changed since the last time. ElastiCache closes a connection twelve hours
    /// after the last AUTH with a token, so applications with longer connections do the same (ElastiCache user guide,
    /// "Authenticating with IAM").
    ///
    /// # Errors
    /// The server rejected the credentials, or the connection broke.
    pub async fn reauthenticate(&mut self, provider: &CredentialsProvider, deadline: Deadline) -> Result<(), Failure> {
        if self.presented.as_ref().is_some_and(|presented| Arc::ptr_eq(presented, &provider.credentials())) {
            return Ok(());
        }

        let mut elapsed = Duration::ZERO;
        timed(&mut elapsed, self.authenticate(provider, deadline)).await?;
        debug!("authenticated again after {}", brief(elapsed));
        Ok(())
    }

    /// AUTH, with a user name for ACL users (Redis 6 and newer).
    async fn send_auth(&mut self, credentials: &Credentials, deadline: Deadline) -> Result<(), Failure> {
        let mut command = Vec::new();
        let password = credentials.password.reveal().as_bytes();
        match &credentials.user {
            Some(user) => resp::pack(&mut command, &[b"AUTH", user.as_bytes(), password]),
            None => resp::pack(&mut command, &[b"AUTH", password]),
        }
        self.send(&command, "AUTH", deadline).await?;

        match self.reply("AUTH", deadline).await? {
            Reply::Ok => Ok(()),
            reply => Err(unexpected("AUTH", &reply)),
        }
    }

    /// Writes packed commands, the first of which is `command`.
    ///
    /// A failed write is not an error yet: the server may have sent the reason before it closed the connection. The
    /// next [`reply`](Self::reply) returns that reason, or else the failure of the write.
    ///
    /// # Errors
    /// The deadline passed.
    pub async fn send(&mut self, packed: &[u8], command: &'static str, deadline: Deadline) -> Result<(), Failure> {
        let stream = self.decoder.stream();
        let write = async {
            stream.write_all(packed).await?;
            stream.flush().await
        };
        let written = deadline.bound(|| Phase::Reply(command), async { Ok::<_, Failure>(write.await) }).await?;

        if let Err(error) = written {
            self.keep_failure(error);
        }
        Ok(())
    }

    /// How the connection ended while no reply was awaited. None if it is still open.
    ///
    /// A server that sends something that was not asked for, such as an error before it closes the connection, ends it
    /// too: what follows could be taken for the reply to another command.
    pub async fn end_while_idle(&mut self) -> Option<Failure> {
        let next = poll_fn(|cx| Poll::Ready(pin!(self.decoder.next()).poll(cx))).await;
        match next {
            Poll::Pending => None,
            Poll::Ready(Ok(reply)) => Some(unexpected("no command", &reply)),
            Poll::Ready(Err(ReadError::Io(error))) => Some(tls::failure_of(error)),
            Poll::Ready(Err(error)) => Some(error.into()),
        }
    }

    /// Takes in text of the server: printable, and without the password that it was sent.
    pub fn intake(&self) -> Intake<'_> {
        Intake::of(self.secret())
    }

    /// How many times the connection was read. Replies with the same count were received together.
    pub fn reads(&self) -> u64 {
        self.decoder.reads()
    }

    /// Waits for the next reply, which answers `command`. Error replies are returned as values. The password is
    /// redacted in every text that may be shown.
    ///
    /// # Errors
    /// The deadline passed, the connection broke, or the reply is not valid Redis protocol. The connection cannot be
    /// used afterwards.
    pub async fn reply(&mut self, command: &'static str, deadline: Deadline) -> Result<Reply, Failure> {
        // A fast path without a timer and redaction, for most replies of a large check.
        if let Some(reply) = self.decoder.take_ready() {
            self.may_require_tls = false;
            return Ok(reply);
        }

        let mut reply = deadline.bound(|| Phase::Reply(command), self.next_reply()).await;
        self.redact(&mut reply, command);
        reply
    }

    /// Waits for the next reply of up to `limit` bytes, which answers `command`. Only such replies can be read after it.
    /// The password is redacted in errors.
    ///
    /// # Errors
    /// As of [`reply`](Self::reply).
    pub async fn large_reply(
        &mut self,
        command: &'static str,
        limit: usize,
        turn: &mut Turn,
        deadline: Deadline,
    ) -> Result<LargeReply, Failure> {
        let next = async { self.decoder.next_large(limit, turn).await.map_err(|error| self.failure_of(error)) };
        let mut reply = deadline.bound(|| Phase::Reply(command), next).await;
        if let Some(secret) = self.secret() {
            match &mut reply {
                Ok(reply) => reply.redact(secret),
                Err(failure) => redact_failure(failure, secret),
            }
        }
        reply
    }

    fn failure_of(&mut self, error: ReadError) -> Failure {
        match error {
            ReadError::Io(error) => self.keep_failure(error),
            // The size is the reason, even if a write failed before.
            ReadError::TooLong { .. } => error.into(),
            ReadError::Ended { .. } | ReadError::NotResp(_) => self.broken.take().unwrap_or_else(|| error.into()),
        }
    }

    /// The password that AUTH sent last.
    fn secret(&self) -> Option<&Secret> {
        self.presented.as_ref().map(|credentials| &credentials.password)
    }

    async fn next_reply(&mut self) -> Result<Reply, Failure> {
        let reply = self.decoder.next().await.map_err(|error| self.failure_of(error));

        let is_first = std::mem::take(&mut self.may_require_tls);
        if is_first && reply.as_ref().is_err_and(|failure| matches!(failure.kind, Kind::Reset | Kind::Closed)) {
            debug!(
                "the connection ended before the first reply; does the server require --tls? \
                 A proxy that does not know SELECT, such as twemproxy, needs --no-select"
            );
        }
        reply
    }

    /// Redacts the password in a reply, before it is used anywhere.
    fn redact(&self, reply: &mut Result<Reply, Failure>, command: &str) {
        let Some(secret) = self.secret() else { return };
        match reply {
            Ok(Reply::Bulk(_)) if !resp::promises_no_bulk(command) => {}
            Ok(reply) => reply.redact(secret),
            Err(failure) => redact_failure(failure, secret),
        }
    }

    /// Records why the connection broke, and returns it. The first failure is kept, unless a later one is a TLS alert:
    /// a server states its reason in the alert, which may be received only after a write failed.
    fn keep_failure(&mut self, error: io::Error) -> Failure {
        let failure = tls::failure_of(error);
        if failure.kind == Kind::Tls {
            if let Some(tls) = &self.tls {
                tls.rejected();
            }
            self.broken = Some(failure.clone());
        }
        self.broken.get_or_insert(failure).clone()
    }
}

/// Redacts the password in a failure, if it quotes the server's text.
fn redact_failure(failure: &mut Failure, secret: &Secret) {
    if matches!(failure.kind, Kind::Protocol | Kind::Error)
        && let Some(cut) = secret.cut_from(&failure.detail)
    {
        *failure = Failure::new(failure.kind, cut);
    }
}

/// Waits for `phase` and measures how long it takes.
async fn timed<T>(elapsed: &mut Duration, phase: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = phase.await;
    *elapsed = start.elapsed();
    done
}

async fn connect_to_socket(path: &Path, deadline: Deadline, info: &mut ConnectionInfo) -> Result<UnixStream, Failure> {
    let phase = || Phase::Connect(Printable::path(path).to_string());
    let stream = timed(&mut info.timings.connect, deadline.bound(phase, UnixStream::connect(path))).await?;
    debug!("connected to {} after {}", Printable::path(path), brief(info.timings.connect));
    Ok(stream)
}

async fn resolve(
    resolver: &Resolver,
    host: &str,
    port: u16,
    deadline: Deadline,
    info: &mut ConnectionInfo,
) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = timed(&mut info.timings.resolve, resolver.resolve(host, port, deadline)).await?;

    info.addresses = addresses.iter().map(SocketAddr::ip).collect();
    if host.parse::<IpAddr>().is_err() {
        let shown: Vec<_> = info.addresses.iter().map(IpAddr::to_string).collect();
        debug!("{host} is [{}], after {}", shown.join(", "), brief(info.timings.resolve));
    }
    Ok(addresses)
}

async fn connect(
    addresses: &[SocketAddr],
    deadline: Deadline,
    info: &mut ConnectionInfo,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let dialled = dial(addresses, deadline, &mut info.peer);
    let (stream, address) = timed(&mut info.timings.connect, dialled).await?;

    // Each request is a single write. Nagle's algorithm would only delay its last packet.
    stream.set_nodelay(true)?;
    debug!("connected to {address} after {}", brief(info.timings.connect));
    Ok((stream, address))
}

/// Connects to the first of `addresses` that accepts, in order. `tried` is set to the last one tried.
///
/// Each address gets an equal share of the remaining time, so that one that drops packets does not prevent trying the
/// next.
async fn dial(
    addresses: &[SocketAddr],
    deadline: Deadline,
    tried: &mut Option<SocketAddr>,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut failure = None;
    for (place, address) in addresses.iter().enumerate() {
        *tried = Some(*address);
        let share = deadline.left() / u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
        let phase = || {
            let tried: Vec<_> = addresses[..=place].iter().map(SocketAddr::to_string).collect();
            Phase::Connect(tried.join(" or "))
        };

        match deadline.no_later_than(Instant::now() + share).bound(phase, TcpStream::connect(address)).await {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => {
                // With one address, it is the failure of the check, which is shown with its result.
                if addresses.len() > 1 {
                    debug!("{address}: {error}");
                }
                failure = Some(match failure {
                    Some(earlier) => more_telling(earlier, error),
                    None => error,
                });
            }
        }
    }
    Err(failure.unwrap_or_else(|| Failure::new(Kind::Dns, "the name has no address")))
}

/// Which of the failures at two addresses says more about the server: an answer or a silence more than a reason on our
/// side, and that more than a lack of a route, which a machine without IPv6 has for half of the addresses. Of two equal
/// ones, the later.
fn more_telling(earlier: Failure, later: Failure) -> Failure {
    let rank = |failure: &Failure| match failure.kind {
        Kind::Unreachable => 0,
        Kind::Local => 1,
        _ => 2,
    };
    if rank(&earlier) > rank(&later) { earlier } else { later }
}

async fn negotiate_tls(
    tls: &Tls,
    stream: TcpStream,
    address: SocketAddr,
    deadline: Deadline,
    info: &mut ConnectionInfo,
) -> Result<TlsStream<TcpStream>, Failure> {
    let patience = deadline.left() / 2;
    let handshake = async {
        tokio::select! {
            done = tls.handshake(stream, patience / 2) => done,
            failure = tls::detect_plaintext_server(address, patience) => Err(failure),
        }
    };
    let phase = || Phase::Tls(address.to_string());
    let stream = timed(&mut info.timings.tls, deadline.bound(phase, handshake)).await?;

    debug!("{} after {}", tls::negotiated(&stream), brief(info.timings.tls));
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_a_name_is_the_one_that_says_most_about_the_server() {
        let [refused, timeout, route, local] =
            [Kind::Refused, Kind::Timeout, Kind::Unreachable, Kind::Local].map(|kind| Failure::new(kind, ""));
        for (earlier, later, told) in [
            (&refused, &timeout, &timeout),
            (&refused, &local, &refused),
            (&local, &refused, &refused),
            (&route, &local, &local),
            (&local, &route, &local),
            (&refused, &route, &refused),
        ] {
            assert_eq!(more_telling(earlier.clone(), later.clone()), *told);
        }
    }
}
