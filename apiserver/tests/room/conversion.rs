//! Versions of a kind whose conversion somebody else is asked for: it may wait, fail and lie.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use api::{Gvk, Status};
use apiserver::kind::{Conversion, Converter, Field, Kind, Lookup, ReadStep, Scope, Storage};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::kit::{Room, THINGS, kept, kind, thing, thing_kind};

const THIRD: &str = "/apis/test.io/v3/namespaces/default/things";

/// What becomes of an answer.
type Lie = fn(Vec<Value>) -> Result<Vec<Value>, Status>;

/// Renames `colour` to `paint` in v3, when it is let.
struct Hook {
    /// A permit for each call that may go on.
    gate: Semaphore,
    spoil: Mutex<Lie>,
    calls: AtomicUsize,
}

#[async_trait]
impl Converter for Hook {
    async fn convert(&self, to: &Gvk, mut objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        let (from, word) = if to.version == "v3" { ("colour", "paint") } else { ("paint", "colour") };
        for object in &mut objects {
            object["apiVersion"] = json!(to.api_version());
            object["spec"][word] = object["spec"].as_object_mut().and_then(|spec| spec.remove(from)).unwrap_or_default();
        }
        (*self.spoil.lock())(objects)
    }
}

async fn room() -> (Room, Arc<Hook>) {
    let hook = Arc::new(Hook { gate: Semaphore::new(0), spoil: Mutex::new(Ok), calls: AtomicUsize::new(0) });
    let stored = Storage::As { group: "test.io".into(), version: "v1".into(), plural: "things".into() };
    let mut third = kind("v3", "Thing", "things", Scope::Namespaced, stored);
    third.conversion = Conversion::Remote(hook.clone());
    let (label, pointer) = ("spec.paint".into(), "/spec/paint".into());
    third.fields = vec![Field { label, pointer, default: "".into(), lookup: Lookup::Scan, instead: None }].into();
    let room = Room::new().await;
    room.engine.serve(vec![Arc::new(third)]).await.unwrap();
    for name in ["a", "b", "c"] {
        room.thing(name, &json!({})).await;
    }
    (room, hook)
}

fn paints(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["spec"]["paint"].as_str()).collect()
}

#[tokio::test]
async fn what_waits_for_a_conversion_waits_alone_and_a_list_asks_once() {
    let (room, hook) = room().await;
    let mut list = Box::pin(room.get(THIRD));
    assert!(futures::poll!(&mut list).is_pending(), "there is no answer yet");
    // The version that is stored needs nobody.
    room.get(&format!("{THINGS}/a")).await.ok(200);
    room.thing("d", &json!({})).await;
    hook.gate.add_permits(1);
    assert_eq!(paints(&list.await.ok(200)), ["red"; 3]);
    assert_eq!(hook.calls.load(Ordering::SeqCst), 1, "all in one batch");
    hook.gate.add_permits(2);
    let table = room.raw("GET", THIRD, "", &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]).await.ok(200);
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(4));
    assert_eq!(room.get(&format!("{THIRD}/a")).await.ok(200)["spec"]["paint"], "red");
}

