//! Every kind, scope, subresource, form of path and method: what is authorized is what is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use apiserver::{
    identity::{Attributes, Auth, Authorizer, Decision, User},
    kind::{Kind, Scope, Storage},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::stock::{Change, Item, MARK, Reach, State, Stock, body, named, part_body, root};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Words of the path among them.
const NAMESPACES: [&str; 3] = ["a", "namespaces", "watch"];
const NAMES: [&str; 3] = ["one", "status", "a"];

/// Allows everything and remembers what it was asked.
#[derive(Default)]
struct Recorder(Mutex<Vec<Asked>>);

/// What it was asked.
#[derive(Debug)]
struct Asked {
    verb: String,
    resource_request: bool,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Authorizer for Recorder {
    fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let [verb, group, resource, subresource, namespace, name] =
            [asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace, asked.name].map(str::to_owned);
        self.0.lock().push(Asked { verb, resource_request: asked.resource_request, group, resource, subresource, namespace, name });
        Decision::Allow(String::new())
    }
}

struct Walk {
    stock: Stock,
    recorder: Arc<Recorder>,
    /// The whole state at the start: all that is done is undone.
    before: State,
    /// Marks of objects in replies.
    marks: BTreeMap<String, Item>,
    /// What was seen to happen: a walk that moves nothing shows nothing.
    seen: BTreeSet<(String, &'static str)>,
    requests: usize,
}

impl Walk {
    async fn new() -> Self {
        let recorder = Arc::new(Recorder::default());
        let auth = Auth { authorizers: vec![recorder.clone()], ..Auth::default() };
        let stock = Stock::new(|_| auth).await;
        let mut marks = BTreeMap::new();
        for item in stock.fill(&NAMESPACES, &NAMES, "none", Reach::All).await {
            marks.insert(format!("mark-{}", marks.len()), item);
        }
        let walk = Self { before: BTreeMap::new(), stock, recorder, marks, seen: BTreeSet::new(), requests: 0 };
        walk.marked().await
    }

    /// Gives each object a mark of its own.
    async fn marked(mut self) -> Self {
        for (mark, item) in &self.marks {
            let gr = api::GroupResource::new(&item.group, &item.plural);
            let change = |object: &mut Value| {
                object["metadata"]["labels"] = json!({MARK: mark});
                Ok(())
            };
            let key = api::Key::new(&item.namespace, &item.name);
            self.stock.engine.update(&gr, &key, "", &kinds::auth::system_user(), &change).await.unwrap();
        }
        self.before = self.stock.state().await;
        self
    }

    async fn ask(&mut self, method: &str, target: &str, body: Option<&Value>) {
        let user = User { name: "walker".into(), ..User::default() };
        self.recorder.0.lock().clear();
        let revision = self.stock.revision().await;
        let Some(answer) = self.stock.ask(&user, method, target, body).await else { return };
        let asked = std::mem::take(&mut *self.recorder.0.lock());
        let changed = self.stock.revision().await != revision;
        let changes = if changed { self.stock.changes_undone(&self.before).await } else { Vec::new() };
        self.requests += 1;
        let what = || format!("{method} {target}: {} {} {asked:?} {changes:?}", answer.code, answer.body);
        for item in self.read(&answer.body) {
            assert!(asked.iter().any(|a| self.is_about(a, &item)), "{item:?} was read by {}", what());
            if method == "GET" {
                self.seen.insert((item.plural, "read"));
            }
        }
        for change in &changes {
            let (item, word) = (self.stock.item(change.key()), word(change));
            assert!(asked.iter().any(|a| self.is_about(a, &item) && may(a, change)), "{item:?} was {word} by {}", what());
            // Some go in two steps: a deletion that marks is one, too.
            self.seen.insert((item.plural, if method == "DELETE" { "deleted" } else { word }));
        }
    }

    fn read(&self, body: &str) -> BTreeSet<Item> {
        let marks = body.split("mark-").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
        marks.filter_map(|number| self.marks.get(&format!("mark-{number}")).cloned()).collect()
    }

