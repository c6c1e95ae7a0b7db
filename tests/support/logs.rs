//! Times and numbers in log lines, of made-up logs and of those that runs wrote.

use chrono::{DateTime, NaiveDateTime, TimeDelta};

/// A second of made-up logs, counted from the start that all of them share: 2025-08-27 07:35:01 UTC.
pub fn second(second: i64) -> NaiveDateTime {
    let start = DateTime::from_timestamp(1_756_280_101, 0).expect("a time");
    (start + TimeDelta::seconds(second)).naive_utc()
}

/// A time as the logs write it, with or without milliseconds.
pub fn parse_stamp(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text.trim(), "%Y-%m-%d %H:%M:%S%.f").unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The time stamps of the lines that begin with one and contain a text.
pub fn stamps(log: &str, text: &str) -> Vec<NaiveDateTime> {
    let stamp = |line: &str| {
        let length = if line.as_bytes()[19] == b'.' { 23 } else { 19 };
        parse_stamp(&line[..length])
    };

    log.lines().filter(|line| line.contains(text)).map(stamp).collect()
}

/// The number of the last success of a node, the cluster or the held connection; 0 when there is none.
pub fn last_success(log: &str, who: &str) -> u64 {
    let line = log.lines().rev().find(|line| line.contains(&format!(" {who} SUCCESS ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Replaces every time stamp by `<time>`, so that logs can be compared byte for byte.
pub fn normalised(text: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    const MILLISECONDS: &[u8] = b".000";
    let bytes = text.as_bytes();
    let (mut result, mut at) = (Vec::new(), 0);

    while at < bytes.len() {
        if !has_shape(&bytes[at..], SHAPE) {
            result.push(bytes[at]);
            at += 1;
            continue;
        }

        result.extend_from_slice(b"<time>");
        at += SHAPE.len();
        if has_shape(&bytes[at..], MILLISECONDS) {
            at += MILLISECONDS.len();
        }
    }

    String::from_utf8(result).expect("only whole stamps were replaced")
}

/// Whether a text begins in this shape, in which `0` stands for any digit.
fn has_shape(bytes: &[u8], shape: &[u8]) -> bool {
    bytes.len() >= shape.len()
        && shape.iter().zip(bytes).all(|(shape, byte)| match shape {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        })
}
