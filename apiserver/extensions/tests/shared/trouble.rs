//! Definitions in trouble: thousands of objects that go with one, something that holds it, hundreds at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use store::{Entry, Error, Events, Op, Outcome, Page, Range, Rev, Store, Txn, memory::Memory};

use crate::room::{DEFINITIONS, Room, condition, eventually};

const OBJECTS: usize = 5000;
const DEFINITIONS_AT_ONCE: usize = 500;

fn definition(at: usize) -> Value {
    let (plural, kind) = (format!("knobs{at}"), format!("Knob{at}"));
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.test.io")},
        "spec": {"group": "test.io", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

/// As a server has stored it.
fn knob(at: usize, finalizers: &Value) -> Op {
    let metadata = json!({"name": format!("k{at}"), "namespace": "default", "uid": format!("u{at}"), "finalizers": finalizers,
        "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1});
    let value = json!({"kind": "Knob0", "apiVersion": "test.io/v1", "metadata": metadata, "spec": {"size": at}});
    Op::Put { key: format!("/registry/test.io/knobs0/default/k{at}"), value: value.to_string().into(), ttl: None }
}

#[tokio::test]
async fn thousands_of_objects_go_with_their_definition_and_what_is_held_holds_it() {
    let store = Arc::new(Memory::new());
    let room = Room::over(store.clone(), Vec::new()).await;
    room.define(&definition(0)).await;
    room.define(&definition(1)).await;
    for part in (0..OBJECTS).collect::<Vec<_>>().chunks(500) {
        let held = |at: &usize| if *at == 7 { json!(["test.io/held"]) } else { json!([]) };
        store.txn(Txn { expect: Vec::new(), ops: part.iter().map(|at| knob(*at, &held(at))).collect() }).await.unwrap();
    }
    let (objects, path) = ("/apis/test.io/v1/namespaces/default/knobs0", format!("{DEFINITIONS}/knobs0.test.io"));
    let left = async || room.get(objects).await.1["items"].as_array().map_or(0, Vec::len);
    eventually("all are there", async || left().await == OBJECTS).await;
    assert_eq!(room.send("DELETE", &path, &Value::Null).await.0, 200);
    eventually("all but one are gone", async || left().await == 1).await;
    // It says why it is still there, refuses new objects, and others go on.
    eventually("it tells", async || condition(&room.get(&path).await.1, "Terminating") == "True").await;
    let new = json!({"apiVersion": "test.io/v1", "kind": "Knob0", "metadata": {"name": "new"}});
    assert_eq!(room.post(objects, &new).await.0, 405);
    let other = json!({"apiVersion": "test.io/v1", "kind": "Knob1", "metadata": {"name": "new"}});
    assert_eq!(room.post("/apis/test.io/v1/namespaces/default/knobs1", &other).await.0, 201);
    assert_eq!(room.send("PATCH", &format!("{objects}/k7"), &json!({"metadata": {"finalizers": null}})).await.0, 200);
    eventually("the definition is gone", async || room.get(&path).await.0 == 404).await;
    eventually("nobody serves its objects", async || room.get(objects).await.0 == 404).await;
}

#[tokio::test]
async fn hundreds_of_definitions_at_once_are_all_served_and_are_there_at_the_next_start() {
    let store = Arc::new(Memory::new());
    let room = Room::over(store.clone(), Vec::new()).await;
    let begun = Instant::now();
    let all: Vec<Value> = (0..DEFINITIONS_AT_ONCE).map(definition).collect();
    let made: Vec<u16> = stream::iter(&all).map(|one| async { room.post(DEFINITIONS, one).await.0 }).buffered(32).collect().await;
    assert!(made.iter().all(|code| *code == 201), "{made:?}");
    eventually("all are established", async || {
        let list = room.get(DEFINITIONS).await.1;
        let all = list["items"].as_array().unwrap();
        all.len() == DEFINITIONS_AT_ONCE && all.iter().all(|one| condition(one, "Established") == "True")
    })
    .await;
    println!("{DEFINITIONS_AT_ONCE} definitions served after {:?}", begun.elapsed());
    let path = |at: usize| format!("/apis/test.io/v1/namespaces/default/knobs{at}");
    assert_eq!(room.get(&path(DEFINITIONS_AT_ONCE - 1)).await.0, 200);
    let begun = Instant::now();
    let next = Room::over(store, Vec::new()).await;
    println!("and {:?} after the next start", begun.elapsed());
    for at in [0, DEFINITIONS_AT_ONCE / 2, DEFINITIONS_AT_ONCE - 1] {
        assert_eq!(next.get(&path(at)).await.0, 200);
    }
}

/// A store that does not say what it has of a group, and how often it was asked.
struct Mute {
    inner: Arc<Memory>,
    asked: AtomicUsize,
    is_well: AtomicBool,
}

#[async_trait]
impl Store for Mute {
    async fn revision(&self) -> Result<Rev, Error> {
        self.inner.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        if range.prefix.starts_with("/registry/test.io/") && !self.is_well.load(Ordering::Relaxed) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Unavailable("no answer".into()));
        }
        self.inner.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        self.inner.compact(rev).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_asked_once_for_all_definitions_in_a_round() {
    const KINDS: usize = 20;
    let memory = Arc::new(Memory::new());
    let room = Room::over(memory.clone(), Vec::new()).await;
    for at in 0..KINDS {
        room.define(&definition(at)).await;
    }
    let store = Arc::new(Mute { inner: memory, asked: AtomicUsize::new(0), is_well: AtomicBool::new(false) });
    let next = Room::over(store.clone(), Vec::new()).await;
    let asked = store.asked.load(Ordering::Relaxed);
    assert!((1..KINDS / 2).contains(&asked), "{asked}");
    store.is_well.store(true, Ordering::Relaxed);
    for at in 0..KINDS {
        let path = format!("/apis/test.io/v1/namespaces/default/knobs{at}");
        eventually("it is served", async || next.get(&path).await.0 == 200).await;
    }
}
