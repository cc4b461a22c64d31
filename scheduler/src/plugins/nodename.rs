//! NodeName: a pod that names its node goes nowhere else. Source: `plugins/nodename`.

use super::sign;
use crate::{
    framework::{Change, Plugin},
    node::NodeInfo,
    pod::{PodInfo, node_of},
    refusal::Refusal,
};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        sign(signature, &node_of(&pod.pod));
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let other = node_of(&pod.pod).is_some_and(|name| name != node.name());
        other.then(|| Refusal::unresolvable(self.name(), "node(s) didn't match the requested node name"))
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        matches!(change, Change::NodeAdded(node) if node_of(&pod.pod) == Some(&node.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::json;

    #[test]
    fn only_the_named_node() {
        let node = node_info(&json!({"metadata": {"name": "a"}}));
        for (name, fits) in [("", true), ("a", true), ("b", false)] {
            assert_eq!(NodeName.filter(&pod(&json!({"spec": {"nodeName": name}})), &node).is_none(), fits, "{name:?}");
        }
    }
}
