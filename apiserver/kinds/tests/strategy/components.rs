//! ComponentStatus: what is read of it, and that it is only read.

use std::sync::Arc;

use apiserver::{health::Check, identity::Auth};
use kinds::componentstatus::{components, join};
use serde_json::{Value, json};

use crate::room::Room;

const PATH: &str = "/api/v1/componentstatuses";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

async fn room(store: Result<(), String>) -> Room {
    let check: Check = Arc::new(move || Box::pin(std::future::ready(store.clone())));
    let mut all = kinds::table(&kinds::Config::default());
    join(&mut all, components(&api::task::Group::new(), check));
    Room::new(all, Auth::default()).await
}

fn healthy(name: &str) -> Value {
    json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
}

#[tokio::test]
async fn components_are_looked_at_when_somebody_asks() {
    let room = room(Ok(())).await;
    let list = room.get(PATH).await;
    let items = json!([healthy("controller-manager"), healthy("scheduler"), healthy("etcd-0")]);
    assert_eq!(list, json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items}));
    let mut one = healthy("scheduler");
    one["kind"] = "ComponentStatus".into();
    one["apiVersion"] = "v1".into();
    assert_eq!(room.get(&format!("{PATH}/scheduler")).await, one);
    let named = room.get(&format!("{PATH}?fieldSelector=metadata.name%3Detcd-0")).await;
    assert_eq!(named["items"], json!([healthy("etcd-0")]));
    assert_eq!(room.get(&format!("{PATH}?labelSelector=a%3Db")).await["items"], json!([]));
    let (code, none) = room.send("GET", &format!("{PATH}/none"), Value::Null).await;
    assert_eq!((code, &none["message"]), (404, &json!("componentstatus \"none\" not found")));
}

#[tokio::test]
async fn what_is_not_well_is_told_why() {
    let room = room(Err("no space left".into())).await;
    let table = Room::ok(room.ask("GET", &format!("{PATH}/etcd-0"), TABLE, Value::Null).await);
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Unhealthy", "", "no space left"]));
    let found = room.get(&format!("{PATH}/etcd-0")).await;
    assert_eq!(found["conditions"], json!([{"type": "Healthy", "status": "False", "error": "no space left"}]));
}

#[tokio::test]
async fn nobody_writes_them() {
    let room = room(Ok(())).await;
    let own = format!("{PATH}/scheduler");
    for (method, path) in [("POST", PATH), ("DELETE", PATH), ("PUT", &own), ("PATCH", &own), ("DELETE", &own)] {
        let (code, status) = room.send(method, path, json!({})).await;
        assert_eq!((code, &status["reason"]), (405, &json!("MethodNotAllowed")), "{method} {path}: {status}");
    }
}
