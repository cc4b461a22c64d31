//! Endings: finalizers, owners and what they own, namespaces and their contents.

use e2e::{Patch, eventually, object};
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, SOON, World, pod, version};

fn owned_by(name: &str, owner: &Value, blocking: bool) -> Value {
    let reference = json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocking});
    object("v1", "ConfigMap", name, json!({"metadata": {"ownerReferences": [reference]}}))
}

async fn family(w: &World) -> Value {
    let owner = w.configmap("owner", json!({})).await;
    for name in ["one", "two"] {
        w.api.post(CONFIGMAPS, &owned_by(name, &owner, true)).await.expect(201);
    }
    owner
}

fn at(name: &str) -> String {
    format!("{CONFIGMAPS}/{name}")
}

pub async fn finalizers_hold(w: &World) {
    let body = object("v1", "ConfigMap", "f", json!({"metadata": {"finalizers": ["example.test/hold", "example.test/more"]}}));
    w.api.post(CONFIGMAPS, &body).await.expect(201);
    let dying = w.api.delete(&at("f")).await.expect(200);
    assert!(dying["metadata"]["deletionTimestamp"].is_string(), "{dying}");
    let again = w.api.delete(&at("f")).await.expect(200);
    assert_eq!(again["metadata"]["deletionTimestamp"], dying["metadata"]["deletionTimestamp"]);
    let more = json!({"metadata": {"finalizers": ["example.test/hold", "example.test/new"]}});
    w.api.patch(&at("f"), Patch::Merge, &more).await.refused(422, "Invalid");
    w.api.patch(&at("f"), Patch::Merge, &json!({"metadata": {"finalizers": ["example.test/hold"]}})).await.expect(200);
    assert_eq!(w.api.get(&at("f")).await.status, 200);
    w.api.patch(&at("f"), Patch::Merge, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    w.api.get(&at("f")).await.refused(404, "NotFound");
}

pub async fn background(w: &World) {
    family(w).await;
    w.api.delete_with(&at("owner"), json!({"propagationPolicy": "Background"})).await.expect(200);
    w.api.get(&at("owner")).await.refused(404, "NotFound");
    w.is_gone(&at("one")).await;
    w.is_gone(&at("two")).await;
}

pub async fn foreground(w: &World) {
    let owner = family(w).await;
    let mut held = owned_by("held", &owner, true);
    held["metadata"]["finalizers"] = json!(["example.test/hold"]);
    w.api.post(CONFIGMAPS, &held).await.expect(201);
    let dying = w.api.delete_with(&at("owner"), json!({"propagationPolicy": "Foreground"})).await.expect(200);
    assert_eq!(dying["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    w.is_gone(&at("one")).await;
    w.is_gone(&at("two")).await;
    eventually("the held one is asked to go", SOON, async || {
        w.api.get(&at("held")).await.json()["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    // The owner goes last.
    assert_eq!(w.api.get(&at("owner")).await.status, 200);
    w.api.patch(&at("held"), Patch::Merge, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    w.is_gone(&at("held")).await;
    w.is_gone(&at("owner")).await;
}

pub async fn orphans(w: &World) {
    family(w).await;
    w.api.delete_with(&at("owner"), json!({"propagationPolicy": "Orphan"})).await.expect(200);
    w.is_gone(&at("owner")).await;
    for name in ["one", "two"] {
        let left = w.api.get(&at(name)).await.expect(200);
        assert!(left["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{left}");
    }
}

pub async fn an_owner_that_never_was(w: &World) {
    let mut ghost = w.configmap("ghost", json!({})).await;
    ghost["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    w.api.post(CONFIGMAPS, &owned_by("lost", &ghost, false)).await.expect(201);
    w.is_gone(&at("lost")).await;
    assert_eq!(w.api.get(&at("ghost")).await.status, 200);
}

/// Names that a reference may have and no object can: nobody's names, and the collector goes on after them.
pub async fn odd_owners(w: &World) {
    let owner = w.configmap("owner", json!({})).await;
    let mut unserved = owned_by("unserved", &owner, true);
    unserved["metadata"]["ownerReferences"][0]["apiVersion"] = "example.test/v9".into();
    w.api.post(CONFIGMAPS, &unserved).await.expect(201);
    for (number, name) in ["a b", "a/b", "..", "\u{dc}?x=y#z", "%2e%2e", "line\nfeed"].iter().enumerate() {
        let mut odd = owned_by(&format!("odd-{number}"), &owner, true);
        odd["metadata"]["ownerReferences"][0]["name"] = (*name).into();
        w.api.post(CONFIGMAPS, &odd).await.expect(201);
        w.is_gone(&at(&format!("odd-{number}"))).await;
    }
    w.api.post(CONFIGMAPS, &owned_by("child", &owner, true)).await.expect(201);
    w.api.delete(&at("owner")).await.expect(200);
    w.is_gone(&at("child")).await;
    w.api.get(&at("unserved")).await.expect(200);
}

pub async fn owners_in_other_namespaces(w: &World) {
    let owner = w.configmap("owner", json!({})).await;
    w.api.post("/api/v1/namespaces", &object("v1", "Namespace", "other", json!({}))).await.expect(201);
    let other = "/api/v1/namespaces/other";
    w.api.post(&format!("{other}/configmaps"), &owned_by("stray", &owner, false)).await.expect(201);
    w.is_gone(&format!("{other}/configmaps/stray")).await;
    let told = format!(
        "ownerRef [v1/ConfigMap, namespace: other, name: owner, uid: {}] does not exist in namespace \"other\"",
        owner["metadata"]["uid"].as_str().unwrap_or_default()
    );
    eventually("it is told why", SOON, async || {
        let events = w.api.get(&format!("{other}/events")).await.expect(200);
        let is_it = |e: &Value| e["reason"] == "OwnerRefInvalidNamespace" && e["involvedObject"]["name"] == "stray" && e["message"] == told;
        if events["items"].as_array().is_some_and(|items| items.iter().any(is_it)) { Ok(()) } else { Err(events) }
    })
    .await;
    w.api.get(&at("owner")).await.expect(200);
}

/// Those that are freed at the moment in which their owner goes: who was told that it is free stays.
pub async fn freed_in_time(w: &World) {
    for round in 0..4 {
        let (owner, names) = (w.configmap(&format!("owner-{round}"), json!({})).await, (0..25).map(|n| format!("free-{round}-{n}")));
        let names: Vec<String> = names.collect();
        for name in &names {
            w.api.post(CONFIGMAPS, &owned_by(name, &owner, true)).await.expect(201);
        }
        let freed = futures::future::join_all(names.iter().map(async |name| {
            let answer = w.api.patch(&at(name), Patch::Merge, &json!({"metadata": {"ownerReferences": null}})).await;
            (name, answer.status == 200 && answer.json()["metadata"]["deletionTimestamp"].is_null())
        }));
        let owner_path = at(&format!("owner-{round}"));
        let (freed, _) = tokio::join!(freed, w.api.delete(&owner_path));
        // The collector is through with all that came before this one.
        let mut ghost = owner.clone();
        ghost["metadata"]["uid"] = format!("00000000-0000-4000-8000-00000000000{round}").into();
        w.api.post(CONFIGMAPS, &owned_by("last", &ghost, false)).await.expect(201);
        w.is_gone(&at("last")).await;
        for (name, free) in freed {
            if free {
                w.api.get(&at(name)).await.expect(200);
            } else {
                w.is_gone(&at(name)).await;
            }
        }
    }
}

pub async fn a_namespace_goes_with_its_contents(w: &World) {
    w.api.post("/api/v1/namespaces", &object("v1", "Namespace", "short", json!({}))).await.expect(201);
    w.pods_can_be_made_in("short").await;
    let inside = "/api/v1/namespaces/short";
    w.api.post(&format!("{inside}/configmaps"), &object("v1", "ConfigMap", "c", json!({}))).await.expect(201);
    let held = object("v1", "Secret", "s", json!({"metadata": {"finalizers": ["example.test/hold"]}}));
    w.api.post(&format!("{inside}/secrets"), &held).await.expect(201);
    w.api.post(&format!("{inside}/pods"), &pod("p", json!({}))).await.expect(201);
    let dying = w.api.delete(inside).await.expect(200);
    assert_eq!(dying["status"]["phase"], "Terminating");
    let refused =
        w.api.post(&format!("{inside}/configmaps"), &object("v1", "ConfigMap", "late", json!({}))).await.refused(403, "Forbidden");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("unable to create new content in namespace short because it is being terminated"), "{message}");
    w.is_gone(&format!("{inside}/configmaps/c")).await;
    w.is_gone(&format!("{inside}/pods/p")).await;
    eventually("the namespace tells what holds it", SOON, async || {
        let namespace = w.api.get(inside).await.expect(200);
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let remains = conditions.iter().find(|c| c["type"] == "NamespaceFinalizersRemaining").cloned().unwrap_or_default();
        if remains["status"] == "True" { Ok(()) } else { Err(namespace["status"].clone()) }
    })
    .await;
    w.api.patch(&format!("{inside}/secrets/s"), Patch::Merge, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    w.is_gone(inside).await;
    let again = w.api.post("/api/v1/namespaces", &object("v1", "Namespace", "short", json!({}))).await.expect(201);
    assert!(!version(&again).is_empty());
    assert_eq!(w.api.get(&format!("{inside}/secrets")).await.expect(200)["items"], json!([]));
    w.api.delete("/api/v1/namespaces/kube-system").await.refused(403, "Forbidden");
}
