//! A claim that asks for a directory of the node that its pod goes to -> the volume, which that node makes when the pod comes.
//!
//! Upstream has an external provisioner for each storage; this one is built in, as k3s' local-path-provisioner is. It writes no disk: the node's agent makes the directory
//! (`kubelet/src/volumes/plugins/persistent_volume.rs`) and deletes it, and the volume with it (`kubelet/src/volumes/local_storage.rs`).
//! Source: sig-storage-lib-external-provisioner `controller.go` (names, annotations, events).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use api::{
    Key,
    k8s::{
        api::{
            core::v1::{
                LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
                PersistentVolumeSpec, VolumeNodeAffinity,
            },
            storage::v1::StorageClass,
        },
        apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    },
};
use client::{Cache, Caches, kube, pods::Pod};
use podspec::claims::{
    self, AccessModes, LOCAL_NODE, LOCAL_PROVISIONER, LOCAL_STORAGE, PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER, annotation,
    volume_name,
};
use reconcile::{Action, Controller, Plan, Wake, own_key, reference};

use crate::index::{ByClaim, claims_of};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// Bytes of a file's name.
const NAME_MAX: usize = 255;

pub struct LocalStorage {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    users: ByClaim,
}

pub struct World {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
    /// The one that the scheduler chose; `None` while it has not.
    node: Option<(String, Option<Arc<Node>>)>,
    is_made: bool,
    /// A pod waits for it, for that node or on it: who may write claims alone makes no volumes.
    is_wanted: bool,
}

impl LocalStorage {
    pub fn new(caches: &Caches, users: &ByClaim) -> Self {
        let (claims, volumes, classes, nodes) = (caches.of(), caches.of(), caches.of(), caches.of());
        Self { claims, volumes, classes, nodes, pods: caches.of(), users: users.clone() }
    }
}

impl Controller for LocalStorage {
    type World = World;

