//! A pod's services and controller -> the pods it is one of. Source: `plugins/helper/spread.go` (`DefaultSelector`).

use std::collections::BTreeMap;

use api::{
    Key,
    k8s::api::{
        apps::v1::ReplicaSet,
        core::v1::{ReplicationController, Service},
    },
    selector::Labels,
};
use client::{Cache, Caches, pods::Pod};

use crate::terms::selector;

/// What selects pods.
pub struct Siblings {
    pub services: Cache<Service>,
    pub controllers: Cache<ReplicationController>,
    pub sets: Cache<ReplicaSet>,
}

impl Siblings {
    pub fn new(caches: &Caches) -> Self {
        Self { services: caches.of(), controllers: caches.of(), sets: caches.of() }
    }

    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.controllers.synced(), self.sets.synced());
    }

    /// The pods that all of the pod's services and its controller select; `None` if there are none of these. Costs O(services of the namespace).
    pub fn of(&self, pod: &Pod) -> Option<Labels> {
        let meta = &pod.metadata;
        // Pods that say how to spread are not asked this.
        if pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty()) {
            return None;
        }
        let namespace = meta.namespace.as_deref().unwrap_or("");
        let mut labels = BTreeMap::new();
        for service in self.services.in_namespace(namespace) {
            let selects = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
            let has = |(key, value): (&String, &String)| meta.labels.as_ref().is_some_and(|l| l.get(key) == Some(value));
            if let Some(selects) = selects.filter(|s| s.iter().all(has)) {
                labels.extend(selects.clone());
            }
        }
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let key = owner.map(|o| Key::new(namespace, &o.name));
        let mut out = None;
        match (owner.map(|o| (o.api_version.as_str(), o.kind.as_str())), key) {
            (Some(("v1", "ReplicationController")), Some(key)) => {
                let controller = self.controllers.get(&key);
                labels.extend(controller.and_then(|c| c.spec.as_ref()?.selector.clone()).unwrap_or_default());
            }
            (Some(("apps/v1", "ReplicaSet")), Some(key)) => {
                out = self.sets.get(&key).and_then(|s| selector(s.spec.as_ref().map(|s| &s.selector)));
            }
            _ => {}
        }
        let mut all = Labels::from_map(labels.iter());
        all.0.extend(out.unwrap_or_default().0);
        Some(all).filter(|s| !s.is_empty())
    }
}
