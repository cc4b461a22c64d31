//! A loop beside the real API server over the memory store: what happens to it when a key panics, or its object cannot be read.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use api::{
    Key, faults,
    k8s::api::core::v1::{ConfigMap, Event},
    task::Group,
};
use apiserver::{
    certs::{Certs, ServingNames},
    engine::Engine,
    identity::{Peer, User},
    serve::in_process,
};
use client::{
    Cache, Caches, Recorder,
    kube::{
        Api, Client, ResourceExt,
        api::{ListParams, PostParams},
    },
};
use kinds::auth::{self, Tokens};
use reconcile::{Action, Loop, Plan, Wake};
use serde_json::json;
use store::{Op, Store, Txn, memory::Memory};

const BOUND: Duration = Duration::from_secs(30);

/// Marks every ConfigMap of `default`; those with certain names it cannot bear. Deletes what is called `spare`.
struct Marks {
    maps: Cache<ConfigMap>,
    ran: Arc<AtomicU32>,
}

impl Loop for Marks {
    type World = Arc<ConfigMap>;

    fn name(&self) -> &'static str {
        "marks"
    }

    fn wire(&self, wake: &Wake) {
        wake.on(&self.maps, |map, _| assert_ne!(map.name_any(), "handler", "a handler that panics"));
        wake.on_own(&self.maps);
    }

    async fn look(&self, key: &Key) -> Option<Arc<ConfigMap>> {
        tokio::task::yield_now().await;
        assert_ne!(key.name, "look", "a look that panics");
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
}

impl Room {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ServingNames::standard("host", &[IpAddr::from([127, 0, 0, 1])], None, "cluster.local");
        let certs = Certs::open(dir.path(), &names).unwrap();
        let tokens = Arc::new(Tokens::new(auth::ISSUER, certs.service_account_key(), certs.service_account_public()).unwrap());
        let (group, store) = (Group::new(), Arc::new(Memory::new()));
        let engine = Engine::new(store.clone(), kinds::all(&kinds::Config::default(), &tokens), auth::gates(&tokens), group.clone());
        engine.set_schemas(kinds::schema::shapes());
        engine.ready().await;
        Box::pin(auth::bootstrap(&engine)).await.unwrap();
        let user = User { name: "admin".into(), groups: vec!["system:masters".into()], ..User::default() };
        let peer = Peer { certificate: Some(user), address: None };
        let admin = Client::new(in_process(apiserver::service(engine), peer), "default");
        Self { admin, store, group }
    }

    fn start(&self) -> (Cache<ConfigMap>, Arc<AtomicU32>) {
        let (maps, ran) = (Caches::new(self.admin.clone(), self.group.clone()).of(), Arc::default());
        let recorder = Recorder::new(self.admin.clone(), "marks", None, &self.group);
        let marks = Marks { maps, ran: Arc::clone(&ran) };
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
        self.until(name, async || seen().await.labels().contains_key("seen")).await;
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let waited = tokio::time::timeout(BOUND, async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: not in time");
    }
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
    room.until("it is tried again", async || ran.load(Ordering::Relaxed) >= 3).await;
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
    room.until("it is told", async || {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let told = |name: &str| {
            all.iter().any(|e| e.involved_object.name.as_deref() == Some(name) && e.reason.as_deref() == Some("StorageReadError"))
        };
        told("spare") && told("later")
    })
    .await;
    // Once it can be read it is as any other.
    room.write("spare", json!({"a": "b"})).await;
    room.marked("spare").await;
    assert!(!maps.is_unreadable(&Key::new("default", "spare")));
}
