//! Classes of storage and of ingresses, as objects without one get them, and as claims grow by them.

use apiserver::identity::Auth;
use serde_json::{Value, json};

use crate::room::Room;

const STORAGE: &str = "/apis/storage.k8s.io/v1/storageclasses";
const INGRESS: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

async fn room() -> Room {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    room
}

fn class(name: &str, mark: &str, more: Value) -> Value {
    let mut class = json!({"metadata": {"name": name, "annotations": {mark: "true"}}});
    class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    class
}

fn claim(name: &str, size: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn what_has_no_class_gets_the_default_one() {
    let room = room().await;
    assert_eq!(Room::ok(room.post(CLAIMS, claim("early", "1", json!({}))).await)["spec"].get("storageClassName"), None);
    let (storage, ingress) = ("storageclass.kubernetes.io/is-default-class", "ingressclass.kubernetes.io/is-default-class");
    // Of several it is the newest, and of several as new the first by name.
    for name in ["b", "a"] {
        Room::ok(room.post(STORAGE, class(name, storage, json!({"provisioner": "x.example/y"}))).await);
    }
    Room::ok(room.post(INGRESS, class("in", ingress, json!({"spec": {"controller": "x.example/y"}}))).await);
    let of = |made: Value, field: &str| made["spec"][field].clone();
    assert_eq!(of(Room::ok(room.post(CLAIMS, claim("none", "1", json!({}))).await), "storageClassName"), "a");
    let empty = claim("empty", "1", json!({"storageClassName": ""}));
    assert_eq!(of(Room::ok(room.post(CLAIMS, empty).await), "storageClassName"), "");
    let spec = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
    let made = Room::ok(room.post(INGRESSES, json!({"metadata": {"name": "i"}, "spec": spec})).await);
    assert_eq!(of(made, "ingressClassName"), "in");
    let old = json!({"metadata": {"name": "old", "annotations": {"kubernetes.io/ingress.class": "other"}}, "spec": spec});
    assert_eq!(of(Room::ok(room.post(INGRESSES, old).await), "ingressClassName"), Value::Null);
}

#[tokio::test]
async fn a_bound_claim_grows_where_its_class_lets_it() {
    let room = room().await;
    for (name, grows) in [("fixed", false), ("grows", true)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "x.example/y", "allowVolumeExpansion": grows});
        Room::ok(room.post(STORAGE, class).await);
        Room::ok(room.post(CLAIMS, claim(name, "1Gi", json!({"storageClassName": name}))).await);
    }
    let grow = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let (code, status) = room.patch(&format!("{CLAIMS}/grows"), grow("2Gi")).await;
    assert_eq!(code, 422, "{status}");
    for name in ["fixed", "grows"] {
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        Room::ok(room.patch(&format!("{CLAIMS}/{name}/status"), bound).await);
    }
    let (code, status) = room.patch(&format!("{CLAIMS}/fixed"), grow("2Gi")).await;
    let words = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    assert!(code == 403 && status["message"].as_str().unwrap().ends_with(words), "{status}");
    let grown = Room::ok(room.patch(&format!("{CLAIMS}/grows"), grow("2Gi")).await);
    assert_eq!(grown["spec"]["resources"]["requests"]["storage"], "2Gi");
    let (code, status) = room.patch(&format!("{CLAIMS}/grows"), grow("512Mi")).await;
    assert!(code == 422 && status["message"].as_str().unwrap().contains("field can not be less than status.capacity"), "{status}");
}
