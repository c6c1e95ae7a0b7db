//! Opening a connection: resolve, connect, TLS, authenticate, each phase timed and named, all under one deadline.
//!
//! The redis crate supplies the codec; its own connection set-up is not used, because it hides which phase failed and
//! what the server said.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use combine::parser::combinator::AnySendSyncPartialState;
use combine::stream::{Decoder, PointerOffset};
use redis::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tracing::debug;

use crate::deadline::Deadline;
use crate::failure::{Failure, Kind, Phase};
use crate::login::Login;
use crate::record::Contact;
use crate::resolve::Resolver;
use crate::target::{Credentials, Endpoint, Target};
use crate::tls;

/// The most bytes that one reply may have, unless more are [allowed](Connection::allow). The longest that a check asks
/// for, `INFO server`, has some two thousand. Checks overlap, so this bounds what a hostile server can make them hold.
const MAX_REPLY: usize = 64 << 10;

/// How much is read at once: the codec alone would begin with 64 bytes.
const READ_AHEAD: usize = 16 << 10;

/// How long each phase of opening a connection took. A phase that was not needed, or not reached, took no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub resolve: Duration,
    pub connect: Duration,
    pub tls: Duration,
    pub auth: Duration,
}

/// A byte stream to a server, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open, authenticated connection, on which commands can be pipelined.
pub struct Connection {
    stream: Metered,
    decoder: Decoder<AnySendSyncPartialState, PointerOffset<[u8]>>,
    /// What AUTH presented last. No reply may show it.
    presented: Option<Arc<Credentials>>,
    /// Nothing has come yet, over TCP without TLS.
    plain_and_silent: bool,
}