#[tokio::test]
async fn fields_of_a_version_are_looked_up_in_what_it_shows() {
    let (room, hook) = room().await;
    hook.gate.add_permits(100);
    room.patch(&format!("{THINGS}/b"), "merge-patch", &json!({"spec": {"colour": "blue"}})).await.ok(200);
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
    let names = |list: Value| list["items"].as_array().unwrap().iter().map(name).collect::<Vec<_>>();
    let list = async |selector: &str| names(room.get(&format!("{THIRD}?fieldSelector={selector}")).await.ok(200));
    let before = hook.calls.load(Ordering::SeqCst);
    assert_eq!(list("spec.paint%3Dblue").await, ["b"]);
    assert_eq!(hook.calls.load(Ordering::SeqCst), before + 1, "what was asked for to choose is what is shown");
    assert_eq!(list("spec.paint!%3Dblue").await, ["a", "c"]);
    assert_eq!(list("spec.paint%3Dred,metadata.name%3Dc").await, ["c"]);
    room.get(&format!("{THIRD}?fieldSelector=spec.colour%3Dred")).await.refused(400, "field label not supported: spec.colour");
    // What enters the selection is new to its watchers, what leaves it is gone.
    let mut watch = room.watch(&format!("{THIRD}?watch=true&fieldSelector=spec.paint%3Dblue")).await;
    assert_eq!(watch.line().await, "ADDED b");
    for (name, colour) in [("a", "blue"), ("c", "grey"), ("a", "grey")] {
        room.patch(&format!("{THINGS}/{name}"), "merge-patch", &json!({"spec": {"colour": colour}})).await.ok(200);
    }
    room.patch(&format!("{THINGS}/b"), "merge-patch", &json!({"spec": {"size": 9}})).await.ok(200);
    room.delete(&format!("{THINGS}/b"), &json!({})).await.ok(200);
    let told = [watch.line().await, watch.line().await, watch.line().await, watch.line().await];
    assert_eq!(told, ["ADDED a", "DELETED a", "MODIFIED b", "DELETED b"]);
    // No more is deleted than is selected.
    room.delete(&format!("{THIRD}?fieldSelector=spec.paint%3Dpink"), &json!({})).await.ok(200);
    assert_eq!(list("spec.paint%3Dgrey").await, ["a", "c"]);
}

#[tokio::test]
async fn writes_go_there_and_back() {
    let (room, hook) = room().await;
    hook.gate.add_permits(100);
    let mut object = thing("e", &json!({}));
    object["apiVersion"] = json!("test.io/v3");
    object["spec"] = json!({"size": 1, "paint": "blue"});
    assert_eq!(room.post(THIRD, &object).await.ok(201)["spec"]["paint"], "blue");
    assert_eq!(room.get(&format!("{THINGS}/e")).await.ok(200)["spec"]["colour"], "blue");
    let patched = room.patch(&format!("{THIRD}/e"), "merge-patch", &json!({"spec": {"paint": "grey"}})).await.ok(200);
    assert_eq!((&patched["spec"]["paint"], &patched["apiVersion"]), (&json!("grey"), &json!("test.io/v3")));
    assert_eq!(room.get(&format!("{THINGS}/e")).await.ok(200)["spec"]["colour"], "grey");
    room.delete(&format!("{THIRD}/e"), &json!({})).await.ok(200);
}

#[tokio::test]
async fn a_watch_keeps_its_order_while_it_waits_and_ends_with_what_failed() {
    let (room, hook) = room().await;
    hook.gate.add_permits(1);
    let mut watch = room.watch(&format!("{THIRD}?watch=true")).await;
    assert_eq!([watch.line().await, watch.line().await, watch.line().await], ["ADDED a", "ADDED b", "ADDED c"]);
    room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"colour": "blue"}})).await.ok(200);
    room.delete(&format!("{THINGS}/b"), &json!({})).await.ok(200);
    hook.gate.add_permits(2);
    let first = watch.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["spec"]["paint"]), (&json!("MODIFIED"), &json!("blue")));
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["apiVersion"]), (&json!("DELETED"), &json!("test.io/v3")));
    assert!(crate::kit::version(&gone["object"]) > crate::kit::version(&first["object"]), "under the revision of its going");
    *hook.spoil.lock() = |_| Err(Status::internal("the hook is down"));
    hook.gate.add_permits(1);
    room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"colour": "pink"}})).await.ok(200);
    let error = watch.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(500)));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_conversion_that_fails_or_lies_fails_the_request_and_stores_nothing() {
    let lies: [(Lie, &str); 4] = [
        (|_| Err(Status::internal("the hook is down")), "the hook is down"),
        (
            |mut objects| {
                objects.pop();
                Ok(objects)
            },
            "expected",
        ),
        (
            |mut objects| {
                objects[0]["metadata"]["uid"] = json!("other");
                Ok(objects)
            },
            "must not change",
        ),
        (
            |mut objects| {
                objects[0]["apiVersion"] = json!("test.io/v9");
                Ok(objects)
            },
            "another version",
        ),
    ];
    let (room, hook) = room().await;
    hook.gate.add_permits(100);
    for (lie, words) in lies {
        *hook.spoil.lock() = lie;
        room.get(THIRD).await.refused(500, words);
        room.get(&format!("{THIRD}/a")).await.refused(500, words);
        let mut object = thing("x", &json!({}));
        object["apiVersion"] = json!("test.io/v3");
        room.post(THIRD, &object).await.refused(500, words);
        room.patch(&format!("{THIRD}/a"), "merge-patch", &json!({"spec": {"paint": "grey"}})).await.refused(500, words);
    }
    room.get(&format!("{THINGS}/x")).await.refused(404, "not found");
    assert_eq!(room.get(&format!("{THINGS}/a")).await.ok(200)["spec"]["colour"], "red");
}

