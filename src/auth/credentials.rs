//! Credentials that are refreshed during a run: passwords after a rotation, tokens before they expire.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::auth::fetched::Fetched;
use crate::auth::password::PasswordSource;
use crate::model::notify::Notify;
use crate::model::secret::Credentials;

/// The minimum time from the start of one fetch to the start of the next. If the server rejects every check, the secret
/// store must not be queried at the rate of the checks.
const INTERVAL: Duration = Duration::from_secs(60);

/// Credentials, refreshed on rotation or expiry. Clones share their state.
#[derive(Clone)]
pub struct CredentialsProvider(Arc<Shared>);

struct Shared {
    source: PasswordSource,
    /// [`INTERVAL`], or less in tests.
    interval: Duration,
    state: Mutex<State>,
    notify: Notify,
}

struct State {
    credentials: Arc<Credentials>,
    limit: FetchLimit,
}

impl CredentialsProvider {
    /// Fetches the password for the first time. `user_and_source` is the ACL user, if any, and the source of the
    /// password; None if no authentication is configured. `notify` receives a message for each later fetch that fails.
    ///
    /// # Errors
    /// The password cannot be fetched; see [`PasswordSource::fetch`].
    pub async fn fetch(
        user_and_source: Option<(Option<String>, PasswordSource)>,
        notify: Notify,
    ) -> anyhow::Result<Option<Self>> {
        let Some((user, source)) = user_and_source else { return Ok(None) };
        Self::fetch_every(INTERVAL, user, source, notify).await.map(Some)
    }

    async fn fetch_every(
        interval: Duration,
        user: Option<String>,
        source: PasswordSource,
        notify: Notify,
    ) -> anyhow::Result<Self> {
        let limit = FetchLimit { started: Instant::now(), is_running: false };
        let fetched = source.fetch().await?;
        Ok(Self::start(fetched, limit, interval, user, source, notify))
    }

    /// Starts with the result of the first fetch. Must be called within a Tokio runtime.
    fn start(
        Fetched { password, good_for }: Fetched,
        limit: FetchLimit,
        interval: Duration,
        user: Option<String>,
        source: PasswordSource,
        notify: Notify,
    ) -> Self {
        let state = State { credentials: Arc::new(Credentials { user, password }), limit };
        let provider = CredentialsProvider(Arc::new(Shared { source, interval, state: Mutex::new(state), notify }));

        if let Some(good_for) = good_for {
            tokio::spawn(provider.clone().keep_fresh(good_for));
        }
        provider
    }

    /// The current credentials.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.state().credentials.clone()
    }

    /// Must be called when the server rejected `credentials`. If the source may have newer ones, they are fetched in
    /// the background, so that no check waits. The old ones stay in use until then, or if the fetch fails.
    pub fn rejected(&self, credentials: &Arc<Credentials>) {
        // These credentials were already replaced while the check was running.
        let is_outdated = !Arc::ptr_eq(credentials, &self.state().credentials);
        if self.0.source.can_change() && !is_outdated && self.may_fetch() {
            let provider = self.clone();
            tokio::spawn(async move { provider.refresh().await });
        }
    }

    fn may_fetch(&self) -> bool {
        self.state().limit.start(Instant::now(), self.0.interval)
    }

    /// Fetches again, and notifies the user of a failure. Returns how long the new password may be used.
    async fn refresh(&self) -> Option<Duration> {
        let fetched = self.0.source.fetch_in_background().await;
        let mut state = self.state();
        state.limit.end();

        match fetched {
            Ok(Fetched { password, good_for }) => {
                let is_same = password == state.credentials.password;
                debug!("{} gave {} password", self.0.source, if is_same { "the same" } else { "another" });
                if !is_same {
                    state.credentials = Arc::new(Credentials { user: state.credentials.user.clone(), password });
                }
                good_for
            }
            Err(error) => {
                drop(state);
                (self.0.notify)(&format!("{error:#}; the old password stays in use"));
                None
            }
        }
    }

    /// Refreshes a token before it expires, even while no checks run: a break between cycles may be longer than the
    /// token's lifetime.
    async fn keep_fresh(self, mut good_for: Duration) {
        loop {
            sleep(good_for).await;
            let refreshed = if self.may_fetch() { self.refresh().await } else { None };
            good_for = refreshed.unwrap_or(self.0.interval);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code leaves the state inconsistent while it holds this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CredentialsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsProvider").field("credentials", &self.credentials()).finish_non_exhaustive()
    }
}

/// Limits how often passwords are fetched: not while a fetch is running, and not sooner than an interval after the
/// start of the last.
#[derive(Clone, Copy, Debug)]
struct FetchLimit {
    started: Instant,
    is_running: bool,
}

