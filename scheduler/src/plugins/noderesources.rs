//! NodeResourcesFit and NodeResourcesBalancedAllocation: what is left, and how evenly. Source: `plugins/noderesources`.

use super::sign;
use crate::{
    framework::{Change, Freed, More, Plugin, SCORE_MAX},
    node::{Facts, NodeInfo},
    pod::PodInfo,
    refusal::Refusal,
    resources::Resources,
    snapshot::Snapshot,
};

/// Refuses nodes with too little left; scores the least allocated best.
pub struct Fit;

/// Scores nodes whose CPU and memory are used up alike.
pub struct BalancedAllocation;

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        let asks = &pod.requests;
        sign(signature, &(asks.milli_cpu, asks.memory, asks.storage, &asks.scalar, pod.non_zero));
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        lacking(&pod.requests, &node.facts.allocatable, &node.used, node.pods.len())
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let (all, used) = (&node.facts.allocatable, node.used_non_zero);
        let shares = [(all.milli_cpu, used.0.saturating_add(pod.non_zero.0)), (all.memory, used.1.saturating_add(pod.non_zero.1))];
        let scores: Vec<i64> = shares.iter().filter(|(all, _)| *all > 0).map(|(all, used)| left(*used, *all)).collect();
        if scores.is_empty() { 0 } else { scores.iter().sum::<i64>() / scores.len() as i64 }
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::PodGone(_, freed) => freed.is_none_or(|freed| could_use(pod, &freed)),
            Change::PodChanged(old, new) => less_of_wanted(&pod.requests, &new.requests, &old.requests),
            Change::NodeAdded(node) => could_ever(pod, node),
            Change::NodeChanged(old, new) => {
                could_ever(pod, new)
                    && (new.allocatable.pods > old.allocatable.pods || less_of_wanted(&pod.requests, &old.allocatable, &new.allocatable))
            }
            _ => false,
        }
    }
}

// Signed for by [`Fit`].
impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        // What asks for nothing would all go to the one best balanced node.
        if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
            return 0;
        }
        let (all, used) = (&node.facts.allocatable, &node.used);
        let now = balance([(used.milli_cpu, all.milli_cpu), (used.memory, all.memory)]);
        let (cpu, memory) = (used.milli_cpu.saturating_add(pod.requests.milli_cpu), used.memory.saturating_add(pod.requests.memory));
        let then = balance([(cpu, all.milli_cpu), (memory, all.memory)]);
        SCORE_MAX / 2 + (SCORE_MAX / 2 + then - now) / 2
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        false
    }
}

fn lacking(asks: &Resources, all: &Resources, used: &Resources, pods: usize) -> Option<Refusal> {
    let (mut reasons, mut resolvable) = (Vec::new(), true);
    if i64::try_from(pods).unwrap_or(i64::MAX) >= all.pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, asks: i64, all: i64, used: i64| {
        if asks > 0 && asks > all.saturating_sub(used) {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= asks <= all;
        }
    };
    check("cpu", asks.milli_cpu, all.milli_cpu, used.milli_cpu);
    check("memory", asks.memory, all.memory, used.memory);
    check("ephemeral-storage", asks.storage, all.storage, used.storage);
    for (name, amount) in &asks.scalar {
        check(name, *amount, all.amount(name), used.amount(name));
    }
    (!reasons.is_empty()).then_some(Refusal { plugin: "NodeResourcesFit", resolvable, reasons })
}

/// Nothing changed on other nodes: it is this one or none.
fn could_use(pod: &PodInfo, freed: &Freed<'_>) -> bool {
    let node = freed.node;
    let (mut used, mut pods) = (node.used.clone(), node.pods.len());
    for stronger in freed.nominated.iter().filter(|p| p.priority >= pod.priority && p.key != pod.key) {
        used.add(&stronger.requests);
        pods += 1;
    }
    let fits = |used: &Resources, pods: usize| lacking(&pod.requests, &node.facts.allocatable, used, pods).is_none();
    if fits(&used, pods) || freed.more == More::AsItIs {
        return fits(&used, pods);
    }
    for weaker in node.pods.iter().filter(|p| p.priority < pod.priority) {
        used.sub(&weaker.requests);
        pods -= 1;
    }
    fits(&used, pods)
}

/// An empty node of this size would do.
fn could_ever(pod: &PodInfo, node: &Facts) -> bool {
    lacking(&pod.requests, &node.allocatable, &Resources::default(), 0).is_none()
}

/// `small` has less than `big` of something that is asked for.
fn less_of_wanted(asks: &Resources, small: &Resources, big: &Resources) -> bool {
    let less = |asks: i64, small: i64, big: i64| asks > 0 && small < big;
    less(asks.milli_cpu, small.milli_cpu, big.milli_cpu)
        || less(asks.memory, small.memory, big.memory)
        || less(asks.storage, small.storage, big.storage)
        || asks.scalar.iter().any(|(name, asks)| less(*asks, small.amount(name), big.amount(name)))
}

fn left(used: i64, all: i64) -> i64 {
    if used > all { 0 } else { (all - used).saturating_mul(SCORE_MAX) / all }
}

