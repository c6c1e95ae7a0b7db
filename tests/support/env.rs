//! A folder of its own for a test, and the real binary run in it.

use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::scripted::{LIMIT, eventually};

/// A folder for one test. The logs go to `logs` inside it.
pub struct TestEnv {
    folder: TempDir,
}

/// What a run that is over left.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Output {
    /// How many checks a run of `cycles` says that it could not make in time, as on a machine that is busy.
    pub fn missed(&self) -> usize {
        self.stdout.lines().find_map(|line| line.strip_prefix("checks missed: ")?.parse().ok()).unwrap_or(0)
    }
}

impl TestEnv {
    pub fn new() -> Self {
        TestEnv { folder: TempDir::new().expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The binary, with a clean environment, in the test's folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.wrapped(&[], arguments)
    }

    /// The binary behind another program, such as `nohup` or `faketime`.
    pub fn wrapped(&self, before: &[&str], arguments: &[&str]) -> Command {
        self.program(&[before, &[env!("CARGO_BIN_EXE_redis-health")], arguments].concat())
    }

    /// Any program in the same surroundings.
    pub fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if ["REDIS", "SSL_CERT_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("REDIS_HEALTH_LOG_DIR", "logs").env("TZ", "UTC").env("LC_ALL", "C").env("RUST_LOG", "trace");
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Running::start(self.command(arguments)).wait()
    }

    /// Starts the binary.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// A log file's text; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs().join(name)).unwrap_or_default()
    }

    /// Waits until a log file's text fulfils a condition, and returns it.
    pub fn wait_for(&self, name: &str, condition: impl Fn(&str) -> bool) -> String {
        let fulfilled = eventually(LIMIT, || condition(&self.read(name)));
        assert!(fulfilled, "{name} never became as awaited:\n{}", self.read(name));
        self.read(name)
    }

    /// The names in the log folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.logs()) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A run under way. It is killed when dropped.
pub struct Running {
    child: Child,
    start: Instant,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
}

/// What a stream has brought so far.
#[derive(Default)]
struct Collected {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

impl Collected {
    fn start(stream: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let collected = Arc::<Collected>::default();
        let Some(mut stream) = stream else {
            collected.text.lock().unwrap().1 = true;
            return collected;
        };
        let filled = collected.clone();
        thread::spawn(move || {
            let mut bytes = [0; 8192];
            loop {
                let read = stream.read(&mut bytes).unwrap_or(0);
                let mut text = filled.text.lock().unwrap();
                text.0.push_str(&String::from_utf8_lossy(&bytes[..read]));
                text.1 = read == 0;
                filled.grown.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        collected
    }

    fn wait(&self, condition: impl Fn(&str) -> bool) -> String {
        let guard = self.text.lock().unwrap();
        let (guard, timeout) =
            self.grown.wait_timeout_while(guard, LIMIT, |(text, ended)| !condition(text) && !*ended).unwrap();
        assert!(!timeout.timed_out() && condition(&guard.0), "the output never became as awaited:\n{}", guard.0);
        guard.0.clone()
    }

    fn whole(&self) -> String {
        let guard = self.text.lock().unwrap();
        self.grown.wait_timeout_while(guard, LIMIT, |(_, ended)| !*ended).unwrap().0.0.clone()
    }
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts a command whose streams were set already.
    pub fn start_as_is(mut command: Command) -> Self {
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Collected::start(child.stdout.take()), Collected::start(child.stderr.take()));
        Running { child, start, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Waits until standard output fulfils a condition, and returns it.
    pub fn wait_for_stdout(&self, condition: impl Fn(&str) -> bool) -> String {
        self.stdout.wait(condition)
    }

    pub fn wait_for_stderr(&self, condition: impl Fn(&str) -> bool) -> String {
        self.stderr.wait(condition)
    }

    /// Whether the process ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Output {
        let mut status: Option<ExitStatus> = None;
        eventually(LIMIT * 2, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let elapsed = self.start.elapsed();
        let Some(status) = status else {
            let _ = self.child.kill();
            panic!("did not end; stdout:\n{}\nstderr:\n{}", self.stdout.whole(), self.stderr.whole());
        };
        Output {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
            elapsed,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An engine that tests/engines fetched, by its name and version: `redis-6.2`, `redis-7.0`, `valkey-8.1`, `valkey-9.1`.
pub fn engine(name: &str) -> PathBuf {
    // Cargo's folder for tests lies in the target folder.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engines").join(name);
    assert!(path.exists(), "{} is missing; run tests/run, which fetches it", path.display());
    path
}

/// Replaces every time stamp by `<time>`, so that logs can be compared byte for byte.
pub fn normalised(text: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let bytes = text.as_bytes();
    let fits = |at: usize| {
        bytes.len() >= at + SHAPE.len()
            && SHAPE.iter().zip(&bytes[at..]).all(|(shape, byte)| match shape {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    let (mut result, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if fits(at) {
            result.extend_from_slice(b"<time>");
            at += SHAPE.len();
            if bytes.get(at) == Some(&b'.')
                && bytes.len() >= at + 4
                && bytes[at + 1..at + 4].iter().all(u8::is_ascii_digit)
            {
                at += 4;
            }
        } else {
            result.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(result).expect("only whole stamps were replaced")
}
