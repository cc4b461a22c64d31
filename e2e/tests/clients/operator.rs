//! Writers that race with an operator which is killed and started again -> each object's child says what its last writer wanted.

use std::time::Duration;

use e2e::{Api, Patch, Server, eventually};
use serde_json::{Value, json};

use crate::run::Clients;

const FLOCKS: &str = "/apis/sky.example/v1/namespaces/default/flocks";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const COUNT: u64 = 5;
/// By when an operator that was killed has made up for it: Python starts, lists, and works off what it missed.
const BOUND: Duration = Duration::from_secs(90);

pub async fn walk(server: &Server, clients: &Clients) {
    let api = server.api();
    define(&api).await;
    let mut operator = clients.operator();
    for n in 0..COUNT {
        let flock = json!({"apiVersion": "sky.example/v1", "kind": "Flock", "metadata": {"name": format!("f{n}")}, "spec": {"size": 1}});
        api.post(FLOCKS, &flock).await.expect(201);
    }
    for n in 0..COUNT {
        settled(&api, clients, n, 1).await;
    }

    // Full updates against the operator's patches of status and finalizers: what was read a moment ago is refused, and read again.
    let mut conflicts = 0;
    for size in 2..=12 {
        for n in 0..COUNT {
            conflicts += grow(&api, n, size).await;
        }
        if size % 5 == 0 {
            operator.kill().await.expect("it runs");
            operator = clients.operator();
        }
    }
    println!("{conflicts} conflicts");
    for n in 0..COUNT {
        settled(&api, clients, n, 12).await;
    }

    // Deleted while nobody is there to let them go: they stay, and go once the operator is back.
    operator.kill().await.expect("it runs");
    for n in 0..COUNT {
        api.delete(&format!("{FLOCKS}/f{n}")).await.expect(200);
    }
    let held: Value = api.get(FLOCKS).await.expect(200);
    assert_eq!(held["items"].as_array().map(Vec::len), Some(5), "their finalizers hold them");
    let _operator = clients.operator();
    eventually("all flocks gone, and their children after them", BOUND, async || {
        let flocks = api.get(FLOCKS).await.expect(200)["items"].as_array().is_some_and(Vec::is_empty);
        let maps: Value = api.get(MAPS).await.expect(200);
        let names: Vec<&str> = maps["items"].as_array().into_iter().flatten().filter_map(|map| map["metadata"]["name"].as_str()).collect();
        let (left, flew): (Vec<&str>, Vec<&str>) =
            names.into_iter().filter(|name| name.starts_with('f')).partition(|name| !name.ends_with("-flew"));
        (flocks && left.is_empty() && flew.len() == 5).then_some(()).ok_or_else(|| said(clients))
    })
    .await;
}

async fn define(api: &Api) {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}});
    let names = json!({"kind": "Flock", "plural": "flocks", "singular": "flock"});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "flocks.sky.example"},
        "spec": {"group": "sky.example", "scope": "Namespaced", "names": names, "versions": [version]}});
    api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.expect(201);
    eventually("flocks are served", BOUND, async || api.get(FLOCKS).await.status == 200).await;
}

/// Reads and replaces until it is taken; how often it was not.
async fn grow(api: &Api, n: u64, size: u64) -> u64 {
    let path = format!("{FLOCKS}/f{n}");
    let mut conflicts = 0;
    loop {
        let mut flock: Value = api.get(&path).await.expect(200);
        // Somebody else writes in between, every other time.
        if conflicts == 0 && (n + size).is_multiple_of(2) {
            api.patch(&path, Patch::Merge, &json!({"metadata": {"labels": {"by": size.to_string()}}})).await.expect(200);
        }
        flock["spec"]["size"] = size.into();
        match api.put(&path, &flock).await.status {
            200 => return conflicts,
            409 => conflicts += 1,
            other => panic!("{path}: {other}"),
        }
    }
}

async fn settled(api: &Api, clients: &Clients, n: u64, size: u64) {
    eventually(&format!("f{n} has {size} birds"), BOUND, async || {
        let flock: Value = api.get(&format!("{FLOCKS}/f{n}")).await.expect(200);
        let map = api.get(&format!("{MAPS}/f{n}")).await;
        let birds = (map.status == 200).then(|| map.json()["data"].as_object().map_or(0, |data| data.len() as u64));
        (flock["status"]["birds"] == size && birds == Some(size))
            .then_some(())
            .ok_or_else(|| format!("{flock} {birds:?}\n{}", said(clients)))
    })
    .await;
}

/// The end of the operator's log.
fn said(clients: &Clients) -> String {
    let log = std::fs::read_to_string(clients.operator_log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
