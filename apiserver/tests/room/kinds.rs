//! Kinds that are made, changed and removed while the server runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use api::Gvk;
use apiserver::{
    engine::Engine,
    front::Front,
    kind::{Column, Conversion, Field, Kind, Lookup, ReadStep, Scope, Storage},
    openapi::OpenApi,
    schema::Schema,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::{Entry, Error, Events, Listener, Outcome, Page, Range, Rev, Store, Txn, memory::Memory};

use crate::kit::{Room, kept, kind};

const WIDGETS: &str = "/apis/test.io/v1/namespaces/default/widgets";

fn schema(size: &str) -> Value {
    let spec = json!({"type": "object", "properties": {"size": {"type": size}, "colour": {"type": "string"}}});
    json!({"type": "object", "description": format!("A widget of {size} size."), "properties": {"spec": spec}})
}

/// All its words are made at run time, as those of a custom resource are.
fn widget(size: &str) -> Kind {
    let mut widget = kind("v1", "Widget", "widgets", Scope::Namespaced, kept("test.io/widgets"));
    widget.short_names = vec![String::from("wg").into()];
    widget.schema = Schema::custom(&widget.gvk(), &schema(size), None);
    widget
}

fn gvr(kind: &Kind) -> api::Gvr {
    kind.gvr()
}

fn object(name: &str, size: Value) -> Value {
    json!({"kind": "Widget", "apiVersion": "test.io/v1", "metadata": {"name": name}, "spec": {"size": size, "colour": "blue"}})
}

async fn serve(engine: &Arc<Engine>, kind: Kind) {
    engine.serve(vec![Arc::new(kind)]).await.unwrap();
}

#[tokio::test]
async fn a_kind_is_made_changed_and_removed_and_comes_back_with_what_was_stored() {
    let mut room = Room::new().await;
    room.front = Front::builder(room.engine.clone()).mount(OpenApi::default().routes(room.engine.clone())).build();
    room.get(WIDGETS).await.refused(404, "the server could not find the requested resource");

    serve(&room.engine, widget("integer")).await;
    let made = room.post(WIDGETS, &object("a", json!(1))).await.ok(201);
    room.post(WIDGETS, &object("b", json!("x"))).await.refused(400, "cannot be handled as a Widget");
    let described = |reply: Value| reply["components"]["schemas"]["io.test.v1.Widget"]["description"].clone();
    let first = room.get("/openapi/v3/apis/test.io/v1").await;
    let tag = first.headers["etag"].clone();
    assert_eq!(described(first.ok(200)), "A widget of integer size.");

    // The schema changes under those who watch: nothing of theirs is lost.
    let mut watch = room.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(watch.line().await, "ADDED a");
    serve(&room.engine, widget("string")).await;
    room.post(WIDGETS, &object("b", json!("x"))).await.ok(201);
    assert_eq!(watch.line().await, "ADDED b");
    let second = room.get("/openapi/v3/apis/test.io/v1").await;
    assert_ne!(second.headers["etag"], tag, "the hash is of what the document says");
    assert_eq!(described(second.ok(200)), "A widget of string size.");

    room.engine.withdraw(&[gvr(&widget("string"))]).await.unwrap();
    assert_eq!(watch.next().await.unwrap()["object"]["code"], 410);
    assert!(watch.next().await.is_none(), "a watch of a kind that is gone ends");
    room.get(&format!("{WIDGETS}/a")).await.refused(404, "the server could not find the requested resource");
    assert!(described(room.get("/openapi/v3/apis/test.io/v1").await.ok(200)).is_null());

    serve(&room.engine, widget("integer")).await;
    assert_eq!(room.get(&format!("{WIDGETS}/a")).await.ok(200), made, "what is stored stays");
    assert_eq!(room.get(WIDGETS).await.ok(200)["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn another_selectable_field_makes_watchers_begin_anew_and_finds_all() {
    let room = Room::new().await;
    serve(&room.engine, widget("integer")).await;
    for name in ["a", "b"] {
        room.post(WIDGETS, &object(name, json!(1))).await.ok(201);
    }
    let blue = format!("{WIDGETS}?fieldSelector=spec.colour%3Dblue");
    room.get(&blue).await.refused(400, "field label not supported");
    let mut watch = room.watch(&format!("{WIDGETS}?watch=true&resourceVersion=0")).await;
    assert_eq!([watch.line().await, watch.line().await], ["ADDED a", "ADDED b"]);
    let mut selectable = widget("integer");
    let words = |text: &str| String::from(text).into();
    selectable.fields = vec![Field {
        label: words("spec.colour"),
        pointer: words("/spec/colour"),
        default: "".into(),
        lookup: Lookup::Index,
        instead: None,
    }]
    .into();
    selectable.columns =
        vec![Column { name: words("Colour"), typ: words("string"), format: "".into(), description: words("Its colour."), priority: 0 }]
            .into();
    serve(&room.engine, selectable).await;
    assert_eq!(watch.next().await.unwrap()["object"]["code"], 410);
    assert_eq!(room.get(&blue).await.ok(200)["items"].as_array().map(Vec::len), Some(2));
    // A watcher who names what it saw last goes on from there or begins anew; it hears of what comes.
    let mut again = room.watch(&format!("{blue}&watch=true")).await;
    assert_eq!([again.line().await, again.line().await], ["ADDED a", "ADDED b"]);
    room.post(WIDGETS, &object("c", json!(1))).await.ok(201);
    assert_eq!(again.line().await, "ADDED c");
}

/// What was stored before a default came is shown with it, in every form; what is stored stays as it is until it is written.
#[tokio::test]
async fn what_is_read_is_completed_before_it_is_shown() {
    let room = Room::new().await;
    serve(&room.engine, widget("integer")).await;
    room.post(WIDGETS, &object("a", json!(1))).await.ok(201);
    let mut completed = widget("integer");
    completed.schema = Schema::Open;
    completed.read = Some(ReadStep::new(|object: &mut Value, _| object["spec"]["shape"] = json!("round")));
    serve(&room.engine, completed).await;
    let shape = |object: &Value| object["spec"]["shape"].clone();
    assert_eq!(shape(&room.get(&format!("{WIDGETS}/a")).await.ok(200)), "round");
    assert_eq!(shape(&room.get(WIDGETS).await.ok(200)["items"][0]), "round");
    let mut watch = room.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(shape(&watch.next().await.unwrap()["object"]), "round");
    room.patch(&format!("{WIDGETS}/a"), "merge-patch", &json!({"spec": {"size": 2}})).await.ok(200);
    assert_eq!(shape(&watch.next().await.unwrap()["object"]), "round");
    serve(&room.engine, widget("integer")).await;
    assert_eq!(shape(&room.get(&format!("{WIDGETS}/a")).await.ok(200)), "round", "the write stored what it had been shown");
}

/// A store whose ranges wait.
struct Gated(Memory, Arc<AtomicBool>);

#[async_trait]
impl Store for Gated {
    async fn revision(&self) -> Result<Rev, Error> {
        self.0.revision().await
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.0.get(key).await
    }
    async fn range(&self, range: Range) -> Result<Page, Error> {
        while self.1.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        self.0.range(range).await
    }
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.0.txn(txn).await
    }
    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        self.0.watch(prefix, after).await
    }
    fn listen(&self, after: Rev, listener: &Listener) -> Option<Result<(), Error>> {
        self.0.listen(after, listener)
    }
    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        self.0.compact(rev).await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test]
async fn who_gives_up_serving_leaves_nothing_half_done() {
    let shut = Arc::new(AtomicBool::new(false));
    let room = Room::over(Gated(Memory::new(), shut.clone())).await;
    for first in [true, false] {
        let mut next = widget("integer");
        if !first {
            next.fields = vec![field("spec.colour", "/spec/colour")].into();
        }
        let next = Arc::new(next);
        shut.store(true, Ordering::SeqCst);
        {
            let mut serving = Box::pin(room.engine.serve(vec![next.clone()]));
            assert!(futures::poll!(&mut serving).is_pending());
        }
        shut.store(false, Ordering::SeqCst);
        room.engine.serve(vec![next]).await.unwrap();
        room.post(WIDGETS, &object(if first { "a" } else { "b" }, json!(1))).await.ok(201);
        let listed = room.get(WIDGETS).await.ok(200);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(if first { 1 } else { 2 }));
    }
}

