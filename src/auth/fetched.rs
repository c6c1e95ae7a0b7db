//! A fetched password.

use std::time::Duration;

use crate::model::secret::Secret;

/// A password, and how long it may be used before it must be fetched again. None means until the server rejects it.
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
