//! NodeUnschedulable: cordoned nodes take no pods. Source: `plugins/nodeunschedulable`.

use api::k8s::api::core::v1::Taint;

use super::sign;
use crate::{
    framework::{Change, Plugin},
    node::NodeInfo,
    pod::PodInfo,
    refusal::Refusal,
};

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        sign(signature, &tolerates_cordon(pod));
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let refuses = node.facts.unschedulable && !tolerates_cordon(pod);
        refuses.then(|| Refusal::unresolvable(self.name(), "node(s) were unschedulable"))
    }

    fn queueing_hint(&self, _pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeAdded(node) => !node.unschedulable,
            Change::NodeChanged(old, new) => old.unschedulable && !new.unschedulable,
            _ => false,
        }
    }
}

fn tolerates_cordon(pod: &PodInfo) -> bool {
    let (key, effect) = ("node.kubernetes.io/unschedulable".to_owned(), "NoSchedule".to_owned());
    podspec::is_tolerated(&Taint { key, effect, ..Taint::default() }, pod.tolerations())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::json;

    #[test]
    fn cordoned_nodes_take_only_who_tolerates_it() {
        let tolerant = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}});
        for (cordoned, spec, fits) in [(false, json!({}), true), (true, json!({}), false), (true, tolerant, true)] {
            let node = node_info(&json!({"metadata": {"name": "a"}, "spec": {"unschedulable": cordoned}}));
            assert_eq!(NodeUnschedulable.filter(&pod(&spec), &node).is_none(), fits, "{cordoned} {spec}");
        }
    }

    #[test]
    fn uncordoning_helps() {
        let facts = |cordoned: bool| node_info(&json!({"metadata": {"name": "a"}, "spec": {"unschedulable": cordoned}})).facts;
        let (closed, open, waiting) = (facts(true), facts(false), pod(&json!({})));
        assert!(NodeUnschedulable.queueing_hint(&waiting, &Change::NodeChanged(&closed, &open)));
        assert!(!NodeUnschedulable.queueing_hint(&waiting, &Change::NodeChanged(&open, &closed)));
        assert!(!NodeUnschedulable.queueing_hint(&waiting, &Change::NodeAdded(&closed)));
    }
}
