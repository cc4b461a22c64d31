//! A definition's life: names, versions, changes, and its end.

use std::sync::Arc;

use apiserver::kind::{Kind, Storage};
use serde_json::{Value, json};
use store::memory::Memory;

use crate::room::{DEFINITIONS, Room, condition, eventually};

fn definition(group: &str, plural: &str, kind: &str, schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}}]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn schema(n: Value) -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"n": n, "color": {"type": "string", "default": "red"}}},
        "status": {"type": "object", "properties": {"n": {"type": "integer"}}}}})
}

const WIDGETS: &str = "/apis/example.io/v1/namespaces/default/widgets";

#[tokio::test]
async fn objects_are_completed_counted_and_scaled() {
    let room = Room::new().await;
    room.define(&definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})))).await;
    let (code, made) = room.post(WIDGETS, &widget("a", json!({"n": 1, "gone": 2}))).await;
    assert_eq!((code, &made["spec"], &made["metadata"]["generation"]), (201, &json!({"n": 1, "color": "red"}), &json!(1)));
    let a = format!("{WIDGETS}/a");
    assert_eq!(room.send("PATCH", &a, &json!({"spec": {"n": "x"}})).await.0, 422);
    assert_eq!(room.send("PATCH", &format!("{a}/status"), &json!({"status": {"n": 3}, "spec": {"n": 9}})).await.1["spec"]["n"], 1);
    let (code, scaled) = room.send("PATCH", &format!("{a}/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"], &scaled["status"]["replicas"]), (200, &json!(5), &json!(3)));
    let shown = room.get(&a).await.1;
    assert_eq!((&shown["spec"]["n"], &shown["metadata"]["generation"]), (&json!(5), &json!(2)));
    // Without a version nothing is written over.
    let (code, refused) = room.send("PUT", &a, &widget("a", json!({"n": 2}))).await;
    assert_eq!((code, &refused["details"]["kind"]), (422, &json!("widgets")));
}

#[tokio::test]
async fn what_a_custom_object_calls_itself_is_held_against_its_path() {
    let room = Room::new().await;
    room.define(&definition("example.io", "widgets", "Widget", schema(json!({"type": "integer", "minimum": 1})))).await;
    let mut other = widget("a", json!({"n": 1}));
    other["kind"] = "Other".into();
    let (code, refused) = room.post(WIDGETS, &other).await;
    let why = "Other.example.io \"a\" is invalid: kind: Invalid value: \"Other\": must be Widget";
    assert_eq!((code, &refused["message"], &refused["details"]["kind"]), (422, &json!(why), &json!("Other")));
    let mut next = widget("a", json!({"n": 1}));
    next["apiVersion"] = "example.io/v9".into();
    let why = "the API version in the data (example.io/v9) does not match the expected API version (example.io/v1)";
    let (code, refused) = room.post(WIDGETS, &next).await;
    assert_eq!((code, &refused["message"]), (400, &json!(why)));
    let (_, refused) = room.post(&format!("{WIDGETS}?fieldValidation=Strict"), &next).await;
    assert_eq!(refused["message"], "Widget in version \"v9\" cannot be handled as a Widget: strict decoding error: unknown field \"spec\"");
    // A path that names one makes that one, and no other.
    assert_eq!(room.post(&format!("{WIDGETS}/b"), &widget("a", json!({"n": 1}))).await.0, 400);
    assert_eq!(room.post(&format!("{WIDGETS}/a"), &widget("a", json!({"n": 1}))).await.0, 201);
    let (code, refused) = room.send("PATCH", &format!("{WIDGETS}/a/scale"), &json!({"spec": {"replicas": -1}})).await;
    let fields: Vec<&Value> = refused["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
    assert_eq!((code, fields), (422, vec![&json!("spec.n"), &json!(".spec.n")]), "{refused}");
}

#[tokio::test]
async fn a_schema_changes_under_what_is_stored() {
    let room = Room::new().await;
    let first = definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})));
    room.define(&first).await;
    room.post(WIDGETS, &widget("a", json!({"n": 7}))).await;
    let path = format!("{DEFINITIONS}/widgets.example.io");
    let narrow = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
        schema(json!({"type": "integer", "maximum": 5}))}}]}});
    let (code, reply) = room.send("PATCH", &path, &narrow).await;
    assert_eq!(code, 200, "{reply}");
    eventually("the new schema holds", async || room.post(&format!("{WIDGETS}?dryRun=All"), &widget("b", json!({"n": 6}))).await.0 == 422)
        .await;
    // What is as it was may stay so; what changes must fit.
    let a = format!("{WIDGETS}/a");
    assert_eq!(room.send("PATCH", &a, &json!({"spec": {"color": "blue"}})).await.0, 200);
    assert_eq!(room.send("PATCH", &a, &json!({"spec": {"n": 8}})).await.0, 422);
}

