//! Work that is done within one poll -> turns: after so much of it others get the thread.
//!
//! What a request may be made to look at has no bound but what is stored; what it looks at in one go has.

use std::task::{Context, Poll};

/// What may be looked at in one turn: bytes that are parsed, or as many objects as are counted as so much.
pub const TURN_BYTES_MAX: usize = 256 << 10;
/// What an object counts of which only the head is looked at.
pub const LOOK_BYTES: usize = 64;

/// What is left of a turn. The object that ends it is looked at whole.
#[derive(Debug)]
pub struct Turn {
    left: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self { left: TURN_BYTES_MAX }
    }
}

impl Turn {
    /// An object was looked at, and `bytes` were parsed for it.
    pub fn took(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes.saturating_add(LOOK_BYTES));
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// For a future: lets others go first where the turn is over, and begins the next.
    pub async fn rest(&mut self) {
        if self.is_over() {
            *self = Self::default();
            tokio::task::yield_now().await;
        }
    }

    /// For a poll: pending, and woken at once, where the turn is over; the next has begun then. Whoever is asked several times within one poll keeps
    /// one turn for all of them.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_over() {
            return Poll::Ready(());
        }
        *self = Self::default();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_turn_ends_by_bytes_and_by_objects() {
        let mut cx = Context::from_waker(Waker::noop());
        for (bytes, most) in [(0, TURN_BYTES_MAX / LOOK_BYTES), (64 << 10, 4), (usize::MAX, 1)] {
            let mut turn = Turn::default();
            let looks = (1..).find(|_| {
                turn.took(bytes);
                turn.is_over()
            });
            assert!(looks.is_some_and(|looks| looks <= most), "{bytes}: {looks:?}");
            assert_eq!((turn.poll_rest(&mut cx), turn.poll_rest(&mut cx)), (Poll::Pending, Poll::Ready(())));
        }
    }
}
