//! Claims, volumes and classes of their attributes that are to go -> held by a finalizer while somebody uses them.
//!
//! Source: `pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}`. The admission plugin StorageObjectInUseProtection gives the finalizers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::VolumeAttributesClass,
    },
};
use client::{
    Cache, Caches, Object, kube,
    pods::{Pod, PodMeta, PodSpec},
};
use kube::ResourceExt;
use podspec::claims::is_for_pod;
use reconcile::{Action, Controller, Plan, Wake};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    catalog,
    index::{ByClaim, claims_of},
};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";
const LIST_BOUND: Duration = Duration::from_secs(30);
/// Where pods could not be listed.
const LIST_AGAIN: Duration = Duration::from_secs(5);

pub struct Claims {
    claims: Cache<PersistentVolumeClaim>,
    pods: Cache<Pod>,
    users: ByClaim,
    client: kube::Client,
    /// What the server told last where the cache might not know all pods: many claims that go together are asked about once.
    told: Mutex<Option<Told>>,
}

/// The pods of a namespace that use claims, as of a revision, without what is not asked about.
struct Told {
    namespace: String,
    revision: u64,
    users: HashMap<Key, Vec<Pod>>,
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
    /// Whether somebody uses it could not be found out: it is looked at again after this.
    again: Option<Duration>,
}

impl Claims {
    /// `client` lists pods.
    pub fn new(caches: &Caches, users: &ByClaim, client: kube::Client) -> Self {
        Self { claims: caches.of(), users: users.clone(), pods: caches.of(), client, told: Mutex::default() }
    }

    /// Whether a pod that the cache may not show yet uses a claim that is to go. One that came after the claim was to go is not scheduled with it.
    async fn is_used_unseen(&self, claim: &PersistentVolumeClaim, key: &Key) -> Result<bool, String> {
        let going: u64 = claim.resource_version().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        if self.pods.revision() >= going {
            return Ok(false);
        }
        let mut told = self.told.lock().await;
        if told.as_ref().is_none_or(|told| told.namespace != key.namespace || told.revision < going) {
            let path = format!("/api/v1/namespaces/{}/pods", key.namespace);
            let list = timeout(LIST_BOUND, catalog::get(&self.client, &path)).await.map_err(|late| late.to_string())?;
            *told = Some(Told::read(&key.namespace, list.map_err(|error| error.to_string())?)?);
        }
        Ok(told.iter().flat_map(|told| told.users.get(key).into_iter().flatten()).any(|pod| uses(pod, claim)))
    }
}

impl Told {
    fn read(namespace: &str, mut list: Value) -> Result<Self, String> {
        let revision =
            list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).ok_or("a list without a revision")?;
        let Value::Array(items) = list["items"].take() else { return Err("a list without items".into()) };
        let mut users: HashMap<Key, Vec<Pod>> = HashMap::new();
        for pod in items.into_iter().filter_map(|item| serde_json::from_value::<Pod>(item).ok()) {
            for claim in claims_of(&pod) {
                users.entry(claim).or_default().push(bare(&pod));
            }
        }
        Ok(Self { namespace: namespace.to_owned(), revision, users })
    }
}

/// What [`uses`] looks at.
fn bare(pod: &Pod) -> Pod {
    let PodMeta { name, namespace, uid, .. } = pod.metadata.clone();
    let spec =
        pod.spec.as_ref().map(|spec| PodSpec { node_name: spec.node_name.clone(), volumes: spec.volumes.clone(), ..PodSpec::default() });
    Pod { metadata: PodMeta { name, namespace, uid, ..PodMeta::default() }, spec, status: None }
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
        let mut is_used = is_going(&*object) && self.users.at(key).iter().any(|pod| uses(pod, &object));
        let mut again = None;
        if is_going(&*object) && !is_used && has(&*object, OF_CLAIMS) {
            is_used = self.is_used_unseen(&object, key).await.unwrap_or_else(|error| {
                tracing::warn!(claim = %key, error, "failed to list pods; the claim stays until it is known who uses it");
                again = Some(LIST_AGAIN);
                true
            });
        }
        Some(World { object, is_used, again })
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
        Some(World { object, is_used, again: None })
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
        Some(World { object, is_used, again: None })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        plan(world, OF_CLASSES)
    }
}

fn plan<K: Object + Serialize + ResourceExt>(world: &World<K>, finalizer: &str) -> Plan {
    let has_it = has(&*world.object, finalizer);
    let mut changed = (*world.object).clone();
    match (is_going(&*world.object), has_it) {
        (false, false) => changed.finalizers_mut().push(finalizer.to_owned()),
        (true, true) if !world.is_used => changed.finalizers_mut().retain(|held| held != finalizer),
        _ => return Plan { again: world.again, ..Plan::rest() },
    }
    Plan::act(vec![Action::update(&changed)])
}

fn has<K: ResourceExt>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|held| held == finalizer)
}

fn is_going<K: ResourceExt>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// `podUsesPVCForDeletion`: a pod that no node has does not start with a claim that is to go. Upstream lets go of what was made for a pod that is shut down and
/// stays for its finalizers; here that goes with the pod.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty())) else { return false };
    let name = claim.name_any();
    let meta = pod.object_meta();
    let is_its_own = || is_for_pod(claim, meta.name, meta.uid).is_ok();
    let mut named = spec.volumes.iter().flatten().filter_map(|volume| volume.claim(meta.name));
    named.any(|(named, is_own)| named == name && (!is_own || is_its_own()))
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
    use api::task::Group;
    use serde_json::json;

    use super::*;

    fn claim(more: Value) -> Arc<PersistentVolumeClaim> {
        let mut metadata = json!({"name": "data", "namespace": "n", "resourceVersion": "1"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    fn finalizers(object: &Arc<PersistentVolumeClaim>, is_used: bool) -> Option<Value> {
        match plan(&World { object: object.clone(), is_used, again: None }, OF_CLAIMS).actions.as_slice() {
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

    /// A server that answers so, whatever it is asked.
    fn answering(code: u16, body: &Value) -> kube::Client {
        let body = body.to_string().into_bytes();
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let reply = http::Response::builder().status(code).body(kube::client::Body::from(body.clone()));
            async { Ok::<_, std::convert::Infallible>(reply.unwrap()) }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_claim_is_not_freed_while_the_cache_may_not_know_its_users() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [OF_CLAIMS], "resourceVersion": "9"});
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        let user = json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}, "spec": {"nodeName": "n1", "containers": [], "volumes": [volume]}});
        let list = |items: Value| json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": items});
        let failed =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "no", "reason": "InternalError"});
        let cases = [
            (200, list(json!([user])), (true, None)),
            (200, list(json!([])), (false, None)),
            (500, failed, (true, Some(LIST_AGAIN))),
            (200, json!({}), (true, Some(LIST_AGAIN))),
        ];
        for (code, body, expected) in cases {
            let client = answering(code, &body);
            let caches = Caches::unfollowed(client.clone(), Group::new());
            let claims = Claims::new(&caches, &crate::index::by_claim(&caches.of()), client);
            claims.claims.feed((*claim(going.clone())).clone(), false);
            let key = Key::new("n", "data");
            let world = claims.observe(&key).await.unwrap();
            assert_eq!((world.is_used, world.again), expected, "{body}");
            let plan = claims.plan(&world, &key);
            assert_eq!((plan.actions.is_empty(), plan.again), expected, "{body}");
        }
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
