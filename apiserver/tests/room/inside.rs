//! The engine as strategies, authorizers and controllers in the same process use it; and what it does when the store fails it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{GroupResource, Key, Status};
use apiserver::identity::User;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::kit::{Room, THINGS, thing, version};

fn things() -> GroupResource {
    GroupResource::new("test.io", "things")
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_cache() {
    let room = Room::new().await;
    let (engine, user) = (&room.engine, User { name: "inner".into(), ..User::default() });
    for i in 0..50 {
        let name = format!("t{i}");
        let made = engine.create(&things(), "default", thing(&name, &json!({"a": "b"})), &user).await.unwrap();
        let key = Key::new("default", &name);
        let cached = engine.cached(&things(), &key).unwrap();
        assert!(Arc::ptr_eq(&made, &cached));
        assert_eq!((cached.label("a"), cached.label("b")), (Some("b"), None));
        assert_eq!(cached.uid(), cached.value()["metadata"]["uid"].as_str().unwrap());
    }
    assert_eq!(engine.cached_list(&things(), Some("default")).len(), 50);
    assert_eq!(engine.cached_list(&things(), Some("other")).len(), 0);
    let key = Key::new("default", "t7");
    let grown = engine
        .update(&things(), &key, "status", &user, &|object: &mut Value| {
            object["status"] = json!({"size": 3});
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(grown.value()["status"]["size"], 3);
    let refused = engine.update(&things(), &key, "", &user, &|_: &mut Value| Err(Status::bad_request("no"))).await;
    assert_eq!(refused.err().map(|status| status.code), Some(400));
    engine.delete(&things(), &key, json!({}), &user).await.unwrap();
    assert!(engine.cached(&things(), &key).is_none());
    assert_eq!(engine.get(&things(), &key).await.err().map(|status| status.code), Some(404));
}

#[tokio::test]
async fn listeners_hear_the_state_and_then_every_change_once() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = heard.clone();
    room.engine.on_change(
        &things(),
        Arc::new(move |change| {
            let shown = |object: &Option<Arc<apiserver::engine::Object>>| object.as_ref().map_or("-".to_owned(), |o| o.key.name.clone());
            told.lock().push(format!("{}>{}", shown(&change.old), shown(&change.new)));
        }),
    );
    room.thing("b", &json!({})).await;
    room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"size": 2}})).await.ok(200);
    room.delete(&format!("{THINGS}/b"), &json!({})).await.ok(200);
    assert_eq!(*heard.lock(), ["->a", "->b", "a>a", "b>-"]);
}

#[tokio::test]
async fn a_watcher_of_one_value_hears_of_it_alone_and_of_nothing_late() {
    let room = Room::new().await;
    let mut blue = room.watch(&format!("{THINGS}?watch=1&fieldSelector=spec.colour%3Dblue")).await;
    for i in 0..30 {
        let mut object = thing(&format!("t{i:02}"), &json!({}));
        object["spec"]["colour"] = json!(if i % 10 == 9 { "blue" } else { "red" });
        room.post(THINGS, &object).await.ok(201);
    }
    assert_eq!([blue.line().await, blue.line().await, blue.line().await], ["ADDED t09", "ADDED t19", "ADDED t29"]);
    room.patch(&format!("{THINGS}/t09"), "merge-patch", &json!({"spec": {"colour": "red"}})).await.ok(200);
    assert_eq!(blue.line().await, "DELETED t09");
}

/// A store whose watch can be cut, as a slow or compacted one is.
struct Cutting {
    inner: store::memory::Memory,
    cut: Arc<tokio::sync::Notify>,
    failing: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl store::Store for Cutting {
    async fn revision(&self) -> Result<store::Rev, store::Error> {
        self.inner.revision().await
    }
    async fn get(&self, key: &str) -> Result<Option<store::Entry>, store::Error> {
        self.inner.get(key).await
    }
    async fn range(&self, range: store::Range) -> Result<store::Page, store::Error> {
        self.inner.range(range).await
    }
    async fn txn(&self, txn: store::Txn) -> Result<store::Outcome, store::Error> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(store::Error::Unavailable("gone fishing".into()));
        }
        self.inner.txn(txn).await
    }
    async fn watch(&self, prefix: &str, after: store::Rev) -> Result<store::Events, store::Error> {
        let events = self.inner.watch(prefix, after).await?;
        let cut = self.cut.clone();
        let end = futures::stream::once(async move {
            cut.notified().await;
            Err(store::Error::Slow)
        });
        Ok(Box::pin(futures::stream::select(events, end)))
    }
    async fn compact(&self, rev: store::Rev) -> Result<(), store::Error> {
        self.inner.compact(rev).await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test]
async fn a_cut_store_watch_is_healed_and_watchers_begin_anew() {
    let (cut, failing) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicBool::new(false)));
    let room = Room::over(Cutting { inner: store::memory::Memory::new(), cut: cut.clone(), failing: failing.clone() }).await;
    let made = room.thing("a", &json!({})).await;
    let mut watch = room.watch(&format!("{THINGS}?watch=1&resourceVersion={}", version(&made))).await;
    cut.notify_one();
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    // The house goes on as if nothing had been.
    room.thing("b", &json!({})).await;
    assert_eq!(room.get(THINGS).await.ok(200)["items"].as_array().map(Vec::len), Some(2));
    let mut anew = room.watch(&format!("{THINGS}?watch=1")).await;
    assert_eq!([anew.line().await, anew.line().await], ["ADDED a", "ADDED b"]);
    failing.store(true, Ordering::SeqCst);
    room.post(THINGS, &thing("c", &json!({}))).await.refused(503, "gone fishing");
    failing.store(false, Ordering::SeqCst);
    room.thing("c", &json!({})).await;
    assert_eq!(anew.line().await, "ADDED c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_watcher_sees_every_change_once_and_in_order() {
    const WRITERS: usize = 8;
    const WRITES: usize = 40;
    let room = Arc::new(Room::new().await);
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(room.watch(&format!("{THINGS}?watch=1&resourceVersion=0")).await);
    }
    let writers = (0..WRITERS).map(|w| {
        let room = room.clone();
        async move {
            let name = format!("w{w}");
            room.thing(&name, &json!({})).await;
            for i in 0..WRITES {
                room.patch(&format!("{THINGS}/{name}"), "merge-patch", &json!({"spec": {"size": i + 10}})).await.ok(200);
            }
        }
    });
    futures::future::join_all(writers).await;
    let seen = futures::stream::iter(watches).then(|mut watch| async move {
        let mut revs = Vec::new();
        for _ in 0..WRITERS * (WRITES + 1) {
            revs.push(version(&watch.next().await.unwrap()["object"]));
        }
        revs
    });
    for revs in seen.collect::<Vec<_>>().await {
        assert!(revs.is_sorted_by(|a, b| a < b), "{revs:?}");
    }
    assert!(room.group.drain(Duration::from_secs(5)).await);
}