fn field(label: &str, pointer: &str) -> Field {
    Field { label: label.to_owned().into(), pointer: pointer.to_owned().into(), default: "".into(), lookup: Lookup::Index, instead: None }
}

/// Who listens hears of each object once there is such a kind, whatever becomes of the way it is kept, and that all is gone when the kind goes.
#[tokio::test]
async fn listeners_outlive_the_caches() {
    let room = Room::new().await;
    let there = Arc::new(parking_lot::Mutex::new(std::collections::BTreeSet::new()));
    let (heard, widgets) = (there.clone(), api::GroupResource::new("test.io", "widgets"));
    room.engine.on_change(
        &widgets,
        Arc::new(move |change| match &change.new {
            Some(new) => drop(heard.lock().insert(new.key.name.clone())),
            None => drop(change.old.as_ref().map(|old| heard.lock().remove(&old.key.name))),
        }),
    );
    let all = || there.lock().iter().cloned().collect::<Vec<_>>().join(" ");
    serve(&room.engine, widget("integer")).await;
    room.post(WIDGETS, &object("a", json!(1))).await.ok(201);
    assert_eq!(all(), "a");
    let mut indexed = widget("integer");
    indexed.fields = vec![field("spec.colour", "/spec/colour")].into();
    serve(&room.engine, indexed).await;
    room.post(WIDGETS, &object("b", json!(1))).await.ok(201);
    room.delete(&format!("{WIDGETS}/a"), &json!({})).await.ok(200);
    assert_eq!(all(), "b");
    room.engine.withdraw(&[gvr(&widget("integer"))]).await.unwrap();
    assert_eq!(all(), "");
    serve(&room.engine, widget("integer")).await;
    assert_eq!(all(), "b", "it comes back with its kind");
}

