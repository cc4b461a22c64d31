//! Times -> what is due: all timers of all nodes and pods in one place, in slots of ten milliseconds.

use std::collections::BTreeMap;

use super::plan::Millis;

/// Timers that fall into the same slot share one wake-up.
const SLOT: Millis = 10;

/// A timer is not taken back: who set it remembers the time, and what comes at another time is old.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: BTreeMap<Millis, Vec<T>>,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self { slots: BTreeMap::new() }
    }
}

impl<T> Wheel<T> {
    /// When it will really be due: at the end of its slot.
    pub fn put(&mut self, at: Millis, timer: T) -> Millis {
        let slot = at.next_multiple_of(SLOT);
        self.slots.entry(slot).or_default().push(timer);
        slot
    }

    pub fn next(&self) -> Option<Millis> {
        self.slots.keys().next().copied()
    }

    /// One slot that is due, with its time.
    pub fn due(&mut self, now: Millis) -> Option<(Millis, Vec<T>)> {
        let first = self.slots.first_entry()?;
        (*first.key() <= now).then(|| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_and_not_before_their_time() {
        let mut wheel = Wheel::default();
        for at in [35, 10, 11, 20, 0] {
            wheel.put(at, at);
        }
        assert_eq!(wheel.put(31, 31), 40);
        assert_eq!(wheel.next(), Some(0));
        let mut seen = Vec::new();
        while let Some((_, timers)) = wheel.due(39) {
            seen.extend(timers);
        }
        assert_eq!(seen, [0, 10, 11, 20]);
        assert_eq!(wheel.due(40), Some((40, vec![35, 31])));
        assert_eq!(wheel.next(), None);
    }
}
