//! The failure texts of the scripts that this tool replaces: the output of redis-cli.

use std::str::FromStr as _;

use crate::model::failure::{Failure, Kind};

/// Classifies a script's failure text, and keeps the text.
///
/// The texts are from redis-cli, hiredis and libc, and the server's error replies.
pub fn failure(text: &str) -> Failure {
    const PHRASES: [(&str, Kind); 13] = [
        ("Connection refused", Kind::Refused),
        ("Connection reset", Kind::Reset),
        ("Broken pipe", Kind::Reset),
        ("Server closed the connection", Kind::Closed),
        ("No route to host", Kind::Unreachable),
        ("Network is unreachable", Kind::Unreachable),
        ("timed out", Kind::Timeout),
        ("Resource temporarily unavailable", Kind::Timeout),
        ("Name or service not known", Kind::Dns),
        ("Temporary failure in name resolution", Kind::Dns),
        ("No address associated with hostname", Kind::Dns),
        ("SSL", Kind::Tls),
        ("max number of clients", Kind::MaxClients),
    ];

    let reply = text.strip_prefix("(error) ").unwrap_or(text);
    let reply = reply.strip_prefix("AUTH failed: ").unwrap_or(reply);
    let of_reply = Failure::from_reply(reply).kind;
    let kind = match PHRASES.into_iter().find(|(phrase, _)| text.contains(phrase)) {
        _ if of_reply != Kind::Error => of_reply,
        Some((_, kind)) => kind,
        None => Kind::Error,
    };
    Failure::new(kind, text)
}

/// Parses the failure text of a line: `kind: detail` as written by this tool, or a script's free text.
pub fn parse_failure(text: &str) -> Failure {
    let kind_and_detail = text.split_once(": ").and_then(|(kind, detail)| Some((Kind::from_str(kind).ok()?, detail)));
    match kind_and_detail {
        // A check that was not observed has a line of its own, so this is not one.
        Some((Kind::Local, _)) | None => failure(text),
        Some((kind, detail)) => Failure::new(kind, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_texts_are_classified() {
        for (text, kind) in [
            ("Could not connect to Redis at cache.example:6379: Connection refused", Kind::Refused),
            ("Could not connect to Redis at cache.example:6379: Name or service not known", Kind::Dns),
            ("Could not connect to Redis", Kind::Error),
            ("Error: Connection reset by peer", Kind::Reset),
            ("Error: Server closed the connection", Kind::Closed),
            ("LOADING Redis is loading the dataset in memory", Kind::Loading),
            ("(error) NOAUTH Authentication required.", Kind::Auth),
            ("AUTH failed: WRONGPASS invalid username-password pair or user is disabled.", Kind::Auth),
            ("ERR DB index is out of range", Kind::NoSuchDb),
            ("", Kind::Error),
        ] {
            assert_eq!(failure(text), Failure::new(kind, text), "{text}");
        }
        assert_eq!(
            parse_failure("reset: Connection reset by peer"),
            Failure::new(Kind::Reset, "Connection reset by peer")
        );
        assert_eq!(parse_failure("Error: Connection reset by peer").kind, Kind::Reset);
    }
}