impl Connection {
    /// Opens a connection to `target` before `deadline`. What becomes known on the way is in `contact`, also of a
    /// connection that does not open.
    ///
    /// # Errors
    /// The failure of the first phase that failed.
    pub async fn open(
        target: &Target,
        resolver: &Resolver,
        deadline: Deadline,
        contact: &mut Contact,
    ) -> Result<Self, Failure> {
        let Contact { timings, peer, addresses: known, .. } = contact;
        let stream: Box<dyn Stream> = match &target.endpoint {
            Endpoint::Unix(path) => {
                let start = Instant::now();
                let phase = || Phase::Connect(path.display().to_string());
                let opened = deadline.bound(phase, UnixStream::connect(path)).await;
                timings.connect = start.elapsed();
                Box::new(opened?)
            }
            Endpoint::Tcp { host, port } => {
                let start = Instant::now();
                let phase = || Phase::Resolve(host.clone());
                let addresses = deadline.bound(phase, resolver.resolve(host, *port)).await;
                timings.resolve = start.elapsed();
                let addresses = addresses?;
                *known = addresses.iter().map(SocketAddr::ip).collect();
                if host.parse::<IpAddr>().is_err() {
                    debug!("{host} is {known:?}, after {:?}", timings.resolve);
                }
                let start = Instant::now();
                let stream = dial(&addresses, deadline, peer).await;
                timings.connect = start.elapsed();
                let stream = stream?;
                // Requests are single writes; waiting to fill a packet would only delay the last one.
                stream.set_nodelay(true)?;
                let address = stream.peer_addr()?;
                debug!("connected to {address} after {:?}", timings.connect);
                match &target.tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let start = Instant::now();
                        let phase = || Phase::Tls(address.to_string());
                        let patience = deadline.left() / 2;
                        let handshake = async {
                            tokio::select! {
                                done = tls.handshake(stream) => done,
                                failure = tls::unmask_plain_server(address, patience) => Err(failure),
                            }
                        };
                        let stream = deadline.bound(phase, handshake).await;
                        timings.tls = start.elapsed();
                        let stream = stream?;
                        debug!("{} after {:?}", tls::agreement(&stream), timings.tls);
                        Box::new(stream)
                    }
                }
            }
        };
        let mut connection = Connection::over(stream);
        connection.plain_and_silent = target.tls.is_none() && matches!(target.endpoint, Endpoint::Tcp { .. });
        if let Some(login) = &target.login {
            let start = Instant::now();
            let logged_in = connection.log_in(login, deadline).await;
            timings.auth = start.elapsed();
            logged_in?;
            debug!("authenticated after {:?}", timings.auth);
        }
        Ok(connection)
    }

    /// Speaks over a stream that is open already.
    pub fn over(stream: impl Stream + 'static) -> Self {
        let stream = Metered::new(Box::new(stream));
        Connection { stream, decoder: Decoder::new(), presented: None, plain_and_silent: false }
    }

    /// Presents what holds now.
    async fn log_in(&mut self, login: &Login, deadline: Deadline) -> Result<(), Failure> {
        let credentials = login.credentials();
        self.presented = Some(credentials.clone());
        let authenticated = self.authenticate(&credentials, deadline).await;
        if authenticated.as_ref().is_err_and(Failure::is_wrong_password) {
            login.refused(&credentials);
        }
        authenticated
    }

    /// Authenticates anew if the credentials changed since that was done last: ElastiCache closes a connection twelve
    /// hours after the last AUTH with a token, and applications that keep theirs longer do the same.
    ///
    /// # Errors
    /// The server refused, or the connection broke.
    pub async fn log_in_again(&mut self, login: &Login, deadline: Deadline) -> Result<(), Failure> {
        if self.presented.as_ref().is_some_and(|presented| Arc::ptr_eq(presented, &login.credentials())) {
            return Ok(());
        }
        let start = Instant::now();
        self.log_in(login, deadline).await?;
        debug!("authenticated anew after {:?}", start.elapsed());
        Ok(())
    }

    /// AUTH, with the two-argument form for ACL users (Redis 6 and newer).
    async fn authenticate(&mut self, credentials: &Credentials, deadline: Deadline) -> Result<(), Failure> {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &credentials.user {
            auth.arg(user);
        }
        auth.arg(credentials.password.reveal());
        let auth = auth.get_packed_command();
        let reply = async {
            self.send(&auth).await;
            self.reply().await
        };
        match deadline.bound(|| Phase::Reply("AUTH"), reply).await? {
            Value::Okay => Ok(()),
            reply => Err(unexpected("AUTH", &self.discreet(reply))),
        }
    }

    /// Writes packed commands.
    ///
    /// A write that fails is not an error yet: the server may have said why before it closed, and the next
    /// [`reply`](Self::reply) finds that or else gives the write's failure.
    pub async fn send(&mut self, packed: &[u8]) {
        if let Err(error) = self.stream.write_all(packed).await {
            self.stream.breaks(error);
        }
    }

    /// Lets each reply have so many bytes.
    pub fn allow(&mut self, bytes: usize) {
        self.stream.most = bytes;
    }

    /// The next reply. Error replies are values; push messages, which nobody asked for, are passed over. No error shows
    /// the password that was presented.
    ///
    /// # Errors
    /// The connection broke, or what came is not the Redis protocol. The connection is of no use afterwards.
    pub async fn reply(&mut self) -> Result<Value, Failure> {
        let reply = self.next_reply().await;
        if std::mem::take(&mut self.plain_and_silent)
            && reply.as_ref().is_err_and(|failure| matches!(failure.kind, Kind::Reset | Kind::Closed))
        {
            debug!("the connection ended before the first reply; does the server want --tls?");
        }
        match reply {
            Ok(reply @ (Value::ServerError(_) | Value::SimpleString(_))) => Ok(self.discreet(reply)),
            Ok(reply) => Ok(reply),
            // What came instead of a reply is in these alone.
            Err(failure) if matches!(failure.kind, Kind::Protocol | Kind::Error) => {
                Err(Failure { detail: self.without_secret(&failure.detail).unwrap_or(failure.detail), ..failure })
            }
            Err(failure) => Err(failure),
        }
    }

    /// A reply whose text is going to be shown, cut where it shows the password: a server or a proxy may repeat that in
    /// any of them.
    pub fn discreet(&self, reply: Value) -> Value {
        match &reply {
            Value::ServerError(error) => match self.without_secret(&wire_text(error)) {
                // The crate makes errors from replies and in no other way.
                Some(cut) => redis::parse_redis_value(format!("-{cut}\r\n").as_bytes()).unwrap_or(Value::Nil),
                None => reply,
            },
            Value::SimpleString(text) if text != "PONG" => match self.without_secret(text) {
                Some(cut) => Value::SimpleString(cut),
                None => reply,
            },
            Value::BulkString(bytes) => match self.without_secret(&String::from_utf8_lossy(bytes)) {
                Some(cut) => Value::BulkString(cut.into_bytes()),
                None => reply,
            },
            _ => reply,
        }
    }

    /// None where the text shows nothing.
    fn without_secret(&self, text: &str) -> Option<String> {
        self.presented.as_ref()?.password.cut_from(text)
    }

    async fn next_reply(&mut self) -> Result<Value, Failure> {
        loop {
            self.stream.left = self.stream.most;
            if let Some(reply) = self.healthy_reply().await? {
                return Ok(reply);
            }
            match redis::parse_redis_value_async(&mut self.decoder, &mut self.stream).await {
                Ok(Value::Push { .. }) => {}
                Ok(Value::Attribute { data, .. }) => return Ok(*data),
                Ok(value) => return Ok(value),
                Err(error) => {
                    let started = !self.decoder.buffer().is_empty();
                    return Err(match self.stream.broken.take() {
                        Some(failure) => failure,
                        None if !error.is_io_error() => not_a_reply(self.decoder.buffer()),
                        None if started => Failure::new(Kind::Closed, "Connection closed within a reply"),
                        None => Failure::new(Kind::Closed, "Connection closed by the server"),
                    });
                }
            }
        }
    }
}

impl Connection {
    /// Takes the two replies that a healthy check consists of, where both have come.
    pub fn take_healthy_pair(&mut self) -> bool {
        const PAIR: &[u8] = b"+OK\r\n+PONG\r\n";
        let is_there = self.decoder.buffer().is_empty() && self.stream.inner.buffer().starts_with(PAIR);
        if is_there {
            self.stream.inner.consume(PAIR.len());
            self.plain_and_silent = false;
        }
        is_there
    }

