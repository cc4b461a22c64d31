//! When something began, as an object says, and how long it lasts -> how much of that is left.
//!
//! What an object says may be of a clock that was set back since, or of somebody who would have it last: a beginning that lies ahead is believed as far as the
//! clocks of two servers may differ, and no wait is longer than the whole.

use std::time::Duration;

use api::time::{Timestamp, after};

/// Never more than `span`; nothing where the beginning lies ahead by more than that.
pub fn remaining(began: Timestamp, span: Duration, now: Timestamp) -> Duration {
    let left = Duration::try_from(after(began, span).duration_since(now)).unwrap_or_default();
    if left > span.saturating_mul(2) { Duration::ZERO } else { left.min(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_beginning_makes_it_last_for_ever() {
        let (at, span) = (|second| Timestamp::from_second(second).unwrap(), Duration::from_secs(60));
        for (began, left) in [(-1000, 0), (-60, 0), (-59, 1), (0, 60), (30, 60), (60, 60), (61, 0), (1_000_000_000, 0)] {
            assert_eq!(remaining(at(began), span, at(0)).as_secs(), left, "{began}");
        }
        for (began, now) in [(Timestamp::MIN, Timestamp::MAX), (Timestamp::MAX, Timestamp::MIN)] {
            assert_eq!(remaining(began, span, now), Duration::ZERO);
        }
        // Whatever it says, it ends: the clock goes on, and the rest with it.
        for began in [Timestamp::MAX, at(45), at(-45)] {
            assert!((0..240).any(|now| remaining(began, span, at(now)).is_zero()), "{began}");
        }
    }
}
