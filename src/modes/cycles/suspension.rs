//! How long the machine was suspended.

use std::time::Duration;

/// The total time that the machine was suspended since it was started. Zero if the system does not report it.
///
/// Nothing else in a run shows a suspension, because the monotonic clock stands still (Linux, clock_gettime(2)).
pub fn machine_suspended() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use rustix::time::{ClockId, clock_gettime};
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        let monotonic = read(ClockId::Monotonic);
        read(ClockId::Boottime).saturating_sub(monotonic)
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}