    /// Whether the one who was asked was asked about this object.
    fn is_about(&self, asked: &Asked, item: &Item) -> bool {
        let is_name = |name: &str| asked.name.is_empty() || asked.name == name;
        if !asked.resource_request {
            return false;
        }
        if (asked.group.as_str(), asked.resource.as_str()) == ("", "bindings") {
            return item.plural == "pods" && asked.namespace == item.namespace && asked.verb == "create";
        }
        let kept = self.stock.kinds.iter().find(|kind| kind.group == asked.group && kind.plural == asked.resource).map(|kind| match &kind
            .storage
        {
            Storage::As { group, plural, .. } => (group.to_string(), plural.to_string()),
            _ => (kind.group.to_string(), kind.plural.to_string()),
        });
        let same = kept.is_some_and(|kept| kept == (item.group.clone(), item.plural.clone()));
        let placed = match item.plural.as_str() {
            // A namespace is authorized as one that lies in itself.
            "namespaces" => asked.namespace == asked.name || asked.namespace.is_empty(),
            _ if item.namespace.is_empty() => asked.namespace.is_empty(),
            _ => asked.namespace.is_empty() || asked.namespace == item.namespace,
        };
        same && placed && is_name(&item.name)
    }
}

fn word(change: &Change) -> &'static str {
    match change {
        Change::Created(_) => "created",
        Change::Updated(_) => "updated",
        Change::Deleted(_) => "deleted",
    }
}

fn may(asked: &Asked, change: &Change) -> bool {
    let verbs: &[&str] = match change {
        Change::Created(_) => &["create"],
        // A graceful deletion is seen as an update.
        Change::Updated(_) => &["update", "patch", "delete", "deletecollection"],
        Change::Deleted(_) => &["delete", "deletecollection"],
    };
    let action = asked.verb == "create" && (!asked.subresource.is_empty() || asked.resource == "bindings");
    verbs.contains(&asked.verb.as_str()) || (action && !matches!(change, Change::Created(_)))
}

/// Paths to all objects of a kind, or to those of a place.
fn collections(kind: &Kind) -> Vec<String> {
    let (root, plural) = (root(kind), &kind.plural);
    let paths = [
        format!("{root}/{plural}"),
        format!("{root}/{plural}/"),
        format!("{root}//{plural}"),
        format!("/{root}/{plural}"),
        format!("{root}/namespaces/a/{plural}"),
        format!("{root}/namespaces/a//{plural}"),
        format!("{root}/namespaces//{plural}"),
        format!("{root}/namespaces/{plural}"),
        format!("{root}/namespaces/namespaces/{plural}"),
        format!("{root}/namespaces/a%2F{plural}"),
        format!("{root}/watch/{plural}"),
        format!("{root}/watch/namespaces/a/{plural}"),
        format!("{root}/watch/watch/{plural}"),
        format!("{root}/proxy/{plural}"),
        format!("{root}/proxy/namespaces/a/{plural}"),
    ];
    let queries = [
        "watch=1",
        "fieldSelector=metadata.name%3Done",
        "fieldSelector=metadata.name!%3Done",
        "fieldSelector=metadata.namespace%3Dwatch",
        "fieldSelector=&fieldSelector=metadata.name%3Done",
        "fieldSelector=metadata.name%3Done,metadata.name%3Da&watch=true",
        "fieldSelector=metadata.name%3Done%2Ftwo&limit=1",
        "fieldSelector=metadata.name%3Dstatus&watch=0",
        "labelSelector=stock&limit=1&resourceVersion=0",
    ];
    paths.iter().flat_map(|path| [path.clone()].into_iter().chain(queries.iter().map(move |query| format!("{path}?{query}")))).collect()
}