    /// One of the two replies that a healthy check consists of, taken without the codec: for 10,000 databases they come
    /// 20,000 times, and a run that meets no other need not even set the codec up.
    async fn healthy_reply(&mut self) -> Result<Option<Value>, Failure> {
        if !self.decoder.buffer().is_empty() {
            return Ok(None);
        }
        let buffered = match self.stream.inner.fill_buf().await {
            Ok(buffered) => buffered,
            Err(error) if is_end(&error) => return Ok(None),
            // The system tells why only once; the codec's own reading would find a plain end.
            Err(error) => return Err(self.stream.breaks(error)),
        };
        let (reply, length) = match buffered {
            [b'+', b'O', b'K', b'\r', b'\n', ..] => (Value::Okay, 5),
            [b'+', b'P', b'O', b'N', b'G', b'\r', b'\n', ..] => (Value::SimpleString("PONG".to_owned()), 7),
            _ => return Ok(None),
        };
        self.stream.inner.consume(length);
        Ok(Some(reply))
    }
}

/// The first address of `addresses` that accepts, tried in order.
///
/// Each gets an equal share of the time that is left, so that one which drops packets does not hide the next.
async fn dial(
    addresses: &[SocketAddr],
    deadline: Deadline,
    dialled: &mut Option<SocketAddr>,
) -> Result<TcpStream, Failure> {
    let mut failure = None;
    for (tried, address) in addresses.iter().enumerate() {
        *dialled = Some(*address);
        let left = deadline.left();
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let phase = || {
            let tried: Vec<_> = addresses[..=tried].iter().map(SocketAddr::to_string).collect();
            Phase::Connect(tried.join(" or "))
        };
        match deadline.no_later_than(Instant::now() + share).bound(phase, TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                debug!("{address}: {error}");
                failure = Some(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| Failure::new(Kind::Dns, "the name has no address")))
}

/// A reply that is neither an error nor what `command` promises.
///
/// The text of a bulk string is shown for the commands whose replies are [made discreet](Connection::discreet) alone.
pub fn unexpected(command: &str, reply: &Value) -> Failure {
    match reply {
        Value::ServerError(error) => Failure::from_reply(&wire_text(error)),
        Value::Okay => Failure::new(Kind::Protocol, format!("+OK in reply to {command}")),
        Value::SimpleString(text) => Failure::new(Kind::Protocol, format!("+{text} in reply to {command}")),
        Value::BulkString(bytes) if matches!(command, "SELECT" | "PING" | "AUTH") => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(crate::failure::MAX_TEXT)]).into_owned();
            Failure::new(Kind::Protocol, format!("\"{text}\" in reply to {command}"))
        }
        other => Failure::new(Kind::Protocol, format!("{} in reply to {command}", type_name(other))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "a null",
        Value::BulkString(_) => "a bulk string",
        Value::Int(_) => "an integer",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Set(_) => "a set",
        Value::Double(_) => "a double",
        Value::Boolean(_) => "a boolean",
        _ => "a value of another type",
    }
}

/// An error reply as it came, without the leading `-`: the crate's `Display` gives its own words instead.
pub fn wire_text(error: &redis::ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// What came instead of a reply: its first line tells most, an HTTP server's status for one.
fn not_a_reply(bytes: &[u8]) -> Failure {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let shown = &line[..line.len().min(crate::failure::MAX_TEXT)];
    Failure::new(Kind::Protocol, format!("not a Redis reply: {}", String::from_utf8_lossy(shown)))
}

/// A TLS stream that ends without a farewell reports an error, but servers that are killed end so: to us it is an end.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// A stream that bounds how much one reply may bring, and remembers as what kind of failure it broke: the codec's own
/// errors no longer tell.
struct Metered {
    inner: BufReader<Box<dyn Stream>>,
    /// Bytes that one reply may bring, and that the current one still may.
    most: usize,
    left: usize,
    broken: Option<Failure>,
}

impl Metered {
    fn new(inner: Box<dyn Stream>) -> Self {
        Metered { inner: BufReader::with_capacity(READ_AHEAD, inner), most: MAX_REPLY, left: MAX_REPLY, broken: None }
    }

    /// Takes down that the stream broke, and gives the reason that counts: the first, unless the server itself says why
    /// in a TLS alert, which arrives after its reset has failed a write.
    fn breaks(&mut self, error: io::Error) -> Failure {
        let failure = Failure::from(error);
        if failure.kind == Kind::Tls {
            self.broken = Some(failure.clone());
        }
        self.broken.get_or_insert(failure).clone()
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes).await?;
        self.inner.flush().await
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.broken = Some(Failure::new(Kind::Protocol, format!("a reply of more than {} bytes", self.most)));
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.left = self.left.saturating_sub(buf.filled().len() - before);
        match polled {
            Poll::Ready(Err(error)) if is_end(&error) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                self.breaks(error);
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            polled => polled,
        }
    }
}
