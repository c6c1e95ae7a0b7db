//! Parses durations, sizes and times from the command line.

use std::time::Duration;

use chrono::{DateTime, FixedOffset, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _};

/// The longest accepted duration. Sums of longer durations could overflow a clock.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Parses seconds (`300`, `0.5`) or a duration with units (`5m`, `1m30s`, `250ms`).
///
/// # Errors
/// The text says what is wrong, with an example.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "must be seconds (300, 0.5) or a duration such as 250ms, 5m or 1m30s";
    let parsed = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| HINT.to_owned())?,
        Err(_) => humantime::parse_duration(text.trim()).map_err(|_| HINT.to_owned())?,
    };
    if parsed > LONGEST {
        return Err("must be ten years at most".to_owned());
    }
    Ok(parsed)
}

/// Like [`duration`], but rejects zero.
///
/// # Errors
/// The text says what is wrong, with an example.
pub fn nonzero_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero, such as 0.5 or 250ms".to_owned()),
        duration => Ok(duration),
    }
}

/// Like [`nonzero_duration`], but rejects a time in which no server can answer: under 1 ms.
///
/// # Errors
/// The text says what is wrong, with an example.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = nonzero_duration(text)?;
    if timeout < Duration::from_millis(1) {
        return Err("must be at least 1 ms, such as 0.5 or 250ms".to_owned());
    }
    Ok(timeout)
}

/// Parses a size in bytes. Units are powers of 1024, as in logrotate: `500K`, `10M`, `1G`.
pub fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let factor: u64 = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

/// Parses a time: a date, a date and time, a time of today, RFC 3339, or a duration followed by `ago`.
///
/// `now` is the current time. A time without an offset is in UTC or in local time.
pub fn time(text: &str, now: DateTime<FixedOffset>, utc: bool) -> Option<DateTime<FixedOffset>> {
    let text = text.trim();
    if let Some(ago) = text.strip_suffix("ago") {
        return now.checked_sub_signed(TimeDelta::from_std(duration(ago).ok()?).ok()?);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at);
    }

    let time = |text: &str| {
        ["%H:%M:%S%.f", "%H:%M"].into_iter().find_map(|format| NaiveTime::parse_from_str(text, format).ok())
    };
    let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();

    let local = match (text.split_once([' ', 'T']), date(text), time(text)) {
        (_, Some(date), _) => date.and_time(NaiveTime::MIN),
        (_, _, Some(time)) => now.date_naive().and_time(time),
        (Some((day, hour)), _, _) => date(day)?.and_time(time(hour.trim())?),
        (None, None, None) => return None,
    };

    if utc {
        return Some(local.and_utc().fixed_offset());
    }
    // When daylight saving time begins or ends, a skipped time means an hour later, and a repeated time means the first
    // one.
    let earliest = |local: NaiveDateTime| Local.from_local_datetime(&local).earliest();
    earliest(local).or_else(|| earliest(local + TimeDelta::hours(1))).map(|at| at.fixed_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_humantime() {
        for (text, millis) in [
            ("300", 300_000),
            ("0.5", 500),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1e3", 1_000_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "nan", "inf", "-inf", "soon", "5 parsecs", "1e300", "99999999999", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(nonzero_duration("0").is_err() && nonzero_duration("0s").is_err());
    }

    #[test]
    fn times_are_read_as_they_are_typed() {
        let now = DateTime::parse_from_rfc3339("2025-08-27T12:00:00Z").unwrap();
        for (text, read) in [
            ("2025-08-27", "2025-08-27T00:00:00+00:00"),
            ("2025-08-27 07:35", "2025-08-27T07:35:00+00:00"),
            ("2025-08-27T07:35:01.5", "2025-08-27T07:35:01.500+00:00"),
            ("07:35", "2025-08-27T07:35:00+00:00"),
            ("2025-08-27T07:35:01+02:00", "2025-08-27T07:35:01+02:00"),
            ("2h ago", "2025-08-27T10:00:00+00:00"),
            ("1h30m ago", "2025-08-27T10:30:00+00:00"),
        ] {
            assert_eq!(time(text, now, true).map(|at| at.to_rfc3339()).as_deref(), Some(read), "{text}");
        }
        for text in ["", "yesterday", "25:00", "2025-13-01", "ago", "2025-08-27 x"] {
            assert_eq!(time(text, now, true), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("10M"), Some(10 << 20));
        assert_eq!(size("512k"), Some(512 << 10));
        assert_eq!(size("100"), Some(100));
        for text in ["", "0", "M", "10 M", "10MB", "-1", "99999999999999999999", "99999999999G"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
