//! NodeAffinity: nodeSelector and node affinity, required and preferred. Source: `plugins/nodeaffinity`, component-helpers `nodeaffinity`.

use std::collections::BTreeSet;

use api::k8s::api::core::v1::NodeSelectorTerm;
use client::pods::node_affinity;

use super::{Order, sign, stretch};
use crate::{
    affinity::{named_labels, required_matches, wanted},
    framework::{Change, Cycle, Plugin, PreFilter},
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
};

const NAME: &str = "NodeAffinity";

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        sign(signature, &(pod.spec().and_then(|s| s.node_selector.as_ref()), wanted(pod)));
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        match named(at.pod) {
            Some(names) if names.is_empty() => return Err(Refusal::unresolvable(NAME, "pod affinity terms conflict")),
            Some(names) => at.only(names.into_iter().map(str::to_owned).collect()),
            None => {}
        }
        Ok(())
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let fits = required_matches(pod, &node.facts);
        (!fits).then(|| Refusal::unresolvable(NAME, "node(s) didn't match Pod's node affinity/selector"))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let preferred = wanted(pod).and_then(|w| w.preferred_during_scheduling_ignored_during_execution.as_ref());
        let matching = preferred.into_iter().flatten().filter(|p| node_affinity::term_matches(&p.preference, named_labels(&node.facts)));
        matching.map(|p| i64::from(p.weight)).sum()
    }

    fn compares(&self) -> bool {
        true
    }

    fn normalize_score(&self, _cycle: &Cycle<'_>, _nodes: &[Slot], scores: &mut [i64]) {
        stretch(scores, Order::MoreIsBetter);
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeAdded(node) => required_matches(pod, node),
            Change::NodeChanged(old, new) => !required_matches(pod, old) && required_matches(pod, new),
            _ => false,
        }
    }
}

/// The only nodes that the required terms leave, where each term names nodes.
fn named(pod: &PodInfo) -> Option<BTreeSet<&str>> {
    let required = wanted(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    if required.node_selector_terms.is_empty() {
        return None;
    }
    let mut names = BTreeSet::new();
    for term in &required.node_selector_terms {
        names.extend(names_in(term)?);
    }
    Some(names)
}

/// What every requirement of the term on the name allows; `None` if there is no such requirement.
fn names_in(term: &NodeSelectorTerm) -> Option<BTreeSet<&str>> {
    let on_name = term.match_fields.iter().flatten().filter(|r| r.key == "metadata.name" && r.operator == "In");
    on_name.map(|r| r.values.iter().flatten().map(String::as_str).collect()).reduce(|a: BTreeSet<&str>, b| &a & &b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{asked, node_info, pod};
    use serde_json::{Value, json};

    fn saying(terms: &Value) -> Value {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}})
    }

    fn requiring(terms: &Value) -> PodInfo {
        pod(&saying(terms))
    }

    #[test]
    fn required_terms() {
        let node = node_info(&json!({"metadata": {"name": "a", "labels": {"zone": "z1", "cores": "8"}}}));
        let expr = |key: &str, op: &str, values: &[&str]| json!([{"matchExpressions": [{"key": key, "operator": op, "values": values}]}]);
        let snapshot = [
            (expr("zone", "In", &["z1", "z2"]), true),
            (expr("zone", "In", &["z2"]), false),
            (expr("zone", "NotIn", &["z2"]), true),
            (expr("rack", "NotIn", &["r"]), true),
            (expr("zone", "Exists", &[]), true),
            (expr("rack", "Exists", &[]), false),
            (expr("rack", "DoesNotExist", &[]), true),
            (expr("cores", "Gt", &["4"]), true),
            (expr("cores", "Lt", &["4"]), false),
            (expr("zone", "Gt", &["4"]), false),
            (json!([{}]), false),
            (json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]), true),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]), false),
        ];
        for (terms, fits) in snapshot {
            assert_eq!(NodeAffinity.filter(&requiring(&terms), &node).is_none(), fits, "{terms}");
        }
        assert!(NodeAffinity.filter(&pod(&json!({"spec": {"nodeSelector": {"zone": "z2"}}})), &node).is_some());
        assert!(NodeAffinity.filter(&pod(&json!({"spec": {"nodeSelector": {"zone": "z1"}}})), &node).is_none());
    }

    #[test]
    fn terms_that_all_name_nodes_leave_only_those() {
        let by_name = |names: &[&str]| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]});
        assert_eq!(named(&requiring(&json!([by_name(&["a"]), by_name(&["b"])]))), Some(BTreeSet::from(["a", "b"])));
        assert_eq!(named(&requiring(&json!([by_name(&["a"]), {"matchExpressions": []}]))), None);
        let conflict = json!([{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["a"]}, {"key": "metadata.name", "operator": "In", "values": ["b"]}]}]);
        assert!(asked(&NodeAffinity, &saying(&conflict)).refusal.is_some());
    }

    #[test]
    fn preferences_add_up() {
        let node = node_info(&json!({"metadata": {"name": "a", "labels": {"zone": "z1"}}}));
        let prefer =
            |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
        let terms = json!([prefer(5, "zone"), prefer(7, "rack"), prefer(2, "zone")]);
        let pod = pod(&json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}}}));
        assert_eq!(NodeAffinity.score(&pod, &node, &Snapshot::default()), 7);
    }
}
