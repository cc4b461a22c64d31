//! What single nodes answered to one class of pods, until the node changes. A lookaside: it changes how long a plan takes, not what it says.

use crate::node::NodeInfo;

/// By slot: the node's stamp, and its answer.
#[derive(Debug)]
pub struct Remembered<T>(Vec<Option<(u64, T)>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Remembered<T> {
    /// The node's answer; it is asked if it changed since.
    pub fn or_ask(&mut self, row: &NodeInfo, ask: impl FnOnce() -> T) -> T {
        if row.slot >= self.0.len() {
            self.0.resize(row.slot + 1, None);
        }
        if let Some(Some((stamp, answer))) = self.0.get(row.slot)
            && *stamp == row.stamp
        {
            return answer.clone();
        }
        let answer = ask();
        if let Some(place) = self.0.get_mut(row.slot) {
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
        let mut ask = |row: &NodeInfo| {
            remembered.or_ask(row, || {
                asked += 1;
                asked
            })
        };
        assert_eq!((ask(&row), ask(&row)), (1, 1));
        row.add(&std::sync::Arc::new(pod(&json!({}))));
        assert_eq!((ask(&row), ask(&row)), (2, 2));
    }
}
