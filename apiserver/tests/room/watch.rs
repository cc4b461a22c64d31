//! Watches: from a revision, from the state, of a selection; their ends.

use serde_json::json;

use crate::kit::{PLACES, Room, THINGS, version};

#[tokio::test]
async fn every_change_after_a_revision_once_and_in_order() {
    let room = Room::new().await;
    let first = room.thing("a", &json!({})).await;
    let mut watch = room.watch(&format!("{THINGS}?watch=1&resourceVersion={}", version(&first))).await;
    room.thing("b", &json!({})).await;
    room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"size": 2}})).await.ok(200);
    room.delete(&format!("{THINGS}/b"), &json!({})).await.ok(200);
    assert_eq!(watch.line().await, "ADDED b");
    assert_eq!(watch.line().await, "MODIFIED a");
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
    assert_eq!(version(&gone["object"]), version(&first) + 3);
    room.post("/apis/test.io/v1/namespaces/other/things", &crate::kit::thing("o", &json!({}))).await.ok(201);
    room.thing("c", &json!({})).await;
    assert_eq!(watch.line().await, "ADDED c");
}

#[tokio::test]
async fn without_a_revision_the_state_comes_first() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let mut watch = room.watch(&format!("{THINGS}?watch=true")).await;
    assert_eq!(watch.line().await, "ADDED a");
    room.thing("b", &json!({})).await;
    assert_eq!(watch.line().await, "ADDED b");
}

#[tokio::test]
async fn what_enters_and_leaves_a_selection_is_added_and_deleted() {
    let room = Room::new().await;
    let first = room.thing("a", &json!({})).await;
    let mut watch = room.watch(&format!("{THINGS}?watch=1&resourceVersion={}&labelSelector=on%3Dyes", version(&first))).await;
    let path = format!("{THINGS}/a");
    for on in [json!("yes"), json!("no"), json!("no2"), json!("yes")] {
        room.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"on": on}}})).await.ok(200);
    }
    room.patch(&path, "merge-patch", &json!({"spec": {"size": 9}})).await.ok(200);
    room.delete(&path, &json!({})).await.ok(200);
    assert_eq!(watch.line().await, "ADDED a");
    let left = watch.next().await.unwrap();
    // The last state that was in the selection, under the revision it left at.
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["on"]), (&json!("DELETED"), &json!("yes")));
    assert_eq!(version(&left["object"]), version(&first) + 2);
    assert_eq!([watch.line().await, watch.line().await, watch.line().await], ["ADDED a", "MODIFIED a", "DELETED a"]);
}

#[tokio::test]
async fn streaming_lists_end_with_an_annotated_bookmark() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let second = room.thing("b", &json!({})).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = room.watch(&format!("{THINGS}?{query}")).await;
    assert_eq!([watch.line().await, watch.line().await], ["ADDED a", "ADDED b"]);
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(version(&bookmark["object"]), version(&second));
    assert_eq!(bookmark["object"]["kind"], "Thing");
    room.thing("c", &json!({})).await;
    assert_eq!(watch.line().await, "ADDED c");
    // An empty collection ends at once, too.
    let mut empty = room.watch(&format!("{PLACES}?{query}")).await;
    assert_eq!(empty.next().await.unwrap()["type"], "BOOKMARK");
}

#[tokio::test]
async fn a_timeout_ends_the_watch_with_a_bookmark() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    room.post(PLACES, &json!({"metadata": {"name": "p"}})).await.ok(201);
    let mut watch = room.watch(&format!("{THINGS}?watch=1&resourceVersion=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!((&bookmark["type"], version(&bookmark["object"])), (&json!("BOOKMARK"), 2));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn history_that_is_gone_is_told_within_the_stream() {
    let memory = store::memory::Memory::new();
    let before: store::Txn = store::Txn {
        expect: vec![],
        ops: vec![store::Op::Put {
            key: "/registry/places/p".into(),
            value: r#"{"kind":"Place","apiVersion":"test.io/v1","metadata":{"name":"p"}}"#.into(),
            ttl: None,
        }],
    };
    for _ in 0..3 {
        store::Store::txn(&memory, before.clone()).await.unwrap();
    }
    let room = Room::over(memory).await;
    let mut watch = room.watch(&format!("{PLACES}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"], &event["object"]["reason"]), (&json!("ERROR"), &json!(410), &json!("Expired")));
    assert_eq!(event["object"]["message"], "too old resource version: 1 (3)");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_are_watched_and_carry_their_columns_once() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = room.watch_as(&format!("{THINGS}?watch=1"), accept).await;
    let first = watch.next().await.unwrap();
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["object"]["columnDefinitions"].is_array());
    room.thing("b", &json!({})).await;
    assert!(watch.next().await.unwrap()["object"]["columnDefinitions"].is_null());
}

