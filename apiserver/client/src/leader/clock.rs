//! The kernel -> how long it has been up, asleep or not: what a leader measures its term with.
//!
//! tokio's and std's instants are of `CLOCK_MONOTONIC`, which stands still while a machine sleeps: one that wakes after an hour would lead for the rest of
//! a term that ended long ago.

use std::{fmt, sync::Arc, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::election::Time;

/// A clock that never goes back, and goes on while the machine sleeps. Cloning shares it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// Any other: tests let time pass as they like.
    pub fn of(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// How long the machine has been up.
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

/// The kernel's `CLOCK_BOOTTIME`.
impl Default for Clock {
    fn default() -> Self {
        Self::of(|| clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39").into())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/uptime` is the same clock, in hundredths of a second.
    #[test]
    fn the_clock_counts_since_the_start_of_the_machine() {
        let uptime = || -> f64 {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let (before, now, after) = (uptime(), Clock::default().now().as_secs_f64(), uptime());
        assert!(before <= now && now < after + 0.01, "{before} {now} {after}");
    }
}
