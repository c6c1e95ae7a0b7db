//! Where a password comes from, and how it is fetched.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::target::Secret;

/// How long `--password-command` may take. A checker in cron must end by itself.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Where the password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a flag, a URI or the environment.
    Given(Secret),
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a shell command prints.
    Command(String),
    /// Typed at a prompt.
    Prompt,
}

/// A password, and for how long it may be used before it has to be fetched anew; none for as long as the server takes
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub password: Secret,
    pub good_for: Option<Duration>,
}

impl From<Secret> for Fetched {
    fn from(password: Secret) -> Self {
        Fetched { password, good_for: None }
    }
}

impl Source {
    /// Whether a later fetch may bring another password, without anybody being asked.
    pub fn can_change(&self) -> bool {
        !matches!(self, Source::Given(_) | Source::Prompt)
    }

    /// Fetches the password.
    ///
    /// # Errors
    /// The file cannot be read, the command fails, or there is no terminal to ask on; the text names the flag.
    pub async fn fetch(&self) -> anyhow::Result<Fetched> {
        match self {
            Source::Given(secret) => Ok(secret.clone().into()),
            Source::File(path) => read(path).map(Fetched::from),
            Source::Command(command) => run(command).await.map(Fetched::from),
            Source::Prompt => rpassword::prompt_password("Password: ")
                .map(|text| Secret::new(text).into())
                .context("--askpass: cannot ask without a terminal; use REDISCLI_AUTH or --pass-file"),
        }
    }

    /// Fetches the password while checks go on: a file may be on a file system that hangs.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn fetch_aside(&self) -> anyhow::Result<Fetched> {
        let Source::File(path) = self else { return self.fetch().await };
        let path = path.clone();
        tokio::task::spawn_blocking(move || read(&path)).await?.map(Fetched::from)
    }
}

/// The flag.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Given(_) => "-a",
            Source::File(_) => "--pass-file",
            Source::Command(_) => "--password-command",
            Source::Prompt => "--askpass",
        })
    }
}

fn read(path: &Path) -> anyhow::Result<Secret> {
    let at = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("--pass-file: cannot read {at}; give a readable file with the password as its first line")
    })?;
    first_line(&text).with_context(|| format!("--pass-file: {at} has no password in its first line"))
}

/// The command line may hold pipes and variables, as in a crontab, so a shell reads it. Its standard error stays ours:
/// what it complains of is for the user to see.
async fn run(command: &str) -> anyhow::Result<Secret> {
    let child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("--password-command: cannot start /bin/sh")?;
    let Ok(output) = tokio::time::timeout(COMMAND_LIMIT, child.wait_with_output()).await else {
        bail!("--password-command: no password after {}", humantime::format_duration(COMMAND_LIMIT));
    };
    let output = output.context("--password-command: cannot read what the command prints")?;
    if !output.status.success() {
        bail!("--password-command: the command failed ({}); run it by hand to see why", output.status);
    }
    let text = String::from_utf8(output.stdout).context("--password-command: the password is not UTF-8")?;
    first_line(&text).context("--password-command: the command printed no password")
}

fn first_line(text: &str) -> Option<Secret> {
    text.lines().next().filter(|line| !line.is_empty()).map(Secret::new)
}
