//! However much is stored, a request looks at a bounded part of it before others have the thread: counted in objects, never on a clock.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

use api::steps;
use apiserver::pace::{LOOK_BYTES, TURN_BYTES_MAX};
use http_body_util::BodyExt;
use serde_json::json;
use store::{Op, Store, Txn, memory::Memory};

use crate::kit::{Room, THINGS};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const COUNT: usize = 1000;
const LARGE_BYTES: usize = 16 << 10;

/// Heads that are looked at in one turn.
const HEADS: u64 = (TURN_BYTES_MAX / LOOK_BYTES) as u64;
/// Large objects that are parsed in one turn, the last of them begun before its end.
const PARSED: u64 = (TURN_BYTES_MAX / LARGE_BYTES) as u64 + 1;
/// What a request looks at besides what it lists.
const BESIDES: u64 = 8;

/// A room that holds so many things of so many bytes each.
async fn room(count: usize, bytes: usize) -> Room {
    let store = Memory::new();
    let all: Vec<Op> = (0..count).map(|i| thing(i, bytes)).collect();
    for ops in all.chunks(10) {
        store.txn(Txn { expect: Vec::new(), ops: ops.to_vec() }).await.unwrap();
    }
    Room::over(store).await
}

fn thing(i: usize, bytes: usize) -> Op {
    let value = json!({
        "kind": "Thing", "apiVersion": "test.io/v1", "metadata": {"name": format!("t{i:05}"), "namespace": "default", "uid": i.to_string()},
        "spec": {"colour": "red", "pad": "x".repeat(bytes)},
    });
    Op::Put { key: format!("/registry/things/default/t{i:05}"), value: value.to_string().into(), ttl: None }
}

/// What the work comes to, and the most steps it took between two rests.
async fn most_at_once<T>(work: impl Future<Output = T>) -> (T, u64) {
    let (mut work, mut most) = (pin!(work), 0);
    let done = poll_fn(|cx| {
        let (polled, steps) = steps::of(|| work.as_mut().poll(cx));
        most = most.max(steps);
        polled
    });
    (done.await, most)
}

async fn most_of_list(room: &Room, path: &str, accept: &str) -> (usize, u64) {
    let (reply, most) = most_at_once(room.raw("GET", path, "", &[("accept", accept)])).await;
    assert_eq!(reply.code, 200, "{:?}", reply.body);
    (String::from_utf8_lossy(&reply.body).matches("t00").count(), most)
}

/// The most steps between two rests until a watch has told so many lines.
async fn most_of_watch(room: &Room, path: &str, accept: &str, lines: usize) -> u64 {
    let told = async {
        let mut body = room.send("GET", path, "", &[("accept", accept)]).await.into_body();
        let mut left = lines;
        while left > 0 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            left = left.saturating_sub(frame.iter().filter(|byte| **byte == b'\n').count());
        }
    };
    most_at_once(told).await.1
}

#[tokio::test]
async fn lists_of_large_objects_rest_whatever_their_form() {
    let room = room(COUNT, LARGE_BYTES).await;
    // All lists of now share its snapshot: to take one is to copy pointers.
    let _held = room.send("GET", THINGS, "", &[]).await;
    let v2 = THINGS.replace("v1", "v2");
    for (path, accept) in
        [(THINGS, TABLE), (THINGS, "application/yaml"), (&format!("{THINGS}?pretty=true"), "application/json"), (&v2, "*/*")]
    {
        let (told, most) = most_of_list(&room, path, accept).await;
        assert!(told >= COUNT, "{path} {accept}: {told}");
        assert!((1..=PARSED + BESIDES).contains(&most), "{path} {accept}: {most} objects at once");
    }
}

#[tokio::test]
async fn watches_of_large_objects_rest() {
    let room = room(COUNT, LARGE_BYTES).await;
    let _held = room.send("GET", THINGS, "", &[]).await;
    let path = format!("{THINGS}?watch=true");
    // What is looked at is counted, and what is parsed.
    let most = most_of_watch(&room, &path, TABLE, COUNT).await;
    assert!((1..=2 * PARSED + BESIDES).contains(&most), "{most} objects at once");
    let most = most_of_watch(&room, &path, "application/json", COUNT).await;
    assert!((1..=HEADS).contains(&most), "{most} objects at once");
}

#[tokio::test]
async fn events_of_large_objects_rest() {
    let room = room(1, 1).await;
    let old = room.get(THINGS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for i in 0..100 {
        let body = json!({"metadata": {"name": format!("n{i}")}, "spec": {"pad": "x".repeat(64 << 10)}});
        room.post(THINGS, &body).await.ok(201);
    }
    let most = most_of_watch(&room, &format!("{THINGS}?watch=true&resourceVersion={old}"), TABLE, 100).await;
    assert!((1..=2 * 5 + BESIDES).contains(&most), "{most} objects at once");
}

#[tokio::test]
async fn what_a_selector_does_not_find_is_not_looked_for_in_one_go() {
    let room = room(20_000, 1).await;
    let _held = room.send("GET", THINGS, "", &[]).await;
    for query in ["labelSelector=app%3Dnone", "labelSelector=app%3Dnone&limit=5", "fieldSelector=spec.colour%21%3Dred"] {
        let (told, most) = most_of_list(&room, &format!("{THINGS}?{query}"), "application/json").await;
        // As many under the lock of the state, then turn by turn.
        assert!(told == 0 && (1..=2 * HEADS + BESIDES).contains(&most), "{query}: {told} found, {most} looked at");
        let stream = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let query = query.trim_end_matches("&limit=5");
        let most = most_of_watch(&room, &format!("{THINGS}?{stream}&{query}"), "application/json", 1).await;
        assert!((1..=HEADS + BESIDES).contains(&most), "{query}: {most} looked at");
    }
}

#[tokio::test]
async fn a_selector_finds_the_same_in_turns() {
    let room = room(20_000, 1).await;
    for name in ["t00001", "t09000", "t09001", "t19999"] {
        room.patch(&format!("{THINGS}/{name}"), "merge-patch", &json!({"metadata": {"labels": {"app": "x"}}})).await.ok(200);
    }
    let names = |list: &serde_json::Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let whole = room.get(&format!("{THINGS}?labelSelector=app")).await.ok(200);
    assert_eq!(names(&whole), ["t00001", "t09000", "t09001", "t19999"]);
    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = room.get(&format!("{THINGS}?labelSelector=app&limit=1&continue={token}")).await.ok(200);
        paged.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, names(&whole));
}

#[tokio::test]
async fn large_objects_are_not_deleted_all_at_once() {
    let room = room(100, 256 << 10).await;
    let _held = room.send("GET", THINGS, "", &[]).await;
    let (reply, most) = most_at_once(room.raw("DELETE", THINGS, "", &[])).await;
    assert_eq!(reply.code, 200);
    // Each is parsed before and after its commit; four of them at a time.
    assert!((1..=4 * 3 + BESIDES).contains(&most), "{most} objects at once");
    assert_eq!(room.get(THINGS).await.json()["items"].as_array().map(Vec::len), Some(0));
}
