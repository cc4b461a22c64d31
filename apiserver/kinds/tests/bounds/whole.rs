//! Requests whose bodies are as large as a server takes -> answered by the real engine, through its front door, with strategy and admission.

use std::sync::Arc;

use api::{selector::Labels, task::Group};
use apiserver::{
    engine::Engine,
    front::{self, Front},
    identity::{Attributes, Auth, Authorizer, Decision, Peer, User},
};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// One way to be as large as may be. Elements are some 60 bytes, so that 3 MiB are 50,000.
pub struct Large {
    pub name: &'static str,
    /// Made before, not counted.
    before: Option<fn(usize) -> Ask>,
    counted: Counted,
}

#[derive(Clone, Copy)]
enum Counted {
    Asked(fn(usize) -> Ask),
    /// Not by a request: a URL has no room for so much.
    Selector,
}

pub struct Ask {
    method: &'static str,
    path: String,
    content: &'static str,
    accept: &'static str,
    body: Vec<u8>,
    /// What it must come to, lest nothing be counted; 0: what is said of it is a matter of its size.
    code: u16,
}

pub const LARGE: &[Large] = &[
    asked("JSON: data", None, |size| dry(CONFIGMAPS, JSON, &config_map("data", map(size / 3)), 201)),
    asked("JSON: labels", None, |size| dry(CONFIGMAPS, JSON, &config_map("metadata.labels", map(size)), 201)),
    asked("JSON: annotations", None, |size| dry(CONFIGMAPS, JSON, &config_map("metadata.annotations", map(size)), 0)),
    asked("JSON: finalizers", None, |size| dry(CONFIGMAPS, JSON, &config_map("metadata.finalizers", names(size)), 201)),
    asked("JSON: ownerReferences", None, |size| dry(CONFIGMAPS, JSON, &config_map("metadata.ownerReferences", owners(size)), 201)),
    asked("JSON: managedFields", None, |size| dry(CONFIGMAPS, JSON, &config_map("metadata.managedFields", managers(size)), 201)),
    asked("YAML: finalizers", None, |size| dry(CONFIGMAPS, YAML, &yaml("finalizers", &names(size / 66 * 63)), 201)),
    asked("protobuf: labels", None, |size| dry(CONFIGMAPS, PROTOBUF, &protobuf(size), 201)),
    asked("admission: env", None, |size| dry(PODS, JSON, &pod(size), 201)),
    asked("admission: sidecars", None, |size| dry(PODS, JSON, &sidecars(size), 201)),
    asked("strategic merge patch", Some(|size| stored("metadata.finalizers", names(size))), |size| {
        let patch = json!({"metadata": {"finalizers": reversed(names(size))}});
        Ask { method: "PATCH", ..ask(&format!("{CONFIGMAPS}/x?dryRun=All"), "application/strategic-merge-patch+json", &patch, 200) }
    }),
    asked("merge patch", Some(|size| stored("metadata.labels", map(size))), |size| {
        let patch = json!({"metadata": {"labels": reversed(map(size))}});
        Ask { method: "PATCH", ..ask(&format!("{CONFIGMAPS}/x?dryRun=All"), "application/merge-patch+json", &patch, 200) }
    }),
    // What is stored is small enough to be kept with its managedFields at each size: an object without them is another matter.
    asked("apply: labels", Some(|size| stored("metadata.labels", map(size / 3))), |size| applied("labels", &reversed(map(size)))),
    asked("apply: finalizers", Some(|size| stored("metadata.finalizers", names(size / 3))), |size| {
        applied("finalizers", &reversed(names(size / 66 * 63)))
    }),
    asked("JSON patch", Some(|size| stored("metadata.labels", map(size))), |size| {
        let add = |i: usize| json!({"op": "add", "path": format!("/metadata/labels/{}", word(i)), "value": "v".repeat(40)});
        let patch: Vec<Value> = (0..size / 320).map(add).collect();
        Ask { method: "PATCH", ..ask(&format!("{CONFIGMAPS}/x?dryRun=All"), "application/json-patch+json", &json!(patch), 200) }
    }),
    asked("shown as a table", Some(|size| stored("metadata.labels", map(size))), |_| Ask {
        method: "GET",
        accept: TABLE,
        ..ask(&format!("{CONFIGMAPS}?includeObject=Object"), JSON, &Value::Null, 200)
    }),
    asked("shown as YAML", Some(|size| stored("metadata.labels", map(size))), |_| Ask {
        method: "GET",
        accept: YAML,
        ..ask(CONFIGMAPS, JSON, &Value::Null, 200)
    }),
    Large { name: "label selector", before: None, counted: Counted::Selector },
];

const fn asked(name: &'static str, before: Option<fn(usize) -> Ask>, counted: fn(usize) -> Ask) -> Large {
    Large { name, before, counted: Counted::Asked(counted) }
}

fn ask(path: &str, content: &'static str, body: &Value, code: u16) -> Ask {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Ask { method: "POST", path: path.to_owned(), content, accept: JSON, body, code }
}

fn dry(path: &str, content: &'static str, body: &[u8], code: u16) -> Ask {
    Ask { body: body.to_vec(), ..ask(&format!("{path}?dryRun=All"), content, &Value::Null, code) }
}

fn applied(name: &str, value: &Value) -> Ask {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", name: value}});
    let path = format!("{CONFIGMAPS}/x?dryRun=All&fieldManager=m&force=true");
    Ask { method: "PATCH", ..ask(&path, "application/apply-patch+yaml", &config, 200) }
}

fn stored(at: &str, value: Value) -> Ask {
    Ask { body: config_map(at, value), ..ask(CONFIGMAPS, JSON, &Value::Null, 201) }
}

