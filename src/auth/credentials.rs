//! Credentials that are refreshed during a run: passwords after a rotation, tokens before they expire.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::auth::fetched::Fetched;
use crate::auth::password::PasswordSource;
use crate::auth::renewal::Renewal;
use crate::model::notify::Notify;
use crate::model::secret::Credentials;

/// The minimum time from the start of one fetch to the start of the next, except for a file. If the server rejects every
/// check, the secret store must not be queried at the rate of the checks.
const INTERVAL: Duration = Duration::from_secs(60);

/// The minimum time between two notices with the same text: a file is read again at each rejected check.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// Credentials, refreshed on rotation or expiry. Clones share their state.
#[derive(Clone)]
pub struct CredentialsProvider(Arc<Shared>);

struct Shared {
    source: PasswordSource,
    /// [`INTERVAL`], zero for a file, or less in tests.
    interval: Duration,
    state: Mutex<State>,
    renewal: Renewal,
    notify: Notify,
}

struct State {
    credentials: Arc<Credentials>,
    /// The server rejected these credentials.
    rejected: bool,
    /// When the last fetch started.
    fetched: Instant,
    /// How long the credentials may be used, if the last fetch said so.
    good_for: Option<Duration>,
    /// A fetch is waiting for the end of the interval.
    is_scheduled: bool,
    /// The last notice, and when it was given.
    notice: Option<(String, Instant)>,
}

