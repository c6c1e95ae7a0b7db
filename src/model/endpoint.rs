//! Where a server listens.

use std::fmt;
use std::path::PathBuf;

use crate::model::text::Printable;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or an IP address. A name is resolved again for each connection.
    Tcp { host: String, port: u16 },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => f.write_str(&Printable::path(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_print_as_they_are_dialled() {
        let tcp = |host: &str| Endpoint::Tcp { host: host.into(), port: 6379 }.to_string();
        assert_eq!(tcp("cache.example"), "cache.example:6379");
        assert_eq!(tcp("::1"), "[::1]:6379");
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