fn word(i: usize) -> String {
    format!("word-{i:08}")
}

fn map(size: usize) -> Value {
    Value::Object((0..size / 62).map(|i| (word(i), format!("{i:040}").into())).collect())
}

fn names(size: usize) -> Value {
    (0..size / 63).map(|i| format!("example.com/{i:048}")).collect()
}

fn owners(size: usize) -> Value {
    let owner = |i: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": word(i), "uid": word(i)});
    (0..size / 80).map(owner).collect()
}

fn managers(size: usize) -> Value {
    let manager = |i: usize| json!({"manager": word(i), "operation": "Update", "apiVersion": "v1"});
    (0..size / 78).map(manager).collect()
}

fn reversed(mut value: Value) -> Value {
    match &mut value {
        Value::Array(list) => list.reverse(),
        Value::Object(map) => *map = std::mem::take(map).into_iter().rev().collect(),
        _ => {}
    }
    value
}

/// With `value` at `data` or at `metadata.X`.
fn config_map(at: &str, value: Value) -> Vec<u8> {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    match at.split_once('.') {
        Some((parent, field)) => object[parent][field] = value,
        None => object[at] = value,
    }
    object.to_string().into_bytes()
}

fn pod(size: usize) -> Vec<u8> {
    let env: Value = (0..size / 62).map(|i| json!({"name": word(i).replace('-', "_"), "value": "v".repeat(20)})).collect();
    let spec = json!({"containers": [{"name": "c", "image": "i", "env": env}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}).to_string().into_bytes()
}

/// Each with a resource of its own, and the pod with limits, so that they are added up to default its requests, and to check them. Each is
/// three objects of JSON in some 150 bytes: shorter ones would be more objects than a server reads (`OBJECTS_MAX`).
fn sidecars(size: usize) -> Vec<u8> {
    let sidecar = |i: usize| json!({"name": word(i), "image": "i".repeat(46), "restartPolicy": "Always", "resources": {"limits": {format!("x.io/{i:05}"): "1"}}});
    let inits: Value = (0..size / 150).map(sidecar).collect();
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "initContainers": inits, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}).to_string().into_bytes()
}

/// In block style, as people write it.
fn yaml(field: &str, list: &Value) -> Vec<u8> {
    let lines = list.as_array().into_iter().flatten().filter_map(Value::as_str).map(|text| format!("  - {text}\n"));
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n  {field}:\n{}", lines.collect::<String>()).into_bytes()
}

/// A ConfigMap with labels, in the envelope that upstream's clients send.
fn protobuf(size: usize) -> Vec<u8> {
    let labels: Vec<u8> =
        (0..size / 62).flat_map(|i| field(11, &[field(1, word(i).as_bytes()), field(2, format!("{i:040}").as_bytes())].concat())).collect();
    let object = field(1, &[field(1, b"x"), labels].concat());
    let types = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    [b"k8s\0".to_vec(), field(1, &types), field(2, &object)].concat()
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut head, mut left) = (vec![number << 3 | 2], bytes.len());
    while left > 0x7f {
        head.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
        left >>= 7;
    }
    head.push(u8::try_from(left).expect("seven bits"));
    [&head, bytes].concat()
}

struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

/// A server without sockets.
pub struct Room {
    front: Front,
    _group: Group,
}

impl Room {
    pub async fn new() -> Self {
        let group = Group::new();
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], admission: kinds::admission::chain(), ..Auth::default() };
        let kinds = kinds::table(&kinds::Config::default());
        let engine = Engine::new(Arc::new(store::memory::Memory::new()), kinds, auth, group.clone());
        engine.ready().await;
        let room = Self { front: front::service(engine), _group: group };
        for (path, object) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": "default"}})),
            ("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})),
        ] {
            room.answer(&ask(path, JSON, &object, 201)).await;
        }
        room
    }

    pub async fn answer(&self, ask: &Ask) {
        let user = User { name: "tester".into(), groups: vec!["system:masters".into()], ..User::default() };
        let request = Request::builder().method(ask.method).uri(&ask.path).header("content-type", ask.content).header("accept", ask.accept);
        let request = request.extension(Peer::local(user)).body(Full::new(ask.body.clone().into())).unwrap();
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
        let code = parts.status.as_u16();
        assert!(code == ask.code || ask.code == 0 && [201, 422].contains(&code), "{code} {} {}: {shown}", ask.method, ask.path);
    }
}

/// A case in which only the work itself is left to do.
pub enum Ready {
    Ask(Room, Ask),
    Selector(String),
    /// What nothing may do: each of so many is compared with each.
    Pairs(usize),
}

impl Large {
    pub async fn ready(&self, size: usize) -> Ready {
        let Counted::Asked(counted) = self.counted else {
            let values: Vec<String> = (0..size / 28).map(word).collect();
            return Ready::Selector(format!("a in ({}),b notin ({0})", values.join(",")));
        };
        let room = Room::new().await;
        if let Some(before) = self.before {
            room.answer(&before(size)).await;
        }
        Ready::Ask(room, counted(size))
    }
}

impl Ready {
    pub async fn work(&self) {
        match self {
            Self::Ask(room, ask) => room.answer(ask).await,
            Self::Pairs(count) => {
                let all: Vec<u64> = (0..*count as u64).collect();
                let same: usize = all.iter().map(|one| all.iter().filter(|other| *other == one).count()).sum();
                assert_eq!(same, *count);
            }
            Self::Selector(text) => {
                let labels = Labels::parse(text).expect("it is one");
                assert!(labels.matches_with(|key| (key == "a").then_some("word-00000001")));
            }
        }
    }
}