/// Keeps the memory of this process out of core dumps, and from debuggers of the same user, because it holds a password.
/// The limit is inherited by `--password-command`.
pub fn forbid_core_dumps() {
    // Neither can fail: a limit may always be lowered, and Linux knows the call since 2.4. Without the latter, a program
    // that collects core dumps through a pipe would still get one.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
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
        // Reading a small file costs no more than the check that was rejected.
        let interval = if matches!(source, PasswordSource::File(_)) { Duration::ZERO } else { INTERVAL };
        Self::fetch_every(interval, user, source, notify).await.map(Some)
    }

    async fn fetch_every(
        interval: Duration,
        user: Option<String>,
        source: PasswordSource,
        notify: Notify,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let fetched = source.fetch().await?;
        Ok(Self::start(fetched, started, interval, user, source, notify))
    }

    /// Starts with the result of the first fetch, which began at `started`. Must be called within a Tokio runtime.
    fn start(
        Fetched { password, good_for }: Fetched,
        started: Instant,
        interval: Duration,
        user: Option<String>,
        source: PasswordSource,
        notify: Notify,
    ) -> Self {
        let state = State {
            credentials: Arc::new(Credentials { user, password }),
            rejected: false,
            fetched: started,
            good_for: None,
            is_scheduled: false,
            notice: None,
        };
        let state = Mutex::new(state);
        let provider =
            CredentialsProvider(Arc::new(Shared { source, interval, state, renewal: Renewal::default(), notify }));

        if let Some(good_for) = good_for {
            tokio::spawn(provider.clone().keep_fresh(good_for));
        }
        provider
    }

    /// The current credentials.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.state().credentials.clone()
    }

    /// The credentials for the next login. If the server rejected the current ones and they are from a file, it is read
    /// again before: so the first check after the change of the file passes. This takes at most `patience`.
    pub async fn for_login(&self, patience: Duration) -> Arc<Credentials> {
        if self.state().rejected && matches!(self.0.source, PasswordSource::File(_)) {
            self.fetch_if_due();
            self.0.renewal.wait(patience).await;
        }
        self.credentials()
    }

    /// Must be called when the server accepted `credentials`.
    pub fn accepted(&self, credentials: &Arc<Credentials>) {
        let mut state = self.state();
        if Arc::ptr_eq(credentials, &state.credentials) {
            state.rejected = false;
        }
    }

    /// Must be called when the server rejected `credentials`. If the source may have newer ones, they are fetched in
    /// the background, so that no check waits. The old ones stay in use until then, or if the fetch fails.
    pub fn rejected(&self, credentials: &Arc<Credentials>) {
        let mut state = self.state();
        // Credentials that were already replaced while the check was running need no fetch.
        let is_current = Arc::ptr_eq(credentials, &state.credentials);
        if !is_current || !self.0.source.can_change() {
            return;
        }
        state.rejected = true;
        drop(state);

        if !self.fetch_if_due() {
            self.schedule_fetch();
        }
    }

    /// Starts a fetch, unless one is running or the last one started less than an interval ago. Returns whether a fetch
    /// is running.
    fn fetch_if_due(&self) -> bool {
        if self.0.renewal.is_running() {
            return true;
        }
        let is_due = self.state().fetched.elapsed() >= self.0.interval;
        if is_due {
            let provider = self.clone();
            self.0.renewal.start(async move { provider.refresh().await });
        }
        is_due
    }

    /// Fetches at the end of the interval if the credentials are still rejected then.
    fn schedule_fetch(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_scheduled, true) {
            return;
        }
        let due = state.fetched + self.0.interval;
        drop(state);

        let provider = self.clone();
        tokio::spawn(async move {
            sleep_until(due).await;
            let mut state = provider.state();
            state.is_scheduled = false;
            let is_rejected = state.rejected;
            drop(state);
            if is_rejected {
                provider.fetch_if_due();
            }
        });
    }

    /// Fetches again, and notifies the user of a failure.
    async fn refresh(&self) {
        self.state().fetched = Instant::now();
        let fetched = self.0.source.fetch_in_background().await;

        match fetched {
            Ok(Fetched { password, good_for }) => {
                let mut state = self.state();
                let is_same = password == state.credentials.password;
                debug!("{} gave {} password", self.0.source, if is_same { "the same" } else { "another" });
                if !is_same {
                    state.credentials = Arc::new(Credentials { user: state.credentials.user.clone(), password });
                    state.rejected = false;
                }
                state.good_for = good_for;
            }
            Err(error) => {
                self.state().good_for = None;
                self.give_notice(format!("{error:#}; the old password stays in use"));
            }
        }
    }

    fn give_notice(&self, text: String) {
        let mut state = self.state();
        let is_repeated =
            state.notice.as_ref().is_some_and(|(last, at)| *last == text && at.elapsed() < NOTICE_INTERVAL);
        if !is_repeated {
            (self.0.notify)(&text);
            state.notice = Some((text, Instant::now()));
        }
    }

    /// Refreshes a token before it expires, even while no checks run: a break between cycles may be longer than the
    /// token's lifetime.
    async fn keep_fresh(self, mut good_for: Duration) {
        loop {
            sleep(good_for).await;
            self.fetch_if_due();
            self.0.renewal.wait(Duration::MAX).await;
            good_for = self.state().good_for.take().unwrap_or(self.0.interval);
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_fetch_starts_once_an_interval_and_at_its_end_without_another_rejection() {
        in_a_folder(|folder| async move {
            let (interval, start) = (Duration::from_secs(1), Instant::now());
            let provider = provider_from(&folder, interval).await;
            let first = provider.credentials();
            for _ in 0..20 {
                provider.rejected(&first);
            }
            assert!(runs(&folder) == 1 || start.elapsed() >= interval, "the first fetch counts");
            std::fs::write(folder.join("password"), "second\n").unwrap();
            until(|| provider.credentials().password.reveal() == "second").await;
            assert!(start.elapsed() >= interval, "too early");
            assert_eq!(runs(&folder), 2);
        });
    }

    #[test]
    fn a_rejected_file_is_read_before_each_login() {
        in_a_folder(|folder| async move {
            let (patience, file) = (Duration::from_secs(30), folder.join("password"));
            let notices = Arc::<Mutex<Vec<String>>>::default();
            let (notify, source) = (notices.clone(), PasswordSource::File(file.clone()));
            let notify: Notify = Arc::new(move |text: &str| notify.lock().unwrap().push(text.to_owned()));
            let provider = CredentialsProvider::fetch(Some((None, source)), notify).await.unwrap().unwrap();

            // A file that changes is not read again as long as the server accepts the password.
            let first = provider.credentials();
            std::fs::write(&file, "second\n").unwrap();
            provider.accepted(&first);
            assert_eq!(provider.for_login(patience).await.password.reveal(), "first");

            provider.rejected(&first);
            provider.0.renewal.wait(patience).await;
            assert_eq!(provider.credentials().password.reveal(), "second");

            // The server changed first, and the file later.
            provider.rejected(&provider.credentials());
            assert_eq!(provider.for_login(patience).await.password.reveal(), "second");
            std::fs::write(&file, "third\n").unwrap();
            assert_eq!(provider.for_login(patience).await.password.reveal(), "third");

            // A file that is missing at every check is reported once.
            std::fs::remove_file(&file).unwrap();
            let third = provider.credentials();
            provider.rejected(&third);
            for _ in 0..5 {
                assert!(Arc::ptr_eq(&provider.for_login(patience).await, &third));
            }
            assert_eq!(notices.lock().unwrap().len(), 1, "{notices:?}");
        });
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
            until(|| runs(&folder) == 2 && !provider.0.renewal.is_running()).await;
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
            let (started, source) = (Instant::now(), PasswordSource::Command(command_in(&folder)));
            let provider =
                CredentialsProvider::start(fetched, started, Duration::from_millis(20), None, source, silent());
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
            assert!(!provider.0.renewal.is_running());
            assert!(!format!("{provider:?}").contains("hunter2"));
        });
    }
}
