//! Lists: selectors, pages, revisions, and the forms they come in.

use std::io::Read;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::kit::{Room, THINGS, thing, version};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn filled(count: usize) -> Room {
    let room = Room::new().await;
    for i in 0..count {
        room.thing(&format!("t{i:02}"), &json!({"n": i.to_string(), "odd": (i % 2 == 1).to_string()})).await;
    }
    room
}

#[tokio::test]
async fn selectors_select() {
    let room = filled(4).await;
    room.patch(&format!("{THINGS}/t00"), "merge-patch", &json!({"spec": {"colour": "blue"}})).await.ok(200);
    let cases = [
        ("labelSelector=odd%3Dtrue", vec!["t01", "t03"]),
        ("labelSelector=n%20in%20(0,3)", vec!["t00", "t03"]),
        ("fieldSelector=spec.colour%3Dblue", vec!["t00"]),
        ("fieldSelector=spec.colour!%3Dblue,metadata.name!%3Dt01", vec!["t02", "t03"]),
        ("fieldSelector=metadata.name%3Dt02", vec!["t02"]),
        ("fieldSelector=metadata.name%3Dt02&labelSelector=odd%3Dtrue", vec![]),
        ("fieldSelector=metadata.namespace%3Ddefault", vec!["t00", "t01", "t02", "t03"]),
    ];
    for (query, wanted) in cases {
        assert_eq!(names(&room.get(&format!("{THINGS}?{query}")).await.ok(200)), wanted, "{query}");
    }
    room.get(&format!("{THINGS}?fieldSelector=spec.size%3D1")).await.refused(400, "field label not supported: spec.size");
    room.get(&format!("{THINGS}?labelSelector=a%20b")).await.refused(400, "unable to parse requirement");
    assert_eq!(names(&room.get("/apis/test.io/v1/things").await.ok(200)).len(), 4);
    assert_eq!(names(&room.get("/apis/test.io/v1/namespaces/defaul/things").await.ok(200)).len(), 0);
}

