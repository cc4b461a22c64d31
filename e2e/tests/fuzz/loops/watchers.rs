//! The caches -> those that cannot run here: the proxy's model, DNS, and the node agent's plan, over all that changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use api::{Key, k8s::api::core::v1::Pod, time::Timestamp};
use proxy::dry::Dry;

use super::house::House;

pub struct Watchers {
    dry: Dry,
    pods: mpsc::Receiver<Arc<Pod>>,
    /// Calls that the plan of a pod came to, for the ones that were looked at last.
    planned: BTreeMap<Key, usize>,
}

impl Watchers {
    pub fn new(house: &House) -> Self {
        let (tell, pods) = mpsc::channel();
        house.caches.of::<Pod>().on_change(move |_, new| {
            if let Some(pod) = new {
                let _ = tell.send(pod.clone());
            }
        });
        Self { dry: Dry::follow(&house.caches), pods, planned: BTreeMap::new() }
    }

    /// Looks at all that changed since.
    pub fn look(&mut self) {
        self.dry.changed();
        while let Ok(pod) = self.pods.try_recv() {
            let key = Key::new(pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
            self.planned.insert(key, kubelet::rehearse(&pod, Timestamp::now()));
        }
    }

    /// Whether the proxy has rules for the service.
    pub fn has_rules(&self, namespace: &str, service: &str) -> bool {
        self.dry.knows(namespace, service)
    }

    /// Whether the node agent would make calls for the pod.
    pub fn would_run(&mut self, namespace: &str, pod: &str) -> bool {
        self.look();
        self.planned.get(&Key::new(namespace, pod)).is_some_and(|calls| *calls > 0)
    }
}
