//! Node and its pods -> `NodeInfo`: what there is, and what is used.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::k8s::api::core::v1::{Node, Taint};

use podspec::HostPort;

use crate::{pod::PodInfo, resources::Resources};

/// Where a node stands in the snapshot.
pub type Slot = usize;

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub slot: Slot,
    /// Another number whenever anything here is another, and when a nomination comes or goes.
    pub stamp: u64,
    /// How many pods are nominated to the node.
    pub expected: usize,
    pub facts: Arc<Facts>,
    /// False for a node that pods are bound to but that we do not know (yet, or any more).
    pub exists: bool,
    pub used: Resources,
    /// For scoring: thousandths of a core and bytes.
    pub used_non_zero: (i64, i64),
    pub ports: Vec<HostPort>,
    pub pods: Vec<Arc<PodInfo>>,
}

/// What the Node object says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Bytes, by each name the image has.
    pub images: HashMap<String, i64>,
}

impl Facts {
    pub fn new(node: &Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let mut images = HashMap::new();
        for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Resources::from_list(status.and_then(|s| s.allocatable.as_ref())),
            images,
        }
    }
}

impl NodeInfo {
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    pub fn add(&mut self, pod: &Arc<PodInfo>) {
        self.stamp += 1;
        self.used.add(&pod.requests);
        self.used_non_zero = (self.used_non_zero.0.saturating_add(pod.non_zero.0), self.used_non_zero.1.saturating_add(pod.non_zero.1));
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod.clone());
    }

    /// A newer view of a pod that weighs the same.
    pub fn replace(&mut self, pod: &Arc<PodInfo>) {
        self.stamp += 1;
        if let Some(slot) = self.pods.iter_mut().find(|p| p.key == pod.key) {
            *slot = pod.clone();
        }
    }

    pub fn remove(&mut self, pod: &PodInfo) {
        self.stamp += 1;
        let Some(at) = self.pods.iter().position(|p| p.key == pod.key) else { return };
        let pod = self.pods.swap_remove(at);
        self.used.sub(&pod.requests);
        self.used_non_zero = (self.used_non_zero.0.saturating_sub(pod.non_zero.0), self.used_non_zero.1.saturating_sub(pod.non_zero.1));
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}
