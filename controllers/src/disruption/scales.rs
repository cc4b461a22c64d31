//! Pods -> who controls them, and how many pods those want.

use std::collections::BTreeMap;

use api::{
    Key,
    k8s::{
        api::{
            apps::v1::{Deployment, ReplicaSet},
            core::v1::ReplicationController,
        },
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
    names::split_api_version,
};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Wake, controller_of};

use crate::catalog::{collections, get};

/// What a controller of pods wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub uid: String,
    pub replicas: i32,
}

/// By the uid of the pods' controller: its scale, that of the controller's own controller where that has the word, or why there is none.
pub type Scales = BTreeMap<String, Result<Option<Scale>, String>>;

pub struct Finder {
    client: kube::Client,
    controllers: Cache<ReplicationController>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
}

impl Finder {
    pub fn new(caches: &Caches, client: kube::Client) -> Self {
        Self { client, controllers: caches.of(), sets: caches.of(), deployments: caches.of() }
    }

    pub fn watches(&self, wake: &Wake) {
        wake.needs(&self.controllers);
        wake.needs(&self.sets);
        wake.needs(&self.deployments);
    }

    pub async fn of(&self, pods: &[std::sync::Arc<Pod>]) -> Scales {
        let mut found = Scales::new();
        for pod in pods {
            let Some(owner) = controller_of(&**pod) else { continue };
            if !found.contains_key(&owner.uid) {
                let scale = self.scale(owner, &pod.namespace().unwrap_or_default()).await;
                found.insert(owner.uid.clone(), scale);
            }
        }
        found
    }

    async fn scale(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<Scale>, String> {
        let (group, version) =
            split_api_version(&owner.api_version).ok_or_else(|| format!("unexpected GroupVersion string: {}", owner.api_version))?;
        let key = Key::new(namespace, &owner.name);
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => Ok(self.of_controller(&key, &owner.uid)),
            ("apps" | "extensions", "ReplicaSet") => Ok(self.of_set(&key, &owner.uid)),
            _ => self.by_subresource(owner, (group, version), namespace).await,
        }
    }

    fn of_controller(&self, key: &Key, uid: &str) -> Option<Scale> {
        let found = self.controllers.get(key).filter(|found| found.uid().as_deref() == Some(uid))?;
        Some(Scale { uid: uid.into(), replicas: found.spec.as_ref()?.replicas.unwrap_or(1) })
    }

    /// A deployment's sets want what the deployment wants.
    fn of_set(&self, key: &Key, uid: &str) -> Option<Scale> {
        let set = self.sets.get(key).filter(|set| set.uid().as_deref() == Some(uid))?;
        let Some(owner) = controller_of(&*set).filter(|owner| owner.kind == "Deployment") else {
            return Some(Scale { uid: uid.into(), replicas: set.spec.as_ref()?.replicas.unwrap_or(1) });
        };
        let found = self.deployments.get(&Key::new(&key.namespace, &owner.name)).filter(|d| d.uid().as_deref() == Some(&owner.uid))?;
        Some(Scale { uid: owner.uid.clone(), replicas: found.spec.as_ref()?.replicas.unwrap_or(1) })
    }

    /// `getScaleController`: any kind that can be scaled, custom ones included.
    async fn by_subresource(
        &self,
        owner: &OwnerReference,
        (group, version): (&str, &str),
        namespace: &str,
    ) -> Result<Option<Scale>, String> {
        let all = collections(&self.client).await.map_err(|error| error.to_string())?;
        let unknown = || format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version);
        let found = all.iter().find(|c| c.group == group && c.version == version && c.kind == owner.kind).ok_or_else(unknown)?;
        let scale = match get(&self.client, &format!("{}/scale", found.object(namespace, &owner.name))).await {
            Err(kube::Error::Api(status)) if status.code == 404 && status.details.as_ref().is_none_or(|d| d.name.is_empty()) => {
                let resource = if group.is_empty() { found.plural.clone() } else { format!("{}.{group}", found.plural) };
                return Err(format!("{resource} does not implement the scale subresource"));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            reply => reply.map_err(|error| error.to_string())?,
        };
        let replicas = scale.pointer("/spec/replicas").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let same = scale.pointer("/metadata/uid").and_then(serde_json::Value::as_str) == Some(&owner.uid);
        Ok(same.then(|| Scale { uid: owner.uid.clone(), replicas: i32::try_from(replicas).unwrap_or(i32::MAX) }))
    }
}
