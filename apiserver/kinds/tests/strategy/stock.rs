//! A world with an object of every kind in it, what a request did to it, and how to undo that.

use std::{collections::BTreeMap, sync::Arc};

use apiserver::{
    body::{Body, full},
    engine::Engine,
    front::{Front, service},
    identity::{Auth, Peer, User},
    kind::{Kind, Scope, Storage},
};
use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use kinds::auth::Tokens;
use serde_json::{Value, json};
use store::{Op, Range, Store, Txn};
use tower::ServiceExt;

/// The label that says which of the stock an object is, where it stands in a reply.
pub const MARK: &str = "stock";

pub struct Stock {
    pub engine: Arc<Engine>,
    pub front: Front,
    pub kinds: Vec<Arc<Kind>>,
    store: Arc<dyn Store>,
    _group: api::task::Group,
}

/// One object of the stock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// As it is stored: the group and the plural of the kind that is kept.
    pub group: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
}

/// Names and values, which are bytes.
pub type Headers<'h> = &'h [(&'h str, &'h [u8])];
/// What stands under each key.
pub type State = BTreeMap<String, Bytes>;

/// Whether the cluster's kinds are filled, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    All,
    Namespaced,
}

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Created(String),
    Updated(String),
    Deleted(String),
}

pub struct Answer {
    pub code: u16,
    pub body: String,
}

impl Stock {
    /// An empty world; `auth` gets its tokens.
    pub async fn new(auth: impl FnOnce(&Arc<Tokens>) -> Auth) -> Self {
        let key = apiserver::certs::issue::key().unwrap();
        let public = apiserver::certs::issue::public(&key).unwrap();
        let tokens = Arc::new(Tokens::new(kinds::auth::ISSUER, &key, &public).unwrap());
        let (store, group): (Arc<dyn Store>, _) = (Arc::new(store::memory::Memory::new()), api::task::Group::new());
        let kinds = kinds::all(&kinds::Config::default(), &tokens);
        let engine = Engine::new(store.clone(), kinds.clone(), auth(&tokens), group.clone());
        engine.ready().await;
        Self { front: service(engine.clone()), engine, kinds, store, _group: group }
    }

    /// Makes one object of each kind for each name, below each namespace where it has one. All bear `mark`, and are ready to be deleted.
    pub async fn fill(&self, namespaces: &[&str], names: &[&str], mark: &str, reach: Reach) -> Vec<Item> {
        let mut made = Vec::new();
        let is_made = |kind: &Kind| matches!(kind.storage, Storage::Kept { .. }) && kind.serves("create");
        let is_meant = |kind: &Kind| reach == Reach::All || kind.scope == Scope::Namespaced;
        for kind in self.kinds.iter().filter(|kind| is_made(kind) && is_meant(kind)) {
            let places = if kind.scope == Scope::Cluster { &[""][..] } else { namespaces };
            for (namespace, name) in places.iter().flat_map(|place| names.iter().map(move |name| (*place, *name))) {
                let mut object = body(kind, namespace, name);
                object["metadata"]["labels"] = json!({MARK: mark});
                let gr = kind.group_resource();
                let created = self.engine.create(&gr, namespace, object, &kinds::auth::system_user()).await;
                created.unwrap_or_else(|status| panic!("{gr} {namespace}/{name}: {status}"));
                let (group, plural) = (kind.group.to_string(), kind.plural.to_string());
                made.push(Item { name: named(&plural, name), group, plural, namespace: namespace.into() });
            }
        }
        made
    }

    /// What is asked as `user`; of a stream, what it says before it waits.
    pub async fn ask(&self, user: &User, method: &str, target: &str, body: Option<&Value>) -> Option<Answer> {
        self.ask_with(user, method, target, &[], body).await
    }

    pub async fn ask_with(&self, user: &User, method: &str, target: &str, headers: Headers<'_>, body: Option<&Value>) -> Option<Answer> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(target).header("content-type", content);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.extension(Peer::local(user.clone()));
        // What is no URI comes over no wire.
        let request = request.body(full(body.map(Value::to_string).unwrap_or_default())).ok()?;
        let (parts, body) = self.front.clone().oneshot(request).await.unwrap().into_parts();
        Some(Answer { code: parts.status.as_u16(), body: at_once(body) })
    }

    pub async fn revision(&self) -> u64 {
        self.store.revision().await.unwrap()
    }

