//! Local times around one change of the clocks, without a time zone database.

use chrono::DateTime;

use super::arithmetic::Micros;

const SECOND: Micros = 1_000_000;

/// A time zone, near one change of its offset from UTC.
#[derive(Debug, PartialEq, Eq)]
pub struct Zone {
    pub name: &'static str,
    /// When the clocks change.
    pub change: Micros,
    /// Seconds east of UTC, before and after.
    offsets: (i64, i64),
}

const HOUR: i64 = 3600;

/// The nights of three zones, one of which changes by half an hour, and a zone that never changes.
pub const ZONES: [Zone; 7] = [
    Zone { name: "Europe/Berlin", change: 1_761_440_400 * SECOND, offsets: (2 * HOUR, HOUR) },
    Zone { name: "Europe/Berlin", change: 1_774_746_000 * SECOND, offsets: (HOUR, 2 * HOUR) },
    Zone { name: "America/New_York", change: 1_762_063_200 * SECOND, offsets: (-4 * HOUR, -5 * HOUR) },
    Zone { name: "America/New_York", change: 1_772_953_200 * SECOND, offsets: (-5 * HOUR, -4 * HOUR) },
    Zone { name: "Australia/Lord_Howe", change: 1_775_314_800 * SECOND, offsets: (11 * HOUR, 10 * HOUR + HOUR / 2) },
    Zone { name: "Australia/Lord_Howe", change: 1_759_591_800 * SECOND, offsets: (10 * HOUR + HOUR / 2, 11 * HOUR) },
    Zone { name: "UTC", change: 1_756_280_101 * SECOND, offsets: (0, 0) },
];

const SECONDS: &str = "%Y-%m-%d %H:%M:%S";
const MILLIS: &str = "%Y-%m-%d %H:%M:%S%.3f";

fn formatted(local: Micros, format: &str) -> String {
    DateTime::from_timestamp_micros(local).expect("a time").format(format).to_string()
}

impl Zone {
    /// Whether the clocks go back.
    pub fn repeats(&self) -> bool {
        self.offsets.1 < self.offsets.0
    }

    /// Whether the clocks show this time twice.
    pub fn occurs_twice(&self, at: Micros) -> bool {
        let length = (self.offsets.0 - self.offsets.1) * SECOND;
        (self.change - length..self.change + length).contains(&at)
    }

    fn offset(&self, at: Micros) -> i64 {
        if at < self.change { self.offsets.0 } else { self.offsets.1 }
    }

    /// A time in this format of `date`.
    pub fn format(&self, at: Micros, format: &str) -> String {
        formatted(at + self.offset(at) * SECOND, format)
    }

    /// A time as the clocks show it that are right at another time.
    pub fn stamp_as_at(&self, then: Micros, at: Micros, millis: bool) -> String {
        formatted(at + self.offset(then) * SECOND, if millis { MILLIS } else { SECONDS })
    }

    /// `2025-08-27 07:35:01`, or with milliseconds.
    pub fn stamp(&self, at: Micros, millis: bool) -> String {
        self.stamp_as_at(at, at, millis)
    }

    /// Whether the offset is the same at two times.
    pub fn is_same(&self, one: Micros, other: Micros) -> bool {
        self.offset(one) == self.offset(other)
    }

    fn east(&self, at: Micros) -> String {
        let minutes = self.offset(at) / 60;
        let sign = if minutes < 0 { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    }

    /// `2025-08-27 07:35:01.250 +02:00`.
    pub fn exact(&self, at: Micros) -> String {
        format!("{} {}", self.stamp(at, true), self.east(at))
    }

    /// `2025-08-27T07:35:01.250+02:00`.
    pub fn rfc3339(&self, at: Micros) -> String {
        format!("{}{}", self.format(at, "%Y-%m-%dT%H:%M:%S%.3f"), self.east(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_change_when_they_do() {
        let around = |zone: &Zone| [zone.stamp(zone.change - 1, false), zone.stamp(zone.change, false)];
        assert_eq!(around(&ZONES[0]), ["2025-10-26 02:59:59", "2025-10-26 02:00:00"]);
        assert_eq!(around(&ZONES[1]), ["2026-03-29 01:59:59", "2026-03-29 03:00:00"]);
        assert_eq!(around(&ZONES[2]), ["2025-11-02 01:59:59", "2025-11-02 01:00:00"]);
        assert_eq!(around(&ZONES[3]), ["2026-03-08 01:59:59", "2026-03-08 03:00:00"]);
        assert_eq!(around(&ZONES[4]), ["2026-04-05 01:59:59", "2026-04-05 01:30:00"]);
        assert_eq!(around(&ZONES[5]), ["2025-10-05 01:59:59", "2025-10-05 02:30:00"]);
        assert_eq!(ZONES[2].exact(ZONES[2].change), "2025-11-02 01:00:00.000 -05:00");
    }
}
