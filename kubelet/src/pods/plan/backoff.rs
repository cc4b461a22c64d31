//! Failures in a row -> how long to wait before the next try.

use std::time::Duration;

use api::time::Timestamp;

/// Waits of crashed containers and failed pulls. Source: `MaxContainerBackOff` and `backOffPeriod` in `pkg/kubelet/kubelet.go`.
const DELAY_MIN: Duration = Duration::from_secs(10);
const DELAY_MAX: Duration = Duration::from_secs(300);
/// What ran this long since the last wait began starts afresh.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// One thing's failures. Source: `k8s.io/client-go/util/flowcontrol/backoff.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub delay: Duration,
    updated_at: Timestamp,
}

impl Backoff {
    /// Until when to wait after a failure at `failed_at`; `None` where there is nothing to wait for.
    pub fn until(this: Option<&Self>, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let this = this.filter(|this| !this.is_stale(failed_at))?;
        let until = failed_at + this.delay;
        (now < until).then_some(until)
    }

    /// The state after another try begins.
    pub fn next(this: Option<&Self>, failed_at: Timestamp, now: Timestamp) -> Self {
        let delay = match this {
            Some(this) if !this.is_stale(failed_at) => (this.delay * 2).min(DELAY_MAX),
            _ => DELAY_MIN,
        };
        Self { delay, updated_at: now }
    }

    fn is_stale(&self, failed_at: Timestamp) -> bool {
        failed_at.duration_since(self.updated_at).unsigned_abs() > FORGET_AFTER && failed_at > self.updated_at
    }

    /// As upstream prints it in messages: `10s`, `1m20s`, `5m0s`.
    pub fn text(&self) -> String {
        match self.delay.as_secs() {
            s if s < 60 => format!("{s}s"),
            s => format!("{}m{}s", s / 60, s % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_are_forgotten_after_ten() {
        assert_eq!(Backoff::until(None, at(5), at(5)), None, "the first restart is immediate");
        let mut backoff = Backoff::next(None, at(0), at(0));
        let mut texts = vec![backoff.text()];
        for _ in 0..5 {
            backoff = Backoff::next(Some(&backoff), at(1), at(0));
            texts.push(backoff.text());
        }
        assert_eq!(texts, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s"]);
        assert_eq!(Backoff::until(Some(&backoff), at(10), at(11)), Some(at(310)));
        assert_eq!(Backoff::until(Some(&backoff), at(10), at(310)), None);
        assert_eq!(Backoff::until(Some(&backoff), at(601), at(601)), None, "ran for more than ten minutes");
        assert_eq!(Backoff::next(Some(&backoff), at(601), at(601)).text(), "10s");
    }
}