    pub async fn state(&self) -> State {
        let page = self.store.range(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
        page.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value)).collect()
    }

    /// What has changed since `before`; all of it is undone.
    pub async fn changes_undone(&self, before: &State) -> Vec<Change> {
        let now = self.state().await;
        let mut changes = Vec::new();
        let mut ops = Vec::new();
        for (key, value) in before {
            match now.get(key) {
                Some(same) if same == value => continue,
                Some(_) => changes.push(Change::Updated(key.clone())),
                None => changes.push(Change::Deleted(key.clone())),
            }
            ops.push(Op::Put { key: key.clone(), value: value.clone(), ttl: None });
        }
        for key in now.keys().filter(|key| !before.contains_key(*key)) {
            changes.push(Change::Created(key.clone()));
            ops.push(Op::Delete { key: key.clone() });
        }
        if !ops.is_empty() {
            self.store.txn(Txn { expect: Vec::new(), ops }).await.unwrap();
        }
        changes
    }

    /// Waits until all caches have heard of all that was written: a list is as new as its asking.
    pub async fn settle(&self) {
        let answer = self.ask(&kinds::auth::system_user(), "GET", "/api/v1/namespaces?limit=1", None).await.unwrap();
        assert_eq!(answer.code, 200);
    }

    /// Whose object stands under a key of the store.
    pub fn item(&self, key: &str) -> Item {
        let kept = self.kinds.iter().find_map(|kind| {
            let Storage::Kept { prefix, .. } = &kind.storage else { return None };
            let tail = key.strip_prefix("/registry/")?.strip_prefix(prefix.as_ref())?.strip_prefix('/')?;
            match (kind.scope, tail.split_once('/')) {
                (Scope::Namespaced, Some((namespace, name))) => Some((kind, namespace.to_owned(), name.to_owned())),
                (Scope::Cluster, None) => Some((kind, String::new(), tail.to_owned())),
                _ => None,
            }
        });
        let (kind, namespace, name) = kept.unwrap_or_else(|| panic!("whose is {key}?"));
        Item { group: kind.group.to_string(), plural: kind.plural.to_string(), namespace, name }
    }
}

impl Change {
    pub fn key(&self) -> &str {
        let (Self::Created(key) | Self::Updated(key) | Self::Deleted(key)) = self;
        key
    }
}

/// All that a body has to say without waiting.
fn at_once(mut body: Body) -> String {
    let mut text = Vec::new();
    while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub fn root(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) }
}

/// What an object of a resource is called that is to be called `name`: an address, where names are addresses, a group version, where they are those.
pub fn named(plural: &str, name: &str) -> String {
    match plural {
        "apiservices" => return format!("v1.{name}.example"),
        "ipaddresses" => {}
        _ => return name.to_owned(),
    }
    let number = name.bytes().fold(0_u32, |number, byte| number.wrapping_mul(31).wrapping_add(u32::from(byte)));
    std::net::Ipv4Addr::from(10 << 24 | number & 0x00ff_ffff).to_string()
}

/// A PKCS#10 request of `CN=jane`, as JSON has its PEM.
pub const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISk1IRUNBUUF3RHpFTk1Bc0dBMVVFQXd3RWFtRnVaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApBMElBQkEyT3BrcXBhL1hYWGxMQUt5RWU3N2J5SStFazIwK0ZmSGdVL0NaazRVUHV5dlZYK1pFNzFNeFNZd1krCmRWdnhGK0M4Rm9qbUxQRUJjUTc3Uml0L0ZsU2dBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUF0UG5CRGp6VEUKYmxGcUtFNWxpdjVJT1JaZGcyRWdhUWozNFArWWs5U1J2UUloQU44dTBZZ29LdXVNRG9lRVZHeUg1SHF3b1J3ZQpVYy9XRjVjRmZZN3h0aVk4Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

