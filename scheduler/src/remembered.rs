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
    /// The node's answer; computed anew if the node changed since.
    pub fn or_ask(&mut self, node: &NodeInfo, ask: impl FnOnce() -> T) -> T {
        if node.slot >= self.0.len() {
            self.0.resize(node.slot + 1, None);
        }
        if let Some(Some((stamp, answer))) = self.0.get(node.slot)
            && *stamp == node.stamp
        {
            return answer.clone();
        }
        let answer = ask();
        if let Some(place) = self.0.get_mut(node.slot) {
            *place = Some((node.stamp, answer.clone()));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::json;

    #[test]
    fn a_node_is_asked_again_when_it_changed() {
        let (mut remembered, mut node, mut asked) = (Remembered::default(), node_info(&json!({"metadata": {"name": "a"}})), 0);
        let mut ask = |node: &NodeInfo| {
            remembered.or_ask(node, || {
                asked += 1;
                asked
            })
        };
        assert_eq!((ask(&node), ask(&node)), (1, 1));
        node.add(&std::sync::Arc::new(pod(&json!({}))));
        assert_eq!((ask(&node), ask(&node)), (2, 2));
    }
}
