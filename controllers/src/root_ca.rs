//! Namespace -> its ConfigMap `kube-root-ca.crt`, so that pods can check the API server. Source: `pkg/controller/certificates/rootcacertpublisher`.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Key,
    k8s::{
        api::core::v1::{ConfigMap, Namespace},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    },
};
use client::{Cache, Caches};
use reconcile::{Action, Controller, Plan, Wake, own_key};

use crate::namespaces::is_active;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub struct RootCa {
    namespaces: Cache<Namespace>,
    maps: Cache<ConfigMap>,
    data: BTreeMap<String, String>,
}

/// The map as it stands.
pub struct World {
    map: Option<Arc<ConfigMap>>,
}

impl RootCa {
    pub fn new(caches: &Caches, ca: &str) -> Self {
        // Of all config maps, those that this loop writes.
        let maps = caches.filtered(&format!("metadata.name={NAME}"));
        Self { namespaces: caches.of(), maps, data: [("ca.crt".to_owned(), ca.to_owned())].into() }
    }

    fn wanted(&self, namespace: &str) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.into()),
            annotations: Some([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, data: Some(self.data.clone()), ..ConfigMap::default() }
    }
}

impl Controller for RootCa {
    type World = World;

    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.namespaces);
        wake.on(&self.maps, |map, wake| {
            let key = own_key(map);
            if key.name == NAME {
                wake(Key::new("", &key.namespace));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let namespace = self.namespaces.get(key)?;
        is_active(&namespace).then(|| World { map: self.maps.get(&Key::new(&key.name, NAME)) })
    }

    fn plan(&self, world: &World, key: &Key) -> Plan {
        let action = match &world.map {
            None => Action::create(&self.wanted(&key.name)),
            Some(map) if map.data.as_ref() == Some(&self.data) => return Plan::rest(),
            Some(map) => Action::update(&ConfigMap { data: Some(self.data.clone()), ..(**map).clone() }),
        };
        Plan::act(vec![action])
    }
}
