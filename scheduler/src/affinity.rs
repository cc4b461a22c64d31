//! A pod's nodeSelector and node affinity + a node's labels -> may it go there. Source: component-helpers `nodeaffinity`.

use api::k8s::api::core::v1::NodeAffinity;
use client::pods::node_affinity::{self, NamedLabels};

use crate::{node::Facts, pod::PodInfo};

/// `nodeSelector` and the required node affinity.
pub fn required_matches(pod: &PodInfo, node: &Facts) -> bool {
    node_affinity::required_matches(pod.spec().and_then(|s| s.node_selector.as_ref()), wanted(pod), named_labels(node))
}

pub fn named_labels(node: &Facts) -> NamedLabels<'_> {
    NamedLabels { name: &node.name, labels: &node.labels }
}

pub fn wanted(pod: &PodInfo) -> Option<&NodeAffinity> {
    pod.spec()?.affinity.as_ref()?.node_affinity.as_ref()
}
