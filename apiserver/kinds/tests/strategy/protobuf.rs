//! What clients read in protobuf: objects, lists, watches, refusals; and what is not served so.

use std::sync::Arc;

use api::{GroupResource, time::Timestamp};
use apiserver::{
    body::Response,
    identity::Auth,
    kind::{Ctx, Kind, Scope, Storage, Strategy},
};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use kinds::schema::TABLES;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::room::Room;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// client-go's own order of preference.
const CLIENT_GO: &str = "application/vnd.kubernetes.protobuf,application/json";

async fn room() -> Room {
    let room = Room::new(kinds::table(&kinds::Config::default()), Auth::default()).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await);
    for name in ["a", "b"] {
        let map =
            json!({"metadata": {"name": name, "labels": {"z": "1", "a": "2"}}, "data": {"y": "ü", "x": ""}, "binaryData": {"b": "AAEC"}});
        Room::ok(room.post(MAPS, map).await);
    }
    room
}

async fn answer(room: &Room, method: &str, path: &str, accept: &str) -> Response {
    let request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
    room.front.clone().oneshot(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap()
}

async fn ask(room: &Room, method: &str, path: &str, accept: &str) -> (u16, String, Bytes) {
    let (parts, body) = answer(room, method, path, accept).await.into_parts();
    let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    (parts.status.as_u16(), kind, body.collect().await.unwrap().to_bytes())
}

fn read(kind: &str, body: &[u8]) -> Value {
    TABLES.protobuf(kind, body).unwrap().value
}

/// Numbers and contents of a message that has nothing but texts and messages.
fn fields(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [tag, rest @ ..] = bytes {
        assert_eq!(tag & 7, 2, "{bytes:?}");
        let (mut length, mut used) = (0, 0);
        for byte in rest {
            length |= usize::from(byte & 0x7f) << (7 * used);
            used += 1;
            if *byte < 0x80 {
                break;
            }
        }
        let (content, after) = rest[used..].split_at(length);
        found.push((tag >> 3, content));
        bytes = after;
    }
    found
}

/// What the envelope holds.
fn raw(body: &[u8]) -> &[u8] {
    fields(body.strip_prefix(b"k8s\0").expect("an envelope")).into_iter().find(|(number, _)| *number == 2).expect("an object").1
}

/// The objects of a list as its items stand in it.
fn items(body: &[u8]) -> Vec<&[u8]> {
    fields(raw(body)).into_iter().filter(|(number, _)| *number == 2).map(|(_, item)| item).collect()
}

#[tokio::test]
async fn an_object_is_the_same_in_protobuf_and_json() {
    let room = room().await;
    let path = format!("{MAPS}/a");
    let (code, kind, body) = ask(&room, "GET", &path, CLIENT_GO).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF));
    let json = room.get(&path).await;
    assert_eq!(read("ConfigMap", &body), json);
    // Lists, short and longer than what is kept of them.
    let (_, kind, list) = ask(&room, "GET", MAPS, PROTOBUF).await;
    assert_eq!(kind, PROTOBUF);
    let found = items(&list);
    assert_eq!((found.len(), found[0]), (2, raw(&body)));
    let big = "x".repeat(900_000);
    for i in 0..7 {
        Room::ok(room.post(MAPS, json!({"metadata": {"name": format!("c{i}")}, "data": {"big": big}})).await);
    }
    for _ in 0..2 {
        let (_, _, list) = ask(&room, "GET", MAPS, PROTOBUF).await;
        assert!(list.len() > 6_000_000 && list.ends_with(&[0x1a, 0, 0x22, 0]));
        assert_eq!(items(&list).len(), 9);
    }
    let (_, _, partial) = ask(&room, "GET", MAPS, &format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).await;
    assert_eq!((items(&partial).len(), fields(items(&partial)[0])[0]), (9, fields(raw(&body))[0]));
}

