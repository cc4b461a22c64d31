//! Claims and volumes as users write them, run until nothing is written any more. Cases of upstream's `pv_controller_test.go`, `framework_test.go`.

use std::collections::BTreeSet;

use api::task::Group;
use client::Object;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::index::by_claim;

/// Writes of one case before it counts as one that never ends.
const WRITES_MAX: usize = 40;

struct House {
    caches: Caches,
    claims: Claims,
    volumes: Volumes,
    revision: u64,
    writes: usize,
    told: BTreeSet<String>,
}

fn of<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A server that answers all with 404, and these details for an object's name.
fn nobody_of(details: fn(&str) -> Value) -> kube::Client {
    let nobody = tower::service_fn(move |asked: http::Request<kube::client::Body>| async move {
        let details = details(asked.uri().path().rsplit('/').next().unwrap_or_default());
        let said = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no", "details": details});
        let body = kube::client::Body::from(said.to_string().into_bytes());
        Ok::<_, std::convert::Infallible>(http::Response::builder().status(404).body(body).unwrap())
    });
    kube::Client::new(nobody, "default")
}

#[tokio::test]
async fn a_path_that_is_not_served_says_nothing_of_the_object() {
    let path = "/api/v1/persistentvolumes/v";
    let gone = read::<PersistentVolume>(&nobody_of(|name| json!({"name": name})), path, "v").await;
    assert!(matches!(gone, Named::Gone), "{gone:?}");
    let unknown = read::<PersistentVolume>(&nobody_of(|_| json!({})), path, "v").await;
    assert!(matches!(unknown, Named::Unknown), "{unknown:?}");
}

impl House {
    /// What the caches do not show is not there.
    fn new() -> Self {
        let client = nobody_of(|name| json!({"name": name}));
        let caches = Caches::unfollowed(client.clone(), Group::new());
        let shelf = Shelf::of(&caches.of(), &caches.of());
        let claims = Claims::new(&caches, &shelf, &by_claim(&caches.of()), client.clone());
        let volumes = Volumes::new(&caches, &shelf, client);
        Self { caches, claims, volumes, revision: 1, writes: 0, told: BTreeSet::new() }
    }

    fn put<K: Object + DeserializeOwned>(&mut self, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.caches.of::<K>().feed(of(object), false);
    }

    fn volume(&mut self, name: &str, spec: Value) -> &mut Self {
        let mut whole =
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.put::<PersistentVolume>(json!({"metadata": {"name": name, "uid": name}, "spec": whole, "status": {"phase": "Pending"}}));
        self
    }

    fn claim(&mut self, name: &str, spec: Value) -> &mut Self {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        whole.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let metadata = json!({"name": name, "namespace": "n", "uid": format!("uid-{name}")});
        self.put::<PersistentVolumeClaim>(json!({"metadata": metadata, "spec": whole, "status": {"phase": "Pending"}}));
        self
    }

    fn class(&mut self, name: &str, mode: &str, provisioner: &str, is_default: bool) -> &mut Self {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": is_default.to_string()});
        let metadata = json!({"name": name, "annotations": annotations});
        self.put::<StorageClass>(json!({"metadata": metadata, "provisioner": provisioner, "volumeBindingMode": mode}));
        self
    }

