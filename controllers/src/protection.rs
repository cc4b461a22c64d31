//! Claims, volumes and classes of their attributes that are to go -> held by a finalizer while somebody uses them.
//!
//! Source: `pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}`. The admission plugin StorageObjectInUseProtection gives the finalizers.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::VolumeAttributesClass,
    },
};
use client::{Cache, Caches, Object, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake, controller_of};
use serde::Serialize;

use crate::index::Index;

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";

pub struct Claims {
    claims: Cache<PersistentVolumeClaim>,
    pods: Cache<Pod>,
    /// Pods by the claims that their volumes may be.
    users: Index<Pod, Key>,
}

pub struct Volumes {
    volumes: Cache<PersistentVolume>,
}

pub struct Classes {
    classes: Cache<VolumeAttributesClass>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

/// What is to be held, and whether somebody uses it: looked at where it is to go.
pub struct World<K> {
    object: Arc<K>,
    is_used: bool,
}

impl Claims {
    pub fn new(caches: &Caches) -> Self {
        let pods: Cache<Pod> = caches.of();
        Self { claims: caches.of(), users: Index::new(&pods, claims_of), pods }
    }
}

impl Volumes {
    pub fn new(caches: &Caches) -> Self {
        Self { volumes: caches.of() }
    }
}

impl Classes {
    pub fn new(caches: &Caches) -> Self {
        Self { classes: caches.of(), claims: caches.of(), volumes: caches.of() }
    }

    /// All claims and volumes are gone through, while a class goes and nowhere else.
    fn is_used(&self, class: &str) -> bool {
        let names = |all: Vec<&str>| all.contains(&class);
        self.volumes.list().iter().any(|volume| names(classes_of_volume(volume)))
            || self.claims.list().iter().any(|claim| names(classes_of_claim(claim)))
    }
}

impl Controller for Claims {
    type World = World<PersistentVolumeClaim>;

    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.claims);
        wake.on(&self.pods, |pod, wake| claims_of(pod).into_iter().for_each(wake));
    }

    async fn observe(&self, key: &Key) -> Option<Self::World> {
        let object = self.claims.get(key)?;
        let is_used = is_going(&*object) && self.users.at(key).iter().any(|pod| uses(pod, &object));
        Some(World { object, is_used })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        plan(world, OF_CLAIMS)
    }
}

impl Controller for Volumes {
    type World = World<PersistentVolume>;

    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.volumes);
    }

    async fn observe(&self, key: &Key) -> Option<Self::World> {
        let object = self.volumes.get(key)?;
        let is_used = object.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        Some(World { object, is_used })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        plan(world, OF_VOLUMES)
    }
}

impl Controller for Classes {
    type World = World<VolumeAttributesClass>;

    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.classes);
        let key = |name: &str| Key::new("", name);
        wake.on(&self.volumes, move |volume, wake| classes_of_volume(volume).into_iter().map(key).for_each(wake));
        wake.on(&self.claims, move |claim, wake| classes_of_claim(claim).into_iter().map(key).for_each(wake));
    }

    async fn observe(&self, key: &Key) -> Option<Self::World> {
        let object = self.classes.get(key)?;
        let is_used = is_going(&*object) && self.is_used(&key.name);
        Some(World { object, is_used })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        plan(world, OF_CLASSES)
    }
}

fn plan<K: Object + Serialize + ResourceExt>(world: &World<K>, finalizer: &str) -> Plan {
    let has_it = world.object.finalizers().iter().any(|held| held == finalizer);
    let mut changed = (*world.object).clone();
    match (is_going(&*world.object), has_it) {
        (false, false) => changed.finalizers_mut().push(finalizer.to_owned()),
        (true, true) if !world.is_used => changed.finalizers_mut().retain(|held| held != finalizer),
        _ => return Plan::rest(),
    }
    Plan::act(vec![Action::update(&changed)])
}

fn is_going<K: ResourceExt>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Those that a pod's volumes name, and those that are made for it.
fn claims_of(pod: &Pod) -> Vec<Key> {
    let meta = pod.object_meta();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", meta.name, volume.name)),
        (None, None) => None,
    });
    named.map(|name| Key::new(meta.namespace, &name)).collect()
}

/// `podUsesPVCForDeletion`: a pod that no node has does not start with a claim that is to go. Upstream lets go of what was made for a pod that is shut down and
/// stays for its finalizers; here that goes with the pod.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty())) else { return false };
    let name = claim.name_any();
    let is_its_own = || controller_of(claim).is_some_and(|owner| Some(owner.uid.as_str()) == pod.metadata.uid.as_deref());
    spec.volumes.iter().flatten().any(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(named), _) => named.claim_name == name,
        (None, Some(_)) => format!("{}-{}", pod.object_meta().name, volume.name) == name && is_its_own(),
        (None, None) => false,
    })
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<&str> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.as_deref()).collect()
}

/// What it asks for, what it has, and what it is being given.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(more: Value) -> Arc<PersistentVolumeClaim> {
        let mut metadata = json!({"name": "data", "namespace": "n", "resourceVersion": "1"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    fn finalizers(object: &Arc<PersistentVolumeClaim>, is_used: bool) -> Option<Value> {
        match plan(&World { object: object.clone(), is_used }, OF_CLAIMS).actions.as_slice() {
            [] => None,
            [Action::Update { object, .. }] => Some(object["metadata"].get("finalizers").cloned().unwrap_or(Value::Null)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_held_until_nobody_uses_it() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a", OF_CLAIMS]});
        assert_eq!(finalizers(&claim(json!({})), false), Some(json!([OF_CLAIMS])));
        assert_eq!(finalizers(&claim(json!({"finalizers": [OF_CLAIMS]})), false), None);
        assert_eq!(finalizers(&claim(going.clone()), true), None);
        assert_eq!(finalizers(&claim(going), false), Some(json!(["a"])));
        assert_eq!(finalizers(&claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})), false), None);
    }

    #[test]
    fn a_pod_on_a_node_uses_what_its_volumes_name() {
        let pod = |node: Value, volume: Value| -> Pod {
            let metadata = json!({"name": "web", "namespace": "n", "uid": "u"});
            let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        assert!(uses(&pod(json!("n1"), named.clone()), &claim(json!({}))));
        assert!(!uses(&pod(json!(null), named.clone()), &claim(json!({}))));
        assert_eq!(claims_of(&pod(json!(null), named)), [Key::new("n", "data")]);
        let owner = |uid: &str| json!({"name": "web-tmp", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": true}]});
        let made = json!({"name": "tmp", "ephemeral": {}});
        assert_eq!(claims_of(&pod(json!(null), made.clone())), [Key::new("n", "web-tmp")]);
        assert!(uses(&pod(json!("n1"), made.clone()), &claim(owner("u"))));
        assert!(!uses(&pod(json!("n1"), made), &claim(owner("other"))));
    }

    #[test]
    fn a_class_is_named_in_three_places() {
        let of: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {}, "spec": {"volumeAttributesClassName": "a"},
            "status": {"currentVolumeAttributesClassName": "b", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "c"}},
        }))
        .unwrap();
        assert_eq!(classes_of_claim(&of), ["a", "b", "c"]);
    }
}
