//! Who we are to the server, for as long as a run lasts: a password that was rotated meanwhile is fetched anew, and so
//! is a token before it expires.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::auth::password::{Fetched, Source};
use crate::model::secret::Credentials;
use crate::output::console::Console;

/// The least time from the beginning of one fetch to the beginning of the next. A server that refuses every check must
/// not make a checker call on a secret store as often as it checks.
const INTERVAL: Duration = Duration::from_secs(60);

/// The credentials that hold now, and the way to newer ones. Clones share both.
#[derive(Clone)]
pub struct CredentialsProvider(Arc<Shared>);

struct Shared {
    source: Source,
    /// [`INTERVAL`]; tests have less time.
    interval: Duration,
    state: Mutex<State>,
    output: Console,
}

struct State {
    credentials: Arc<Credentials>,
    pace: Pace,
}

impl CredentialsProvider {
    /// Fetches the password for the first time, if there is to be a login. `output` is told of later fetches that fail.
    ///
    /// # Errors
    /// The password cannot be had; see [`Source::fetch`].
    pub async fn fetch(login: Option<(Option<String>, Source)>, output: Console) -> anyhow::Result<Option<Self>> {
        let Some((user, source)) = login else { return Ok(None) };
        Self::fetch_every(INTERVAL, user, source, output).await.map(Some)
    }

    async fn fetch_every(
        interval: Duration,
        user: Option<String>,
        source: Source,
        output: Console,
    ) -> anyhow::Result<Self> {
        let pace = Pace { began: Instant::now(), under_way: false };
        let fetched = source.fetch().await?;
        Ok(Self::begin_with(fetched, pace, interval, user, source, output))
    }

    /// From the first fetch on; must be called on a runtime.
    fn begin_with(
        Fetched { password, good_for }: Fetched,
        pace: Pace,
        interval: Duration,
        user: Option<String>,
        source: Source,
        output: Console,
    ) -> Self {
        let state = State { credentials: Arc::new(Credentials { user, password }), pace };
        let login = CredentialsProvider(Arc::new(Shared { source, interval, state: Mutex::new(state), output }));
        if let Some(good_for) = good_for {
            tokio::spawn(login.clone().keep_fresh(good_for));
        }
        login
    }

    /// What AUTH sends now.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.state().credentials.clone()
    }

    /// Takes note that the server refused `credentials`. Where newer ones may be had, they are fetched aside, so that
    /// no check waits for them; until then, and when that fails, the old ones stay.
    pub fn refused(&self, credentials: &Arc<Credentials>) {
        // A check that began before the last fetch was over says nothing about what that brought.
        let outdated = !Arc::ptr_eq(credentials, &self.state().credentials);
        if self.0.source.can_change() && !outdated && self.begin() {
            let login = self.clone();
            tokio::spawn(async move { login.renew().await });
        }
    }

    fn begin(&self) -> bool {
        self.state().pace.begin(Instant::now(), self.0.interval)
    }

    /// Fetches anew, and says on standard error if that fails. Returns for how long what was fetched is good.
    async fn renew(&self) -> Option<Duration> {
        let fetched = self.0.source.fetch_aside().await;
        let mut state = self.state();
        state.pace.end();
        match fetched {
            Ok(Fetched { password, good_for }) => {
                let same = password == state.credentials.password;
                debug!("{} gave {} password", self.0.source, if same { "the same" } else { "another" });
                if !same {
                    state.credentials = Arc::new(Credentials { user: state.credentials.user.clone(), password });
                }
                good_for
            }
            Err(error) => {
                drop(state);
                self.0.output.notice(format_args!("{error:#}; the old password stays"));
                None
            }
        }
    }

    /// Renews what expires, whether or not anything is checked meanwhile: a break between cycles may outlast a token.
    async fn keep_fresh(self, mut good_for: Duration) {
        loop {
            sleep(good_for).await;
            let renewed = if self.begin() { self.renew().await } else { None };
            good_for = renewed.unwrap_or(self.0.interval);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CredentialsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsProvider").field("credentials", &self.credentials()).finish_non_exhaustive()
    }
}

/// When the last fetch began, and whether it is over.
#[derive(Clone, Copy, Debug)]
struct Pace {
    began: Instant,
    under_way: bool,
}

impl Pace {
    /// Whether a fetch may begin now. If so, it has begun.
    fn begin(&mut self, now: Instant, interval: Duration) -> bool {
        let may = !self.under_way && now.saturating_duration_since(self.began) >= interval;
        if may {
            *self = Pace { began: now, under_way: true };
        }
        may
    }

