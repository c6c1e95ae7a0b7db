//! Where a password comes from, and how it is fetched.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::process::{Child, Command};

use crate::auth::blocking::on_thread;
use crate::auth::fetched::Fetched;
use crate::files::read_input;
use crate::model::secret::Secret;

/// The longest file with a password, in bytes.
const LONGEST: u64 = 64 << 10;

/// The time limit for `--password-command`, and for a pipe in the place of a file. A check run by cron must not hang.
const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// Where the password comes from. Its debug output is only the flag, because a command line may contain a secret too.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// From a flag, a URI or the environment.
    Given(Secret),
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a shell command prints.
    Command(String),
    /// Typed at a prompt.
    Prompt,
    /// A token created from AWS credentials.
    #[cfg(feature = "iam")]
    Iam(crate::auth::iam::Signer),
}

impl PasswordSource {
    /// Whether a later fetch may return another password without prompting.
    pub fn can_change(&self) -> bool {
        !matches!(self, PasswordSource::Given(_) | PasswordSource::Prompt)
    }

    /// Fetches the password.
    ///
    /// # Errors
    /// The file cannot be read, the command fails, or there is no terminal to prompt on. The text names the flag.
    pub async fn fetch(&self) -> anyhow::Result<Fetched> {
        match self {
            PasswordSource::Given(secret) => Ok(secret.clone().into()),
            // Most are regular files, which are read at once.
            PasswordSource::File(path) if path.is_file() => read(path, true).map(Fetched::from),
            PasswordSource::File(path) => {
                let Ok(password) = tokio::time::timeout(FETCH_LIMIT, read_on_thread(path, true)).await else {
                    bail!(
                        "--pass-file: nothing was written to this pipe for {}; see what should write to it",
                        humantime::format_duration(FETCH_LIMIT)
                    );
                };
                password.map(Fetched::from)
            }
            PasswordSource::Command(command) => {
                let mut shell = shell(command);
                // To prompt on the terminal, the command must be in the terminal's foreground process group, which is
                // ours. On a timeout only the shell can be killed then, because its children cannot be distinguished
                // from other processes in our pipeline. Without a terminal, as under cron and nohup, the shell gets its
                // own process group, and the whole group is killed.
                if File::open("/dev/tty").is_err() {
                    shell.process_group(0);
                }
                run(&mut shell).await.map(Fetched::from)
            }
            PasswordSource::Prompt => prompt().await.map(Fetched::from),
            #[cfg(feature = "iam")]
            PasswordSource::Iam(signer) => signer.fetch().await,
        }
    }

    /// Fetches the password while checks continue. A fetch that hangs must neither delay them nor leave processes
    /// behind.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn fetch_in_background(&self) -> anyhow::Result<Fetched> {
        match self {
            PasswordSource::File(path) => read_on_thread(path, false).await.map(Fetched::from),
            // In its own process group the command cannot prompt on the terminal, but can be killed with its children.
            PasswordSource::Command(command) => run(shell(command).process_group(0)).await.map(Fetched::from),
            other => other.fetch().await,
        }
    }
}

impl fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The flag.
impl fmt::Display for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PasswordSource::Given(_) => "-a",
            PasswordSource::File(_) => "--pass-file",
            PasswordSource::Command(_) => "--password-command",
            PasswordSource::Prompt => "--askpass",
            #[cfg(feature = "iam")]
            PasswordSource::Iam(_) => "--iam",
        })
    }
}

/// Prompts for the password. If this is dropped before it is typed, the terminal shows again what is typed.
async fn prompt() -> anyhow::Result<Secret> {
    let _echo = Echo::of_terminal();
    let typed = on_thread("prompt", || rpassword::prompt_password("Password: ")).await;
    typed
        .context("--askpass: cannot start a thread; raise the limit of processes")?
        .map(Secret::new)
        .context("--askpass: cannot prompt without a terminal; use REDISCLI_AUTH or --pass-file")
}

/// The settings of the terminal. They are restored when this is dropped.
struct Echo(Option<(File, Termios)>);

