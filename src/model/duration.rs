//! Durations as text.

use std::fmt::{self, Display};
use std::time::Duration;

/// Seconds to the millisecond, as a shell script would write them: `300`, `0.5`.
pub fn seconds(duration: Duration) -> impl Display {
    let millis = (duration.as_nanos() + 500_000) / 1_000_000;
    let fraction = format!("{:03}", millis % 1000);
    match fraction.trim_end_matches('0') {
        "" => format!("{}", millis / 1000),
        fraction => format!("{}.{fraction}", millis / 1000),
    }
}

/// A duration in one unit: `412 us`, `1.3 ms`, `2.5 s`. It is formatted only when it is displayed.
pub fn brief(duration: Duration) -> impl Display {
    Brief(duration)
}

struct Brief(Duration);

impl Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            micros @ 0..1000 => write!(f, "{micros} us"),
            1000..1_000_000 => write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_durations_have_one_unit() {
        for (micros, text) in
            [(0, "0 us"), (412, "412 us"), (1_340, "1.3 ms"), (250_000, "250.0 ms"), (2_500_000, "2.5 s")]
        {
            assert_eq!(brief(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn seconds_as_scripts_write_them() {
        for (millis, text) in [(300_000, "300"), (500, "0.5"), (1_250, "1.25"), (0, "0"), (1, "0.001")] {
            assert_eq!(seconds(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
