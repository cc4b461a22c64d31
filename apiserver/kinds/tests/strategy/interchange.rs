//! What a stock server stores, and where: it is read here, and what is written here is what it would read.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use api::task::Group;
use apiserver::{
    at_rest::{AtRest, Media},
    engine::Engine,
    front,
    identity::Auth,
    kind::{Kind, Scope, Storage},
};
use serde_json::{Value, json};
use store::{Op, Range, Store, Txn, memory::Memory};

use crate::room::{Everyone, Room};

/// `staging/src/k8s.io/api/testdata/HEAD` of upstream.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/api");

/// `SpecialDefaultResourcePrefixes` (`pkg/kubeapiserver/default_storage_factory_builder.go`), and what is behind another server within upstream's.
const PREFIXES: [(&str, &str, &str); 6] = [
    ("", "replicationcontrollers", "controllers"),
    ("", "endpoints", "services/endpoints"),
    ("", "nodes", "minions"),
    ("", "services", "services/specs"),
    ("networking.k8s.io", "ingresses", "ingress"),
    ("apiregistration.k8s.io", "apiservices", "apiregistration.k8s.io/apiservices"),
];
/// Versions that upstream stores although there is a later one. (Mutating policies are stored as v1 here, which 1.36 reads; upstream's v1beta1 is read.)
const OLDER: [(&str, &str, &str); 1] = [("coordination.k8s.io", "leasecandidates", "v1beta1")];

fn kinds() -> Vec<Arc<Kind>> {
    kinds::table(&kinds::Config::default())
}

#[test]
fn every_kind_stands_where_upstream_keeps_it() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for kind in kinds() {
        let Storage::Kept { prefix, .. } = &kind.storage else { continue };
        let special = PREFIXES.iter().find(|(group, plural, _)| *group == kind.group && *plural == kind.plural);
        let expected = special.map_or(&*kind.plural, |(_, _, prefix)| prefix);
        let older = OLDER.iter().any(|(group, plural, version)| *group == kind.group && *plural == kind.plural && *version != kind.version);
        seen += 1;
        if prefix != expected || older {
            wrong.push(format!("{} {} {}: {prefix}, upstream has {expected}", kind.group, kind.version, kind.kind));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 50, "{seen}");
}

/// A kept kind with upstream's encodings of it.
struct Stored {
    kind: Arc<Kind>,
    key: String,
    json: Value,
    protobuf: Vec<u8>,
}

fn stored() -> Vec<Stored> {
    let read = |kind: &Arc<Kind>| {
        let Storage::Kept { prefix, .. } = &kind.storage else { return None };
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        let file = Path::new(GOLDEN).join(format!("{group}.{}.{}.json", kind.version, kind.kind));
        let json: Value = serde_json::from_slice(&fs::read(&file).ok()?).unwrap();
        let protobuf = fs::read(file.with_extension("pb")).unwrap();
        let name = match kind.scope {
            Scope::Namespaced => "namespaceValue/nameValue",
            Scope::Cluster => "nameValue",
        };
        Some(Stored { kind: kind.clone(), key: format!("/registry/{prefix}/{name}"), json, protobuf })
    };
    kinds().iter().filter_map(read).collect()
}

async fn room(store: &Arc<Memory>, at_rest: Arc<AtRest>) -> Room {
    let group = Group::new();
    let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..Auth::default() };
    let engine = Engine::with_rest(store.clone(), at_rest, kinds(), auth, group.clone());
    engine.ready().await;
    Room::of(front::service(engine.clone()), engine, group)
}

fn path(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
    match kind.scope {
        Scope::Namespaced => format!("{root}/namespaces/namespaceValue/{}/nameValue", kind.plural),
        Scope::Cluster => format!("{root}/{}/nameValue", kind.plural),
    }
}

/// Where something of `whole` is not in `part`.
fn lacks(part: &Value, whole: &Value, at: &str) -> Option<String> {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => whole.iter().find_map(|(key, value)| match part.get(key) {
            Some(found) => lacks(found, value, &format!("{at}.{key}")),
            None => Some(format!("{at}.{key}")),
        }),
        (Value::Array(part), Value::Array(whole)) if part.len() == whole.len() => {
            part.iter().zip(whole).find_map(|(found, value)| lacks(found, value, &format!("{at}[]")))
        }
        (part, whole) => (part != whole).then(|| format!("{at}: {part} for {whole}")),
    }
}

