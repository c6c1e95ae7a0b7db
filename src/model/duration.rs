//! Lengths of time, as scripts write them.

use std::fmt::Display;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_as_scripts_write_them() {
        for (millis, text) in [(300_000, "300"), (500, "0.5"), (1_250, "1.25"), (0, "0"), (1, "0.001")] {
            assert_eq!(seconds(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
