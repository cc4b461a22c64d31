//! The cases of upstream's `reconciler_test.go`, `csi_attacher_test.go` and `node_status_updater_test.go`, and what nobody should be able to do.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{
    Key,
    k8s::api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSIDriver, VolumeAttachment},
    },
    steps,
    task::Group,
};
use client::{Caches, Object, kube, leader::Clock, pods::Pod};
use parking_lot::Mutex;
use podspec::csi;
use reconcile::{Action, Controller, Plan};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

const DRIVER: &str = "d.example";

/// What the server says of any node.
type Answer = Arc<Mutex<Option<Value>>>;

struct House {
    caches: Caches,
    volumes: Attachments,
    nodes: Reports,
    view: View,
    answer: Answer,
    /// Of what was fed last.
    revision: AtomicU64,
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn unique(handle: &str) -> String {
    csi::unique_name(DRIVER, handle)
}

fn attachment_name(handle: &str, node: &str) -> String {
    csi::attachment_name(handle, DRIVER, node)
}

impl House {
    fn new() -> Self {
        let answer = Answer::default();
        let said = answer.clone();
        let server = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let (code, body) = match &*said.lock() {
                Some(node) => (200, node.to_string()),
                None => (500, json!({"kind": "Status", "status": "Failure", "message": "m", "reason": "r", "code": 500}).to_string()),
            };
            let answer = http::Response::builder().status(code).body(kube::client::Body::from(body.into_bytes()));
            async { Ok::<_, Infallible>(answer.unwrap()) }
        });
        let client = kube::Client::new(server, "default");
        let caches = Caches::unfollowed(client.clone(), Group::new());
        let (users, on_node) = (crate::index::by_claim(&caches.of()), crate::index::by_node(&caches.of()));
        let view = View::new(&caches, &users, &on_node);
        Self {
            volumes: Attachments::new(&view, &Clock::default(), client),
            nodes: Reports::new(&view),
            view,
            caches,
            answer,
            revision: AtomicU64::default(),
        }
    }

    fn put<K: Object + DeserializeOwned>(&self, object: Value) {
        self.feed::<K>(object, false);
    }

    fn gone<K: Object + DeserializeOwned>(&self, object: Value) {
        self.feed::<K>(object, true);
    }

    fn feed<K: Object + DeserializeOwned>(&self, mut object: Value, gone: bool) {
        object["metadata"]["resourceVersion"] = (self.revision.fetch_add(1, Ordering::Relaxed) + 1).to_string().into();
        self.caches.of::<K>().feed(of(object), gone);
    }

    /// A node that is ready; `more` is put over its status.
    fn node(&self, name: &str, more: Value) {
        let mut status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let managed = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        let node = json!({"metadata": {"name": name, "uid": name, "annotations": managed}, "status": status});
        *self.answer.lock() = Some(node.clone());
        self.put::<Node>(node);
    }

    /// A volume and its claim, both named by the handle.
    fn claim(&self, handle: &str, modes: &[&str]) {
        self.claim_named(handle, handle, modes, "default");
    }

    fn claim_named(&self, name: &str, handle: &str, modes: &[&str], namespace: &str) {
        let reference = json!({"name": name, "namespace": namespace, "uid": name});
        let spec = json!({"csi": {"driver": DRIVER, "volumeHandle": handle}, "accessModes": modes, "claimRef": reference});
        self.put::<PersistentVolume>(json!({"metadata": {"name": name}, "spec": spec}));
        let meta = json!({"name": name, "namespace": namespace, "uid": name});
        self.put::<PersistentVolumeClaim>(json!({"metadata": meta, "spec": {"volumeName": name}, "status": {"phase": "Bound"}}));
    }

    fn pod_of(name: &str, node: &str, claim: &str) -> Value {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"nodeName": node, "containers": [], "volumes": volumes}})
    }

    fn pod(&self, name: &str, node: &str, claim: &str) {
        self.put::<Pod>(Self::pod_of(name, node, claim));
    }

    fn no_pod(&self, name: &str, node: &str, claim: &str) {
        self.gone::<Pod>(Self::pod_of(name, node, claim));
    }

    fn attachment(&self, handle: &str, node: &str, status: Value) {
        self.attachment_named(&attachment_name(handle, node), handle, node, status, Value::Null);
    }

    fn attachment_named(&self, name: &str, volume: &str, node: &str, status: Value, going: Value) {
        let meta = json!({"name": name, "uid": name, "deletionTimestamp": going, "creationTimestamp": api::time::Timestamp::now()});
        let spec = json!({"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}});
        self.put::<VolumeAttachment>(json!({"metadata": meta, "spec": spec, "status": status}));
    }

    async fn of_volume(&self, handle: &str) -> Plan {
        let key = Key::new("", &unique(handle));
        let world = self.volumes.observe(&key).await.unwrap();
        let plan = self.volumes.plan(&world, &key);
        self.volumes.ran(&key, &world, &reconcile::Done { took: Duration::ZERO, created: 0, failed: &[] });
        plan
    }

    async fn of_node(&self, name: &str) -> Plan {
        let key = Key::new("", name);
        let Some(world) = self.nodes.observe(&key).await else { return Plan::rest() };
        self.nodes.plan(&world, &key)
    }

    /// What the node is to list; `None` where that is what it lists.
    async fn list(&self, node: &str) -> Option<Vec<String>> {
        let plan = self.of_node(node).await;
        let Action::Patch { path, patch, .. } = plan.actions.first()? else { panic!("{plan:?}") };
        assert_eq!(path, &format!("/api/v1/nodes/{node}/status"));
        let list = patch["status"]["volumesAttached"].as_array().cloned().unwrap_or_default();
        Some(list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect())
    }
}

fn attached() -> Value {
    json!({"attached": true})
}

fn listing(handle: &str) -> Value {
    json!([{"name": unique(handle), "devicePath": ""}])
}

/// `create NAME`, `delete NAME`, or what is told to whom.
fn said(plan: &Plan) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::Create { object, .. } => format!("create {}", object["metadata"]["name"].as_str().unwrap()),
        Action::Delete { path, .. } => format!("delete {}", path.rsplit('/').next().unwrap()),
        Action::Event { regarding, reason, message, .. } => format!("{} {reason}: {message}", regarding.name.as_deref().unwrap()),
        other => panic!("{other:?}"),
    };
    plan.actions.iter().map(one).collect()
}

