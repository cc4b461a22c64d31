//! What single nodes answered to pods of one class and priority, until the node changes. A lookaside: it changes how long a plan takes, not
//! what it says.

use std::collections::HashMap;

use crate::node::Row;

/// Priorities that are remembered; beyond it all are forgotten.
const PRIORITIES_MAX: usize = 8;

#[derive(Debug)]
pub struct Remembered<T>(HashMap<i32, Vec<Option<(u64, T)>>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Remembered<T> {
    /// The node's answer; it is asked if it changed since.
    pub fn or_ask(&mut self, priority: i32, row: &Row, ask: impl FnOnce() -> T) -> T {
        if self.0.len() >= PRIORITIES_MAX && !self.0.contains_key(&priority) {
            self.0.clear();
        }
        let answers = self.0.entry(priority).or_default();
        if row.slot >= answers.len() {
            answers.resize(row.slot + 1, None);
        }
        if let Some(Some((stamp, answer))) = answers.get(row.slot)
            && *stamp == row.stamp
        {
            return answer.clone();
        }
        let answer = ask();
        if let Some(place) = answers.get_mut(row.slot) {
            *place = Some((row.stamp, answer.clone()));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{pod, row};
    use serde_json::json;

    #[test]
    fn a_node_is_asked_again_when_it_changed() {
        let (mut remembered, mut row, mut asked) = (Remembered::default(), row(&json!({"metadata": {"name": "a"}})), 0);
        let mut ask = |row: &Row, priority: i32| {
            remembered.or_ask(priority, row, || {
                asked += 1;
                asked
            })
        };
        assert_eq!((ask(&row, 1), ask(&row, 1), ask(&row, 2)), (1, 1, 2));
        row.add(&std::sync::Arc::new(pod(&json!({}))));
        assert_eq!((ask(&row, 1), ask(&row, 2), ask(&row, 2)), (3, 4, 4));
    }
}
