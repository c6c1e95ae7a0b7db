//! How long the machine slept.

use std::time::Duration;

/// For how long the machine has been suspended since it was started; zero where the system does not tell.
///
/// The monotonic clock stands still meanwhile, so nothing else in a run notices (Linux, clock_gettime(2)).
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
