//! Looks at one pod in the runtime -> one at a time, and again until what was told of shows.

use std::{collections::BTreeSet, time::Duration};

/// What was told of shows in the runtime's status once it is on its disk: looks for it, each twice as long after the one before.
const LATE_MIN: Duration = Duration::from_millis(5);
const LATE_MAX: u32 = 9;

#[derive(Default)]
pub struct Looks {
    under_way: bool,
    /// Something happened while we looked.
    again: bool,
    /// What is said to have ended and does not show it yet.
    ended: BTreeSet<String>,
    /// Looks in a row that did not show it.
    late: u32,
}

impl Looks {
    /// A look begins; false where one is under way, which is repeated then.
    pub fn begin(&mut self) -> bool {
        let begins = !std::mem::replace(&mut self.under_way, true);
        self.again |= !begins;
        begins
    }

    /// Whether something happened while it was looked at.
    pub fn end(&mut self) -> bool {
        self.under_way = false;
        std::mem::take(&mut self.again)
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// A part of that id is said to have ended.
    pub fn told(&mut self, id: &str) {
        self.late = 0;
        self.ended.insert(id.to_owned());
    }

    /// After a look, which showed some parts as running.
    pub fn saw(&mut self, runs: impl Fn(&str) -> bool) {
        self.ended.retain(|id| runs(id));
    }

    /// When to look again, where what was told does not show yet. A few times; then the lists are left to find it.
    pub fn late(&mut self) -> Option<Duration> {
        if self.ended.is_empty() || self.late >= LATE_MAX {
            self.ended.clear();
            self.late = 0;
            return None;
        }
        self.late += 1;
        Some(LATE_MIN * (1 << self.late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_meanwhile_is_looked_at_once_more() {
        let mut looks = Looks::default();
        assert!(looks.begin() && !looks.begin() && !looks.begin() && looks.is_under_way());
        assert!(looks.end() && !looks.is_under_way());
        assert!(looks.begin() && !looks.end());
    }

    #[test]
    fn what_never_shows_is_given_up() {
        let mut looks = Looks::default();
        looks.told("c");
        let waits: Vec<Duration> = std::iter::from_fn(|| looks.late()).collect();
        assert_eq!((waits.len(), waits[0]), (9, Duration::from_millis(10)));
        looks.told("d");
        looks.saw(|_| false);
        assert_eq!(looks.late(), None);
    }
}
