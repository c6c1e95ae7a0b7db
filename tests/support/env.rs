//! A folder of its own for a test, and the real binary run in it.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::real::Words;
use super::scripted::{LIMIT, eventually};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_redis-health");

/// A run that lasts until it is ended. Flags that follow win.
pub const ENDLESS: &str = "cycles --run-duration 1h --check-interval 50ms";

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
    /// How many checks a run of `cycles` says that it missed, as on a busy machine.
    pub fn missed(&self) -> usize {
        self.figure("checks scheduled but not run: ")
    }

    /// The number on the summary's line that begins with these words; 0 when there is no such line.
    pub fn figure(&self, words: &str) -> usize {
        self.stdout.lines().find_map(|line| line.strip_prefix(words)?.parse().ok()).unwrap_or(0)
    }

    /// One row of the summary's table: the number of checks, and of failed ones.
    pub fn row(&self, name: &str) -> (usize, usize) {
        let figures = |line: &str| {
            let mut words = line.strip_prefix(name)?.strip_prefix(' ')?.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };

        self.stdout.lines().find_map(figures).unwrap_or_else(|| panic!("no row {name} in {}", self.stdout))
    }

    /// The JSON document on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
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
    pub fn command(&self, arguments: &(impl Words + ?Sized)) -> Command {
        self.wrapped("", arguments)
    }

    /// The binary behind another program, such as `nohup` or `faketime`.
    pub fn wrapped(&self, before: &(impl Words + ?Sized), arguments: &(impl Words + ?Sized)) -> Command {
        self.program(&[before.words(), vec![BINARY.into()], arguments.words()].concat())
    }

    /// The binary as root of new namespaces, which these flags of unshare(1) name and the shell commands in `setup`
    /// prepare.
    pub fn in_namespaces(&self, flags: &str, setup: &str, arguments: &str) -> Command {
        fs::create_dir(self.logs()).expect("a folder for the logs");
        self.program(&["unshare", flags, "sh", "-c", &format!("set -e; {setup}; exec {BINARY} {arguments}")])
    }

    /// Any program in the same environment.
    pub fn program(&self, words: &(impl Words + ?Sized)) -> Command {
        let mut command = Command::new("env");
        // The shell that started the tests may ignore signals, as nohup does, and children inherit that.
        command.arg("--default-signal").args(words.words()).current_dir(self.path()).stdin(Stdio::null());

        for (name, _) in std::env::vars_os() {
            if ["REDIS", "SSL_CERT_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }

        // On a busy machine, no check fails for want of time unless the test itself asks for a short timeout.
        command.env("REDIS_HEALTH_TIMEOUT", "20");
        command.env("REDIS_HEALTH_LOG_DIR", "logs").env("TZ", "UTC").env("LC_ALL", "C").env("RUST_LOG", "trace");
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &(impl Words + ?Sized)) -> Output {
        self.spawn(arguments).wait()
    }

    /// Runs the binary to its end, with further environment variables.
    pub fn run_with(&self, variables: &[(&str, &str)], arguments: &(impl Words + ?Sized)) -> Output {
        self.spawn_with(variables, arguments).wait()
    }

    /// Runs the binary with a standard output that nobody reads.
    pub fn run_unread(&self, arguments: &str) -> Output {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);

        let mut command = self.command(arguments);
        command.stdout(writer).stderr(Stdio::piped());
        Running::start_as_is(command).wait()
    }

    /// Starts the binary.
    pub fn spawn(&self, arguments: &(impl Words + ?Sized)) -> Running {
        self.spawn_with(&[], arguments)
    }

    /// Starts the binary with further environment variables.
    pub fn spawn_with(&self, variables: &[(&str, &str)], arguments: &(impl Words + ?Sized)) -> Running {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Running::start(command)
    }

    /// Starts a run of `cycles` that lasts until it is ended.
    pub fn endless(&self, flags: &str) -> Running {
        self.spawn(&format!("{ENDLESS} {flags}"))
    }

    /// Starts such a run, and waits until its log of successes contains a text.
    pub fn endless_until(&self, flags: &str, text: &str) -> Running {
        let run = self.endless(flags);
        self.wait_for("redis_success.log", |log| log.contains(text));
        run
    }

    /// A log file's text; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.logs().join(name)).unwrap_or_default()
    }

    /// The text of all files in the log folder.
    pub fn read_all(&self) -> String {
        self.names().iter().map(|name| self.read(name)).collect()
    }

    /// Writes a log file.
    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.logs()).expect("a folder for the logs");
        fs::write(self.logs().join(name), text).expect("a log file");
    }

    /// How often a text stands in a log file.
    pub fn count(&self, name: &str, text: &str) -> usize {
        self.read(name).matches(text).count()
    }

    /// The records of a log file in JSON.
    pub fn records(&self, name: &str) -> Vec<Value> {
        let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.read(name).lines().map(record).collect()
    }

    /// Waits until a log file's text fulfils a condition, and returns it.
    pub fn wait_for(&self, name: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let fulfilled = eventually(LIMIT, || {
            text = self.read(name);
            condition(&text)
        });
        assert!(fulfilled, "{name} never became as awaited:\n{text}");
        text
    }

    /// The names in the log folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.logs()) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Asserts that a run was refused for wrong usage: exit 2, one line that holds both texts, and nothing written.
    pub fn assert_refused(&self, output: &Output, flag: &str, remedy: &str, case: &str) {
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{case}: {output:?}");

        let line = output.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n') && line.starts_with("redis-health: "), "{case}: {line}");
        assert!(line.contains(flag) && line.contains(remedy), "{case}: {line}");

        assert_eq!(fs::read_dir(self.path()).expect("a folder").count(), 0, "{case} wrote something");
    }
}

/// A run under way. It is killed when dropped.
pub struct Running {
    child: Child,
    /// The process that gets the signals: the child, or its own child where that waits for one.
    pid: u32,
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
        let pid = child.id();
        Running { child, pid, start, stdout, stderr }
    }

    /// Starts a command that runs the binary in a child of its own and waits for it, as faketime does.
    pub fn start_behind(command: Command) -> Self {
        let mut run = Self::start(command);
        assert!(eventually(LIMIT, || child_of(run.pid).is_some()), "no process was started");
        run.pid = child_of(run.pid).expect("a process");
        run
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).expect("the process is there");
    }

    fn raw_pid(&self) -> Pid {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process id")
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

    /// Ends it with SIGTERM.
    pub fn stop(self) -> Output {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn kill(&mut self) {
        if !self.has_ended() {
            let _ = kill_process(self.raw_pid(), Signal::KILL);
            // A program that waits for the binary puts its own things in order.
            eventually(Duration::from_secs(1), || self.has_ended());
        }

        let _ = self.child.kill();
        let _ = self.child.wait();
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
            self.kill();
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
        self.kill();
    }
}

/// The process that another one started.
pub fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// An engine that tests/engines fetched, by its name and version: `redis-6.2`, `redis-7.0`, `valkey-8.1`, `valkey-9.1`.
pub fn engine(name: &str) -> PathBuf {
    // Cargo's folder for tests lies in the target folder.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engines").join(name);
    assert!(path.exists(), "{} is missing; run tests/run, which fetches it", path.display());
    path
}