/// Paths that name an object.
fn items(kind: &Kind, name: &str) -> Vec<String> {
    let (root, plural) = (root(kind), &kind.plural);
    vec![
        format!("{root}/{plural}/{name}"),
        format!("{root}/{plural}//{name}"),
        format!("{root}/namespaces/a/{plural}/{name}"),
        format!("{root}/namespaces/a/{plural}/{name}//"),
        format!("{root}/namespaces/a/{plural}//{name}"),
        format!("{root}/namespaces//{plural}/{name}"),
        format!("{root}/namespaces/watch/{plural}/{name}"),
        format!("{root}/namespaces/a%2F{plural}%2F{name}"),
        format!("{root}/namespaces%2Fa%2F{plural}/{name}"),
        format!("{root}/namespaces/a/{plural}/..%2F..%2Fwatch%2F{plural}%2F{name}"),
        format!("{root}/namespaces/a/../watch/{plural}/{name}"),
        format!("{root}/namespaces/a/namespaces/watch/{plural}/{name}"),
        format!("{root}/namespaces/a/{plural}/{name}%00"),
        format!("{root}/watch/{plural}/{name}"),
        format!("{root}/watch/namespaces/a/{plural}/{name}"),
        format!("{root}/watch/namespaces/a/{plural}/{name}?fieldSelector="),
        format!("{root}/watch/namespaces/a/{plural}/{name}?fieldSelector=metadata.name!%3Dx"),
        format!("{root}/watch/namespaces/a/{plural}/{name}?fieldSelector=metadata.name%3Done"),
        format!("{root}/proxy/namespaces/a/{plural}/{name}"),
    ]
}

fn parts(kind: &Kind, name: &str) -> Vec<(String, String)> {
    let own = kind.subresources.iter().map(|sub| sub.name.to_string());
    let all = own.chain(["nothing".to_owned(), "status".to_owned()]);
    let (root, plural) = (root(kind), &kind.plural);
    let (below, outside) = (format!("{root}/namespaces/a/{plural}"), format!("{root}/{plural}"));
    let forms = move |sub: String| {
        let paths = [
            format!("{below}/{name}/{sub}"),
            format!("{below}/{name}/{sub}/more//than/that/"),
            format!("{below}/{name}//{sub}"),
            format!("{below}//{sub}"),
            format!("{outside}/{name}/{sub}"),
            format!("{outside}//{sub}"),
            format!("{outside}/{name}/{sub}/more"),
            format!("{root}/watch/namespaces/a/{plural}/{name}/{sub}"),
            format!("{root}/watch/{plural}/{name}/{sub}"),
        ];
        paths.map(|path| (path, sub.clone()))
    };
    all.flat_map(forms).collect()
}

async fn kind(walk: &mut Walk, kind: &Kind) {
    let place = if kind.scope == Scope::Cluster { "" } else { "a" };
    for path in collections(kind) {
        let methods = if path.contains('?') { &["GET", "DELETE"][..] } else { &METHODS };
        for method in methods {
            walk.ask(method, &path, sent(method, body(kind, place, "made")).as_ref()).await;
        }
    }
    for name in NAMES {
        for path in items(kind, &named(&kind.plural, name)) {
            for method in METHODS {
                walk.ask(method, &path, sent(method, body(kind, place, name)).as_ref()).await;
                if method == "PUT" {
                    walk.ask(method, &format!("{path}-new"), sent(method, body(kind, place, &format!("{name}-new"))).as_ref()).await;
                }
            }
        }
    }
    for (path, sub) in parts(kind, &named(&kind.plural, "one")) {
        for method in METHODS {
            walk.ask(method, &path, sent(method, part_body(kind, &sub, place, "one")).as_ref()).await;
        }
    }
}

/// What a request of this method sends.
fn sent(method: &str, mut object: Value) -> Option<Value> {
    match method {
        "POST" => Some(object),
        "PUT" => {
            object["metadata"]["labels"] = json!({MARK: "other"});
            Some(object)
        }
        "PATCH" => Some(json!({"metadata": {"labels": {"changed": "yes"}}})),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_authorized_is_what_is_done() {
    let mut walk = Walk::new().await;
    for one in walk.stock.kinds.clone() {
        Box::pin(kind(&mut walk, &one)).await;
    }
    assert_eq!(walk.stock.state().await, walk.before);
    for kind in walk.stock.kinds.iter().filter(|kind| matches!(kind.storage, Storage::Kept { .. })) {
        let wanted = [("list", "read"), ("create", "created"), ("patch", "updated"), ("delete", "deleted")];
        for (_, word) in wanted.into_iter().filter(|(verb, _)| kind.serves(verb) && kind.serves("create")) {
            assert!(walk.seen.contains(&(kind.plural.to_string(), word)), "no {} was {word}", kind.plural);
        }
    }
    assert!(walk.requests > 10_000, "{}", walk.requests);
}
