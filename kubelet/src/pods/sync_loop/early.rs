//! Runtime events for parts that no pod knows -> kept for the pod that is about to: a worker may be about to say that it made them.

use std::collections::VecDeque;

use cri::TaskEvent;

/// More than can end between a start and the moment that the loop hears of it.
const EARLY_MAX: usize = 256;

/// Newest first.
#[derive(Default)]
pub struct Early(VecDeque<TaskEvent>);

impl Early {
    pub fn keep(&mut self, event: TaskEvent) {
        self.0.truncate(EARLY_MAX - 1);
        self.0.push_front(event);
    }

    /// Gives up what `takes` takes; whether there was any.
    pub fn give(&mut self, mut takes: impl FnMut(&TaskEvent) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|event| !takes(event));
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let event = |n: usize| TaskEvent::Ended { id: n.to_string() };
        let mut early = Early::default();
        (0..=EARLY_MAX).for_each(|n| early.keep(event(n)));
        assert!(!early.give(|told| *told == event(0)), "for want of room");
        assert!(early.give(|told| *told == event(1)));
        assert!(!early.give(|told| *told == event(1)), "given once");
    }
}