/// A valid object of a kind.
pub fn body(kind: &Kind, namespace: &str, name: &str) -> Value {
    let labels = json!({"app": "x"});
    let pod = json!({"containers": [{"name": "c", "image": "example.test/c:1"}]});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let task = json!({"spec": {"containers": [{"name": "c", "image": "example.test/c:1"}], "restartPolicy": "Never"}});
    let workload = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
    let called = named(&kind.plural, name);
    let more = match kind.plural.as_ref() {
        "pods" => json!({"spec": pod}),
        "replicationcontrollers" => json!({"spec": {"replicas": 1, "selector": labels, "template": template}}),
        "daemonsets" | "deployments" | "replicasets" | "statefulsets" => json!({"spec": workload}),
        "jobs" => json!({"spec": {"template": task}}),
        "cronjobs" => json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": task}}}}),
        "horizontalpodautoscalers" => json!({"spec": {
            "maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}}}),
        "certificatesigningrequests" => json!({"spec": {"request": REQUEST, "signerName": "example.com/x", "usages": ["client auth"]}}),
        "services" => json!({"spec": {"type": "ExternalName", "externalName": "x.example"}}),
        "events" => json!({"involvedObject": {"kind": "Pod", "namespace": namespace, "name": "x"}, "reason": "x", "type": "Normal"}),
        "endpointslices" => json!({"addressType": "IPv4", "endpoints": [], "ports": []}),
        "poddisruptionbudgets" => json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "other"}}}}),
        "podtemplates" => json!({"template": template}),
        "controllerrevisions" => json!({"revision": 1, "data": {"spec": {}}}),
        "ingressclasses" => json!({"spec": {"controller": "x.example/y"}}),
        "ingresses" => json!({"spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}}),
        "networkpolicies" => json!({"spec": {"podSelector": {}}}),
        "persistentvolumes" => volume(),
        "persistentvolumeclaims" => json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}),
        "flowschemas" => json!({"spec": {"priorityLevelConfiguration": {"name": "x"}}}),
        "prioritylevelconfigurations" => json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
        "validatingadmissionpolicies" => json!({"spec": {"matchConstraints": matched(), "validations": [{"expression": "true"}]}}),
        "mutatingadmissionpolicies" => json!({"spec": {
            "matchConstraints": matched(), "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        }}),
        "validatingadmissionpolicybindings" => json!({"spec": {"policyName": "none", "validationActions": ["Audit"]}}),
        "mutatingadmissionpolicybindings" => json!({"spec": {"policyName": "none"}}),
        "apiservices" => {
            let (version, group) = called.split_once('.').unwrap_or(("v1", "x.example"));
            json!({"spec": {"version": version, "group": group, "groupPriorityMinimum": 1, "versionPriority": 1,
                "service": {"namespace": "x", "name": "x"}}})
        }
        "volumeattachments" => json!({"spec": {"attacher": "x.example", "nodeName": "n", "source": {"persistentVolumeName": "x"}}}),
        "volumeattributesclasses" => json!({"driverName": "x.example", "parameters": {"a": "b"}}),
        "storageclasses" => json!({"provisioner": "x.example/y"}),
        "csistoragecapacities" => json!({"storageClassName": "x"}),
        "runtimeclasses" => json!({"handler": "x"}),
        "resourceslices" => json!({"spec": {"driver": "x.example", "allNodes": true, "pool": {"name": "x", "resourceSliceCount": 1}}}),
        "priorityclasses" => json!({"value": 1}),
        "ipaddresses" => json!({"spec": {"parentRef": {"group": "x.example", "resource": "things", "name": "x"}}}),
        "servicecidrs" => json!({"spec": {"cidrs": ["10.9.0.0/24"]}}),
        "limitranges" | "leases" => json!({"spec": {}}),
        "rolebindings" | "clusterrolebindings" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "none"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "nobody-else"}],
        }),
        "bindings" => json!({"target": {"kind": "Node", "name": "n"}}),
        "tokenreviews" => json!({"spec": {"token": "x"}}),
        "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectaccessreviews" => json!({
            "spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": namespace}},
        }),
        "selfsubjectrulesreviews" => json!({"spec": {"namespace": namespace}}),
        _ => json!({}),
    };
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": called}});
    if kind.scope == Scope::Namespaced && !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field.as_str()] = value.clone();
    }
    object
}

fn volume() -> Value {
    json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1"}, "hostPath": {"path": "/x"}}})
}

/// What a policy of admission is about: nothing that there is.
fn matched() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["x.example"], "apiVersions": ["v1"], "resources": ["things"]}]})
}

/// A body for a subresource: what it takes, or the object itself.
pub fn part_body(kind: &Kind, subresource: &str, namespace: &str, name: &str) -> Value {
    let Some(sub) = kind.subresource(subresource) else { return json!({}) };
    let metadata = json!({"name": name, "namespace": namespace});
    match sub.body.kind.as_str() {
        "Scale" => json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": 3}}),
        "Eviction" => json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}),
        "Binding" => json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": {"kind": "Node", "name": "n"}}),
        "TokenRequest" => json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["x"]}}),
        _ => body(kind, namespace, name),
    }
}