/// 100 if both shares are equal, 50 if one is all and the other nothing.
fn balance(shares: [(i64, i64); 2]) -> i64 {
    let shares: Vec<f64> = shares.iter().filter(|(_, all)| *all > 0).map(|(used, all)| (*used as f64 / *all as f64).min(1.0)).collect();
    let deviation = if let [a, b] = shares.as_slice() { ((a - b) / 2.0).abs() } else { 0.0 };
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{node_info, pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn asking(requests: &Value) -> PodInfo {
        pod(
            &json!({"metadata": {"name": requests.to_string()}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}),
        )
    }

    fn node(pods: &[Value]) -> NodeInfo {
        let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "3", "ephemeral-storage": "10Gi", "example.com/gpu": "1"});
        let mut node = node_info(&json!({"metadata": {"name": "a"}, "status": {"allocatable": allocatable}}));
        pods.iter().for_each(|p| node.add(&Arc::new(asking(p))));
        node
    }

    #[test]
    fn what_is_lacking_is_named() {
        type Lacks = Option<(&'static [&'static str], bool)>;
        let snapshot: [(Vec<Value>, Value, Lacks); 8] = [
            (vec![], json!({"cpu": "4"}), None),
            (vec![json!({"cpu": "1"})], json!({"cpu": "4"}), Some((&["Insufficient cpu"], true))),
            (vec![], json!({"cpu": "5"}), Some((&["Insufficient cpu"], false))),
            (
                vec![json!({"cpu": "1", "memory": "8Gi"})],
                json!({"cpu": "4", "memory": "1"}),
                Some((&["Insufficient cpu", "Insufficient memory"], true)),
            ),
            (vec![], json!({"ephemeral-storage": "11Gi"}), Some((&["Insufficient ephemeral-storage"], false))),
            (vec![json!({"example.com/gpu": "1"})], json!({"example.com/gpu": "1"}), Some((&["Insufficient example.com/gpu"], true))),
            (vec![], json!({"example.com/fpga": "1"}), Some((&["Insufficient example.com/fpga"], false))),
            (vec![json!({}), json!({"cpu": "1"}), json!({"cpu": "2"})], json!({}), Some((&["Too many pods"], true))),
        ];
        for (pods, asks, want) in snapshot {
            let refusal = Fit.filter(&asking(&asks), &node(&pods));
            let got = refusal.as_ref().map(|r| (r.reasons.iter().map(String::as_str).collect::<Vec<_>>(), r.resolvable));
            assert_eq!(got, want.map(|(reasons, resolvable)| (reasons.to_vec(), resolvable)), "{pods:?} {asks}");
        }
    }

    #[test]
    fn the_emptier_node_scores_higher() {
        let ask = asking(&json!({"cpu": "1", "memory": "2Gi"}));
        let score = |pods: &[Value]| Fit.score(&ask, &node(pods), &Snapshot::default());
        assert_eq!(score(&[]), 75);
        assert_eq!(score(&[json!({"cpu": "1", "memory": "2Gi"})]), 50);
        assert_eq!(score(&[json!({"cpu": "4", "memory": "8Gi"})]), 0);
    }

    #[test]
    fn balance_is_improved_kept_or_spoilt() {
        let used = [json!({"cpu": "2"})];
        let score = |asks: Value| BalancedAllocation.score(&asking(&asks), &node(&used), &Snapshot::default());
        assert_eq!(score(json!({})), 0);
        assert_eq!(score(json!({"memory": "4Gi"})), 87);
        assert_eq!(score(json!({"cpu": "1", "memory": "2Gi"})), 75);
        assert_eq!(score(json!({"cpu": "2"})), 62);
    }

    #[test]
    fn only_more_of_what_is_asked_helps() {
        let ask = asking(&json!({"cpu": "4"}));
        let facts = |cpu: &str, memory: &str| {
            node_info(&json!({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "9"}}})).facts
        };
        assert!(Fit.queueing_hint(&ask, &Change::NodeChanged(&facts("3", "1"), &facts("5", "1"))));
        assert!(!Fit.queueing_hint(&ask, &Change::NodeChanged(&facts("5", "1"), &facts("5", "2"))));
        assert!(!Fit.queueing_hint(&ask, &Change::NodeAdded(&facts("3", "1"))));
        assert!(Fit.queueing_hint(&ask, &Change::PodGone(&ask, None)));
    }

    #[test]
    fn a_pod_that_goes_helps_where_there_is_room_then() {
        let strong = |name: &str, cpu: &str, priority: i32| {
            let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
            Arc::new(pod(&json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": containers}})))
        };
        let helped = |asks: &PodInfo, on: &[&Arc<PodInfo>], nominated: &[Arc<PodInfo>], more: More| {
            let mut node = node(&[]);
            on.iter().for_each(|p| node.add(p));
            Fit.queueing_hint(asks, &Change::PodGone(asks, Some(Freed { node: &node, nominated, more })))
        };
        let (ask, weak, equal) = (strong("ask", "3", 5), strong("weak", "2", 1), strong("equal", "2", 5));
        assert!(helped(&ask, &[], &[], More::AsItIs));
        assert!(!helped(&ask, &[&equal], &[], More::WeakerCouldLeave));
        assert!(!helped(&ask, &[&weak], &[], More::AsItIs));
        assert!(helped(&ask, &[&weak], &[], More::WeakerCouldLeave));
        assert!(!helped(&ask, &[], &[equal], More::WeakerCouldLeave), "somebody else waits for that room");
        assert!(helped(&ask, &[], &[weak, ask.clone()], More::AsItIs));
    }
}