#[tokio::test]
async fn a_version_selects_by_what_its_own_fields_mean() {
    let room = Room::new().await;
    let conversion = Conversion::Direct(Arc::new(|to: &Gvk, mut object: Value| {
        object["apiVersion"] = json!(to.api_version());
        object
    }));
    let mut first = widget("integer");
    first.fields = vec![field("spec.owner", "/spec/owner"), field("spec.colour", "/spec/colour")].into();
    first.schema = Schema::Open;
    first.conversion = conversion.clone();
    let stored = Storage::As { group: "test.io".into(), version: "v1".into(), plural: "widgets".into() };
    let mut second = kind("v2", "Widget", "widgets", Scope::Namespaced, stored);
    second.fields = vec![field("spec.colour", "/spec/colour"), field("spec.owner", "/spec/owner")].into();
    second.conversion = conversion;
    room.engine.serve(vec![Arc::new(first), Arc::new(second)]).await.unwrap();
    for (name, owner, colour) in [("a", "blue", "red"), ("b", "me", "blue")] {
        let spec = json!({"owner": owner, "colour": colour});
        room.post(WIDGETS, &json!({"kind": "Widget", "apiVersion": "test.io/v1", "metadata": {"name": name}, "spec": spec})).await.ok(201);
    }
    let seconds = "/apis/test.io/v2/namespaces/default/widgets";
    let names = |list: &Value| list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>();
    for selector in ["spec.colour%3Dblue", "spec.owner%3Dme"] {
        assert_eq!(names(&room.get(&format!("{seconds}?fieldSelector={selector}")).await.ok(200)), ["b"], "{selector}");
    }
    room.raw("DELETE", &format!("{seconds}?fieldSelector=spec.colour%3Dblue"), "", &[]).await.ok(200);
    assert_eq!(names(&room.get(WIDGETS).await.ok(200)), ["a"]);
}

