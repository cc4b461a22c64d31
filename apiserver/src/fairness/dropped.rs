//! Requests refused by a level -> when they may be tried again. Source: apiserver `pkg/util/flowcontrol/dropped_requests_tracker.go`.

use std::collections::VecDeque;

/// Seconds.
const RETRY_AFTER_MAX: u64 = 32;

/// The refusals of one level. Seconds are of any clock that goes forward.
#[derive(Debug)]
pub(crate) struct Dropped {
    /// Second and refusals, oldest first.
    history: VecDeque<(u64, u64)>,
    second: u64,
    count: u64,
    retry_after: u64,
    raised: Option<u64>,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { history: VecDeque::new(), second: 0, count: 0, retry_after: 1, raised: None }
    }
}

impl Dropped {
    /// Counts one refusal; the seconds after which it may be tried again.
    pub fn one(&mut self, second: u64) -> u64 {
        if second == self.second {
            self.count += 1;
            return self.retry_after;
        }
        self.history.push_back((self.second, self.count));
        let kept = (2 * self.retry_after).min(RETRY_AFTER_MAX);
        while self.history.front().is_some_and(|(at, _)| second.saturating_sub(*at) > kept) {
            self.history.pop_front();
        }
        (self.second, self.count) = (second, 1);
        self.adjust(second);
        self.retry_after
    }

    /// Doubles while there are many, goes down by one while there are few.
    fn adjust(&mut self, second: u64) {
        let after = self.retry_after;
        let recent = self.history.iter().filter(|(at, _)| second.saturating_sub(*at) <= after);
        let dropped: u64 = recent.map(|(_, count)| count).sum();
        let settled = self.raised.is_none_or(|at| second.saturating_sub(at) >= after);
        if settled && dropped >= 3 * after {
            self.retry_after = (after * 2).min(RETRY_AFTER_MAX);
            self.raised = Some(second);
        } else if dropped < after && after > 1 {
            self.retry_after = after - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_are_refused_the_longer_they_stay_away() {
        let mut dropped = Dropped::default();
        // Seconds since the beginning, refusals in that second, seconds told to the last of them.
        let steps = [
            (0, 5, 1),
            (1, 11, 2),
            (2, 1, 2),
            (3, 11, 4),
            (4, 1, 4),
            (7, 1, 8),
            (11, 1, 8),
            (15, 1, 7),
            (17, 1, 6),
            (21, 14, 5),
            (22, 1, 10),
        ];
        for (second, refusals, told) in steps {
            let last = (0..refusals).map(|_| dropped.one(1_000 + second)).last();
            assert_eq!(last, Some(told), "at {second}");
        }
    }

    #[test]
    fn it_stays_within_bounds() {
        let mut dropped = Dropped::default();
        for second in 0..1_000 {
            for _ in 0..500 {
                assert!((1..=RETRY_AFTER_MAX).contains(&dropped.one(second)));
            }
            assert!(dropped.history.len() <= 33);
        }
    }
}
