//! A watch that was cut by `kill -9` -> how it goes on: from its own revision without a list; from one too old, by 410 and a list.

use std::time::Duration;

use e2e::{Api, Backend, Options, Server, Watch, object};
use serde_json::{Value, json};

use crate::ledger::{LIST, OBJECTS, rev, standing};

/// Type, name, revision.
type Event = (String, String, u64);

const BOUND: Duration = Duration::from_secs(20);
/// Looks at the revision that find nothing new, one after another.
const CALM: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_kill() {
    let mut server = Server::start(Options { backend: Backend::Redb, ..Options::default() }).await;
    let api = server.api();
    // What is written at a start is written: nothing shall come after the last of what this test writes.
    let (mut listed, mut calm) = (0, 0);
    e2e::eventually("the start is over", BOUND, async || {
        let now = rev(&api.get(LIST).await.expect(200));
        calm = if now == listed { calm + 1 } else { 0 };
        listed = now;
        if calm >= CALM { Ok(()) } else { Err(now) }
    })
    .await;
    let mut watch = open(&api, listed).await.expect("a watch from a list's revision opens");
    let mut last = listed;
    for name in ["a", "b", "c"] {
        let made = api.post(OBJECTS, &configmap(name, "1")).await.expect(201);
        assert_eq!(next(&mut watch).await, ("ADDED".into(), name.into(), rev(&made)));
        last = rev(&made);
    }
    server.kill_9();
    assert!(!matches!(watch.next(BOUND).await, Ok(Some(_))), "an event from nowhere");
    server.restart().await;

    // It has seen all: nothing is lost, so it goes on without a list, and is told what comes, once.
    let api = server.api();
    let mut watch = open(&api, last).await.expect("nothing has happened since");
    let changed = api.put(&format!("{OBJECTS}/b"), &configmap("b", "2")).await.expect(200);
    assert_eq!(next(&mut watch).await, ("MODIFIED".into(), "b".into(), rev(&changed)));
    let gone = api.delete(&format!("{OBJECTS}/c")).await.expect(200);
    let (typ, name, end) = next(&mut watch).await;
    assert_eq!((typ.as_str(), name.as_str()), ("DELETED", "c"), "{gone}");
    assert!(end > rev(&changed));

    // One that was away for longer is told all of it, or that it must list; never a part.
    match first(&api, listed).await {
        Ok((mut watch, event)) => {
            let seen = [event, next(&mut watch).await, next(&mut watch).await];
            assert_eq!(seen.map(|(typ, name, _)| format!("{typ} {name}")), ["ADDED a", "ADDED b", "ADDED c"]);
        }
        Err(status) => {
            assert_eq!((status["code"].as_u64(), status["reason"].as_str()), (Some(410), Some("Expired")), "{status}");
            let (standing, now) = standing(&api.get(LIST).await.expect(200));
            assert!(now >= end);
            let mut names: Vec<_> = standing.iter().map(|(name, s)| format!("{name}={}", s.value)).collect();
            names.sort();
            assert_eq!(names, ["a=1", "b=2"]);
            // What the list holds does not come again.
            let mut watch = open(&api, now).await.expect("a watch from a list's revision opens");
            let made = api.post(OBJECTS, &configmap("d", "1")).await.expect(201);
            assert_eq!(next(&mut watch).await, ("ADDED".into(), "d".into(), rev(&made)));
        }
    }
    server.assert_sound();
}

/// A watch and its first event, or the refusal: a `Status`, answered instead of the watch or as its first event.
async fn first(api: &Api, from: u64) -> Result<(Watch, Event), Value> {
    let mut watch = open(api, from).await?;
    let (typ, object) = watch.event().await;
    if typ == "ERROR" { Err(object) } else { Ok((watch, seen(&typ, &object))) }
}

async fn open(api: &Api, from: u64) -> Result<Watch, Value> {
    let path = format!("{LIST}&watch=1&resourceVersion={from}");
    match api.watch(&path).await {
        Ok(watch) => Ok(watch),
        Err(error) => {
            let text = error.to_string();
            let status = text.split_once(' ').and_then(|(_, status)| serde_json::from_str(status).ok());
            Err(status.unwrap_or_else(|| panic!("{text}")))
        }
    }
}

async fn next(watch: &mut Watch) -> Event {
    let (typ, object) = watch.event().await;
    assert_ne!(typ, "ERROR", "{object}");
    seen(&typ, &object)
}

fn seen(typ: &str, object: &Value) -> Event {
    (typ.to_owned(), object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), rev(object))
}

fn configmap(name: &str, value: &str) -> Value {
    object("v1", "ConfigMap", name, json!({"metadata": {"labels": {"crash": ""}}, "data": {"value": value}}))
}