#[tokio::test]
async fn what_a_stock_server_stored_as_protobuf_is_served() {
    let (store, all) = (Arc::new(Memory::new()), stored());
    let put = |one: &Stored| Op::Put { key: one.key.clone(), value: one.protobuf.clone().into(), ttl: None };
    store.txn(Txn { expect: Vec::new(), ops: all.iter().map(put).collect() }).await.unwrap();
    let room = room(&store, Arc::default()).await;
    let mut wrong = Vec::new();
    for one in all.iter().filter(|one| one.kind.serves("get")) {
        let (code, shown) = room.send("GET", &path(&one.kind), Value::Null).await;
        let mut expected = one.json.clone();
        expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        match (code, lacks(&shown, &expected, "")) {
            (200, None) => {}
            (200, Some(what)) => wrong.push(format!("{}: {what}", one.key)),
            (code, _) => wrong.push(format!("{}: {code} {}", one.key, shown["message"])),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(all.len() > 45, "{}", all.len());
}

/// Fields that the stored version does not have any more.
const GONE: [&str; 3] = [".spec.rollbackTo", ".spec.limited.assuredConcurrencyShares", ".spec.exempt"];

#[tokio::test]
async fn what_was_stored_in_a_version_that_is_served_no_more_is_served_in_the_stored_one() {
    let (store, all) = (Arc::new(Memory::new()), stored());
    let at_rest = AtRest::reading(None, Media::Json, kinds::older::STORED);
    let room = room(&store, at_rest).await;
    let mut wrong = Vec::new();
    for older in kinds::older::STORED {
        let one = all.iter().find(|one| one.kind.group == older.group && one.kind.kind == older.kind);
        let one = one.unwrap_or_else(|| panic!("{} {} is not kept", older.group, older.kind));
        for version in older.versions {
            let file = Path::new(GOLDEN).join(format!("{}.{version}.{}.json", older.group, older.kind));
            let mut expected: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let value = fs::read(file.with_extension("pb")).unwrap().into();
            store.txn(Txn { expect: Vec::new(), ops: vec![Op::Put { key: one.key.clone(), value, ttl: None }] }).await.unwrap();
            expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            expected["apiVersion"] = one.json["apiVersion"].clone();
            let (code, shown) = room.send("GET", &path(&one.kind), Value::Null).await;
            match lacks(&shown, &expected, "").filter(|what| !GONE.contains(&what.as_str())) {
                None if code == 200 => {}
                what => wrong.push(format!("{version} {}: {code} {what:?} {}", one.key, shown["message"])),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn where_protobuf_is_asked_for_what_is_written_is_what_upstream_would_write() {
    let (store, at_rest) = (Arc::new(Memory::new()), AtRest::new(None, Media::Protobuf { but: &["apiregistration.k8s.io"] }));
    let room = room(&store, at_rest).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    let map = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}});
    let made = Room::ok(room.post("/api/v1/namespaces/default/configmaps", map).await);
    let service = json!({"metadata": {"name": "v1.test.io"}, "spec": {"group": "test.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
    room.post("/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    let mut forms = HashSet::new();
    for entry in store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap().entries {
        let is_protobuf = entry.value.starts_with(b"k8s\0");
        assert_ne!(is_protobuf, entry.key.contains("apiservices"), "{}", entry.key);
        forms.insert(is_protobuf);
        if entry.key.ends_with("configmaps/default/a") {
            let back = kinds::schema::TABLES.protobuf("ConfigMap", &entry.value).unwrap().value;
            let mut expected = made.clone();
            expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            assert_eq!(back, expected);
        }
    }
    assert!(forms.contains(&true));
    let path = "/api/v1/namespaces/default/configmaps/a";
    assert_eq!(room.get(path).await, made);
    // And JSON that is there already is brought over by the next update.
    let text = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "b", "namespace": "default", "uid": "u", "creationTimestamp": null}});
    let (key, value) = ("/registry/configmaps/default/b".to_owned(), text.to_string().into());
    store.txn(Txn { expect: Vec::new(), ops: vec![Op::Put { key: key.clone(), value, ttl: None }] }).await.unwrap();
    Room::ok(room.patch("/api/v1/namespaces/default/configmaps/b", json!({})).await);
    assert!(store.get(&key).await.unwrap().unwrap().value.starts_with(b"k8s\0"));
}
