//! What could be told again and again -> told now and then, with how often it was not told meanwhile: who makes it happen cannot fill a disk.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One thing to tell.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    /// When it was told last, and how often it was not since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    pub const fn new(every: Duration) -> Self {
        Self { every, told: Mutex::new((None, 0)) }
    }

    /// Whether it is told now: then how often it was not since the last time.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.told.lock();
        if told.0.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            told.1 += 1;
            return None;
        }
        let (_, untold) = std::mem::replace(&mut *told, (Some(now), 0));
        Some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_seldom() {
        let (seldom, began) = (Seldom::new(Duration::from_secs(60)), Instant::now());
        let at = |seconds: u64| seldom.due_at(began + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(59), at(60), at(61), at(200)], [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
