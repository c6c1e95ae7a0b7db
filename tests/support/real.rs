//! Real servers, started on free ports and ended with the test.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::scripted::{LIMIT, eventually};

/// A redis-server, or another engine that takes its arguments.
pub struct Real {
    child: Child,
    port: u16,
    tls_port: Option<u16>,
    folder: TempDir,
    binary: PathBuf,
    arguments: Vec<String>,
}

impl Real {
    /// Starts the redis-server of the system.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_binary(Path::new("redis-server"), arguments)
    }

    /// Starts the redis-server of the system with a second port, for TLS.
    pub fn start_tls(arguments: &[&str]) -> Self {
        Self::launched(Path::new("redis-server"), arguments, true)
    }

    /// Starts a given engine.
    pub fn start_binary(binary: &Path, arguments: &[&str]) -> Self {
        Self::launched(binary, arguments, false)
    }

    fn launched(binary: &Path, arguments: &[&str], tls: bool) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        for _ in 0..10 {
            let port = free_port();
            let tls_port = tls.then(free_port);
            let mut arguments = arguments.clone();
            arguments.extend(tls_port.iter().flat_map(|port| ["--tls-port".to_owned(), port.to_string()]));
            let mut child = launch(binary, port, folder.path(), &arguments);
            // Another process may take the port between the look and the launch; then the server ends at once.
            if eventually(LIMIT, || answers(port) || child.try_wait().is_ok_and(|status| status.is_some()))
                && child.try_wait().is_ok_and(|status| status.is_none())
            {
                return Real { child, port, tls_port, folder, binary: binary.to_owned(), arguments };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{} does not start with {arguments:?}", binary.display());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port that speaks TLS, of a server that was started with one.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("started with a TLS port")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Runs one command and returns its reply as text: the first line, or the content of a bulk string.
    pub fn command(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.write_all(&packed(words)).expect("the server reads");
        reply(&mut BufReader::new(stream))
    }

    /// Sends a command and does not wait for its reply; the connection lives as long as what is returned.
    pub fn send(&self, words: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server listens");
        stream.write_all(&packed(words)).expect("the server reads");
        stream
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Freezes the process: the kernel still accepts connections, and nobody answers.
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

    /// Starts it again after a kill, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.binary, self.port, self.folder.path(), &self.arguments);
        assert!(eventually(LIMIT, || answers(self.port)), "the server does not come back");
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago, and not the one where somebody's own server may be.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        if port != 6379 {
            return port;
        }
    }
}

fn launch(binary: &Path, port: u16, folder: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(binary);
    command.arg("--port").arg(port.to_string()).args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
    command.arg("--dir").arg(folder).arg("--unixsocket").arg(folder.join("redis.sock")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", binary.display()))
}

/// Whether a server says anything in reply to PING.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    stream.write_all(b"PING\r\n").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}

fn packed(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes.into_bytes()
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
