//! kube-rs over TLS, as an operator in Rust has it -> create, replace, patch, apply and watch, also through a kill of the server.

use std::time::Duration;

use api::k8s::api::core::v1::ConfigMap;
use client::kube::{
    Api, Client, Config, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, watcher},
};
use e2e::Server;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);

type Event = watcher::Event<ConfigMap>;

pub async fn walk(server: &mut Server) {
    let file = Kubeconfig::read_from(server.kubeconfig()).expect("the server wrote it");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("it is whole");
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config).expect("it can be connected with"), "default");
    let mut events = watcher(maps.clone(), watcher::Config::default().labels("of=kube-rs")).default_backoff().boxed();
    seen(&mut events, "the end of the list", |event| matches!(event, Event::InitDone)).await;

    let posted = PostParams::default();
    let made = maps.create(&posted, &map("one", json!({"a": "1"}))).await.expect("a new name");
    assert_eq!(code(maps.create(&posted, &map("one", json!({}))).await), 409, "a name that is taken");
    let newer = maps
        .replace("one", &posted, &ConfigMap { data: map("one", json!({"a": "2"})).data, ..made.clone() })
        .await
        .expect("the last revision");
    assert!(newer.metadata.resource_version != made.metadata.resource_version);
    assert_eq!(code(maps.replace("one", &posted, &made).await), 409, "an old revision");
    let merge = Patch::Merge(json!({"data": {"a": null, "b": "3"}}));
    assert_eq!(data(&maps.patch("one", &PatchParams::default(), &merge).await.expect("merged")), json!({"b": "3"}));
    let strategic = Patch::Strategic(json!({"data": {"c": "4"}}));
    assert_eq!(data(&maps.patch("one", &PatchParams::default(), &strategic).await.expect("merged")), json!({"b": "3", "c": "4"}));

    let applied = |value: &str| Patch::Apply(map("applied", json!({"mine": value})));
    maps.patch("applied", &PatchParams::apply("one"), &applied("1")).await.expect("made by the apply");
    assert_eq!(code(maps.patch("applied", &PatchParams::apply("two"), &applied("2")).await), 409, "one owns it");
    let forced = maps.patch("applied", &PatchParams::apply("two").force(), &applied("2")).await.expect("by force");
    assert_eq!(data(&forced), json!({"mine": "2"}));

    maps.delete("one", &DeleteParams::default()).await.expect("it is there");
    seen(&mut events, "one is gone", |event| matches!(event, Event::Delete(map) if map.metadata.name.as_deref() == Some("one"))).await;
    server.kill_9();
    server.restart().await;
    maps.create(&posted, &map("later", json!({}))).await.expect("it is back");
    let is_later =
        |event: &Event| matches!(event, Event::Apply(map) | Event::InitApply(map) if map.metadata.name.as_deref() == Some("later"));
    seen(&mut events, "what came after the kill", is_later).await;
}

/// Waits for an event; failures of the watch in between are what a kill makes.
async fn seen(events: &mut (impl Stream<Item = Result<Event, watcher::Error>> + Unpin), what: &str, is_it: impl Fn(&Event) -> bool) {
    let look = async {
        while let Some(event) = events.next().await {
            if event.is_ok_and(|event| is_it(&event)) {
                return;
            }
        }
        panic!("{what}: the watch ended");
    };
    tokio::time::timeout(BOUND, look).await.unwrap_or_else(|_| panic!("{what}: not within {} s", BOUND.as_secs()));
}

fn map(name: &str, data: Value) -> ConfigMap {
    let whole = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "kube-rs"}}, "data": data});
    serde_json::from_value(whole).expect("a ConfigMap")
}

fn data(map: &ConfigMap) -> Value {
    json!(map.data)
}

fn code(answer: Result<ConfigMap, Error>) -> u16 {
    match answer {
        Err(Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}