#[tokio::test]
async fn pages_are_of_one_snapshot() {
    let room = filled(7).await;
    let first = room.get(&format!("{THINGS}?limit=3")).await.ok(200);
    assert_eq!(names(&first), ["t00", "t01", "t02"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    room.delete(&format!("{THINGS}/t03"), &json!({})).await.ok(200);
    room.thing("t03a", &json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = room.get(&format!("{THINGS}?limit=3&continue={token}")).await.ok(200);
    assert_eq!(names(&second), ["t03", "t04", "t05"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = room.get(&format!("{THINGS}?limit=3&continue={token}")).await.ok(200);
    assert_eq!(names(&last), ["t06"]);
    assert!(last["metadata"].get("continue").is_none());
    let selected = room.get(&format!("{THINGS}?limit=1&labelSelector=odd%3Dtrue")).await.ok(200);
    assert!(selected["metadata"].get("remainingItemCount").is_none() && selected["metadata"]["continue"].is_string());
    room.get(&format!("{THINGS}?continue={token}&resourceVersion=5")).await.refused(400, "not allowed when using continue");
    room.get(&format!("{THINGS}?continue=nonsense")).await.refused(400, "continue key is not valid");
}

#[tokio::test]
async fn a_page_that_expired_goes_on_as_things_are_now() {
    let room = filled(5).await;
    let first = room.get(&format!("{THINGS}?limit=2")).await.ok(200);
    let page = |token: &Value| format!("{THINGS}?limit=2&continue={}", token.as_str().unwrap());
    let expired = page(&first["metadata"]["continue"]);
    room.get(&expired).await.ok(200);
    // The store was compacted; of these objects nothing has changed.
    let newest = room.thing("t02a", &json!({})).await;
    room.engine.forget(version(&newest));
    let refused = room.get(&expired).await.refused(410, "use the continue token in this response");
    let second = room.get(&page(&refused["metadata"]["continue"])).await.ok(200);
    assert_eq!(names(&second), ["t02", "t02a"]);
    assert_eq!(
        (&second["metadata"]["resourceVersion"], &second["metadata"]["remainingItemCount"]),
        (&newest["metadata"]["resourceVersion"], &json!(2))
    );
    assert_eq!(names(&room.get(&page(&second["metadata"]["continue"])).await.ok(200)), ["t03", "t04"]);
    let exact = format!("{THINGS}?resourceVersion={}&resourceVersionMatch=Exact", version(&first));
    room.get(&exact).await.refused(410, "The resourceVersion for the provided list is too old.");
}

#[tokio::test]
async fn an_exact_revision_shows_the_past_and_a_compacted_one_is_gone() {
    let memory = store::memory::Memory::new();
    let shared: std::sync::Arc<dyn store::Store> = std::sync::Arc::new(memory);
    let room = Room::over(Shared(shared.clone())).await;
    let made = room.thing("a", &json!({})).await;
    room.thing("b", &json!({})).await;
    let path = format!("{THINGS}?resourceVersion={}&resourceVersionMatch=Exact", version(&made));
    assert_eq!(names(&room.get(&path).await.ok(200)), ["a"]);
    let later = room.get(&format!("{THINGS}?resourceVersion={}&resourceVersionMatch=NotOlderThan", version(&made))).await.ok(200);
    assert_eq!(names(&later), ["a", "b"]);
    shared.compact(version(&made) + 1).await.unwrap();
    room.get(&path).await.refused(410, "too old");
    room.get(&format!("{THINGS}?resourceVersion=100000")).await.refused(504, "Too large resource version: 100000, current: 2");
    room.get(&format!("{THINGS}?resourceVersion=x")).await.refused(400, "invalid resource version");
    room.get(&format!("{THINGS}?resourceVersionMatch=Exact")).await.refused(422, "forbidden unless resourceVersion is provided");
}

#[tokio::test]
async fn a_list_is_well_formed_whatever_its_size() {
    let room = Room::new().await;
    assert_eq!(room.get(THINGS).await.ok(200)["items"], json!([]));
    for i in 0..40 {
        let mut object = thing(&format!("t{i:02}"), &json!({}));
        object["spec"]["text"] = "x".repeat(9000).into();
        room.post(THINGS, &object).await.ok(201);
    }
    let plain = room.get(THINGS).await;
    assert!(plain.body.len() > 300_000);
    let list = plain.json();
    assert_eq!((&list["kind"], &list["apiVersion"], names(&list).len()), (&json!("ThingList"), &json!("test.io/v1"), 40));
    let packed = room.raw("GET", THINGS, "", &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.body);
}

#[tokio::test]
async fn tables_metadata_and_yaml() {
    let room = filled(1).await;
    let accept = |form: &str| format!("application/json;as={form};v=v1;g=meta.k8s.io");
    let table = room.raw("GET", THINGS, "", &[("accept", &accept("Table"))]).await.ok(200);
    assert_eq!((&table["kind"], &table["rows"][0]["cells"]), (&json!("Table"), &json!(["t00", "red"])));
    assert_eq!(table["columnDefinitions"][1]["name"], "Colour");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = room.raw("GET", &format!("{THINGS}/t00?includeObject=Object"), "", &[("accept", &accept("Table"))]).await.ok(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Thing");
    let none = room.raw("GET", &format!("{THINGS}?includeObject=None"), "", &[("accept", &accept("Table"))]).await.ok(200);
    assert_eq!(none["rows"][0]["object"], Value::Null);
    let partial = room.raw("GET", THINGS, "", &[("accept", &accept("PartialObjectMetadataList"))]).await.ok(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("spec").is_none());
    let yaml = room.raw("GET", &format!("{THINGS}/t00"), "", &[("accept", "application/yaml")]).await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    let read: Value = serde_yaml::from_str(std::str::from_utf8(&yaml.body).unwrap()).unwrap();
    assert_eq!(read["metadata"]["name"], "t00");
    let pretty = room.get(&format!("{THINGS}/t00?pretty=true")).await;
    assert!(pretty.body.contains(&b'\n'));
    room.raw("GET", THINGS, "", &[("accept", "application/vnd.kubernetes.protobuf")]).await.refused(406, "only the following media types");
}

/// The frames of a reply.
async fn frames(room: &Room, path: &str, accept: &str) -> Vec<Bytes> {
    let mut body = room.send("GET", path, "", &[("accept", accept)]).await.into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    frames
}

#[tokio::test]
async fn lists_of_every_form_come_in_pieces_that_make_the_whole() {
    const V2: &str = "/apis/test.io/v2/namespaces/default/things";
    let shaped = |form: &str| format!("application/json;as={form};v=v1;g=meta.k8s.io");
    let table = format!("{THINGS}?includeObject=Object");
    let pretty = |path: &str| format!("{path}{}pretty=true", if path.contains('?') { '&' } else { '?' });
    let json = "application/json".to_owned();
    let forms = [
        (THINGS.to_owned(), "application/yaml".to_owned(), true),
        (pretty(THINGS), json.clone(), true),
        (table.clone(), shaped("Table"), true),
        (pretty(&table), shaped("Table"), true),
        (V2.to_owned(), json, false),
        (THINGS.to_owned(), shaped("PartialObjectMetadataList"), false),
    ];
    let room = Room::new().await;
    for count in [0, 1, 60] {
        for (path, accept, is_large) in &forms {
            let frames = frames(&room, path, accept).await;
            let text = String::from_utf8(frames.concat()).unwrap();
            let whole = match accept.as_str() {
                // Its form has tests of its own.
                "application/yaml" => {
                    let json = room.raw("GET", path, "", &[("accept", "application/json")]).await;
                    let (read, wanted): (Value, Value) =
                        (serde_yaml::from_str(&text).unwrap(), serde_json::from_slice(&json.body).unwrap());
                    assert_eq!(read, wanted);
                    text.clone()
                }
                _ if path.contains("pretty") => serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).unwrap()).unwrap(),
                // Upstream's encoder ends what it does not indent with a line.
                _ => format!("{}\n", serde_json::from_str::<Value>(&text).unwrap()),
            };
            assert_eq!(text, whole, "{path} as {accept}");
            let largest = frames.iter().map(Bytes::len).max().unwrap_or_default();
            assert!(largest < 160 << 10, "{path} as {accept}: a frame of {largest} bytes");
            assert!(frames.len() > 1 || count < 60 || !is_large, "{path} as {accept}: one piece");
        }
        for i in count..if count == 0 { 1 } else { 60 } {
            let mut object = thing(&format!("t{i:02}"), &json!({"a": "b"}));
            object["spec"]["text"] = format!("{}\n\n  two: 'lines' # ä\n", "x y".repeat(3000)).into();
            object["spec"]["list"] = json!([[], {}, [1, {"a": null}], "", "- x"]);
            room.post(THINGS, &object).await.ok(201);
        }
    }
}

/// One store under two owners.
struct Shared(std::sync::Arc<dyn store::Store>);

#[async_trait::async_trait]
impl store::Store for Shared {
    async fn revision(&self) -> Result<store::Rev, store::Error> {
        self.0.revision().await
    }
    async fn get(&self, key: &str) -> Result<Option<store::Entry>, store::Error> {
        self.0.get(key).await
    }
    async fn range(&self, range: store::Range) -> Result<store::Page, store::Error> {
        self.0.range(range).await
    }
    async fn txn(&self, txn: store::Txn) -> Result<store::Outcome, store::Error> {
        self.0.txn(txn).await
    }
    async fn watch(&self, prefix: &str, after: store::Rev) -> Result<store::Events, store::Error> {
        self.0.watch(prefix, after).await
    }
    async fn compact(&self, rev: store::Rev) -> Result<(), store::Error> {
        self.0.compact(rev).await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}