const RWO: &[&str] = &["ReadWriteOnce"];
const RWX: &[&str] = &["ReadWriteMany"];

#[tokio::test]
async fn a_volume_is_attached_where_a_pod_wants_it() {
    let house = House::new();
    house.node("n", json!({}));
    house.claim("h", RWO);
    assert!(house.of_volume("h").await.actions.is_empty());
    house.pod("p", "n", "h");
    let plan = house.of_volume("h").await;
    let [Action::Create { path, object, .. }] = &*plan.actions else { panic!("{plan:?}") };
    assert_eq!(path, "/apis/storage.k8s.io/v1/volumeattachments");
    assert_eq!(object["metadata"]["name"], attachment_name("h", "n"));
    assert_eq!(object["spec"], json!({"attacher": DRIVER, "nodeName": "n", "source": {"persistentVolumeName": "h"}}));
    house.attachment("h", "n", json!({"attached": false}));
    assert!(house.of_volume("h").await.actions.is_empty() && house.list("n").await.is_none());
    house.attachment("h", "n", attached());
    assert!(house.of_volume("h").await.actions.is_empty());
    let plan = house.of_node("n").await;
    assert_eq!(house.list("n").await, Some(vec![unique("h")]));
    let told = said(&Plan::act(plan.actions[1..].to_vec()));
    assert_eq!(told, ["p SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"h\" "]);
    house.node("n", json!({"volumesAttached": listing("h")}));
    assert!(house.list("n").await.is_none(), "it says so already");
}

/// What is changed, and what does it.
type Row = (&'static str, fn(&House));

#[tokio::test]
async fn what_is_not_to_be_attached_is_not() {
    let rows: [Row; 8] = [
        ("no node", |house| house.gone::<Node>(json!({"metadata": {"name": "n"}}))),
        ("a node that attaches itself", |house| house.put::<Node>(json!({"metadata": {"name": "n"}}))),
        ("a driver that needs no attaching", |house| {
            house.put::<CSIDriver>(json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false}}));
        }),
        ("a claim that is not bound", |house| {
            let meta = json!({"name": "h", "namespace": "default", "uid": "h"});
            house.put::<PersistentVolumeClaim>(json!({"metadata": meta, "spec": {"volumeName": "h"}, "status": {"phase": "Pending"}}));
        }),
        ("a claim that another of its name had", |house| {
            let meta = json!({"name": "h", "namespace": "default", "uid": "newer"});
            house.put::<PersistentVolumeClaim>(json!({"metadata": meta, "spec": {"volumeName": "h"}, "status": {"phase": "Bound"}}));
        }),
        ("a pod that is over", |house| {
            let mut pod = House::pod_of("p", "n", "h");
            pod["status"] = json!({"phase": "Succeeded"});
            house.put::<Pod>(pod);
        }),
        ("a pod without a node", |house| house.pod("p", "", "h")),
        ("an ephemeral volume that is somebody else's claim", |house| {
            let mut pod = House::pod_of("p", "n", "");
            pod["spec"]["volumes"] = json!([{"name": "own", "ephemeral": {}}]);
            house.put::<Pod>(pod);
            house.claim_named("p-own", "h", RWO, "default");
        }),
    ];
    for (what, change) in rows {
        let house = House::new();
        house.node("n", json!({}));
        house.claim("h", RWO);
        house.pod("p", "n", "h");
        assert_eq!(house.of_volume("h").await.actions.len(), 1);
        change(&house);
        assert!(house.of_volume("h").await.actions.is_empty(), "{what}");
    }
}

