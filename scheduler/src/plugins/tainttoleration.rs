//! TaintToleration: taints keep pods away, or are disliked. Source: `plugins/tainttoleration`.

use api::k8s::api::core::v1::Toleration;

use super::{Order, sign, stretch};
use crate::{
    framework::{Change, Cycle, Plugin},
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    taints,
};

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        sign(signature, pod.tolerations());
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        repels(&node.facts, pod).then(|| Refusal::unresolvable(self.name(), "node(s) had untolerated taint(s)"))
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        if node.facts.taints.is_empty() {
            return 0;
        }
        let soft = |t: &&Toleration| matches!(t.effect.as_deref().unwrap_or(""), "" | "PreferNoSchedule");
        let tolerations: Vec<Toleration> = pod.tolerations().iter().filter(soft).cloned().collect();
        i64::try_from(taints::disliked(&node.facts.taints, &tolerations)).unwrap_or(i64::MAX)
    }

    fn compares(&self) -> bool {
        true
    }

    fn normalize_score(&self, _cycle: &Cycle<'_>, _nodes: &[Slot], scores: &mut [i64]) {
        stretch(scores, Order::LessIsBetter);
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeAdded(node) => !repels(node, pod),
            Change::NodeChanged(old, new) => repels(old, pod) && !repels(new, pod),
            _ => false,
        }
    }
}

fn repels(node: &Facts, pod: &PodInfo) -> bool {
    taints::untolerated(&node.taints, pod.tolerations()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::{Value, json};

    fn node(taints: &Value) -> NodeInfo {
        node_info(&json!({"metadata": {"name": "a"}, "spec": {"taints": taints}}))
    }

    #[test]
    fn hard_taints_refuse_and_soft_ones_score() {
        let plain = pod(&json!({}));
        let snapshot = [
            (json!([]), true, 0),
            (json!([{"key": "k", "effect": "NoSchedule"}]), false, 0),
            (json!([{"key": "k", "effect": "NoExecute"}]), false, 0),
            (json!([{"key": "k", "effect": "PreferNoSchedule"}, {"key": "l", "effect": "PreferNoSchedule"}]), true, 2),
        ];
        for (taints, fits, disliked) in snapshot {
            let node = node(&taints);
            assert_eq!(TaintToleration.filter(&plain, &node).is_none(), fits, "{taints}");
            assert_eq!(TaintToleration.score(&plain, &node, &Snapshot::default()), disliked, "{taints}");
        }
    }

    #[test]
    fn a_taint_that_goes_helps() {
        let (plain, clean, tainted) = (pod(&json!({})), node(&json!([])).facts, node(&json!([{"key": "k", "effect": "NoSchedule"}])).facts);
        assert!(TaintToleration.queueing_hint(&plain, &Change::NodeChanged(&tainted, &clean)));
        assert!(!TaintToleration.queueing_hint(&plain, &Change::NodeChanged(&clean, &clean)));
        assert!(!TaintToleration.queueing_hint(&plain, &Change::NodeAdded(&tainted)));
    }
}