#[tokio::test]
async fn a_watch_tells_in_frames() {
    let room = room().await;
    let path = format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let response = answer(&room, "GET", &path, CLIENT_GO).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    Room::ok(room.post(MAPS, json!({"metadata": {"name": "late"}})).await);
    room.delete(&format!("{MAPS}/late")).await;
    let told = told(response, 5).await;
    let words: Vec<_> = told.iter().map(|(word, value)| (word.as_str(), value["metadata"]["name"].as_str().unwrap_or_default())).collect();
    assert_eq!(words, [("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", ""), ("ADDED", "late"), ("DELETED", "late")]);
    assert_eq!(told[0].1, room.get(&format!("{MAPS}/a")).await);
    assert_eq!(told[2].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_ne!(told[3].1["metadata"]["resourceVersion"], told[4].1["metadata"]["resourceVersion"]);
}

/// The words of a watch's first frames, and the objects in them.
async fn told(watch: Response, frames: usize) -> Vec<(String, Value)> {
    let mut body = watch.into_body();
    let (mut bytes, mut told) = (Vec::new(), Vec::new());
    while told.len() < frames {
        bytes.extend_from_slice(&body.frame().await.expect("the watch goes on").unwrap().into_data().unwrap());
        while let Some((length, rest)) = bytes.split_first_chunk::<4>()
            && let Some(frame) = rest.get(..u32::from_be_bytes(*length) as usize)
        {
            let [(1, word), (2, object)] = fields(frame)[..] else { panic!("{frame:?}") };
            told.push((String::from_utf8(word.to_vec()).unwrap(), read("ConfigMap", fields(object)[0].1)));
            bytes.drain(..4 + frame.len());
        }
    }
    told
}

#[tokio::test]
async fn what_is_listed_again_is_as_it_is_now() {
    let room = room().await;
    let streaming = format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    // Written, written again and kept, then copied; in lists and in the first events of watches.
    for round in 0..8 {
        if round % 4 == 3 {
            let mut changed = room.get(&format!("{MAPS}/a")).await;
            changed["data"]["y"] = json!(format!("round {round}"));
            Room::ok(room.send("PUT", &format!("{MAPS}/a"), changed).await);
        }
        let (_, _, list) = ask(&room, "GET", MAPS, PROTOBUF).await;
        let told = told(answer(&room, "GET", &streaming, CLIENT_GO).await, 2).await;
        for ((item, name), (word, shown)) in items(&list).into_iter().zip(["a", "b"]).zip(told) {
            let (_, _, one) = ask(&room, "GET", &format!("{MAPS}/{name}"), PROTOBUF).await;
            assert_eq!((item, word.as_str()), (raw(&one), "ADDED"), "round {round}");
            assert_eq!(shown, read("ConfigMap", &one), "round {round}");
        }
        let (_, _, partial) = ask(&room, "GET", MAPS, &format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).await;
        assert_eq!(fields(items(&partial)[0])[0], fields(items(&list)[0])[0]);
    }
    // The last state, under the revision of its going.
    let before = room.get(&format!("{MAPS}/a")).await;
    let rev = before["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    room.delete(&format!("{MAPS}/a")).await;
    let gone = told(answer(&room, "GET", &format!("{MAPS}?watch=true&resourceVersion={rev}"), CLIENT_GO).await, 1).await.remove(0);
    assert_eq!((gone.0.as_str(), &gone.1["data"]), ("DELETED", &before["data"]));
    assert_ne!(gone.1["metadata"]["resourceVersion"], rev.as_str());
}

#[tokio::test]
async fn refusals_are_in_protobuf_and_tables_are_not() {
    let room = room().await;
    let (code, kind, body) = ask(&room, "GET", &format!("{MAPS}/none"), CLIENT_GO).await;
    assert_eq!((code, kind.as_str()), (404, PROTOBUF));
    let status = read("Status", &body);
    assert_eq!((&status["reason"], &status["code"], &status["details"]["name"]), (&json!("NotFound"), &json!(404), &json!("none")));
    let (code, kind, body) = ask(&room, "DELETE", &format!("{MAPS}/b"), CLIENT_GO).await;
    assert_eq!((code, kind.as_str(), &read("Status", &body)["status"]), (200, PROTOBUF, &json!("Success")));
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(ask(&room, "GET", MAPS, &table).await.0, 406);
    let (code, kind, _) = ask(&room, "GET", MAPS, &format!("{table},application/json")).await;
    assert_eq!((code, kind.as_str()), (200, "application/json"));
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition whose JSON has so many levels.
fn nested(name: &str, levels: usize) -> Value {
    let schema = (6..levels).fold(json!({}), |schema, _| json!({"not": schema}));
    json!({"metadata": {"name": name}, "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}})
}

/// Nests what is named so deeper than any body may be.
struct Deepens;

impl Strategy for Deepens {
    fn prepare_create(&self, _: &Ctx<'_>, object: &mut Value) {
        if object["metadata"]["name"] == "deeper" {
            object["spec"] = nested("deeper", 140)["spec"].take();
        }
    }

    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_an_error_and_no_empty_object() {
    let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
    let kind = Kind {
        scope: Scope::Cluster,
        storage: Storage::Kept { prefix: "definitions".into(), ttl_seconds: None },
        ..kinds::common::kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", package, Deepens)
    };
    let room = Room::new(vec![Arc::new(kind)], Auth::default()).await;
    Room::ok(room.post(DEFINITIONS, nested("deep", 127)).await);
    assert_eq!(ask(&room, "GET", &format!("{DEFINITIONS}/deep"), PROTOBUF).await.0, 200);
    assert_eq!(ask(&room, "GET", DEFINITIONS, PROTOBUF).await.0, 200);
    assert_eq!(room.post(DEFINITIONS, nested("refused", 128)).await.0, 400, "what is taken can be written");
    let definitions = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    room.engine.create(&definitions, "", nested("deeper", 6), &kinds::auth::system_user()).await.unwrap();
    assert_eq!(ask(&room, "GET", &format!("{DEFINITIONS}/deeper"), PROTOBUF).await.0, 500);
    assert_eq!(ask(&room, "GET", DEFINITIONS, PROTOBUF).await.0, 500);
    for path in
        ["?watch=true&resourceVersion=0", "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"]
    {
        let (code, _, told) = ask(&room, "GET", &format!("{DEFINITIONS}{path}"), PROTOBUF).await;
        assert_eq!(code, 200);
        let words = |word: &[u8]| told.windows(word.len()).filter(|bytes| *bytes == word).count();
        assert_eq!((words(b"ADDED"), words(b"ERROR"), words(b"BOOKMARK")), (1, 1, 0), "{path}");
    }
}