#[tokio::test]
async fn the_old_path_watches_one_object() {
    let room = Room::new().await;
    room.thing("a", &json!({})).await;
    room.thing("b", &json!({})).await;
    let mut watch = room.watch("/apis/test.io/v1/watch/namespaces/default/things/b").await;
    assert_eq!(watch.line().await, "ADDED b");
}

#[tokio::test]
async fn a_stopping_house_ends_its_watches() {
    let room = Room::new().await;
    let mut watch = room.watch(&format!("{THINGS}?watch=1")).await;
    room.group.stop();
    assert_eq!(watch.next().await, None);
}

const RED: &str = "watch=1&allowWatchBookmarks=true&fieldSelector=spec.colour%3Dred";

async fn paint(room: &Room, name: &str, colour: &str) {
    room.patch(&format!("{THINGS}/{name}"), "merge-patch", &json!({"spec": {"colour": colour}})).await.ok(200);
}

#[tokio::test]
async fn what_gets_or_loses_the_value_of_a_field_is_added_and_deleted() {
    let room = Room::new().await;
    let first = room.thing("a", &json!({})).await;
    paint(&room, "a", "blue").await;
    room.thing("b", &json!({})).await;
    // What happened before it came, then what happens from now on.
    let mut watch = room.watch(&format!("{THINGS}?{RED}&resourceVersion={}", version(&first))).await;
    assert_eq!([watch.line().await, watch.line().await], ["DELETED a", "ADDED b"]);
    for (name, colour) in [("a", "green"), ("b", "green"), ("a", "red"), ("b", "red")] {
        paint(&room, name, colour).await;
    }
    room.delete(&format!("{THINGS}/a"), &json!({})).await.ok(200);
    let mut other = room.watch("/apis/test.io/v1/namespaces/other/things?watch=1&fieldSelector=spec.colour%3Dred").await;
    let seen = [watch.line().await, watch.line().await, watch.line().await, watch.line().await];
    assert_eq!(seen, ["DELETED b", "ADDED a", "ADDED b", "DELETED a"]);
    room.post("/apis/test.io/v1/namespaces/other/things", &crate::kit::thing("o", &json!({}))).await.ok(201);
    room.thing("c", &json!({})).await;
    assert_eq!([other.line().await, watch.line().await], ["ADDED o", "ADDED c"]);
}

#[tokio::test]
async fn a_watch_that_slept_through_others_events_gets_a_bookmark_of_now() {
    let room = Room::new().await;
    let first = room.thing("a", &json!({})).await;
    paint(&room, "a", "blue").await;
    let mut watch = room.watch(&format!("{THINGS}?{RED}&resourceVersion={}&timeoutSeconds=1", version(&first) + 1)).await;
    for colour in ["green", "blue", "green"] {
        paint(&room, "a", colour).await;
    }
    let bookmark = watch.next().await.unwrap();
    assert_eq!((&bookmark["type"], version(&bookmark["object"])), (&json!("BOOKMARK"), version(&first) + 4));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn events_of_others_wake_no_watch() {
    let room = Room::new().await;
    let first = room.thing("mine", &json!({})).await;
    let from = |selector: &str| format!("{THINGS}?watch=1&resourceVersion={}&{selector}", version(&first));
    let selectors =
        ["fieldSelector=spec.colour%3Dgreen", "fieldSelector=metadata.name%3Dmine", "fieldSelector=spec.colour%3Dgreen,spec.colour!%3Dred"];
    let mut watches = Vec::new();
    for selector in selectors {
        watches.push(room.watch(&from(selector)).await);
    }
    watches.push(room.watch(&format!("/apis/test.io/v1/namespaces/other/things?watch=1&resourceVersion={}", version(&first))).await);
    let mut watched: Vec<_> = watches.into_iter().map(crate::kit::Watch::counted).collect();
    for i in 0..20 {
        room.thing(&format!("other{i}"), &json!({})).await;
    }
    assert_eq!(watched.iter().map(|watch| watch.wakes()).collect::<Vec<_>>(), [0; 4]);
    paint(&room, "mine", "green").await;
    assert_eq!(watched.iter().map(|watch| watch.wakes()).collect::<Vec<_>>(), [1, 1, 1, 0]);
    assert_eq!(watched[1].watch.line().await, "MODIFIED mine");
}
