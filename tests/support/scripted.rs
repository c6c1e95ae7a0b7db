//! A scripted RESP server in this process, on plain threads. It behaves like a small Redis until a test makes it fail
//! in a particular way.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// The longest time that a test waits for anything. It is far more than any test needs, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How the server treats connections and commands.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    Serve,
    /// Connections are refused; the port stays reserved.
    Refuse,
    /// Connection attempts hang, as behind a firewall that drops packets.
    DropPackets,
    ResetOnAccept,
    /// Sends this many replies on a connection, then resets it.
    ResetAfter(usize),
    /// Sends this many replies on a connection, then closes it.
    CloseAfter(usize),
    /// Sends this many replies on a connection, then stops answering.
    StallAfter(usize),
    /// Closes a connection over which no command came for this long.
    CloseIdle(Duration),
    /// Closes the connection at these commands, as twemproxy does at those that it does not know.
    CloseOn(&'static [&'static str]),
    /// Sends only the first byte of a reply.
    HalfReply,
    /// Waits before each reply.
    Slow(Duration),
    /// Answers every command with this error, without the `-`.
    Error(String),
    /// Answers this command with this error, and other commands normally.
    ErrorFor(&'static str, String),
    /// Sends these bytes on accept, before any command, and closes the connection.
    OnAccept(Vec<u8>),
    /// Answers every command with these bytes.
    Raw(Vec<u8>),
    /// Answers the first command with these bytes, repeated until the client disconnects.
    Endless(Vec<u8>),
    /// Answers normally, but with a few bytes of most replies changed, removed or repeated.
    Mutate,
}

/// What the server reports about itself.
#[derive(Clone, Debug)]
pub struct Nature {
    pub databases: u32,
    pub user: String,
    /// If set, clients must authenticate with it.
    pub password: Option<String>,
    pub role: &'static str,
    /// The lines of `INFO server`, without line ends.
    pub info: Vec<String>,
    /// Fixed replies to whole commands such as `CLUSTER SLOTS`, or to all that begin as `GET *`.
    pub replies: Vec<(&'static str, String)>,
}

impl Default for Nature {
    fn default() -> Self {
        Nature {
            databases: 16,
            user: "default".into(),
            password: None,
            role: "master",
            info: vec!["redis_version:7.0.15".into(), "redis_mode:standalone".into(), "run_id:one".into()],
            replies: Vec::new(),
        }
    }
}

/// A running server. It stops on drop.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    behaviour: Behaviour,
    /// The listening thread has applied the behaviour.
    in_force: bool,
    nature: Nature,
    accepted: u64,
    /// Open connections by number, so that a test can reset them.
    live: BTreeMap<u64, TcpStream>,
    /// The most connections that were open at once.
    most_live: usize,
    /// The last commands received, oldest first.
    commands: VecDeque<String>,
    keys: BTreeMap<String, String>,
    /// How many replies were mutated, and the generator of the mutations.
    mutated: u64,
    random: u64,
    ended: bool,
}

