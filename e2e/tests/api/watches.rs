//! Watches: resumed, selected, streamed from the state, told that time has passed.

use e2e::Patch;
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, World, configmap, version};

fn told((typ, object): (String, Value)) -> (String, String) {
    (typ, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

fn pair(typ: &str, name: &str) -> (String, String) {
    (typ.to_owned(), name.to_owned())
}

pub async fn resumed_without_gap(w: &World) {
    let first = w.labelled("a", json!({"test": "1"})).await;
    let path = |from: &str| format!("{CONFIGMAPS}?watch=true&labelSelector=test&resourceVersion={from}");
    let mut watch = w.api.watch(&path(version(&first))).await.unwrap();
    w.labelled("b", json!({"test": "1"})).await;
    let (typ, seen) = watch.event().await;
    assert_eq!((typ.as_str(), &seen["metadata"]["name"]), ("ADDED", &json!("b")));
    drop(watch);
    w.api.patch(&format!("{CONFIGMAPS}/a"), Patch::Merge, &json!({"data": {"k": "1"}})).await.expect(200);
    w.api.delete(&format!("{CONFIGMAPS}/b")).await.expect(200);
    w.labelled("c", json!({"test": "1"})).await;
    let mut watch = w.api.watch(&path(version(&seen))).await.unwrap();
    for wanted in [pair("MODIFIED", "a"), pair("DELETED", "b"), pair("ADDED", "c")] {
        assert_eq!(told(watch.event().await), wanted);
    }
    // Without a revision: what there is, then what comes.
    let mut whole = w.api.watch(&format!("{CONFIGMAPS}?watch=1&labelSelector=test")).await.unwrap();
    let mut state = [told(whole.event().await), told(whole.event().await)];
    state.sort();
    assert_eq!(state, [pair("ADDED", "a"), pair("ADDED", "c")]);
}

pub async fn selections(w: &World) {
    let made = w.labelled("a", json!({"on": "yes"})).await;
    let from = version(&made);
    let by_label = format!("{CONFIGMAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={from}");
    let by_name = format!("{CONFIGMAPS}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={from}");
    let (mut labelled, mut named) = (w.api.watch(&by_label).await.unwrap(), w.api.watch(&by_name).await.unwrap());
    let path = format!("{CONFIGMAPS}/a");
    for on in ["no", "yes"] {
        w.api.patch(&path, Patch::Merge, &json!({"metadata": {"labels": {"on": on}}})).await.expect(200);
    }
    w.configmap("b", json!({})).await;
    assert_eq!(told(labelled.event().await), pair("DELETED", "a"));
    assert_eq!(told(labelled.event().await), pair("ADDED", "a"));
    assert_eq!(told(named.event().await), pair("ADDED", "b"));
}

pub async fn streaming_list(w: &World) {
    w.labelled("a", json!({"test": "1"})).await;
    w.labelled("b", json!({"test": "1"})).await;
    let query = "watch=1&labelSelector=test&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = w.api.watch(&format!("{CONFIGMAPS}?{query}")).await.unwrap();
    let mut state = [told(watch.event().await), told(watch.event().await)];
    state.sort();
    assert_eq!(state, [pair("ADDED", "a"), pair("ADDED", "b")]);
    let (typ, bookmark) = watch.event().await;
    assert_eq!(typ, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    w.labelled("c", json!({"test": "1"})).await;
    assert_eq!(told(watch.event().await), pair("ADDED", "c"));
    let refused = w.api.watch(&format!("{CONFIGMAPS}?watch=1&sendInitialEvents=true")).await.err().unwrap();
    assert!(refused.to_string().starts_with("422 "), "{refused}");
}

pub async fn bookmarks(w: &World) {
    let made = w.configmap("a", json!({})).await;
    let path = format!("{CONFIGMAPS}?watch=1&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=1", version(&made));
    let mut watch = w.api.watch(&path).await.unwrap();
    let (typ, bookmark) = watch.event().await;
    assert_eq!((typ.as_str(), &bookmark["kind"]), ("BOOKMARK", &json!("ConfigMap")));
    let number = |o: &Value| version(o).parse::<u64>().unwrap();
    assert!(number(&bookmark) >= number(&made));
    assert_eq!(watch.next(crate::world::SOON).await.unwrap(), None);
}

pub async fn too_old_is_gone(w: &World) {
    let first = w.configmap("old", json!({})).await;
    // More than is kept for watchers.
    for i in 0..24 {
        let reply = w.api.put(&format!("{CONFIGMAPS}/old"), &configmap("old", json!({"k": format!("{i}{}", "x".repeat(900_000))}))).await;
        reply.expect(200);
    }
    let mut watch = w.api.watch(&format!("{CONFIGMAPS}?watch=1&resourceVersion={}", version(&first))).await.unwrap();
    let (typ, status) = watch.event().await;
    assert_eq!((typ.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    assert!(status["message"].as_str().is_some_and(|m| m.starts_with("too old resource version")), "{status}");
    // What a client does then: list, and watch from there.
    let list = w.api.get(&format!("{CONFIGMAPS}?limit=1")).await.expect(200);
    let mut watch = w.api.watch(&format!("{CONFIGMAPS}?watch=1&resourceVersion={}", version(&list))).await.unwrap();
    w.configmap("new", json!({})).await;
    assert_eq!(told(watch.event().await), pair("ADDED", "new"));
}
