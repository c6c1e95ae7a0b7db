//! What is checked: the endpoint, how to speak TLS with it, and the credentials to present there.

use std::fmt;
use std::path::PathBuf;

use crate::password::Source;
use crate::tls::Tls;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or an IP address, looked up anew for each connection.
    Tcp { host: String, port: u16 },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A text that no log, error or debug output may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the wire and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What AUTH sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; without one the password is that of the server's `default` user.
    pub user: Option<String>,
    pub password: Secret,
}

impl Credentials {
    /// Fetches the password of a login, if there is one.
    ///
    /// # Errors
    /// The password cannot be had; see [`Source::fetch`].
    pub async fn fetch(login: Option<&(Option<String>, Source)>) -> anyhow::Result<Option<Self>> {
        let Some((user, source)) = login else { return Ok(None) };
        Ok(Some(Credentials { user: user.clone(), password: source.fetch().await? }))
    }
}

/// The endpoint with all that is needed to open a connection to it.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub tls: Option<Tls>,
    pub credentials: Option<Credentials>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted() {
        let credentials = Credentials { user: Some("ops".into()), password: Secret::new("hunter2") };
        assert!(!format!("{credentials:?}{credentials:#?}").contains("hunter2"));
    }

    #[test]
    fn endpoints_print_as_they_are_dialled() {
        let tcp = |host: &str| Endpoint::Tcp { host: host.into(), port: 6379 }.to_string();
        assert_eq!(tcp("cache.example"), "cache.example:6379");
        assert_eq!(tcp("::1"), "[::1]:6379");
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