    fn name(&self) -> &'static str {
        "local-storage-provisioner"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.claims);
        wake.on(&self.volumes, |_, _| {});
        wake.needs(&self.classes);
        wake.needs(&self.nodes);
        let claims = self.claims.clone();
        wake.on(&self.pods, move |pod, wake| {
            let waits = |key: &Key| claims.get(key).is_some_and(|claim| volume_name(&claim).is_empty());
            claims_of(pod).into_iter().filter(waits).for_each(wake);
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let claim = self.claims.get(key)?;
        if annotation(&claim.metadata, STORAGE_PROVISIONER) != Some(LOCAL_PROVISIONER) || !volume_name(&claim).is_empty() {
            return None;
        }
        let class = self.classes.get(&Key::new("", claims::class_of_claim(&claim)));
        let selected = annotation(&claim.metadata, SELECTED_NODE);
        let node = selected.map(|name| (name.to_owned(), self.nodes.get(&Key::new("", name))));
        let is_made = self.volumes.get(&Key::new("", &name_of(&claim))).is_some();
        let is_wanted = selected.is_some_and(|name| self.users.at(key).iter().any(|pod| may_go_to(pod, name)));
        Some(World { claim, class, node, is_made, is_wanted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (Action::Create { .. }, kube::Error::Api(status)) = (action, error) else { return None };
        let claim = self.claims.get(key).filter(|_| status.code != 409)?;
        Some(provisioning_failed(&claim, &format!("error creating PersistentVolume: {}", status.message)))
    }
}

fn provisioning_failed(claim: &PersistentVolumeClaim, why: &str) -> Action {
    let message = format!("failed to provision volume with StorageClass {:?}: {why}", claims::class_of_claim(claim));
    Action::warning(claim, "ProvisioningFailed", message)
}

fn plan(world: &World) -> Plan {
    let (claim, Some(class)) = (&*world.claim, &world.class) else { return Plan::rest() };
    if world.is_made || claim.metadata.deletion_timestamp.is_some() || class.provisioner != LOCAL_PROVISIONER {
        return Plan::rest();
    }
    let Some((name, node)) = &world.node else {
        if claims::waits_for_consumer(class) {
            return Plan::rest();
        }
        let why = "its volumeBindingMode has to be WaitForFirstConsumer: directories are of the node that a pod goes to";
        return Plan::act(vec![provisioning_failed(claim, why)]);
    };
    if let Some(why) = unsupported(claim) {
        return give_back(claim, why);
    }
    let placed = node.as_deref().ok_or("the node is gone").and_then(|node| allowed(node, class)).and_then(|node| place(node, claim));
    match placed {
        // The pod wakes the claim when it comes.
        Ok(_) if !world.is_wanted => Plan::rest(),
        Ok((hostname, path)) => {
            let volume = volume(claim, class, name, hostname, path);
            let message = format!("Successfully provisioned volume {}", volume.metadata.name.as_deref().unwrap_or_default());
            Plan::act(vec![Action::create(&volume), Action::normal(claim, "ProvisioningSucceeded", message)])
        }
        Err(why) => give_back(claim, &format!("node {name:?}: {why}")),
    }
}

/// The scheduler is to choose again: the pod that waits is told so at once.
fn give_back(claim: &PersistentVolumeClaim, why: &str) -> Plan {
    let mut changed = claim.clone();
    changed.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
    Plan::act(vec![provisioning_failed(claim, why), Action::update(&changed)])
}

fn may_go_to(pod: &Pod, node: &str) -> bool {
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !pod.is_over() && (on.is_empty() || on == node)
}

/// Users can write the node's name themselves: what the scheduler holds to is held to here, too.
fn allowed<'a>(node: &'a Node, class: &StorageClass) -> Result<&'a Node, &'static str> {
    let (terms, none) = (class.allowed_topologies.as_deref().unwrap_or_default(), BTreeMap::new());
    let is_allowed = claims::topology_matches(terms, node.metadata.labels.as_ref().unwrap_or(&none));
    if is_allowed { Ok(node) } else { Err("its labels are none of the class's allowedTopologies") }
}

/// What no directory can be.
fn unsupported(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    let of_one_node = AccessModes::of(Some(&vec!["ReadWriteOnce".into(), "ReadWriteOncePod".into()]));
    match () {
        () if spec.volume_mode.as_deref() == Some("Block") => Some("volumeMode Block is not supported"),
        () if !of_one_node.contains(claims::modes_of_claim(claim)) => {
            Some("only the access modes ReadWriteOnce and ReadWriteOncePod are supported")
        }
        () if spec.selector.is_some() => Some("claim.spec.selector is not supported for dynamic provisioning"),
        () if spec.data_source.is_some() || spec.data_source_ref.is_some() => Some("data sources are not supported"),
        () => None,
    }
}

fn name_of(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The node's label, and the directory.
fn place<'a>(node: &'a Node, claim: &PersistentVolumeClaim) -> Result<(&'a str, String), &'static str> {
    let hostname = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).ok_or("it has no label kubernetes.io/hostname")?;
    let storage = annotation(&node.metadata, LOCAL_STORAGE).ok_or("it has no local storage: its agent is not skiff's")?;
    let is_plain = Path::new(storage).is_absolute() && !storage.split('/').any(|part| part == "..");
    if !is_plain {
        return Err("its annotation skiff.dev/local-storage is no absolute path");
    }
    let key = own_key(claim);
    let mut name = format!("{}_{}_{}", name_of(claim), key.namespace, key.name);
    name.truncate(name.floor_char_boundary(NAME_MAX));
    Ok((hostname, format!("{}/{name}", storage.trim_end_matches('/'))))
}

fn storage_alone(mut amounts: BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    amounts.retain(|name, _| name == "storage");
    amounts
}

fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str, hostname: &str, path: String) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let is_here = NodeSelectorRequirement { key: HOSTNAME.into(), operator: "In".into(), values: Some(vec![hostname.to_owned()]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![is_here]), match_fields: None };
    let annotations = [(PROVISIONED_BY, LOCAL_PROVISIONER), (LOCAL_NODE, node)];
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name_of(claim)),
            annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            // A claim may ask for what no volume has.
            capacity: spec.resources.and_then(|resources| resources.requests).map(storage_alone),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource { fs_type: None, path }),
            node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone().or_else(|| Some("Delete".into())),
            storage_class_name: class.metadata.name.clone(),
            volume_attributes_class_name: spec.volume_attributes_class_name,
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> Value {
        let mut whole =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "skiff-local"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"metadata": {"name": "data", "namespace": "n", "uid": "u", "annotations": {SELECTED_NODE: "n1"}}, "spec": whole})
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n1", "labels": {HOSTNAME: "host1"}, "annotations": {LOCAL_STORAGE: "/var/lib/skiff/agent/storage"}}})
    }

    fn planned(claim: &Value, node: Option<Value>) -> Vec<Action> {
        planned_by(&json!({"reclaimPolicy": "Delete"}), claim, node)
    }

    fn planned_by(class: &Value, claim: &Value, node: Option<Value>) -> Vec<Action> {
        plan(&world(class, claim, node)).actions
    }

    fn world(class: &Value, claim: &Value, node: Option<Value>) -> World {
        let mut whole = json!({"metadata": {"name": "skiff-local"}, "provisioner": LOCAL_PROVISIONER});
        whole.as_object_mut().unwrap().extend(class.as_object().unwrap().clone());
        let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
        let node = annotation(&claim.metadata, SELECTED_NODE)
            .map(|name| (name.to_owned(), node.map(|node| Arc::new(serde_json::from_value(node).unwrap()))));
        let class = Some(Arc::new(serde_json::from_value(whole).unwrap()));
        World { claim: Arc::new(claim), class, node, is_made: false, is_wanted: true }
    }

    fn told(actions: &[Action]) -> &str {
        let mut messages = actions.iter().filter_map(|action| match action {
            Action::Event { message, .. } => Some(message.as_str()),
            _ => None,
        });
        messages.next_back().unwrap()
    }

    #[test]
    fn a_claim_gets_a_directory_of_its_node() {
        let actions = planned(&claim(json!({})), Some(node()));
        let Action::Create { object, .. } = &actions[0] else { panic!("{actions:?}") };
        assert_eq!(object["metadata"]["name"], "pvc-u");
        assert_eq!(object["metadata"]["annotations"], json!({PROVISIONED_BY: LOCAL_PROVISIONER, LOCAL_NODE: "n1"}));
        let spec = &object["spec"];
        assert_eq!(
            (&spec["local"]["path"], &spec["capacity"]["storage"]),
            (&json!("/var/lib/skiff/agent/storage/pvc-u_n_data"), &json!("1Gi"))
        );
        assert_eq!(spec.pointer("/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values"), Some(&json!(["host1"])));
        assert_eq!((&spec["claimRef"]["uid"], &spec["persistentVolumeReclaimPolicy"]), (&json!("u"), &json!("Delete")));
        assert_eq!(told(&actions), "Successfully provisioned volume pvc-u");
    }

    #[test]
    fn a_volume_has_storage_alone() {
        let requests = json!({"requests": {"storage": "1Gi", "cpu": "1"}});
        let Action::Create { object, .. } = &planned(&claim(json!({"resources": requests})), Some(node()))[0] else { panic!() };
        assert_eq!(object["spec"]["capacity"], json!({"storage": "1Gi"}));
    }

    #[tokio::test]
    async fn a_volume_that_cannot_be_written_is_told_of() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let caches = Caches::unfollowed(kube::Client::new(nobody, "d"), api::task::Group::new());
        caches.of::<PersistentVolumeClaim>().feed(serde_json::from_value(claim(json!({}))).unwrap(), false);
        let (provisioner, key) = (LocalStorage::new(&caches, &crate::index::by_claim(&caches.of())), Key::new("n", "data"));
        let action = planned(&claim(json!({})), Some(node())).remove(0);
        let refused = |code: u16| {
            let status = json!({"status": "Failure", "message": "no room", "reason": "", "code": code});
            provisioner.failed(&key, &action, &kube::Error::Api(Box::new(serde_json::from_value(status).unwrap())))
        };
        let why = "failed to provision volume with StorageClass \"skiff-local\": error creating PersistentVolume: no room";
        assert_eq!(told(&[refused(422).unwrap()]), why);
        assert!(refused(409).is_none(), "it is there already");
    }

    #[test]
    fn long_names_make_no_longer_file_names() {
        let mut long = claim(json!({}));
        long["metadata"]["name"] = "x".repeat(253).into();
        let Action::Create { object, .. } = &planned(&long, Some(node()))[0] else { panic!() };
        let path = object["spec"]["local"]["path"].as_str().unwrap();
        assert_eq!(path.rsplit('/').next().unwrap().len(), NAME_MAX);
    }

    #[test]
    fn what_no_directory_can_be_is_refused() {
        for (spec, why) in [
            (json!({"volumeMode": "Block"}), "volumeMode Block is not supported"),
            (json!({"accessModes": ["ReadWriteMany"]}), "only the access modes ReadWriteOnce and ReadWriteOncePod are supported"),
            (json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}}), "data sources are not supported"),
        ] {
            let actions = planned(&claim(spec), Some(node()));
            let [Action::Event { message, .. }, Action::Update { object, .. }] = &*actions else { panic!("{actions:?}") };
            assert!(message.ends_with(why), "{message}");
            assert!(object["metadata"]["annotations"].get(SELECTED_NODE).is_none(), "its pod is not to wait");
        }
        let mut unplaced = claim(json!({}));
        unplaced["metadata"]["annotations"] = json!({});
        assert!(told(&planned(&unplaced, None)).contains("WaitForFirstConsumer"));
        let waits = json!({"volumeBindingMode": "WaitForFirstConsumer"});
        assert!(planned_by(&waits, &unplaced, None).is_empty(), "its pod is to come");
    }

    #[test]
    fn a_volume_is_made_for_a_pod() {
        let nobody = World { is_wanted: false, ..world(&json!({}), &claim(json!({})), Some(node())) };
        assert!(plan(&nobody).actions.is_empty());
        let pod = |node: &str, phase: &str, going: Value| -> Pod {
            let metadata = json!({"name": "p", "deletionTimestamp": going});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}}))
                .unwrap()
        };
        let rows = [
            (pod("", "Pending", Value::Null), true),
            (pod("n1", "Pending", Value::Null), true),
            (pod("n2", "Pending", Value::Null), false),
            (pod("n1", "Failed", Value::Null), false),
            (pod("", "Pending", json!("2026-01-01T00:00:00Z")), false),
        ];
        for (pod, is_its) in rows {
            assert_eq!(may_go_to(&pod, "n1"), is_its, "{pod:?}");
        }
    }

    #[test]
    fn a_node_that_the_class_does_not_allow_is_given_back() {
        let zone = |name: &str| json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": HOSTNAME, "values": [name]}]}]});
        assert!(matches!(planned_by(&zone("host1"), &claim(json!({})), Some(node()))[0], Action::Create { .. }));
        let actions = planned_by(&zone("host2"), &claim(json!({})), Some(node()));
        let Action::Update { object, .. } = &actions[1] else { panic!("{actions:?}") };
        assert!(object["metadata"]["annotations"].get(SELECTED_NODE).is_none());
        assert!(told(&actions).ends_with("node \"n1\": its labels are none of the class's allowedTopologies"), "{actions:?}");
    }

    #[test]
    fn a_node_without_storage_is_given_back() {
        let (mut stock, mut odd) = (node(), node());
        stock["metadata"]["annotations"] = json!({});
        odd["metadata"]["annotations"][LOCAL_STORAGE] = "/a/../etc".into();
        for node in [None, Some(stock), Some(odd)] {
            let actions = planned(&claim(json!({})), node);
            let Action::Update { object, .. } = &actions[1] else { panic!("{actions:?}") };
            assert!(object["metadata"]["annotations"].get(SELECTED_NODE).is_none());
            assert!(told(&actions).starts_with("failed to provision volume with StorageClass \"skiff-local\": "), "{actions:?}");
        }
    }
}
