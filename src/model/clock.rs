//! The wall clock, read for timestamps only. Durations and schedules use the monotonic clock, which NTP does not step.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, Local, SecondsFormat, TimeDelta, Utc};

/// A moment of the wall clock, as the logs print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub at: DateTime<FixedOffset>,
    /// Whether milliseconds are printed.
    pub millis: bool,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = if self.millis { "%Y-%m-%d %H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S" };
        self.at.format(format).fmt(f)
    }
}

impl Stamp {
    /// RFC 3339 with milliseconds and offset, for programs.
    pub fn rfc3339(&self) -> String {
        self.at.to_rfc3339_opts(SecondsFormat::Millis, false)
    }

    /// Local time with milliseconds and the offset from UTC: `2025-08-27 07:35:01.250 +02:00`.
    pub fn exact(&self) -> impl fmt::Display {
        self.at.format("%Y-%m-%d %H:%M:%S%.3f %:z")
    }

    /// The same moment, with another's offset from UTC.
    #[must_use]
    pub fn in_zone_of(self, other: Stamp) -> Self {
        Stamp { at: self.at.with_timezone(other.at.offset()), ..self }
    }

    /// The moment `by` after this one.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        let by = TimeDelta::from_std(by).unwrap_or_default();
        Stamp { at: self.at.checked_add_signed(by).unwrap_or(self.at), ..self }
    }

    /// The moment `by` before this one.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        let by = TimeDelta::from_std(by).unwrap_or_default();
        Stamp { at: self.at.checked_sub_signed(by).unwrap_or(self.at), ..self }
    }
}

/// When a check began: a timestamp for the logs, and a time whose differences are true durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub stamp: Stamp,
    /// Time since an arbitrary origin that all moments of one fold share. From the monotonic clock in a live run.
    pub since: Duration,
}

impl Moment {
    /// The moment `by` before this one.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Moment { stamp: self.stamp.earlier(by), since: self.since.saturating_sub(by) }
    }
}

/// Reads the wall clock, with the same zone and precision for a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// UTC instead of local time.
    pub utc: bool,
    pub millis: bool,
}

impl Clock {
    pub fn now(self) -> Stamp {
        let at = if self.utc { Utc::now().fixed_offset() } else { Local::now().fixed_offset() };
        Stamp { at, millis: self.millis }
    }

    /// The moment `wait` from now. None if that is out of range.
    pub fn after(self, wait: Duration) -> Option<Stamp> {
        let at = Utc::now().checked_add_signed(TimeDelta::from_std(wait).ok()?)?;
        // Daylight saving time may change until then.
        let at = if self.utc { at.fixed_offset() } else { at.with_timezone(&Local).fixed_offset() };
        Some(Stamp { at, millis: self.millis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_print_as_date_does() {
        let at = DateTime::parse_from_rfc3339("2025-08-27T07:35:01.250+02:00").unwrap();
        assert_eq!(Stamp { at, millis: false }.to_string(), "2025-08-27 07:35:01");
        assert_eq!(Stamp { at, millis: true }.to_string(), "2025-08-27 07:35:01.250");
    }
}
