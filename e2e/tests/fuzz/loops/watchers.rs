//! The caches -> those that cannot run here: the proxy's model, DNS, and the node agent's plan, over all that changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use api::{
    Key,
    k8s::api::core::v1::{ConfigMap, Node, Pod, Secret, Service},
    time::Timestamp,
};
use client::{Cache, kube::ResourceExt};
use kubelet::{Beside, Rehearsed, env::Fetched, rehearse};
use proxy::dry::Dry;

use super::house::House;

pub struct Watchers {
    dry: Dry,
    pods: mpsc::Receiver<Arc<Pod>>,
    /// What came of the pods that were looked at last.
    came: BTreeMap<Key, Rehearsed>,
    beside: Caches,
    /// For the files of pods.
    dir: tempfile::TempDir,
}

/// What the node agent reads pods beside.
struct Caches {
    maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
    services: Cache<Service>,
    nodes: Cache<Node>,
}

impl Watchers {
    pub fn new(house: &House) -> Self {
        let (tell, pods) = mpsc::channel();
        house.caches.of::<Pod>().on_change(move |_, new| {
            if let Some(pod) = new {
                let _ = tell.send(pod.clone());
            }
        });
        let all = &house.caches;
        let beside = Caches { maps: all.of(), secrets: all.of(), services: all.of(), nodes: all.of() };
        Self { dry: Dry::follow(all), pods, came: BTreeMap::new(), beside, dir: tempfile::tempdir().expect("a directory") }
    }

    /// Looks at all that changed since.
    pub fn look(&mut self) {
        self.dry.changed();
        while let Ok(pod) = self.pods.try_recv() {
            let key = Key::new(pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
            let dir = self.dir.path().join("pod");
            let came = rehearse(&pod, &self.beside.of(&key.namespace), &dir, Timestamp::now()).expect("a directory");
            std::fs::remove_dir_all(&dir).expect("only files are in it");
            self.came.insert(key, came);
        }
    }

    /// Whether the proxy has rules for the service.
    pub fn has_rules(&self, namespace: &str, service: &str) -> bool {
        self.dry.knows(namespace, service)
    }

    /// Whether the node agent would make calls for the pod, with configs for them and files in its volumes.
    pub fn would_run(&mut self, namespace: &str, pod: &str) -> bool {
        self.look();
        let came = self.came.get(&Key::new(namespace, pod)).copied().unwrap_or_default();
        came.calls > 0 && came.parts > 0 && came.volumes > 0 && came.is_static
    }

    /// Of all pods that were looked at: how many could stand in a manifest, and how many have volumes with files.
    pub fn tally(&self) -> (usize, usize) {
        let count = |is_so: fn(&&Rehearsed) -> bool| self.came.values().filter(is_so).count();
        (count(|came| came.is_static), count(|came| came.volumes > 0))
    }
}

impl Caches {
    fn of(&self, namespace: &str) -> Beside {
        let fetched = Fetched {
            config_maps: self.maps.in_namespace(namespace).into_iter().map(|map| (map.name_any(), map)).collect(),
            secrets: self.secrets.in_namespace(namespace).into_iter().map(|secret| (secret.name_any(), secret)).collect(),
        };
        Beside { node: self.nodes.list().pop(), services: self.services.in_namespace(namespace), fetched }
    }
}