/// A list is completed where nobody has to be asked for a conversion, too.
#[tokio::test]
async fn what_needs_no_conversion_is_completed_all_the_same() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let hook = Arc::new(Hook { gate: Semaphore::new(0), spoil: Mutex::new(Ok), calls: AtomicUsize::new(0) });
    let mut thing = thing_kind();
    thing.conversion = Conversion::Remote(hook);
    thing.read = Some(ReadStep::new(|object: &mut Value, _| object["spec"]["shape"] = json!("round")));
    room.engine.serve(vec![Arc::new(thing)]).await.unwrap();
    assert_eq!(room.get(THINGS).await.ok(200)["items"][0]["spec"]["shape"], "round");
    assert_eq!(room.get(&format!("{THINGS}/a")).await.ok(200)["spec"]["shape"], "round");
}

/// Another version is stored from now on: what was stored before stays as it is, and is converted where it is shown.
#[tokio::test]
async fn the_version_that_an_object_is_stored_in_stands_with_it() {
    let room = Room::new().await;
    let before = room.thing("old", &json!({})).await;
    let tint = |reply: &Value| reply["spec"]["tint"].clone();
    let (first, second) = (thing_kind(), kind("v2", "Thing", "things", Scope::Namespaced, kept("things")));
    let conversion = crate::kit::kinds().iter().find(|kind| kind.version == "v2").unwrap().conversion.clone();
    let stored = Storage::As { group: "test.io".into(), version: "v2".into(), plural: "things".into() };
    let first = Kind { storage: stored, conversion: conversion.clone(), fields: Vec::new().into(), ..first };
    let second = Kind { conversion, ..second };
    room.engine.serve(vec![Arc::new(first), Arc::new(second)]).await.unwrap();
    let seconds = "/apis/test.io/v2/namespaces/default/things";
    let new = json!({"kind": "Thing", "apiVersion": "test.io/v2", "metadata": {"name": "new"}, "spec": {"tint": "blue"}});
    assert_eq!(tint(&room.post(seconds, &new).await.ok(201)), "blue");
    assert_eq!(room.get(&format!("{THINGS}/old")).await.ok(200), before, "as it was stored");
    assert_eq!(tint(&room.get(&format!("{seconds}/old")).await.ok(200)), "red");
    assert_eq!(room.get(&format!("{THINGS}/new")).await.ok(200)["spec"]["colour"], "blue");
    let list = room.get(seconds).await.ok(200);
    assert_eq!(list["items"].as_array().unwrap().iter().map(tint).collect::<Vec<_>>(), ["blue", "red"]);
    room.patch(&format!("{seconds}/old"), "merge-patch", &json!({"spec": {"tint": "grey"}})).await.ok(200);
    assert_eq!(room.get(&format!("{THINGS}/old")).await.ok(200)["spec"]["colour"], "grey");
}