    fn gone(&mut self, name: &str) {
        let claim = self.get_claim(name);
        self.revision += 1;
        let mut claim = serde_json::to_value(&*claim).unwrap();
        claim["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.caches.of::<PersistentVolumeClaim>().feed(of(claim), true);
    }

    fn get_claim(&self, name: &str) -> Arc<PersistentVolumeClaim> {
        self.claims.claims.get(&Key::new("n", name)).unwrap()
    }

    fn get_volume(&self, name: &str) -> Arc<PersistentVolume> {
        self.volumes.volumes.get(&Key::new("", name)).unwrap()
    }

    /// Runs all keys until none of them writes.
    async fn settle(&mut self) -> &mut Self {
        loop {
            let before = self.writes;
            for claim in self.claims.claims.list() {
                let key = own_key(&*claim);
                let plan = self.claims.plan(&self.claims.observe(&key).await.unwrap(), &key);
                self.act(plan);
            }
            for volume in self.volumes.volumes.list() {
                let key = own_key(&*volume);
                let plan = self.volumes.plan(&self.volumes.observe(&key).await.unwrap(), &key);
                self.act(plan);
            }
            if self.writes == before {
                return self;
            }
            assert!(self.writes < WRITES_MAX, "it never ends: {:?}", self.told);
        }
    }

    fn act(&mut self, plan: Plan) {
        for action in plan.actions {
            match action {
                Action::Event { reason, message, warning, .. } => {
                    self.told.insert(format!("{} {reason} {message}", if warning { "Warning" } else { "Normal" }));
                }
                Action::Update { resource, path, object } if resource.resource == "persistentvolumes" => {
                    self.write::<PersistentVolume>(&path, object);
                }
                Action::Update { path, object, .. } => self.write::<PersistentVolumeClaim>(&path, object),
                other => panic!("{other:?}"),
            }
        }
    }

    /// As the server does: what was read in another version is refused, and the status is written by itself.
    fn write<K: Object + Serialize + DeserializeOwned>(&mut self, path: &str, object: Value) {
        let written: K = of(object.clone());
        let meta = written.object_meta();
        let stored = self.caches.of::<K>().get(&meta.key()).unwrap();
        assert_eq!(stored.object_meta().resource_version, meta.resource_version, "{path}");
        let mut merged = serde_json::to_value(&*stored).unwrap();
        if path.ends_with("/status") {
            merged["status"] = object["status"].clone();
        } else {
            merged["metadata"] = object["metadata"].clone();
            merged["spec"] = object["spec"].clone();
        }
        self.writes += 1;
        self.put::<K>(merged);
    }

    /// A claim's phase and volume.
    fn claim_is(&self, name: &str) -> (String, String) {
        let claim = self.get_claim(name);
        (phase_of_claim(&claim).to_owned(), rules::volume_name(&claim).to_owned())
    }

    /// A volume's phase, and the uid of its claim.
    fn volume_is(&self, name: &str) -> (String, String) {
        let volume = self.get_volume(name);
        let uid = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone()).unwrap_or_default();
        (phase_of_volume(&volume).to_owned(), uid)
    }

    fn said(&self) -> Vec<&str> {
        self.told.iter().map(String::as_str).collect()
    }
}

