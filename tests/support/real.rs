//! Real servers, started on free ports and stopped at the end of the test.

use std::ffi::OsString;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::scripted::{LIMIT, eventually};

// The examples include this file too, together with the files that it needs.
#[path = "words.rs"]
mod words;
pub use words::Words;

/// A redis-server, or another engine that accepts the same arguments.
pub struct Real {
    child: Child,
    address: Ipv4Addr,
    port: u16,
    tls_port: Option<u16>,
    folder: TempDir,
    binary: PathBuf,
    arguments: Vec<OsString>,
}

impl Real {
    /// Starts the system's redis-server.
    pub fn start(arguments: &(impl Words + ?Sized)) -> Self {
        Self::start_binary(Path::new("redis-server"), arguments)
    }

    /// Starts the system's redis-server with a second port for TLS.
    pub fn start_tls(arguments: &(impl Words + ?Sized)) -> Self {
        Self::launched(Path::new("redis-server"), arguments.words(), true)
    }

    /// Starts a given engine.
    pub fn start_binary(binary: &Path, arguments: &(impl Words + ?Sized)) -> Self {
        Self::launched(binary, arguments.words(), false)
    }

    /// Starts an engine on another address of this machine and on this port. Returns none if the port is taken.
    pub fn start_at(binary: &Path, address: Ipv4Addr, port: u16, arguments: &(impl Words + ?Sized)) -> Option<Self> {
        Self::try_launch(binary, address, port, None, arguments.words())
    }

    fn launched(binary: &Path, arguments: Vec<OsString>, tls: bool) -> Self {
        for _ in 0..10 {
            let (port, tls_port) = (free_port(), tls.then(free_port));
            let mut arguments = arguments.clone();
            arguments.extend(tls_port.iter().flat_map(|port| ["--tls-port".into(), port.to_string().into()]));

            if let Some(real) = Self::try_launch(binary, Ipv4Addr::LOCALHOST, port, tls_port, arguments) {
                return real;
            }
        }

        panic!("{} does not start with {arguments:?}", binary.display());
    }

    fn try_launch(
        binary: &Path,
        address: Ipv4Addr,
        port: u16,
        tls_port: Option<u16>,
        arguments: Vec<OsString>,
    ) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let child = launch(binary, address, port, folder.path(), &arguments);
        let mut real = Real { child, address, port, tls_port, folder, binary: binary.to_owned(), arguments };
        has_started(&mut real.child, address, port).then_some(real)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TLS port of a server that was started with one.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("started with a TLS port")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Runs a command and returns its reply as text: the first line, or the content of a bulk string.
    pub fn command(&self, command: &(impl Words + ?Sized)) -> String {
        reply(&mut BufReader::new(self.send(command)))
    }

    /// Runs a command whose reply has lines such as `role:master`, and returns the value of one field; empty if there
    /// is no such line.
    pub fn info(&self, command: &str, field: &str) -> String {
        let text = self.command(command);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().to_owned()
    }

    /// Runs commands over one connection and returns everything that the server sent, as raw RESP.
    pub fn talk(&self, commands: &[impl AsRef<str>]) -> String {
        let mut stream = self.connect();
        let bytes: Vec<u8> = commands.iter().map(AsRef::as_ref).chain(["QUIT"]).flat_map(packed).collect();
        stream.write_all(&bytes).expect("the server reads");

        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        text
    }

    /// Waits until this server, a replica, has all data of its primary.
    pub fn wait_in_sync(&self) {
        let in_sync = || self.info("INFO replication", "master_link_status") == "up";
        assert!(eventually(LIMIT, in_sync), "the replica is not in sync with its primary");
    }

    /// Sends a command without waiting for the reply. Dropping the result closes the connection.
    pub fn send(&self, command: &(impl Words + ?Sized)) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&packed(command)).expect("the server reads");
        stream
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((self.address, self.port)).expect("the server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Freezes the process: the kernel still accepts connections, but the server does not answer.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Restarts it after a kill, on the same port.
    pub fn restart(&mut self) {
        self.restart_with("");
    }

    /// Restarts it with further arguments.
    pub fn restart_with(&mut self, more: &str) {
        self.kill();
        self.arguments.extend(more.words());
        self.child = launch(&self.binary, self.address, self.port, self.folder.path(), &self.arguments);
        assert!(has_started(&mut self.child, self.address, self.port), "the server did not restart");
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago, and not 6379, where the user's own server may be running.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        if port != 6379 {
            return port;
        }
    }
}

fn launch(binary: &Path, address: Ipv4Addr, port: u16, folder: &Path, arguments: &[OsString]) -> Child {
    let mut command = Command::new(binary);
    command.arg("--port").arg(port.to_string()).arg("--bind").arg(address.to_string());
    command.args(["--save", "", "--daemonize", "no"]);
    command.arg("--dir").arg(folder).arg("--unixsocket").arg(folder.join("redis.sock")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", binary.display()))
}

/// Waits until a server answers. If another process has taken its port, the server exits at once.
fn has_started(child: &mut Child, address: Ipv4Addr, port: u16) -> bool {
    eventually(LIMIT, || answers(address, port) || child.try_wait().is_ok_and(|status| status.is_some()))
        && child.try_wait().is_ok_and(|status| status.is_none())
}

/// Whether a server sends any reply to PING.
fn answers(address: Ipv4Addr, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    stream.write_all(b"PING\r\n").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}

/// A command encoded as RESP.
fn packed(command: &(impl Words + ?Sized)) -> Vec<u8> {
    let words = command.words();
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word.as_bytes());
        bytes.extend(b"\r\n");
    }
    bytes
}

fn reply(reader: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a reply");
    let line = line.trim_end();
    match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).expect("a bulk string");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        }
        None => line.to_owned(),
    }
}
