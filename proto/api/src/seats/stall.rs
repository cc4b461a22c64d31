//! What waits for its reader -> for how long, and how little went meanwhile: a peer that takes next to nothing is given up.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The slowest that a reader may be: so many bytes in so much time of waiting for it. Time in which nothing waits does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub window: Duration,
    pub bytes: usize,
}

/// How long a writer has waited for its reader. The clock is read only while it waits.
#[derive(Debug, Default)]
pub struct Stall {
    since: Option<Instant>,
    /// Before that, and the bytes that have gone since this was zero.
    waited: Duration,
    gone: usize,
    /// Stays set when the wait is over: the next one is seldom far.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// So many bytes have gone: nothing waits now.
    #[inline]
    pub fn went(&mut self, bytes: usize, pace: Pace) {
        if self.since.is_some() || !self.waited.is_zero() {
            self.count(bytes, pace);
        }
    }

    fn count(&mut self, bytes: usize, pace: Pace) {
        if let Some(since) = self.since.take() {
            // A wait that was too short to be measured was one, too.
            self.waited += since.elapsed().max(Duration::from_nanos(1));
        }
        self.gone = self.gone.saturating_add(bytes);
        if self.gone >= pace.bytes {
            (self.waited, self.gone) = (Duration::ZERO, 0);
        }
    }

    /// Something waits. Ready when that has lasted too long for what went.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, pace: Pace) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let ends = since + pace.window.saturating_sub(self.waited);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(ends)));
        loop {
            // One that goes off too early is of an earlier wait, and is set again; one that is set too late is not left so.
            if alarm.deadline() > ends {
                alarm.as_mut().reset(ends);
            }
            ready!(alarm.as_mut().poll(cx));
            if Instant::now() >= ends {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::time::advance;

    use super::*;

    const PACE: Pace = Pace { window: Duration::from_secs(60), bytes: 1000 };

    fn is_over(stall: &mut Stall) -> bool {
        stall.poll_over(&mut Context::from_waker(Waker::noop()), PACE).is_ready()
    }

    async fn past(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let mut stall = Stall::default();
        assert!(!is_over(&mut stall));
        past(59).await;
        assert!(!is_over(&mut stall));
        past(1).await;
        assert!(is_over(&mut stall));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_now_and_then_is_given_up() {
        let mut stall = Stall::default();
        assert!(!is_over(&mut stall));
        past(59).await;
        stall.went(1, PACE);
        assert!(!is_over(&mut stall));
        past(1).await;
        assert!(is_over(&mut stall));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_enough_goes_on_for_ever() {
        let mut stall = Stall::default();
        for _ in 0..1000 {
            for _ in 0..10 {
                assert!(!is_over(&mut stall));
                past(5).await;
                assert!(!is_over(&mut stall));
                stall.went(100, PACE);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_waits_does_not_count() {
        let mut stall = Stall::default();
        for _ in 0..5 {
            assert!(!is_over(&mut stall));
            past(10).await;
            stall.went(1, PACE);
            past(100_000).await;
            stall.went(1, PACE);
        }
        assert!(!is_over(&mut stall));
        past(9).await;
        assert!(!is_over(&mut stall));
        past(1).await;
        assert!(is_over(&mut stall), "60 s of waiting for ten bytes");
    }

    /// An alarm of a wait that is over neither ends the next one early nor lets it last.
    #[tokio::test(start_paused = true)]
    async fn alarms_of_earlier_waits_do_no_harm() {
        let mut stall = Stall::default();
        assert!(!is_over(&mut stall));
        past(30).await;
        stall.went(1000, PACE);
        past(29).await;
        assert!(!is_over(&mut stall));
        past(59).await;
        assert!(!is_over(&mut stall));
        stall.went(1, PACE);
        assert!(!is_over(&mut stall));
        past(1).await;
        assert!(is_over(&mut stall));
    }
}