fn two(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[tokio::test]
async fn a_claim_gets_the_smallest_volume_with_as_few_writes_as_upstream() {
    let mut house = House::new();
    house.volume("large", json!({"capacity": {"storage": "10Gi"}})).volume("small", json!({"capacity": {"storage": "2Gi"}})).settle().await;
    house.writes = 0;
    house.claim("a", json!({})).settle().await;
    assert_eq!((house.claim_is("a"), house.volume_is("small")), (two("Bound", "small"), two("Bound", "uid-a")));
    assert_eq!((house.volume_is("large"), house.writes), (two("Available", ""), 4));
    let claim = house.get_claim("a");
    let capacity = claim.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0.clone();
    assert_eq!(capacity, "2Gi");
    for annotation in [rules::BIND_COMPLETED, rules::BOUND_BY_CONTROLLER] {
        assert_eq!(rules::annotation(&claim.metadata, annotation), Some("yes"));
    }
    assert_eq!(rules::annotation(&house.get_volume("small").metadata, rules::BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(house.get_volume("small").spec.as_ref().unwrap().claim_ref.as_ref().unwrap().kind.as_deref(), Some("PersistentVolumeClaim"));
}

#[tokio::test]
async fn many_claims_get_one_volume_each() {
    let mut house = House::new();
    for at in 0..4 {
        house.volume(&format!("v{at}"), json!({}));
    }
    for at in 0..5 {
        house.claim(&format!("c{at}"), json!({}));
    }
    house.settle().await;
    let bound: BTreeSet<String> = (0..5).map(|at| house.claim_is(&format!("c{at}")).1).collect();
    assert_eq!(bound.len(), 5, "four volumes and none: {bound:?}");
    assert_eq!(house.said(), ["Normal FailedBinding no persistent volumes available for this claim and no storage class is set"]);
}

#[tokio::test]
async fn users_reserve_from_either_side() {
    let mut house = House::new();
    house.volume("v1", json!({"claimRef": {"namespace": "n", "name": "a"}})).volume("v2", json!({"capacity": {"storage": "5Gi"}}));
    house.settle().await;
    assert_eq!(house.volume_is("v1"), two("Available", ""));
    house.claim("other", json!({"volumeName": "v1"})).claim("a", json!({})).claim("b", json!({"volumeName": "v2"})).settle().await;
    assert_eq!((house.claim_is("a"), house.volume_is("v1")), (two("Bound", "v1"), two("Bound", "uid-a")));
    assert_eq!(rules::annotation(&house.get_volume("v1").metadata, rules::BOUND_BY_CONTROLLER), None, "a user reserved it");
    assert_eq!((house.claim_is("b"), house.volume_is("v2")), (two("Bound", "v2"), two("Bound", "uid-b")));
    assert_eq!(rules::annotation(&house.get_claim("b").metadata, rules::BOUND_BY_CONTROLLER), None);
    assert_eq!(house.claim_is("other"), two("Pending", "v1"));
    assert_eq!(house.said(), ["Warning FailedBinding volume \"v1\" already bound to a different claim."]);
}

#[tokio::test]
async fn a_named_volume_has_to_fit() {
    let mut house = House::new();
    house.volume("v", json!({})).claim("a", json!({"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}}));
    house.claim("b", json!({"volumeName": "none"})).settle().await;
    assert_eq!((house.claim_is("a"), house.claim_is("b")), (two("Pending", "v"), two("Pending", "none")));
    assert_eq!(house.said(), ["Warning VolumeMismatch Cannot bind to requested volume \"v\": requested PV is too small"]);
}

#[tokio::test]
async fn what_is_not_to_be_had_is_not_given() {
    let rows = [
        (json!({"storageClassName": "s"}), json!({})),
        (json!({"volumeMode": "Block"}), json!({})),
        (json!({}), json!({"volumeMode": "Block"})),
        (json!({"accessModes": ["ReadOnlyMany"]}), json!({})),
        (json!({"claimRef": {"namespace": "n", "name": "a", "uid": "older"}}), json!({})),
        (json!({"claimRef": {"namespace": "m", "name": "a"}}), json!({})),
        (json!({}), json!({"selector": {"matchLabels": {"tier": "fast"}}})),
    ];
    for (volume, claim) in rows {
        let mut house = House::new();
        house.volume("v", volume.clone()).claim("a", claim.clone()).settle().await;
        assert_eq!(house.claim_is("a"), two("Pending", ""), "{volume} {claim}");
    }
}

#[tokio::test]
async fn a_volume_outlives_its_claim_as_its_policy_says() {
    let by = |provisioner: &str| json!({"pv.kubernetes.io/provisioned-by": provisioner});
    let none = "Warning VolumeFailedDelete error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    let rows = [
        (json!({"persistentVolumeReclaimPolicy": "Retain"}), json!({}), "Released", None),
        (
            json!({"persistentVolumeReclaimPolicy": "Recycle"}),
            json!({}),
            "Failed",
            Some("Warning VolumeFailedRecycle No recycler plugin found for the volume!"),
        ),
        (json!({"persistentVolumeReclaimPolicy": "Delete"}), json!({}), "Failed", Some(none)),
        (json!({"persistentVolumeReclaimPolicy": "Delete", "hostPath": {"path": "/tmp/x"}}), json!({}), "Failed", Some(none)),
        (
            json!({"persistentVolumeReclaimPolicy": "Delete", "hostPath": {"path": "/srv/x"}}),
            json!({}),
            "Failed",
            Some("Warning VolumeFailedDelete host_path deleter only supports /tmp/.+ but received provided /srv/x"),
        ),
        (json!({"persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": "d", "volumeHandle": "h"}}), json!({}), "Released", None),
        (json!({"persistentVolumeReclaimPolicy": "Delete"}), by("example.com/x"), "Released", None),
        (
            json!({"persistentVolumeReclaimPolicy": "Delete"}),
            by("kubernetes.io/x"),
            "Failed",
            Some("Warning VolumeFailedDelete no volume plugin matched name: kubernetes.io/x"),
        ),
    ];
    for (spec, annotations, phase, told) in rows {
        let mut house = House::new();
        house.volume("v", spec.clone());
        let mut volume = serde_json::to_value(&*house.get_volume("v")).unwrap();
        volume["metadata"]["annotations"] = annotations;
        house.put::<PersistentVolume>(volume);
        house.settle().await;
        house.claim("a", json!({})).settle().await;
        assert_eq!(house.volume_is("v"), two("Bound", "uid-a"));
        house.gone("a");
        house.settle().await;
        assert_eq!(house.volume_is("v"), two(phase, "uid-a"), "{spec}");
        assert_eq!(house.said(), Vec::from_iter(told), "{spec}");
        // Another claim of the same name is another claim.
        house.claim("a", json!({"resources": {"requests": {"storage": "1Gi"}}}));
        let mut claim = serde_json::to_value(&*house.get_claim("a")).unwrap();
        claim["metadata"]["uid"] = "another".into();
        house.put::<PersistentVolumeClaim>(claim);
        house.settle().await;
        assert_eq!((house.claim_is("a"), house.volume_is("v")), (two("Pending", ""), two(phase, "uid-a")), "{spec}");
    }
}

#[tokio::test]
async fn a_claim_that_lost_its_volume_says_so() {
    let mut house = House::new();
    house.volume("v", json!({})).settle().await;
    house.claim("a", json!({})).settle().await;
    let mut volume = serde_json::to_value(&*house.get_volume("v")).unwrap();
    house.revision += 1;
    volume["metadata"]["resourceVersion"] = house.revision.to_string().into();
    house.caches.of::<PersistentVolume>().feed(of(volume.clone()), true);
    house.settle().await;
    assert_eq!(house.claim_is("a"), two("Lost", "v"));
    assert_eq!(house.said(), ["Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"]);
    assert!(house.get_claim("a").status.as_ref().unwrap().capacity.is_none());
    // It is there again.
    house.put::<PersistentVolume>(volume.clone());
    house.settle().await;
    assert_eq!(house.claim_is("a"), two("Bound", "v"));
    // Somebody else's: nobody has it twice.
    house.told.clear();
    volume["spec"]["claimRef"]["uid"] = "other".into();
    house.put::<PersistentVolume>(volume);
    house.settle().await;
    assert_eq!(house.claim_is("a"), two("Lost", "v"));
    assert_eq!(house.said(), ["Warning ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly"]);
}

#[tokio::test]
async fn a_volume_that_its_claim_did_not_take_is_to_be_had_again() {
    for (annotations, left, uid) in [(json!({"pv.kubernetes.io/bound-by-controller": "yes"}), false, ""), (json!({}), true, "")] {
        let mut house = House::new();
        house.volume("v1", json!({})).claim("a", json!({})).settle().await;
        let reference = house.get_volume("v1").spec.as_ref().unwrap().claim_ref.clone();
        house.volume("v2", json!({"claimRef": reference}));
        let mut volume = serde_json::to_value(&*house.get_volume("v2")).unwrap();
        volume["metadata"]["annotations"] = annotations;
        house.put::<PersistentVolume>(volume);
        house.settle().await;
        assert_eq!((house.claim_is("a"), house.volume_is("v2")), (two("Bound", "v1"), two("Available", uid)));
        assert_eq!(house.get_volume("v2").spec.as_ref().unwrap().claim_ref.is_some(), left);
    }
}

#[tokio::test]
async fn claims_of_a_class_wait_or_ask_for_a_volume() {
    let mut house = House::new();
    house.class("now", "Immediate", "example.com/p", false).class("later", "WaitForFirstConsumer", "example.com/p", false);
    house.class("tree", "Immediate", "kubernetes.io/no-provisioner", false);
    house.volume("v", json!({"storageClassName": "later"}));
    house.claim("now", json!({"storageClassName": "now"})).claim("later", json!({"storageClassName": "later"}));
    house.claim("tree", json!({"storageClassName": "tree"})).claim("none", json!({"storageClassName": "none"})).settle().await;
    for name in ["now", "later", "tree", "none"] {
        assert_eq!(house.claim_is(name), two("Pending", ""), "{name}");
    }
    let asked = house.get_claim("now");
    assert_eq!(rules::annotation(&asked.metadata, rules::STORAGE_PROVISIONER), Some("example.com/p"));
    assert_eq!(rules::annotation(&asked.metadata, rules::BETA_STORAGE_PROVISIONER), Some("example.com/p"));
    let external = "Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'example.com/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.";
    assert_eq!(
        house.said(),
        [
            external,
            "Normal WaitForFirstConsumer waiting for first consumer to be created before binding",
            "Warning ProvisioningFailed no volume plugin matched name: kubernetes.io/no-provisioner",
            "Warning ProvisioningFailed storageclass.storage.k8s.io \"none\" not found",
        ]
    );
    // The scheduler has seen a pod, and chosen a node.
    house.told.clear();
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "resourceVersion": "1"}, "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "later"}}]}});
    house.put::<Pod>(pod);
    house.settle().await;
    assert!(house.told.contains("Normal WaitForPodScheduled waiting for pod p to be scheduled"), "{:?}", house.told);
    let mut claim = serde_json::to_value(&*house.get_claim("later")).unwrap();
    claim["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n1"});
    house.put::<PersistentVolumeClaim>(claim);
    house.settle().await;
    assert_eq!(rules::annotation(&house.get_claim("later").metadata, rules::STORAGE_PROVISIONER), Some("example.com/p"));
    // Its provisioner makes the volume for it.
    let reference = json!({"namespace": "n", "name": "later", "uid": "uid-later", "kind": "PersistentVolumeClaim", "apiVersion": "v1"});
    house.volume("made", json!({"storageClassName": "later", "claimRef": reference})).settle().await;
    assert_eq!((house.claim_is("later"), house.volume_is("made")), (two("Bound", "made"), two("Bound", "uid-later")));
}

#[tokio::test]
async fn a_claim_without_a_class_gets_the_default_one_later() {
    let mut house = House::new();
    house.claim("a", json!({})).claim("none", json!({"storageClassName": ""})).settle().await;
    house.class("d", "WaitForFirstConsumer", "example.com/p", true).settle().await;
    assert_eq!(rules::stated_class(&house.get_claim("a")), Some("d"));
    assert_eq!(rules::stated_class(&house.get_claim("none")), Some(""));
}