#[tokio::test]
async fn what_cannot_be_served_together_is_refused_and_changes_nothing() {
    let room = Room::new().await;
    let mut doubled = widget("integer");
    doubled.storage = kept("things");
    let refused = room.engine.serve(vec![Arc::new(doubled)]).await.unwrap_err();
    assert!(refused.message.contains("where another kind is"), "{refused}");
    let mut nested = widget("integer");
    nested.storage = kept("things/inner");
    assert!(room.engine.serve(vec![Arc::new(nested)]).await.is_err());
    let mut orphan = widget("integer");
    orphan.storage = Storage::As { group: "no".into(), version: "v1".into(), plural: "such".into() };
    assert!(room.engine.serve(vec![Arc::new(orphan)]).await.is_err());
    let mut unlike = widget("integer");
    unlike.fields =
        vec![Field { label: "spec.size".into(), pointer: "/spec/size".into(), default: "".into(), lookup: Lookup::Scan, instead: None }]
            .into();
    unlike.storage = Storage::As { group: "test.io".into(), version: "v1".into(), plural: "things".into() };
    let refused = room.engine.serve(vec![Arc::new(unlike)]).await.unwrap_err();
    assert!(refused.message.contains("selectable fields"), "{refused}");
    let things = room.engine.kinds().into_iter().find(|kind| kind.plural == "things" && kind.version == "v1").unwrap();
    // v2 is kept as it.
    assert!(room.engine.withdraw(&[gvr(&things)]).await.is_err());
    assert_eq!(room.engine.kinds().len(), crate::kit::kinds().len());
    room.thing("a", &json!({})).await;
}

/// Readers and writers go on while kinds come and go, and no list is without what was acknowledged before it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_registry_is_swapped() {
    let room = Arc::new(Room::new().await);
    serve(&room.engine, widget("integer")).await;
    let over = Arc::new(AtomicBool::new(false));
    let swapped = Arc::new(AtomicUsize::new(0));
    room.group.spawn({
        let (room, over, swapped) = (room.clone(), over.clone(), swapped.clone());
        async move {
            while !over.load(Ordering::SeqCst) {
                let count = swapped.fetch_add(1, Ordering::SeqCst);
                // Every other time with another cache.
                let mut next = widget("integer");
                if count % 2 == 0 {
                    next.fields = vec![Field {
                        label: "spec.colour".into(),
                        pointer: "/spec/colour".into(),
                        default: "".into(),
                        lookup: Lookup::Index,
                        instead: None,
                    }]
                    .into();
                }
                serve(&room.engine, next).await;
                let mut other = kind("v1", "Gadget", "gadgets", Scope::Cluster, kept("gadgets"));
                other.schema = Schema::custom(&Gvk::new("test.io", "v1", "Gadget"), &schema("integer"), None);
                serve(&room.engine, other).await;
            }
        }
    });
    for number in 0..300 {
        let name = format!("w{number}");
        room.post(WIDGETS, &object(&name, json!(number))).await.ok(201);
        let listed = room.get(WIDGETS).await.ok(200);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(number + 1), "after {name}");
        let cached = room.get(&format!("{WIDGETS}/{name}?resourceVersion=0")).await.ok(200);
        assert_eq!(cached["spec"]["size"], number);
    }
    over.store(true, Ordering::SeqCst);
    let swapped = swapped.load(Ordering::SeqCst);
    assert!(swapped > 10, "{swapped} swaps");
}
