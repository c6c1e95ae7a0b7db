//! A temporary folder for each test, and the real binary run in it.

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

/// A run that lasts until it is stopped. Later flags override these.
pub const ENDLESS: &str = "cycles --run-duration 1h --check-interval 50ms";

/// A folder for one test. The logs go to `logs` inside it.
pub struct TestEnv {
    folder: TempDir,
}

/// The result of a finished run.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Output {
    /// How many checks a run of `cycles` reported as missed. On a busy machine there may be some.
    pub fn missed(&self) -> usize {
        self.summary_number("checks scheduled but not run: ")
    }

    /// The number in the summary line that starts with this text; 0 if there is no such line.
    pub fn summary_number(&self, words: &str) -> usize {
        self.stdout.lines().find_map(|line| line.strip_prefix(words)?.parse().ok()).unwrap_or(0)
    }

    /// One row of the summary table: the number of checks and of failed checks.
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

    /// The binary run by another program, such as `nohup` or `faketime`.
    pub fn wrapped(&self, before: &(impl Words + ?Sized), arguments: &(impl Words + ?Sized)) -> Command {
        self.program(&[before.words(), vec![BINARY.into()], arguments.words()].concat())
    }

    /// The binary, run as root in new namespaces. `flags` are those of unshare(1); the shell commands in `setup`
    /// prepare the namespaces.
    pub fn in_namespaces(&self, flags: &str, setup: &str, arguments: &str) -> Command {
        fs::create_dir(self.logs()).expect("a folder for the logs");
        let script = format!("set -e; {setup}; exec {BINARY} {arguments}");
        self.program(&[vec!["unshare".into()], flags.words(), ["sh", "-c", &script].words()].concat())
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

        // Long, so that no check times out on a busy machine unless the test sets a short timeout.
        command.env("REDIS_HEALTH_TIMEOUT", "20");
        command.env("REDIS_HEALTH_LOG_DIR", "logs").env("TZ", "UTC").env("LC_ALL", "C").env("RUST_LOG", "trace");
        command
    }

    /// Runs the binary until it exits.
    pub fn run(&self, arguments: &(impl Words + ?Sized)) -> Output {
        self.spawn(arguments).wait()
    }

    /// Runs the binary until it exits, with further environment variables.
    pub fn run_with(&self, variables: &[(&str, &str)], arguments: &(impl Words + ?Sized)) -> Output {
        self.spawn_with(variables, arguments).wait()
    }

    /// Runs the binary with a standard output whose reader is gone.
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

    /// Starts a run of `cycles` that lasts until it is stopped.
    pub fn endless(&self, flags: &str) -> Running {
        self.spawn(&format!("{ENDLESS} {flags}"))
    }

    /// Starts such a run, and waits until its success log contains a text.
    pub fn endless_until(&self, flags: &str, text: &str) -> Running {
        let run = self.endless(flags);
        self.wait_for("redis_success.log", |log| log.contains(text));
        run
    }

    /// The text of a log file; empty if the file is missing.
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

    /// How often a text occurs in a log file.
    pub fn count(&self, name: &str, text: &str) -> usize {
        self.read(name).matches(text).count()
    }

    /// The records of a JSON log file.
    pub fn records(&self, name: &str) -> Vec<Value> {
        let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.read(name).lines().map(record).collect()
    }

    /// Waits until the text of a log file meets a condition, and returns it.
    pub fn wait_for(&self, name: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let met = eventually(LIMIT, || {
            text = self.read(name);
            condition(&text)
        });
        assert!(met, "timed out; {name} contains:\n{text}");
        text
    }

    /// The names in the log folder, sorted, without hidden ones.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.logs()) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// Asserts that a run ended because of wrong usage: exit code 2, one line with both texts, and no file written.
    pub fn assert_refused(&self, output: &Output, flag: &str, remedy: &str, case: &str) {
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{case}: {output:?}");

        let line = output.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n') && line.starts_with("redis-health: "), "{case}: {line}");
        assert!(line.contains(flag) && line.contains(remedy), "{case}: {line}");

        assert_eq!(fs::read_dir(self.path()).expect("a folder").count(), 0, "{case} wrote something");
    }
}

/// A running process. It is killed on drop.
pub struct Running {
    child: Child,
    /// The process that receives signals: the child, or the child's child if a wrapper waits for it.
    pid: u32,
    start: Instant,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
}

/// The text received from a stream so far.
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
        assert!(!timeout.timed_out() && condition(&guard.0), "timed out; the output is:\n{}", guard.0);
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

    /// Starts a command whose streams are already set.
    pub fn start_as_is(mut command: Command) -> Self {
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Collected::start(child.stdout.take()), Collected::start(child.stderr.take()));
        let pid = child.id();
        Running { child, pid, start, stdout, stderr }
    }

    /// Starts a wrapper such as faketime, which runs the binary as its child process and waits for it.
    pub fn start_behind(command: Command) -> Self {
        let mut run = Self::start(command);
        assert!(eventually(LIMIT, || child_of(run.pid).is_some()), "the wrapper started no process");
        run.pid = child_of(run.pid).expect("a process");
        run
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).expect("the process exists");
    }

    fn raw_pid(&self) -> Pid {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process id")
    }

    /// Waits until standard output meets a condition, and returns it.
    pub fn wait_for_stdout(&self, condition: impl Fn(&str) -> bool) -> String {
        self.stdout.wait(condition)
    }

    pub fn wait_for_stderr(&self, condition: impl Fn(&str) -> bool) -> String {
        self.stderr.wait(condition)
    }

    /// Whether the process has exited.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Stops it with SIGTERM.
    pub fn stop(self) -> Output {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn kill(&mut self) {
        if !self.has_ended() {
            let _ = kill_process(self.raw_pid(), Signal::KILL);
            // A wrapper that waits for the binary cleans up itself.
            eventually(Duration::from_secs(1), || self.has_ended());
        }

        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it exits.
    pub fn wait(mut self) -> Output {
        let mut status: Option<ExitStatus> = None;

        eventually(LIMIT * 2, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let elapsed = self.start.elapsed();
        let Some(status) = status else {
            self.kill();
            panic!("did not exit; stdout:\n{}\nstderr:\n{}", self.stdout.whole(), self.stderr.whole());
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

/// The child process of a process.
pub fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// An engine that tests/engines provided: `redis-6.2`, `redis-7.0`, `valkey-8.1` or `valkey-9.1`.
pub fn engine(name: &str) -> PathBuf {
    // CARGO_TARGET_TMPDIR is in the target folder.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engines").join(name);
    assert!(path.exists(), "{} is missing; tests/run installs it", path.display());
    path
}
