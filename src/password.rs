//! Where a password comes from, and how it is fetched.

use std::path::PathBuf;
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

impl Source {
    /// Fetches the password.
    ///
    /// # Errors
    /// The file cannot be read, the command fails, or there is no terminal to ask on; the text names the flag.
    pub async fn fetch(&self) -> anyhow::Result<Secret> {
        match self {
            Source::Given(secret) => Ok(secret.clone()),
            Source::File(path) => {
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!(
                        "--pass-file: cannot read {}; give a readable file with the password as its first line",
                        path.display()
                    )
                })?;
                first_line(&text)
                    .with_context(|| format!("--pass-file: {} has no password in its first line", path.display()))
            }
            Source::Command(command) => run(command).await,
            Source::Prompt => rpassword::prompt_password("Password: ")
                .map(Secret::new)
                .context("--askpass: cannot ask without a terminal; use REDISCLI_AUTH or --pass-file"),
        }
    }
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
