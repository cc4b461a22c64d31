//! Inspections of one pod in the runtime -> one at a time, and again until a reported end shows.

use std::{collections::BTreeSet, time::Duration};

/// A reported end shows in the runtime's status once it is on its disk: inspections wait for it, each twice as long as the one before.
const LATE_MIN: Duration = Duration::from_millis(5);
const LATE_MAX: u32 = 9;

#[derive(Default)]
pub struct Inspections {
    under_way: bool,
    /// Something happened during the inspection.
    again: bool,
    /// What is said to have ended and does not show it yet.
    ended: BTreeSet<String>,
    /// Inspections in a row that did not show it.
    late: u32,
}

impl Inspections {
    /// An inspection begins; false where one is under way, which is repeated then.
    pub fn begin(&mut self) -> bool {
        let begins = !std::mem::replace(&mut self.under_way, true);
        self.again |= !begins;
        begins
    }

    /// Whether something happened during the inspection.
    pub fn end(&mut self) -> bool {
        self.under_way = false;
        std::mem::take(&mut self.again)
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// A part of that id is said to have ended.
    pub fn ended(&mut self, id: &str) {
        self.late = 0;
        self.ended.insert(id.to_owned());
    }

    /// After an inspection, which showed some parts as running.
    pub fn showed(&mut self, runs: impl Fn(&str) -> bool) {
        self.ended.retain(|id| runs(id));
    }

    /// When to inspect again, where a reported end does not show yet. A few times; then the lists are left to find it.
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
    fn what_happens_meanwhile_is_inspected_once_more() {
        let mut inspections = Inspections::default();
        assert!(inspections.begin() && !inspections.begin() && !inspections.begin() && inspections.is_under_way());
        assert!(inspections.end() && !inspections.is_under_way());
        assert!(inspections.begin() && !inspections.end());
    }

    #[test]
    fn what_never_shows_is_given_up() {
        let mut inspections = Inspections::default();
        inspections.ended("c");
        let waits: Vec<Duration> = std::iter::from_fn(|| inspections.late()).collect();
        assert_eq!((waits.len(), waits[0]), (9, Duration::from_millis(10)));
        inspections.ended("d");
        inspections.showed(|_| false);
        assert_eq!(inspections.late(), None);
    }
}
