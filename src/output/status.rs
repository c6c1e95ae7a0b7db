//! The text of the live status line of `cycles`. Pure; `Console` shows it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::model::clock::Stamp;
use crate::model::failure::Kind;

/// The content of the status line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The current cycle, and how many there are.
    pub cycle: u32,
    pub cycles: u32,
    pub checks: u64,
    pub failures: u64,
    /// Checks that could not be made for a reason on our side.
    pub not_observed: u64,
    /// How long the last successful check took.
    pub latency: Option<Duration>,
    /// The time and kind of the first failure of one subject that is down.
    pub down: Option<(Stamp, Kind)>,
    /// Time until the end of the cycle, or in a break until the next cycle.
    pub left: Duration,
    pub in_break: bool,
}

impl Status {
    /// The line, without colour.
    pub fn line(&self) -> String {
        // Whole seconds, rounded up: a countdown ends at 1, not at 0.
        let left = humantime::format_duration(Duration::from_secs(self.left.as_nanos().div_ceil(1_000_000_000) as u64));

        let Status { cycle, cycles, checks, failures, .. } = self;
        let mut line = if self.in_break {
            format!("break, cycle {} of {cycles} starts in {left}", cycle + 1)
        } else {
            format!("cycle {cycle} of {cycles}, {left} left")
        };

        match &self.down {
            Some((since, kind)) => _ = write!(line, " | DOWN since {since} ({kind})"),
            None if *checks > 0 => line.push_str(" | up"),
            None => {}
        }
        _ = write!(line, " | checks {checks}, failed {failures}");
        if self.not_observed > 0 {
            _ = write!(line, ", not observed {}", self.not_observed);
        }
        if let Some(latency) = self.latency {
            _ = write!(line, " | last {:.1} ms", latency.as_secs_f64() * 1000.0);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_line_shows_the_state_and_the_time_left() {
        let mut status = Status { cycle: 1, cycles: 4, left: Duration::from_millis(299_100), ..Status::default() };
        assert_eq!(status.line(), "cycle 1 of 4, 5m left | checks 0, failed 0");
        status.checks = 3;
        status.latency = Some(Duration::from_micros(412));
        assert_eq!(status.line(), "cycle 1 of 4, 5m left | up | checks 3, failed 0 | last 0.4 ms");
        let at = DateTime::parse_from_rfc3339("2025-08-27T07:37:10Z").unwrap();
        status.down = Some((Stamp { at, millis: false }, Kind::Refused));
        status.failures = 1;
        status.in_break = true;
        status.left = Duration::from_secs(61);
        assert_eq!(
            status.line(),
            "break, cycle 2 of 4 starts in 1m 1s | DOWN since 2025-08-27 07:37:10 (refused) | checks 3, failed 1 | last 0.4 ms"
        );
    }
}