/// First the list of the node, then the server's word, then the attachment.
#[tokio::test(start_paused = true)]
async fn a_volume_is_detached_once_its_node_has_let_it_go() {
    let house = House::new();
    house.claim("h", RWO);
    house.attachment("h", "n", attached());
    let in_use = json!([unique("h")]);
    house.node("n", json!({"volumesAttached": listing("h"), "volumesInUse": in_use}));
    assert!(house.of_volume("h").await.actions.is_empty() && house.list("n").await.is_none(), "mounted");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(house.of_volume("h").await.actions.is_empty() && house.list("n").await.is_none(), "mounted on a node that is ready");
    let house = House::new();
    house.claim("h", RWO);
    house.attachment("h", "n", attached());
    house.node("n", json!({"volumesAttached": listing("h")}));
    assert!(house.of_volume("h").await.actions.is_empty(), "it is listed");
    assert_eq!(house.list("n").await, Some(vec![]));
    house.node("n", json!({}));
    for mounts in [Some(json!({"metadata": {"name": "n"}, "status": {"volumesInUse": [unique("h")]}})), None] {
        *house.answer.lock() = mounts;
        let plan = house.of_volume("h").await;
        assert!(plan.actions.is_empty() && plan.again.is_some(), "the server says otherwise, or nothing");
    }
    house.node("n", json!({}));
    assert_eq!(said(&house.of_volume("h").await), [format!("delete {}", attachment_name("h", "n"))]);
    // It goes, and is not asked to again.
    house.attachment_named(&attachment_name("h", "n"), "h", "n", attached(), json!("2026-01-01T00:00:00Z"));
    assert!(house.of_volume("h").await.actions.is_empty());
}

/// The deletion may be sent much later than it is planned.
#[tokio::test]
async fn a_volume_that_is_being_detached_is_not_listed() {
    let house = House::new();
    let woken = Arc::new(Mutex::new(Vec::new()));
    let seen = woken.clone();
    assert!(house.view.relist.set(Box::new(move |key| seen.lock().push(key.name))).is_ok());
    house.claim("h", RWO);
    house.node("n", json!({}));
    house.attachment("h", "n", attached());
    let gone = [format!("delete {}", attachment_name("h", "n"))];
    assert_eq!(said(&house.of_volume("h").await), gone);
    house.pod("p", "n", "h");
    assert_eq!(house.list("n").await, None, "the node would mount it before it is detached");
    // The deletion failed: the next look finds the pod.
    assert!(house.of_volume("h").await.actions.is_empty());
    assert_eq!(*woken.lock(), ["n"]);
    assert_eq!(house.list("n").await, Some(vec![unique("h")]));
    // It was not planned: nobody knows what the node has mounted.
    house.no_pod("p", "n", "h");
    *house.answer.lock() = None;
    assert!(house.of_volume("h").await.actions.is_empty());
    house.pod("p", "n", "h");
    assert_eq!(house.list("n").await, None);
    house.of_volume("h").await;
    assert_eq!(*woken.lock(), ["n", "n"]);
    assert_eq!(house.list("n").await, Some(vec![unique("h")]));
}

