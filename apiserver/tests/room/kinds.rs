//! Kinds that are made, changed and removed while the server runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use api::Gvk;
use apiserver::{
    engine::Engine,
    front::Front,
    kind::{Column, Field, Kind, Lookup, Scope, Storage},
    openapi::OpenApi,
    schema::Schema,
};
use serde_json::{Value, json};

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
    selectable.fields =
        vec![Field { label: words("spec.colour"), pointer: words("/spec/colour"), default: "".into(), lookup: Lookup::Index }].into();
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
    completed.read = Some(Arc::new(|object: &mut Value| object["spec"]["shape"] = json!("round")));
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

#[tokio::test]
async fn what_cannot_be_served_together_is_refused_and_changes_nothing() {
    let room = Room::new().await;
    let mut doubled = widget("integer");
    doubled.storage = kept("things");
    let refused = room.engine.serve(vec![Arc::new(doubled)]).await.unwrap_err();
    assert!(refused.message.contains("where another kind is"), "{refused}");
    let mut orphan = widget("integer");
    orphan.storage = Storage::As { group: "no".into(), version: "v1".into(), plural: "such".into() };
    assert!(room.engine.serve(vec![Arc::new(orphan)]).await.is_err());
    let mut unlike = widget("integer");
    unlike.fields =
        vec![Field { label: "spec.size".into(), pointer: "/spec/size".into(), default: "".into(), lookup: Lookup::Scan }].into();
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
