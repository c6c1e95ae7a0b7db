//! Parses `--uri` as redis-cli does.

use anyhow::{Context as _, bail, ensure};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::model::databases::MAX_INDEX;
use crate::model::endpoint::Endpoint;
use crate::model::secret::Secret;
use crate::model::text::Printable;

/// The parts of a URI.
#[derive(Debug, PartialEq, Eq)]
pub struct Uri {
    pub endpoint: Endpoint,
    pub tls: bool,
    pub user: Option<String>,
    /// Empty if the URI has a user followed by a colon without a password.
    pub password: Option<Secret>,
    pub db: Option<u32>,
}

/// Parses a URI as redis-cli does: user information without a colon is a password.
///
/// Errors do not repeat the URI, because it may contain a password.
pub fn parse(text: &str) -> anyhow::Result<Uri> {
    let remedy = "write redis://user:password@host:port/db, rediss://… for TLS, or unix:///path/of/socket";
    let advice =
        if has_late_at(text) { "; in a password, / # ? @ must be percent-encoded: %2F %23 %3F %40" } else { "" };
    let url = Url::parse(text).with_context(|| format!("--uri: this is not a URI; {remedy}{advice}"))?;

    let decode = |text: &str| -> anyhow::Result<String> {
        let text = percent_decode_str(text).decode_utf8().context("--uri: it contains an escape that is not UTF-8")?;
        Ok(text.into_owned())
    };
    let db = |text: &str| -> anyhow::Result<Option<u32>> {
        if text.is_empty() {
            return Ok(None);
        }
        let index = text.parse().ok().filter(|index| *index <= MAX_INDEX);
        Ok(Some(index.with_context(|| format!("--uri: the database is not an index from 0 to {MAX_INDEX}{advice}"))?))
    };

    let (user, password) = match (decode(url.username())?, url.password()) {
        (user, Some(password)) => (Some(user), Some(decode(password)?)),
        // The parser drops an empty password together with its colon, but only the colon distinguishes a user from a
        // password.
        (user, None) if has_colon(text) => (Some(user), Some(String::new())),
        (password, None) => (None, Some(password)),
    };
    let user = user.filter(|user| !user.is_empty());
    let password = password.filter(|password| !password.is_empty() || user.is_some()).map(Secret::new);

    ensure!(url.fragment().is_none(), "--uri: # must be written as %23{advice}");
    match url.scheme() {
        "redis" | "valkey" | "rediss" | "valkeys" => {
            ensure!(url.query().is_none(), "--uri: a query (after ?) is not supported; {remedy}{advice}");
            let host = url.host_str().unwrap_or_default();
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let host = if host.is_empty() { "127.0.0.1".to_owned() } else { decode(host)? };
            ensure!(Printable::is_plain(&host), "--uri: the host has a character that cannot be shown; {remedy}");
            Ok(Uri {
                endpoint: Endpoint::Tcp { host, port: url.port().unwrap_or(6379) },
                tls: matches!(url.scheme(), "rediss" | "valkeys"),
                user,
                password,
                db: db(url.path().trim_matches('/'))?,
            })
        }
        "unix" => {
            ensure!(
                url.host_str().unwrap_or_default().is_empty(),
                "--uri: the URI of a socket begins with unix:///; {remedy}"
            );
            let mut in_query = None;
            for (key, value) in url.query_pairs() {
                ensure!(key == "db", "--uri: the query may contain only db; {remedy}");
                in_query = db(&value)?;
            }
            Ok(Uri { endpoint: Endpoint::Unix(decode(url.path())?.into()), tls: false, user, password, db: in_query })
        }
        _ => bail!("--uri: unknown scheme; {remedy}"),
    }
}

/// Whether an `@` follows the first `/`, `?` or `#` after the scheme: then that is probably part of a password.
fn has_late_at(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_once(['/', '?', '#']).is_some_and(|(_, late)| late.contains('@'))
}

/// Whether the user information of a URI contains a colon.
fn has_colon(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user_information, _)| user_information.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    #[test]
    fn uris_are_read_as_redis_cli_reads_them() {
        let read = |text| parse(text).unwrap();
        let plain = read("redis://cache.example");
        assert_eq!(
            plain,
            Uri { endpoint: tcp("cache.example", 6379), tls: false, user: None, password: None, db: None }
        );
        let full = read("redis://ops:p%40ss@cache.example:6380/3");
        assert_eq!(full.endpoint, tcp("cache.example", 6380));
        assert_eq!((full.user.as_deref(), full.db), (Some("ops"), Some(3)));
        assert_eq!(full.password, Some(Secret::new("p@ss")));
        let no_user = read("redis://:pass@h");
        assert_eq!((no_user.user, no_user.password), (None, Some(Secret::new("pass"))));
        let password_only = read("redis://pass@h");
        assert_eq!((password_only.user, password_only.password), (None, Some(Secret::new("pass"))));
        let user_only = read("redis://ops:@h:7000/3");
        assert_eq!((user_only.user.as_deref(), user_only.password), (Some("ops"), Some(Secret::new(""))));
        let neither = read("redis://:@h");
        assert_eq!((neither.user, neither.password), (None, None));
        let odd = read("redis://pass@[::1]:7000").password;
        assert_eq!(odd, Some(Secret::new("pass")), "colons in the host are ignored");
        assert_eq!(read("redis://[::1]:7000/").endpoint, tcp("::1", 7000));
        assert_eq!(read("redis://").endpoint, tcp("127.0.0.1", 6379));
        for (text, tls) in [("redis://h", false), ("valkey://h", false), ("rediss://h", true), ("valkeys://h", true)] {
            assert_eq!((read(text).tls, read(text).endpoint), (tls, tcp("h", 6379)), "{text}");
        }
        let socket = read("unix:///run/redis%20a.sock?db=2");
        assert_eq!((socket.endpoint, socket.db), (Endpoint::Unix("/run/redis a.sock".into()), Some(2)));
    }

    #[test]
    fn errors_do_not_repeat_the_uri() {
        for text in [
            "hunter2",
            "http://hunter2@h",
            "hunter2:x@h",
            "hunter2://h",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h/1200000",
            "redis://:hunter2@h:0x",
            "unix://:hunter2@h/s",
            "redis://:hunter2@h/0?x=1",
            "redis://:hunter2@h#a",
            "unix:///s?password=hunter2",
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.starts_with("--uri: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
