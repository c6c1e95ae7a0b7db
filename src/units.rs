//! Durations and sizes as they are typed.

use std::time::Duration;

/// No duration of a health check is longer; beyond it, sums of durations could leave what a clock can hold.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Reads bare seconds (`300`, `0.5`) or humantime (`5m`, `1m30s`, `250ms`).
///
/// # Errors
/// What is wrong, with an example of how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write seconds (300, 0.5) or a duration such as 250ms, 5m or 1m30s";
    let parsed = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| HINT.to_owned())?,
        Err(_) => humantime::parse_duration(text.trim()).map_err(|_| HINT.to_owned())?,
    };
    if parsed > LONGEST {
        return Err("no duration may be longer than ten years".to_owned());
    }
    Ok(parsed)
}

/// Like [`duration`], but refuses zero.
///
/// # Errors
/// What is wrong, with an example of how to write it.
pub fn nonzero_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a size in bytes, `10M` and the like being powers of 1024, as logrotate reads them.
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
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("10M"), Some(10 << 20));
        assert_eq!(size("512k"), Some(512 << 10));
        assert_eq!(size("100"), Some(100));
        for text in ["", "0", "M", "10 M", "10MB", "-1", "99999999999999999999", "99999999999G"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