impl FetchLimit {
    /// Whether a fetch may start now. If so, it counts as started.
    fn start(&mut self, now: Instant, interval: Duration) -> bool {
        let may_start = !self.is_running && now.saturating_duration_since(self.started) >= interval;
        if may_start {
            *self = FetchLimit { started: now, is_running: true };
        }
        may_start
    }

    fn end(&mut self) {
        self.is_running = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_fetch_starts_once_a_minute_and_never_while_another_runs() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut limit = FetchLimit { started: start, is_running: false };
        assert!(!limit.start(after(0), INTERVAL), "the first fetch counts");
        assert!(!limit.start(after(59), INTERVAL));
        assert!(limit.start(after(60), INTERVAL));
        assert!(!limit.start(after(60), INTERVAL), "overlapping checks start it once");
        assert!(!limit.start(after(600), INTERVAL), "not while one hangs");
        limit.end();
        assert!(!limit.start(after(119), INTERVAL));
        assert!(limit.start(after(120), INTERVAL), "a minute after the start, not the end");
        assert!(!limit.start(start, INTERVAL), "whatever the clock shows");
    }

    /// A command that reads its password from a file and records its runs in another.
    fn command_in(folder: &Path) -> String {
        let folder = folder.display();
        format!("echo run >>{folder}/runs; sleep 0.1; cat {folder}/password")
    }

    fn silent() -> Notify {
        Arc::new(|_| {})
    }

    fn provider_from(folder: &Path, interval: Duration) -> impl Future<Output = CredentialsProvider> {
        let command = command_in(folder);
        let fetched = async move {
            CredentialsProvider::fetch_every(interval, Some("ops".into()), PasswordSource::Command(command), silent())
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
    fn overlapping_rejections_cause_one_fetch_and_no_delay() {
        in_a_folder(|folder| async move {
            let provider = provider_from(&folder, Duration::ZERO).await;
            let first = provider.credentials();
            std::fs::write(folder.join("password"), "second\n").unwrap();
            let start = Instant::now();
            for _ in 0..50 {
                provider.rejected(&first);
                assert_eq!(provider.credentials().password.reveal(), "first");
            }
            assert!(start.elapsed() < Duration::from_millis(90), "no check waits for the command");
            until(|| provider.credentials().password.reveal() == "second").await;
            assert_eq!(provider.credentials().user.as_deref(), Some("ops"));
            provider.rejected(&first);
            sleep(Duration::from_millis(50)).await;
            assert_eq!(runs(&folder), 2, "the rejected credentials are not the current ones");
            provider.rejected(&provider.credentials());
            until(|| runs(&folder) == 3).await;
        });
    }

    #[test]
    fn a_failed_fetch_keeps_the_old_password_and_is_tried_again() {
        in_a_folder(|folder| async move {
            let provider = provider_from(&folder, Duration::ZERO).await;
            std::fs::remove_file(folder.join("password")).unwrap();
            let first = provider.credentials();
            provider.rejected(&first);
            until(|| runs(&folder) == 2 && !provider.state().limit.is_running).await;
            assert!(Arc::ptr_eq(&provider.credentials(), &first));
            std::fs::write(folder.join("password"), "second\n").unwrap();
            provider.rejected(&first);
            until(|| provider.credentials().password.reveal() == "second").await;
        });
    }

    #[test]
    fn an_expiring_password_is_refreshed_without_a_rejection() {
        in_a_folder(|folder| async move {
            std::fs::write(folder.join("password"), "second\n").unwrap();
            let fetched = Fetched {
                password: crate::model::secret::Secret::new("first"),
                good_for: Some(Duration::from_millis(30)),
            };
            let limit = FetchLimit { started: Instant::now(), is_running: false };
            let source = PasswordSource::Command(command_in(&folder));
            let provider =
                CredentialsProvider::start(fetched, limit, Duration::from_millis(20), None, source, silent());
            assert_eq!(provider.credentials().password.reveal(), "first");
            until(|| provider.credentials().password.reveal() == "second").await;
            until(|| runs(&folder) >= 2).await;
        });
    }

    #[test]
    fn a_fixed_password_is_not_fetched_again() {
        in_a_folder(|_| async {
            let source = PasswordSource::Given(crate::model::secret::Secret::new("hunter2"));
            let provider = CredentialsProvider::fetch_every(Duration::ZERO, None, source, silent()).await.unwrap();
            provider.rejected(&provider.credentials());
            assert!(!provider.state().limit.is_running);
            assert!(!format!("{provider:?}").contains("hunter2"));
        });
    }
}