#[tokio::test]
async fn a_volume_whose_node_is_being_told_of_it_stays() {
    let down = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
    for (status, is_out) in [(json!({}), false), (down, true)] {
        let house = House::new();
        house.claim("h", RWO);
        house.node("n", status);
        if is_out {
            let mut node = house.answer.lock().clone().unwrap();
            node["spec"] = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
            house.put::<Node>(node);
        }
        house.attachment("h", "n", attached());
        house.pod("p", "n", "h");
        let listing = house.nodes.observe(&Key::new("", "n")).await;
        assert_eq!(listing.as_ref().map(|world| node::plan(world).actions.len()), Some(2));
        house.no_pod("p", "n", "h");
        let plan = house.of_volume("h").await;
        assert!(plan.actions.is_empty() && plan.again.is_some(), "the list may land after the server is asked");
        drop(listing);
        assert_eq!(said(&house.of_volume("h").await), [format!("delete {}", attachment_name("h", "n"))]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_holds_a_volume_for_six_minutes() {
    let down = json!([{"type": "Ready", "status": "Unknown"}]);
    let in_use = json!([unique("h")]);
    let house = House::new();
    house.claim("h", RWO);
    house.attachment("h", "n", attached());
    house.node("n", json!({"volumesAttached": listing("h"), "volumesInUse": in_use, "conditions": down}));
    let plan = house.of_volume("h").await;
    assert_eq!((plan.actions.len(), plan.again), (0, Some(Duration::from_secs(360))));
    tokio::time::advance(Duration::from_secs(359)).await;
    assert!(house.of_volume("h").await.actions.is_empty());
    let plan = house.of_node("n").await;
    assert_eq!((plan.actions.len(), plan.again), (0, Some(Duration::from_secs(1))));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(house.of_volume("h").await.actions.is_empty(), "it is listed");
    assert_eq!(house.list("n").await, Some(vec![]));
    house.node("n", json!({"volumesInUse": in_use, "conditions": down}));
    let gone = [format!("delete {}", attachment_name("h", "n"))];
    assert_eq!(said(&house.of_volume("h").await), gone);
    // One that is wanted meanwhile begins anew.
    house.pod("p", "n", "h");
    assert!(house.of_volume("h").await.actions.is_empty());
    house.no_pod("p", "n", "h");
    assert!(house.of_volume("h").await.actions.is_empty());
    // An administrator says that it is down.
    let mut node = house.answer.lock().clone().unwrap();
    node["spec"] = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    house.put::<Node>(node);
    assert_eq!(said(&house.of_volume("h").await), gone);
    // A node that is gone: nobody knows what it had mounted.
    house.gone::<Node>(json!({"metadata": {"name": "n"}}));
    assert!(house.of_volume("h").await.actions.is_empty());
    tokio::time::advance(Duration::from_secs(360)).await;
    assert_eq!(said(&house.of_volume("h").await), gone);
}

#[tokio::test]
async fn a_volume_of_one_node_is_attached_to_one() {
    let house = House::new();
    ["a", "b"].iter().for_each(|node| house.node(node, json!({})));
    house.claim("h", RWO);
    house.pod("p1", "a", "h");
    house.pod("p2", "b", "h");
    assert_eq!(said(&house.of_volume("h").await), [format!("create {}", attachment_name("h", "a"))]);
    house.attachment("h", "a", json!({"attached": false}));
    assert!(house.of_volume("h").await.actions.is_empty(), "it is not known whether it will be");
    house.attachment("h", "a", attached());
    let told = ["p2 FailedAttachVolume: Multi-Attach error for volume \"h\" Volume is already used by pod(s) p1"];
    assert_eq!(said(&house.of_volume("h").await), told);
    assert!(house.of_volume("h").await.actions.is_empty(), "that is told once");
    // The first pod goes, and its node has it mounted still.
    house.no_pod("p1", "a", "h");
    house.node("a", json!({"volumesInUse": [unique("h")]}));
    assert!(house.of_volume("h").await.actions.is_empty());
    house.no_pod("p2", "b", "h");
    house.of_volume("h").await;
    house.pod("p3", "b", "h");
    let told = [
        "p3 FailedAttachVolume: Multi-Attach error for volume \"h\" Volume is already exclusively attached to one node and can't be attached to another",
    ];
    assert_eq!(said(&house.of_volume("h").await), told);
    house.gone::<VolumeAttachment>(
        json!({"metadata": {"name": attachment_name("h", "a")}, "spec": {"attacher": DRIVER, "nodeName": "a", "source": {}}}),
    );
    assert_eq!(said(&house.of_volume("h").await), [format!("create {}", attachment_name("h", "b"))]);
}

#[tokio::test]
async fn nobody_is_told_of_pods_in_other_namespaces() {
    let house = House::new();
    ["a", "b"].iter().for_each(|node| house.node(node, json!({})));
    // Two volumes are one and the same.
    house.claim("h", RWO);
    house.claim_named("other", "h", RWO, "secret");
    let mut hidden = House::pod_of("hidden", "a", "other");
    hidden["metadata"]["namespace"] = "secret".into();
    house.put::<Pod>(hidden);
    house.pod("p", "b", "h");
    house.attachment("h", "a", attached());
    let told = said(&house.of_volume("h").await);
    assert_eq!(
        told,
        ["p FailedAttachVolume: Multi-Attach error for volume \"h\" Volume is already used by 1 pod(s) in different namespaces"]
    );
}

#[tokio::test]
async fn a_volume_of_many_nodes_is_attached_to_all() {
    for modes in [RWX, &["ReadOnlyMany", "ReadWriteOnce"], &[]] {
        let house = House::new();
        for node in ["a", "b", "c"] {
            house.node(node, json!({}));
            house.pod(node, node, "h");
        }
        house.claim("h", modes);
        house.attachment("h", "a", attached());
        let made = ["b", "c"].map(|node| format!("create {}", attachment_name("h", node)));
        assert_eq!(said(&house.of_volume("h").await), made, "{modes:?}");
    }
}

#[tokio::test]
async fn pods_are_told_why_they_wait() {
    let house = House::new();
    house.node("n", json!({}));
    house.claim("h", RWO);
    house.pod("p", "n", "h");
    let told = |why: &str| [format!("p FailedAttachVolume: AttachVolume.Attach failed for volume \"h\" : {why}")];
    house.attachment("h", "n", json!({"attached": false, "attachError": {"message": "rpc error: no"}}));
    assert_eq!(said(&house.of_volume("h").await), told("rpc error: no"));
    let (name, going) = (attachment_name("h", "n"), json!("2026-01-01T00:00:00Z"));
    house.attachment_named(&name, "h", "n", attached(), going);
    assert_eq!(said(&house.of_volume("h").await), told("volume attachment is being deleted"));
    let spec = json!({"attacher": DRIVER, "nodeName": "n", "source": {"persistentVolumeName": "h"}});
    house.put::<VolumeAttachment>(json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}));
    let why = "timed out waiting for external-attacher of d.example CSI driver to attach volume h";
    let plan = house.of_volume("h").await;
    assert_eq!((said(&plan), plan.again), (told(why).to_vec(), Some(Duration::from_secs(120))));
}

/// Who may write attachments may name anything in them.
#[tokio::test(start_paused = true)]
async fn attachments_are_believed_where_they_are_what_they_are_called() {
    let house = House::new();
    house.node("n", json!({}));
    house.claim("h", RWO);
    let name = attachment_name("h", "n");
    house.attachment_named("by-hand", "h", "n", attached(), Value::Null);
    house.attachment_named("nowhere", "none", "nobody", attached(), Value::Null);
    let spec = json!({"attacher": "other.example", "nodeName": "n", "source": {"persistentVolumeName": "h"}});
    house.put::<VolumeAttachment>(json!({"metadata": {"name": name, "uid": "u"}, "spec": spec, "status": attached()}));
    house.put::<VolumeAttachment>(
        json!({"metadata": {"name": "inline", "uid": "u"}, "spec": {"attacher": DRIVER, "nodeName": "n", "source": {"inlineVolumeSpec": {}}}, "status": attached()}),
    );
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(house.of_volume("h").await.actions.is_empty(), "none of them is ours to delete");
    assert!(house.list("n").await.is_none() && house.list("nobody").await.is_none());
    // What another plugin says of the node stays, what nothing is behind does not.
    let listed = json!([{"name": "kubernetes.io/iscsi/x", "devicePath": "/dev/x"}, {"name": unique("gone"), "devicePath": ""}]);
    house.node("n", json!({"volumesAttached": listed}));
    assert_eq!(house.list("n").await, Some(vec!["kubernetes.io/iscsi/x".into()]));
    // One whose volume is gone is found by what its node lists.
    house.attachment_named(&attachment_name("gone", "n"), "gone", "n", attached(), Value::Null);
    assert_eq!(house.list("n").await, Some(vec!["kubernetes.io/iscsi/x".into()]));
}

#[tokio::test]
async fn one_volume_costs_the_same_among_many() {
    let (house, mut costs) = (House::new(), Vec::new());
    let mut count = 0;
    for size in [20, 200, 2_000] {
        while count < size {
            let (node, handle) = (format!("n{}", count / 20), format!("h{count}"));
            if count % 20 == 0 {
                house.node(&node, json!({}));
            }
            house.claim(&handle, RWO);
            house.pod(&format!("p{count}"), &node, &handle);
            house.attachment(&handle, &node, attached());
            count += 1;
        }
        let before = steps::so_far();
        house.of_volume("h7").await;
        house.of_node("n0").await;
        costs.push(steps::so_far().wrapping_sub(before));
    }
    steps::must_not_grow("a volume and its node", &costs);
}