impl Echo {
    fn of_terminal() -> Self {
        let terminal = File::open("/dev/tty").ok();
        Echo(terminal.and_then(|terminal| tcgetattr(&terminal).ok().map(|settings| (terminal, settings))))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some((terminal, settings)) = &self.0 {
            // The terminal may be gone.
            let _ = tcsetattr(terminal, OptionalActions::Now, settings);
        }
    }
}

async fn read_on_thread(path: &Path, waits: bool) -> anyhow::Result<Secret> {
    let path = path.to_owned();
    let read = on_thread("password", move || read(&path, waits)).await;
    read.context("--pass-file: cannot start a thread to read it; raise the limit of processes")?
}

/// `waits` is whether a pipe is waited for. Only the first time: when it is read again, its writer is gone.
fn read(path: &Path, waits: bool) -> anyhow::Result<Secret> {
    // The texts do not name the file, because somebody may have typed the password instead.
    let text = read_input(path, LONGEST, waits)
        .and_then(|text| String::from_utf8(text).map_err(io::Error::other))
        .context("--pass-file: cannot read this file; give a readable file with the password as its first line")?;
    first_line(&text).context("--pass-file: this file has no password in its first line")
}

/// Runs the command in a shell, as a crontab does, because it may use pipes and variables. It inherits our stderr, so
/// the user sees its messages.
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    shell
}

async fn run(shell: &mut Command) -> anyhow::Result<Secret> {
    let child = shell.spawn().context("--password-command: cannot start /bin/sh")?;
    let mut group = Group::led_by(&child);
    let Ok(output) = tokio::time::timeout(FETCH_LIMIT, child.wait_with_output()).await else {
        bail!(
            "--password-command: no password after {}; run it by hand to see what it waits for",
            humantime::format_duration(FETCH_LIMIT)
        );
    };
    group.keep();

    let output = output.context("--password-command: cannot read what the command prints")?;
    if !output.status.success() {
        bail!("--password-command: the command failed ({}); run it by hand to see why", output.status);
    }
    let text = String::from_utf8(output.stdout).context("--password-command: the password is not UTF-8")?;
    first_line(&text).context("--password-command: the command printed no password")
}

/// The process group of a shell, if it leads its own. It is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn led_by(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Group(pid.filter(|pid| getpgid(Some(*pid)) == Ok(*pid)))
    }

    /// Does not kill the group: the shell has exited, and its background processes are intended to keep running.
    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            // It may have ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The first line, without what editors on Windows add: a byte order mark, and a carriage return.
fn first_line(text: &str) -> Option<Secret> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_suffix('\r').unwrap_or(line);
    Some(line).filter(|line| !line.is_empty()).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_first_line_is_the_password_with_any_line_end() {
        for text in ["pass", "pass\n", "pass\r\n", "pass\r", "\u{feff}pass\r\nmore", "\u{feff}pass"] {
            assert_eq!(first_line(text), Some(Secret::new("pass")), "{text:?}");
        }
        assert_eq!(first_line(" p\ra ss \n"), Some(Secret::new(" p\ra ss ")), "everything else is part of it");
        for text in ["", "\n", "\r", "\u{feff}\r\nmore"] {
            assert_eq!(first_line(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_aborted_command_ends_with_its_children() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("pid");
        let command = format!("sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let command_line = runtime.block_on(async {
            let source = PasswordSource::Command(command);
            tokio::spawn(async move { source.fetch_in_background().await });
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            format!("/proc/{}/cmdline", std::fs::read_to_string(&file).unwrap().trim())
        });
        // A zombie has an empty command line.
        let runs = || std::fs::read_to_string(&command_line).is_ok_and(|line| !line.is_empty());
        while !runs() {
            thread::sleep(Duration::from_millis(5));
        }
        // As at the end of a run.
        runtime.shutdown_background();
        let start = std::time::Instant::now();
        while runs() {
            assert!(start.elapsed() < FETCH_LIMIT / 2, "the sleep goes on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
