//! What is checked: the endpoint, how to speak TLS with it, and the credentials to present there.

use std::fmt;
use std::path::PathBuf;

use crate::login::Login;
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

    /// `text` up to where it begins to show this secret.
    ///
    /// Who does not know AUTH repeats its arguments, perhaps cut short: `ERR unknown command 'AUTH', with args
    /// beginning with: …` (Redis's `server.c`, `commandCheckExistence`).
    pub fn cut_from(&self, text: &str) -> String {
        let head = match self.0.char_indices().nth(8) {
            Some((end, _)) => &self.0[..end],
            None => &self.0,
        };
        match text.find(head) {
            Some(at) if !head.is_empty() => format!("{}[redacted]", &text[..at]),
            _ => text.to_owned(),
        }
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

/// The endpoint with all that is needed to open a connection to it.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub tls: Option<Tls>,
    pub login: Option<Login>,
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
    fn a_text_is_cut_where_it_shows_a_secret() {
        let secret = Secret::new("hünter2-s3cret");
        assert_eq!(secret.cut_from("ERR args: 'hünter2-s3cret' 'b'"), "ERR args: '[redacted]");
        assert_eq!(secret.cut_from("ERR args: 'hünter2-"), "ERR args: '[redacted]");
        assert_eq!(secret.cut_from("ERR syntax error"), "ERR syntax error");
        assert_eq!(Secret::new("ab").cut_from("ERR 'ab'"), "ERR '[redacted]");
        assert_eq!(Secret::new("").cut_from("ERR"), "ERR");
    }

    #[test]
    fn endpoints_print_as_they_are_dialled() {
        let tcp = |host: &str| Endpoint::Tcp { host: host.into(), port: 6379 }.to_string();
        assert_eq!(tcp("cache.example"), "cache.example:6379");
        assert_eq!(tcp("::1"), "[::1]:6379");
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