impl State {
    fn add(&mut self, number: u64, connection: TcpStream) {
        self.live.insert(number, connection);
        self.most_live = self.most_live.max(self.live.len());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records a command, and returns how to answer it.
    fn record(&self, command: &[String]) -> (Behaviour, Nature) {
        let mut state = self.state();
        state.commands.push_back(command.join(" "));
        if state.commands.len() > 4096 {
            state.commands.pop_front();
        }
        self.changed.notify_all();
        (state.behaviour.clone(), state.nature.clone())
    }
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Listens on the given address.
    pub fn start_at(address: SocketAddr) -> Self {
        // Bound without listening for the lifetime of the server, so that the port stays reserved while it refuses
        // connections.
        let reserved = bound(address).expect("the address is free");
        let address = reserved.local_addr().expect("bound").as_socket().expect("an IP socket");
        let state = State {
            behaviour: Behaviour::Serve,
            in_force: true,
            nature: Nature::default(),
            accepted: 0,
            live: BTreeMap::new(),
            most_live: 0,
            commands: VecDeque::new(),
            keys: BTreeMap::new(),
            mutated: 0,
            random: 1,
            ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let listener = listening(address).expect("a listener");
        let server = shared.clone();
        thread::spawn(move || listen(&server, address, reserved, listener));
        Server { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the behaviour; open connections change with their next command. The change is in force on return.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut state = self.shared.state();
        state.behaviour = behaviour;
        state.in_force = false;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, LIMIT, |state| !state.in_force);
        assert!(waited.is_ok_and(|(state, _)| state.in_force), "the listening thread is gone");
    }

    /// Changes what the server reports about itself.
    pub fn become_(&self, change: impl FnOnce(&mut Nature)) {
        change(&mut self.shared.state().nature);
    }

    /// Resets all open connections.
    pub fn cut(&self) {
        for stream in std::mem::take(&mut self.shared.state().live).into_values() {
            reset(&stream);
        }
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// How many connections have ended.
    pub fn finished(&self) -> u64 {
        let state = self.shared.state();
        state.accepted - state.live.len() as u64
    }

    /// The most connections that were open at once.
    pub fn most_open(&self) -> usize {
        self.shared.state().most_live
    }

    /// How many replies were mutated.
    pub fn mutated(&self) -> u64 {
        self.shared.state().mutated
    }

    /// The last commands received, such as `SELECT 0`.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().commands.iter().cloned().collect()
    }

    /// Waits until this many connections were accepted in total.
    pub fn wait_accepted(&self, count: u64, limit: Duration) -> bool {
        let state = self.shared.state();
        let (state, _) = self.shared.changed.wait_timeout_while(state, limit, |state| state.accepted < count).unwrap();
        state.accepted >= count
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        self.cut();
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listening(address: SocketAddr) -> io::Result<Socket> {
    let socket = bound(address)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A listener whose queue is full: the kernel drops further connection requests.
fn full(address: SocketAddr) -> io::Result<(Socket, Vec<Socket>)> {
    let socket = bound(address)?;
    socket.listen(0)?;
    let fillers = (0..4)
        .map(|_| {
            let filler = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            let _ = filler.connect(&address.into());
            Ok(filler)
        })
        .collect::<io::Result<_>>()?;
    Ok((socket, fillers))
}

fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Read);
    // The thread of the connection has a clone. The reset is sent only when both are closed.
}

/// Accepts connections until the server stops. `reserved` keeps the port.
fn listen(shared: &Arc<Shared>, address: SocketAddr, reserved: Socket, listener: Socket) {
    let mut listener = Some(listener);
    let mut full_queue = None;
    loop {
        let behaviour = {
            let state = shared.state();
            if state.ended {
                return drop(reserved);
            }
            state.behaviour.clone()
        };
        match &behaviour {
            Behaviour::Refuse => (listener, full_queue) = (None, None),
            Behaviour::DropPackets if full_queue.is_none() => {
                listener = None;
                full_queue = full(address).ok();
            }
            Behaviour::DropPackets => {}
            _ => {
                full_queue = None;
                if listener.is_none() {
                    listener = listening(address).ok();
                }
            }
        }
        let mut state = shared.state();
        if state.behaviour == behaviour && !state.in_force {
            state.in_force = true;
            shared.changed.notify_all();
        }
        drop(state);
        match listener.as_ref().map(Socket::accept) {
            Some(Ok((socket, _))) => {
                let _ = socket.set_nonblocking(false);
                let stream = TcpStream::from(socket);
                let _ = stream.set_nodelay(true);
                let mut state = shared.state();
                state.accepted += 1;
                let number = state.accepted;
                if let Ok(clone) = stream.try_clone() {
                    state.add(number, clone);
                }
                drop(state);
                shared.changed.notify_all();
                let shared = shared.clone();
                thread::spawn(move || {
                    let _ = converse(&shared, &stream);
                    let reset_it =
                        matches!(shared.state().behaviour, Behaviour::ResetOnAccept | Behaviour::ResetAfter(_));
                    shared.state().live.remove(&number);
                    if reset_it {
                        reset(&stream);
                    }
                });
            }
            _ => {
                // There is no condition variable for accepting, so this polls.
                let state = shared.state();
                drop(shared.changed.wait_timeout(state, Duration::from_millis(1)));
            }
        }
    }
}

/// Serves one connection until either side closes it.
fn converse(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    let behaviour = shared.state().behaviour.clone();
    match behaviour {
        Behaviour::ResetOnAccept | Behaviour::ResetAfter(0) => return Ok(()),
        Behaviour::CloseAfter(0) => return close(stream),
        Behaviour::OnAccept(bytes) => {
            (&*stream).write_all(&bytes)?;
            return close(stream);
        }
        _ => {}
    }
    if let Behaviour::CloseIdle(limit) = shared.state().behaviour {
        stream.set_read_timeout(Some(limit))?;
    }
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut replies = Vec::new();
    let (mut database, mut authenticated, mut answered) = (0, false, 0);
    loop {
        let Some(command) = read_command(&mut reader)? else { return Ok(()) };
        let (behaviour, nature) = shared.record(&command);
        if matches!(behaviour, Behaviour::StallAfter(limit) if answered >= limit) {
            (&*stream).write_all(&replies)?;
            replies.clear();
        }
        if matches!(&behaviour, Behaviour::CloseOn(names) if names.contains(&command[0].as_str())) {
            return close(stream);
        }
        if !continues(shared, stream, &behaviour, answered)? {
            return Ok(());
        }

        match &behaviour {
            Behaviour::Error(text) => write!(replies, "-{text}\r\n")?,
            Behaviour::ErrorFor(name, text) if *name == command[0] => write!(replies, "-{text}\r\n")?,
            Behaviour::Raw(bytes) => replies.extend_from_slice(bytes),
            _ => {
                let before = replies.len();
                answer(shared, &nature, &command, &mut database, &mut authenticated, &mut replies)?;
                if behaviour == Behaviour::Mutate {
                    mutate(&mut shared.state(), &mut replies, before);
                }
            }
        }
        answered += 1;
        let ends =
            matches!(behaviour, Behaviour::ResetAfter(limit) | Behaviour::CloseAfter(limit) if answered >= limit);
        if ends || reader.buffer().is_empty() || matches!(behaviour, Behaviour::Slow(_)) {
            (&*stream).write_all(&replies)?;
            replies.clear();
        }
        if ends {
            if matches!(behaviour, Behaviour::ResetAfter(_)) {
                // The client must receive the replies before the reset, which would discard them.
                thread::sleep(Duration::from_millis(2));
                return Ok(());
            }
            return close(stream);
        }
    }
}

/// Applies the behaviour before a command is answered. Returns false if the connection ends instead.
fn continues(shared: &Shared, stream: &TcpStream, behaviour: &Behaviour, answered: usize) -> io::Result<bool> {
    match behaviour {
        Behaviour::StallAfter(limit) if answered >= *limit => Ok(stalled(shared, stream, behaviour)),
        Behaviour::HalfReply => {
            (&*stream).write_all(b"+")?;
            stalled(shared, stream, behaviour);
            Ok(false)
        }
        Behaviour::Endless(bytes) => loop {
            (&*stream).write_all(bytes)?;
        },
        Behaviour::Slow(wait) => {
            thread::sleep(*wait);
            Ok(true)
        }
        _ => Ok(true),
    }
}

/// Closes without a reset. A plain close would send one if there is unread data.
fn close(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    Ok(())
}

/// Waits while the server must not answer. Returns false if the client disconnected or the server stopped.
fn stalled(shared: &Shared, stream: &TcpStream, stalling: &Behaviour) -> bool {
    let _ = stream.set_nonblocking(true);
    let mut byte = [0; 1];
    loop {
        let state = shared.state();
        if state.ended || matches!(stream.peek(&mut byte), Ok(0)) {
            return false;
        }
        if state.behaviour != *stalling {
            let _ = stream.set_nonblocking(false);
            return true;
        }
        drop(shared.changed.wait_timeout(state, Duration::from_millis(2)));
    }
}

/// Reads one command, a RESP array of bulk strings. Its name is converted to upper case. None at the end of the stream.
fn read_command(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let Some(count) = read_number(reader, b'*')? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count.min(64) {
        let Some(length) = read_number(reader, b'$')? else { return Ok(None) };
        let mut bytes = vec![0; length.min(1 << 20) + 2];
        reader.read_exact(&mut bytes)?;
        bytes.truncate(bytes.len() - 2);
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    match words.first_mut() {
        Some(name) => name.make_ascii_uppercase(),
        None => return Err(io::ErrorKind::InvalidData.into()),
    }
    Ok(Some(words))
}

fn read_number(reader: &mut impl BufRead, mark: u8) -> io::Result<Option<usize>> {
    let mut line = Vec::new();
    if reader.take(64).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let digits = line.strip_prefix(&[mark]).and_then(|rest| std::str::from_utf8(rest).ok());
    digits.and_then(|digits| digits.trim().parse().ok()).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Changes the reply that begins at `start` at up to three places, the same in every run (Knuth's MMIX generator).
fn mutate(state: &mut State, replies: &mut Vec<u8>, start: usize) {
    const MARKS: &[u8] = b"+-:$*%~>|_#,(=!\r\n\x1b\x07\x00\x9b\xe2\x80\xae019";
    let mut below = |limit: usize| {
        state.random = state.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state.random >> 33) as usize % limit
    };
    let changes = below(8).saturating_sub(4);
    for _ in 0..changes {
        if replies.len() == start {
            break;
        }
        let (at, mark) = (start + below(replies.len() - start), MARKS[below(MARKS.len())]);
        match below(6) {
            0 => replies[at] = below(256) as u8,
            1 => replies[at] = mark,
            2 => replies.insert(at, mark),
            3 => drop(replies.remove(at)),
            4 => replies.extend_from_within(at..),
            _ => replies.truncate(at),
        }
    }
    state.mutated += u64::from(changes > 0);
}

fn is_command(pattern: &str, line: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => line.starts_with(start),
        None => line == pattern,
    }
}

/// Appends the reply of a healthy server.
fn answer(
    shared: &Shared,
    nature: &Nature,
    command: &[String],
    database: &mut u32,
    authenticated: &mut bool,
    replies: &mut Vec<u8>,
) -> io::Result<()> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let key = |name: &str| format!("{database}/{name}");
    let line = words.join(" ");
    if let Some((_, reply)) = nature.replies.iter().find(|(known, _)| is_command(known, &line)) {
        replies.extend(reply.as_bytes());
        return Ok(());
    }
    match (words.as_slice(), &nature.password) {
        (["AUTH", login @ ..], Some(password)) => {
            let (user, given) = match login {
                [given] => ("default", *given),
                [user, given] => (*user, *given),
                _ => return write!(replies, "-ERR syntax error\r\n"),
            };
            *authenticated = user == nature.user && given == password;
            match *authenticated {
                true => write!(replies, "+OK\r\n"),
                false => write!(replies, "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            }
        }
        (["AUTH", ..], None) => write!(
            replies,
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?\r\n"
        ),
        (_, Some(_)) if !*authenticated => write!(replies, "-NOAUTH Authentication required.\r\n"),
        (["PING"], _) => write!(replies, "+PONG\r\n"),
        (["SELECT", index], _) => match index.parse() {
            Ok(index) if index < nature.databases => {
                *database = index;
                write!(replies, "+OK\r\n")
            }
            _ => write!(replies, "-ERR DB index is out of range\r\n"),
        },
        (["INFO", ..], _) => {
            let text: String = nature.info.iter().map(|line| format!("{line}\r\n")).collect();
            write!(replies, "${}\r\n{text}\r\n", text.len())
        }
        (["ROLE"], _) if nature.role == "master" => write!(replies, "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        (["ROLE"], _) => {
            write!(replies, "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n")
        }
        (["SET", ..], _) if nature.role != "master" => {
            write!(replies, "-READONLY You can't write against a read only replica.\r\n")
        }
        (["SET", name, value, ..], _) => {
            shared.state().keys.insert(key(name), (*value).to_owned());
            write!(replies, "+OK\r\n")
        }
        (["GET", name], _) => match shared.state().keys.get(&key(name)) {
            Some(value) => write!(replies, "${}\r\n{value}\r\n", value.len()),
            None => write!(replies, "$-1\r\n"),
        },
        (["DEL", name], _) => {
            let removed = shared.state().keys.remove(&key(name)).is_some();
            write!(replies, ":{}\r\n", u8::from(removed))
        }
        ([name, ..], _) => write!(replies, "-ERR unknown command '{name}'\r\n"),
        ([], _) => Ok(()),
    }
}

/// Polls until `condition` holds. Returns false if it does not hold within `limit`.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}
