//! A loop beside the real API server over the memory store: what happens to it when a key panics, or its object cannot be read.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use api::{
    Key, faults,
    k8s::api::core::v1::{ConfigMap, Event},
    task::Group,
};
use client::{
    Cache, Caches, Recorder,
    kube::{
        Api, Client, ResourceExt,
        api::{DeleteParams, ListParams, PostParams},
        client::Body,
    },
};
use door::{Door, until};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use reconcile::{Action, Controller, Plan, Wake};
use serde_json::json;
use store::{Op, Store, Txn, memory::Memory};
use tokio::sync::watch;
use tower::{BoxError, ServiceExt, service_fn};

/// Marks every ConfigMap of `default`; those with certain names it cannot bear. Deletes what is called `spare`. Its watches are lost as it
/// looks at `lost`.
struct Marks {
    maps: Cache<ConfigMap>,
    ran: Arc<AtomicU32>,
    lost: watch::Sender<bool>,
}

impl Controller for Marks {
    type World = Arc<ConfigMap>;

    fn name(&self) -> &'static str {
        "marks"
    }

    fn watches(&self, wake: &Wake) {
        wake.on(&self.maps, |map, _| assert_ne!(map.name_any(), "handler", "a handler that panics"));
        wake.on_own(&self.maps);
    }

    async fn observe(&self, key: &Key) -> Option<Arc<ConfigMap>> {
        tokio::task::yield_now().await;
        assert_ne!(key.name, "look", "a look that panics");
        if key.name == "lost" && self.ran.fetch_add(1, Ordering::Relaxed) == 0 {
            self.lost.send_replace(true);
        }
        self.maps.get(key).filter(|map| map.namespace().as_deref() == Some("default"))
    }

    fn plan(&self, world: &Arc<ConfigMap>, key: &Key) -> Plan {
        if key.name == "plan" {
            self.ran.fetch_add(1, Ordering::Relaxed);
            panic!("a plan that panics");
        }
        let mut actions = vec![Action::patch(&**world, json!({"metadata": {"labels": {"seen": "yes"}}}))];
        if key.name == "chief" {
            // What others are is read of the cache: the one that cannot be read is among them.
            let spared = self.maps.in_namespace("default").into_iter().find(|map| map.name_any() == "spare");
            actions.extend(spared.iter().flat_map(|map| [Action::update(&**map), Action::delete(&**map)]));
        }
        Plan::act(actions)
    }
}

struct Room {
    admin: Client,
    store: Arc<Memory>,
    group: Group,
    door: Door,
    /// Whether watches are lost, and so is what the server knows of them.
    lost: watch::Sender<bool>,
}

impl Room {
    async fn new() -> Self {
        let (group, store) = (Group::new(), Arc::new(Memory::new()));
        let door = Door::over(store.clone(), &group).await;
        Self { admin: door.admin(), store, group, door, lost: watch::channel(false).0 }
    }

    fn start(&self) -> (Cache<ConfigMap>, Arc<AtomicU32>) {
        let caches = Caches::new(forgetful(&self.door, self.lost.subscribe()), self.group.clone());
        let (maps, ran) = (caches.of(), Arc::default());
        let recorder = Recorder::new(self.admin.clone(), "marks", None, &self.group);
        let marks = Marks { maps, ran: Arc::clone(&ran), lost: self.lost.clone() };
        let maps = marks.maps.clone();
        reconcile::run(marks, self.admin.clone(), recorder, &self.group);
        (maps, ran)
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.admin.clone(), "default")
    }

    async fn make(&self, name: &str) {
        let map = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        self.maps().create(&PostParams::default(), &map).await.unwrap();
    }

    /// As another server on the same store would.
    async fn write(&self, name: &str, data: serde_json::Value) {
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string();
        let put = Op::Put { key: format!("/registry/configmaps/default/{name}"), value: value.into(), ttl: None };
        self.store.txn(Txn { expect: Vec::new(), ops: vec![put] }).await.unwrap();
    }

    async fn marked(&self, name: &str) {
        let seen = async || client::watch::get::<ConfigMap>(&self.admin, Some("default"), name).await.unwrap().object;
        until(name, async || seen().await.labels().contains_key("seen").then_some(())).await;
    }
}

