//! A pod's services and controller -> the pods it is one of. Source: `plugins/helper/spread.go` (`DefaultSelector`).

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Key,
    k8s::api::{
        apps::v1::ReplicaSet,
        core::v1::{ReplicationController, Service},
    },
    selector::Labels,
};
use client::{Cache, Caches, pods::Pod};
use parking_lot::RwLock;
use reconcile::selectors::{self, Selectors};

use crate::terms::selector;

/// What selects pods.
pub struct Siblings {
    pub services: Cache<Service>,
    /// Which services select which labels.
    selecting: Arc<RwLock<Selectors>>,
    pub controllers: Cache<ReplicationController>,
    pub sets: Cache<ReplicaSet>,
}

impl Siblings {
    pub fn new(caches: &Caches) -> Self {
        let services = caches.of();
        let selecting = selectors::follow(&services, selects);
        Self { services, selecting, controllers: caches.of(), sets: caches.of() }
    }

    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.controllers.synced(), self.sets.synced());
    }

    /// The pods that all of the pod's services and its controller select; `None` if there are none of these. Costs O(labels, and the pod's services).
    pub fn of(&self, pod: &Pod) -> Option<Labels> {
        let meta = &pod.metadata;
        // Pods that say how to spread are not asked this.
        if pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty()) {
            return None;
        }
        let namespace = meta.namespace.as_deref().unwrap_or("");
        let mut labels = BTreeMap::new();
        let (empty, selecting) = (BTreeMap::new(), self.selecting.read());
        for name in selecting.matching(namespace, meta.labels.as_ref().unwrap_or(&empty)) {
            let service = self.services.get(&Key::new(namespace, name));
            labels.extend(service.and_then(|s| s.spec.as_ref()?.selector.clone()).unwrap_or_default());
        }
        drop(selecting);
        let owner = client::Object::object_meta(pod).controller();
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

fn selects(service: &Service) -> Option<Labels> {
    Some(Labels::from_map(service.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?))
}