    fn end(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_fetch_may_begin_once_a_minute_and_never_beside_another() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace { began: start, under_way: false };
        assert!(!pace.begin(after(0), INTERVAL), "the first fetch counts");
        assert!(!pace.begin(after(59), INTERVAL));
        assert!(pace.begin(after(60), INTERVAL));
        assert!(!pace.begin(after(60), INTERVAL), "overlapping checks start it once");
        assert!(!pace.begin(after(600), INTERVAL), "one that hangs is not joined by another");
        pace.end();
        assert!(!pace.begin(after(119), INTERVAL));
        assert!(pace.begin(after(120), INTERVAL), "a minute after the beginning, not the end");
        assert!(!pace.begin(start, INTERVAL), "whatever the clock says");
    }

    /// A command that takes its password from a file and counts its runs in another.
    fn command_in(folder: &Path) -> String {
        let folder = folder.display();
        format!("echo run >>{folder}/runs; sleep 0.1; cat {folder}/password")
    }

    fn login_from(folder: &Path, interval: Duration) -> impl Future<Output = CredentialsProvider> {
        let command = command_in(folder);
        let fetched = async move {
            CredentialsProvider::fetch_every(interval, Some("ops".into()), Source::Command(command), Console::direct())
                .await
        };
        async { fetched.await.unwrap() }
    }

    fn in_a_folder<F: Future>(test: impl FnOnce(std::path::PathBuf) -> F) {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("password"), "first\n").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(folder.path().to_owned()));
    }

    fn runs(folder: &Path) -> usize {
        std::fs::read_to_string(folder.join("runs")).unwrap().lines().count()
    }

    async fn until(condition: impl Fn() -> bool) {
        let met = async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
    }

    #[test]
    fn refusals_that_overlap_fetch_once_and_delay_nobody() {
        in_a_folder(|folder| async move {
            let login = login_from(&folder, Duration::ZERO).await;
            let first = login.credentials();
            std::fs::write(folder.join("password"), "second\n").unwrap();
            let start = Instant::now();
            for _ in 0..50 {
                login.refused(&first);
                assert_eq!(login.credentials().password.reveal(), "first");
            }
            assert!(start.elapsed() < Duration::from_millis(90), "nobody waits for the command");
            until(|| login.credentials().password.reveal() == "second").await;
            assert_eq!(login.credentials().user.as_deref(), Some("ops"));
            login.refused(&first);
            sleep(Duration::from_millis(50)).await;
            assert_eq!(runs(&folder), 2, "what was refused is no longer what holds");
            login.refused(&login.credentials());
            until(|| runs(&folder) == 3).await;
        });
    }

    #[test]
    fn a_fetch_that_fails_leaves_the_old_password_and_is_tried_again() {
        in_a_folder(|folder| async move {
            let login = login_from(&folder, Duration::ZERO).await;
            std::fs::remove_file(folder.join("password")).unwrap();
            let first = login.credentials();
            login.refused(&first);
            until(|| runs(&folder) == 2 && !login.state().pace.under_way).await;
            assert!(Arc::ptr_eq(&login.credentials(), &first));
            std::fs::write(folder.join("password"), "second\n").unwrap();
            login.refused(&first);
            until(|| login.credentials().password.reveal() == "second").await;
        });
    }

    #[test]
    fn what_expires_is_renewed_without_a_refusal() {
        in_a_folder(|folder| async move {
            std::fs::write(folder.join("password"), "second\n").unwrap();
            let fetched = Fetched {
                password: crate::model::secret::Secret::new("first"),
                good_for: Some(Duration::from_millis(30)),
            };
            let pace = Pace { began: Instant::now(), under_way: false };
            let source = Source::Command(command_in(&folder));
            let login = CredentialsProvider::begin_with(
                fetched,
                pace,
                Duration::from_millis(20),
                None,
                source,
                Console::direct(),
            );
            assert_eq!(login.credentials().password.reveal(), "first");
            until(|| login.credentials().password.reveal() == "second").await;
            until(|| runs(&folder) >= 2).await;
        });
    }

    #[test]
    fn what_cannot_change_is_not_fetched_anew() {
        in_a_folder(|_| async {
            let source = Source::Given(crate::model::secret::Secret::new("hunter2"));
            let login =
                CredentialsProvider::fetch_every(Duration::ZERO, None, source, Console::direct()).await.unwrap();
            login.refused(&login.credentials());
            assert!(!login.state().pace.under_way);
            assert!(!format!("{login:?}").contains("hunter2"));
        });
    }
}