/// A client whose watches end while `lost` says so: those that would go on from where they were are told that it is forgotten, as after a
/// compaction, and lists wait until it is over.
fn forgetful(door: &Door, lost: watch::Receiver<bool>) -> Client {
    let server = door.service("admin", &["system:masters"]);
    let service = service_fn(move |request: Request<Body>| {
        let (server, mut lost) = (server.clone(), lost.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            let (is_watch, lists) = (query.contains("watch=true"), query.contains("sendInitialEvents=true"));
            if is_watch && *lost.borrow() && !lists {
                let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "forgotten"});
                let body = Full::new(gone.to_string().into()).map_err(BoxError::from).boxed_unsync();
                return Ok::<_, BoxError>(Response::builder().status(410).body(body).unwrap());
            }
            if is_watch {
                lost.wait_for(|lost| !lost).await?;
            }
            let response = server.oneshot(request).await?;
            let end = async move {
                if !is_watch || lost.wait_for(|lost| *lost).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            Ok(response.map(|body| StreamBody::new(BodyStream::new(body).take_until(Box::pin(end))).map_err(BoxError::from).boxed_unsync()))
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_panic_is_an_error_of_its_key_alone() {
    let room = Room::new().await;
    let before = faults::panics();
    let (_, ran) = room.start();
    for name in ["plan", "look", "handler", "a"] {
        room.make(name).await;
    }
    room.marked("a").await;
    until("it is tried again", async || (ran.load(Ordering::Relaxed) >= 3).then_some(())).await;
    // It has its own turn, however often the others panic.
    room.make("b").await;
    room.marked("b").await;
    room.marked("handler").await;
    assert!(faults::panics() >= before + 5, "{}", faults::metrics());
    assert!(faults::metrics().contains("skiff_panics_total{loop=\"marks\"}") && faults::metrics().contains("{loop=\"cache handler\"}"));
    assert_eq!(room.group.fault(), None);
}

#[tokio::test]
async fn what_cannot_be_read_is_there_and_is_left_alone() {
    let room = Room::new().await;
    room.write("spare", json!(7)).await;
    room.write("nulls", json!({"a": null})).await;
    let (maps, _) = room.start();
    // The watch has come over it, both in the list and later.
    room.marked("nulls").await;
    room.write("later", json!({"a": [1]})).await;
    room.make("chief").await;
    room.marked("chief").await;
    for name in ["spare", "later"] {
        assert!(maps.is_unreadable(&Key::new("default", name)) && maps.get(&Key::new("default", name)).is_some(), "{name}");
        let stored = room.store.get(&format!("/registry/configmaps/default/{name}")).await.unwrap().expect("it is there still").value;
        assert!(!String::from_utf8_lossy(&stored).contains("seen"), "{name}");
    }
    assert!(faults::metrics().contains("skiff_unreadable_objects{kind=\"ConfigMap\"} 2\n"), "{}", faults::metrics());
    let events = Api::<Event>::namespaced(room.admin.clone(), "default");
    until("it is told", async || {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let told = |name: &str| {
            all.iter().any(|e| e.involved_object.name.as_deref() == Some(name) && e.reason.as_deref() == Some("StorageReadError"))
        };
        (told("spare") && told("later")).then_some(())
    })
    .await;
    // Once it can be read it is as any other.
    room.write("spare", json!({"a": "b"})).await;
    room.marked("spare").await;
    assert!(!maps.is_unreadable(&Key::new("default", "spare")));
}

/// What it wrote is in no list: it was deleted before one was made. A key held for longer than a test waits is one that is held for good.
#[tokio::test]
async fn a_key_whose_write_no_list_shows_goes_on_once_the_list_is_newer() {
    let room = Room::new().await;
    let (maps, ran) = room.start();
    room.make("lost").await;
    room.marked("lost").await;
    assert!(*room.lost.borrow() && ran.load(Ordering::Relaxed) == 1, "it wrote while nobody watched");
    room.maps().delete("lost", &DeleteParams::default()).await.unwrap();
    room.lost.send_replace(false);
    until("the list shows it no more", async || maps.get(&Key::new("default", "lost")).is_none().then_some(())).await;
    until("it is looked at again", async || (ran.load(Ordering::Relaxed) == 2).then_some(())).await;
}