#[tokio::test]
async fn names_that_others_have_are_refused_until_they_are_free() {
    let room = Room::new().await;
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    room.define(&definition("example.io", "widgets", "Widget", open.clone())).await;
    let (code, _) = room.post(DEFINITIONS, &definition("example.io", "gadgets", "Widget", open)).await;
    assert_eq!(code, 201);
    let gadgets = format!("{DEFINITIONS}/gadgets.example.io");
    eventually("the conflict is told", async || condition(&room.get(&gadgets).await.1, "NamesAccepted") == "False").await;
    assert_eq!(room.get("/apis/example.io/v1/namespaces/default/gadgets").await.0, 404);
    room.send("DELETE", &format!("{DEFINITIONS}/widgets.example.io"), &json!({})).await;
    room.established("gadgets.example.io").await;
    assert_eq!(room.get("/apis/example.io/v1/namespaces/default/gadgets").await.0, 200);
}

#[tokio::test]
async fn a_definition_goes_when_its_objects_are_gone() {
    let room = Room::new().await;
    let definition = definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})));
    let (code, none) = room.get(DEFINITIONS).await;
    assert_eq!((code, &none["kind"], &none["items"]), (200, &json!("CustomResourceDefinitionList"), &json!([])));
    room.define(&definition).await;
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.io/hold"]);
    room.post(WIDGETS, &held).await;
    for number in 0..200 {
        room.post(WIDGETS, &widget(&format!("w{number}"), json!({"n": number}))).await;
    }
    let path = format!("{DEFINITIONS}/widgets.example.io");
    let (code, marked) = room.send("DELETE", &path, &json!({})).await;
    assert_eq!((code, condition(&marked, "Terminating")), (200, "True"));
    eventually("those that nobody holds are gone", async || room.get(WIDGETS).await.1["items"].as_array().map(Vec::len) == Some(1)).await;
    let (code, refused) = room.post(WIDGETS, &widget("late", json!({}))).await;
    assert_eq!((code, &refused["message"]), (405, &json!("create not allowed while custom resource definition is terminating")));
    room.send("PATCH", &format!("{WIDGETS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    eventually("the definition is gone", async || room.get(&path).await.0 == 404).await;
    eventually("nothing is served", async || room.get(WIDGETS).await.0 == 404).await;
    room.define(&definition).await;
    assert_eq!(room.get(WIDGETS).await.1["items"], json!([]));
}

#[tokio::test]
async fn versions_differ_in_name_and_fields_only() {
    let room = Room::new().await;
    let mut two = definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})));
    let other = json!({"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"n": {"type": "integer"}, "more": {"type": "string", "default": "m"}}}}}}});
    two["spec"]["versions"].as_array_mut().unwrap().push(other);
    room.define(&two).await;
    room.post(WIDGETS, &widget("a", json!({"n": 1}))).await;
    // Defaults are those of the version that is stored.
    let (_, shown) = room.get(&format!("{}/a", WIDGETS.replace("v1", "v2"))).await;
    assert_eq!((&shown["apiVersion"], &shown["spec"]), (&json!("example.io/v2"), &json!({"n": 1})));
    let mut second = widget("b", json!({"n": 2}));
    second["apiVersion"] = "example.io/v2".into();
    let (code, made) = room.post(&WIDGETS.replace("v1", "v2"), &second).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(room.get(&format!("{WIDGETS}/b")).await.1["spec"], json!({"n": 2, "color": "red"}));
}

/// A kind that is kept where widgets would be: they cannot be served while it is.
fn blocker() -> Arc<Kind> {
    let storage = Storage::Kept { prefix: "example.io/widgets".into(), ttl_seconds: None };
    let own = apiextensions::kind();
    Arc::new(Kind {
        group: "blocking.io".into(),
        plural: "blockers".into(),
        short_names: [].into(),
        subresources: Vec::new(),
        storage,
        ..own
    })
}

#[tokio::test]
async fn what_could_not_be_served_is_tried_again() {
    let (store, open) = (Arc::new(Memory::new()), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let path = format!("{DEFINITIONS}/widgets.example.io");
    for is_first in [true, false] {
        // The second time it is there when the server starts.
        let room = Room::over(store.clone(), vec![blocker()]).await;
        if is_first {
            let (code, reply) = room.post(DEFINITIONS, &definition("example.io", "widgets", "Widget", open.clone())).await;
            assert_eq!(code, 201, "{reply}");
            eventually("its names are accepted", async || condition(&room.get(&path).await.1, "NamesAccepted") == "True").await;
            assert_eq!(condition(&room.get(&path).await.1, "Established"), "");
        }
        // It holds up no other.
        let other = format!("{}s", if is_first { "gadget" } else { "gizmo" });
        room.define(&definition("example.io", &other, &format!("Kind{is_first}"), open.clone())).await;
        assert_eq!(room.get(WIDGETS).await.0, 404);
        room.engine.withdraw(&[blocker().gvr()]).await.unwrap();
        eventually("it is served", async || room.get(WIDGETS).await.0 == 200).await;
        room.established("widgets.example.io").await;
    }
}

/// Another version is kept, and the one that was is gone, with nothing in between.
#[tokio::test]
async fn a_version_takes_the_place_of_another() {
    let room = Room::new().await;
    let first = definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})));
    room.define(&first).await;
    room.post(WIDGETS, &widget("a", json!({"n": 1}))).await;
    let old = room.engine.kinds().into_iter().find(|kind| kind.plural == "widgets").unwrap();
    // What is written meanwhile is not served, and then seen at once.
    room.engine.exchange(vec![blocker()], &[old.gvr()]).await.unwrap();
    let path = format!("{DEFINITIONS}/widgets.example.io");
    let of = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema(json!({"type": "integer"}))}});
    let changes = [
        (path.clone(), json!({"spec": {"versions": [of("v1", false), of("v2", true)]}})),
        (format!("{path}/status"), json!({"status": {"storedVersions": ["v2"]}})),
        (path, json!({"spec": {"versions": [of("v2", true)]}})),
    ];
    for (path, change) in changes {
        let (code, reply) = room.send("PATCH", &path, &change).await;
        assert_eq!(code, 200, "{reply}");
    }
    room.engine.exchange(vec![old], &[blocker().gvr()]).await.unwrap();
    let second = WIDGETS.replace("v1", "v2");
    eventually("the other is served", async || room.get(&second).await.1["items"].as_array().map(Vec::len) == Some(1)).await;
    assert_eq!(room.get(WIDGETS).await.0, 404);
}

#[tokio::test]
async fn versions_that_are_stored_are_checked_in_the_status_too() {
    let room = Room::new().await;
    room.define(&definition("example.io", "widgets", "Widget", schema(json!({"type": "integer"})))).await;
    let path = format!("{DEFINITIONS}/widgets.example.io/status");
    for (stored, why) in [
        (json!([]), "must have at least one stored version"),
        (json!(["v1", "v9"]), "missing from spec.versions"),
        (json!(["v9"]), "must have the storage version v1"),
    ] {
        let (code, reply) = room.send("PATCH", &path, &json!({"status": {"storedVersions": stored}})).await;
        assert!(code == 422 && reply["message"].as_str().unwrap().contains(why), "{reply}");
    }
}
