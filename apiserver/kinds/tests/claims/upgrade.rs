//! Stores as older and other servers leave them.

use std::sync::Arc;

use serde_json::{Value, json};
use store::Store;

use crate::{
    stores::Shared,
    world::{ADDRESSES, CIDRS, PORTS_KEY, SERVICES, Server, check, claimed, eventually, had, message, put, remove, small},
};

const OLD: &str = "2026-01-01T00:00:00Z";

/// Some Services, and no claim of theirs.
async fn older() -> (Shared, Arc<dyn Store>) {
    let shared = Shared::memory();
    let store = shared.open().await;
    let server = Server::start(store.clone(), &small()).await;
    for (name, spec) in [
        ("plain", json!({"clusterIP": "10.96.0.1"})),
        ("port", json!({"type": "NodePort", "clusterIP": "10.96.0.2"})),
        ("balancer", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.96.0.3"})),
        ("name", json!({"type": "ExternalName", "externalName": "x.y"})),
        ("headless", json!({"clusterIP": "None"})),
    ] {
        let made = server.make(name, spec).await;
        assert_eq!(made.0, 201, "{made:?}");
    }
    remove(&*store, "/registry/ipaddresses/").await;
    remove(&*store, PORTS_KEY).await;
    (shared, store)
}

fn owned_by(address: &str, created: &str, managed_by: &str, service: &str) -> (String, Vec<u8>) {
    let labels = json!({"ipaddress.kubernetes.io/managed-by": managed_by, "ipaddress.kubernetes.io/ip-family": "IPv4"});
    let object = json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": address, "uid": "1", "creationTimestamp": created, "labels": labels},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": service}},
    });
    (format!("/registry/ipaddresses/{address}"), object.to_string().into_bytes())
}

#[tokio::test]
async fn what_a_service_has_that_cannot_be_decrypted_stays_claimed() {
    const KEY: &str = "/registry/services/specs/default/locked";
    let shared = Shared::memory();
    let store = shared.open().await;
    let first = Server::start(store.clone(), &small()).await;
    first.bootstrap().await;
    let made = first.make("locked", json!({"type": "NodePort", "clusterIP": "10.96.0.7"})).await;
    assert_eq!(made.0, 201, "{made:?}");
    let (key, address) = owned_by("10.96.0.7", OLD, "ipallocator.k8s.io", "locked");
    put(&*store, &key, address).await;
    let (before, plain) = (check(&*store).await, store.get(KEY).await.unwrap().unwrap().value);
    assert_eq!((before.addresses.len(), before.ports.len()), (1, 1));
    // As the store has it after its key was taken out of the configuration.
    put(&*store, KEY, "k8s:enc:aesgcm:v1:lost:?").await;
    let second = Server::start(shared.open().await, &small()).await;
    second.bootstrap().await;
    assert_eq!(claimed(&*store).await, before);
    // Another one neither takes the address for its own, nor is it nobody's.
    let taken = second.make("other", json!({"clusterIP": "10.96.0.7"})).await;
    assert_eq!((taken.0, message(&taken).contains("already allocated")), (422, true), "{taken:?}");
    put(&*store, KEY, plain).await;
    second.bootstrap().await;
    assert_eq!(check(&*store).await, before);
}

/// What nobody has cannot be told while a Service cannot be read; it is looked for when that can be read again, and not at the next start alone.
#[tokio::test]
async fn what_had_to_be_left_is_mended_once_a_key_returns() {
    const KEY: &str = "/registry/services/specs/default/locked";
    let shared = Shared::memory();
    let store = shared.open().await;
    let first = Server::start(store.clone(), &small()).await;
    first.bootstrap().await;
    let made = first.make("locked", json!({"type": "NodePort", "clusterIP": "10.96.0.7"})).await;
    assert_eq!(made.0, 201, "{made:?}");
    let (key, address) = owned_by("10.96.0.12", OLD, "ipallocator.k8s.io", "gone");
    put(&*store, &key, address).await;
    remove(&*store, PORTS_KEY).await;
    let plain = store.get(KEY).await.unwrap().unwrap().value;
    put(&*store, KEY, "k8s:enc:aesgcm:v1:lost:?").await;
    let second = Server::start(shared.open().await, &small()).await;
    second.bootstrap().await;
    second.group.spawn_loop("claims", kinds::service::keep_claims(second.engine.clone(), small()));
    let left = claimed(&*store).await;
    assert_eq!((left.addresses.len(), left.ports.len()), (2, 0));
    put(&*store, KEY, plain).await;
    eventually("claims are those of the Services", async || claimed(&*store).await == had(&*store).await).await;
    assert_eq!(check(&*store).await.ports.len(), 1);
}

#[tokio::test]
async fn services_of_an_older_server_get_their_claims_whoever_starts_first() {
    let (shared, store) = older().await;
    let moved = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "moved", "namespace": "default", "uid": "1", "creationTimestamp": OLD},
        "spec": {"type": "ClusterIP", "clusterIP": "10.99.0.1", "clusterIPs": ["10.99.0.1"], "ports": [{"port": 80}]},
    });
    put(&*store, "/registry/services/specs/default/moved", moved.to_string()).await;
    assert_eq!((had(&*store).await.addresses.len(), had(&*store).await.ports.len()), (4, 3));
    let servers = [Server::start(shared.open().await, &small()).await, Server::start(shared.open().await, &small()).await];
    tokio::join!(servers[0].bootstrap(), servers[1].bootstrap());
    check(&*store).await;
    let before = store.revision().await.unwrap();
    servers[0].bootstrap().await;
    assert_eq!(store.revision().await.unwrap(), before);
}

/// A write that comes before anything is mended does not take what an older Service has.
#[tokio::test]
async fn ports_of_older_services_are_never_given_out() {
    let (shared, store) = older().await;
    let server = Server::start(shared.open().await, &small()).await;
    assert_eq!(server.make("last", json!({"type": "NodePort"})).await.0, 201);
    let refused = server.make("more", json!({"type": "NodePort"})).await;
    assert!(refused.0 == 500 && message(&refused).ends_with("failed to allocate a nodePort: range is full"), "{refused:?}");
    assert_eq!(claimed(&*store).await.ports.len(), 4);
}

#[tokio::test]
async fn what_is_nobodys_goes_and_what_is_not_ours_stays() {
    let (_shared, store) = older().await;
    let young = now();
    for (key, object) in [
        owned_by("10.96.0.12", OLD, "ipallocator.k8s.io", "gone"),
        owned_by("10.96.0.13", &young, "ipallocator.k8s.io", "coming"),
        owned_by("10.96.0.14", OLD, "somebody.example", "gone"),
    ] {
        put(&*store, &key, object).await;
    }
    // One that the wrong Service has, by another's doing.
    let plain = had(&*store).await.addresses.into_iter().find(|(_, owner)| owner == "plain").unwrap().0;
    let (key, object) = owned_by(&plain, OLD, "ipallocator.k8s.io", "name");
    put(&*store, &key, object).await;
    let server = Server::start(store.clone(), &small()).await;
    server.bootstrap().await;
    let names: Vec<String> = server.get(ADDRESSES).await["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().into())
        .collect();
    assert!(!names.contains(&"10.96.0.12".to_owned()), "{names:?}");
    assert!(["10.96.0.13", "10.96.0.14"].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    assert_eq!(server.get(&format!("{ADDRESSES}/{plain}")).await["spec"]["parentRef"]["name"], "plain");
    // The one to come takes what waits for it.
    assert_eq!(server.make("coming", json!({"clusterIP": "10.96.0.13"})).await.0, 201);
    assert_eq!(server.make("other", json!({"clusterIP": "10.96.0.14"})).await.0, 422);
}

#[tokio::test]
async fn ports_that_nobody_has_are_free_again_and_a_stock_servers_are_read() {
    let shared = Shared::memory();
    let store = shared.open().await;
    // Protobuf, as a stock server stores it: 30000 and 30002 are taken.
    let object = b"\x0a\x00\x12\x0b30000-30003\x1a\x01\x05";
    let stock = [b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fRangeAllocation\x12\x12".as_slice(), object, b"\x1a\x00\x22\x00"].concat();
    put(&*store, PORTS_KEY, stock).await;
    let server = Server::start(store.clone(), &small()).await;
    let taken = server.make("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30002}]})).await;
    assert!(taken.0 == 422 && message(&taken).ends_with("provided port is already allocated"), "{taken:?}");
    assert_eq!(server.make("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]})).await.0, 201);
    assert_eq!(claimed(&*store).await.ports.into_iter().collect::<Vec<_>>(), [30000, 30001, 30002]);
    server.bootstrap().await;
    assert_eq!(check(&*store).await.ports.into_iter().collect::<Vec<_>>(), [30001]);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_written_over() {
    let shared = Shared::memory();
    let store = shared.open().await;
    for unreadable in
        [&b"k8s:enc:aescbc:v1:key1:xyz"[..], br#"{"kind":"Other"}"#, br#"{"kind":"RangeAllocation","range":"1-2","data":"AQ=="}"#]
    {
        put(&*store, PORTS_KEY, unreadable).await;
        let server = Server::start(store.clone(), &small()).await;
        let is_of_another_range = unreadable.ends_with(b"\"AQ==\"}");
        if !is_of_another_range {
            server.bootstrap().await;
        }
        let refused = server.make("a", json!({"type": "NodePort"})).await;
        assert_eq!(refused.0, 500, "{refused:?}");
        let why =
            if is_of_another_range { "the provided range does not match the current range" } else { "cannot be read and stay as they are" };
        assert!(message(&refused).contains(why), "{refused:?}");
        assert_eq!(store.get(PORTS_KEY).await.unwrap().unwrap().value, unreadable);
        assert_eq!(server.make("plain", json!({})).await.0, 201, "who needs no port is not concerned");
        assert_eq!(server.drop_service("plain").await, 200);
    }
    // A start makes the range its own.
    let server = Server::start(store.clone(), &small()).await;
    server.bootstrap().await;
    assert_eq!(server.make("a", json!({"type": "NodePort"})).await.0, 201);
    check(&*store).await;
}

/// Who only gives back is not stopped by what cannot be read.
#[tokio::test]
async fn services_go_whatever_their_claims_look_like() {
    let (_shared, store) = older().await;
    let double = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "double", "namespace": "default", "uid": "1", "creationTimestamp": OLD},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.4", "clusterIPs": ["10.96.0.4", "10.96.0.4"],
            "ports": [{"port": 80, "nodePort": 80}, {"port": 81, "nodePort": 80}]},
    });
    put(&*store, "/registry/services/specs/default/double", double.to_string()).await;
    let server = Server::start(store.clone(), &small()).await;
    server.bootstrap().await;
    assert_eq!(server.drop_service("double").await, 200);
    check(&*store).await;
    put(&*store, PORTS_KEY, &b"k8s:enc:x"[..]).await;
    for address in had(&*store).await.addresses.keys() {
        put(&*store, &format!("/registry/ipaddresses/{address}"), &b"garbage"[..]).await;
    }
    let fewer = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    assert_eq!(server.send("PATCH", &format!("{SERVICES}/port"), fewer).await.0, 200);
    for name in ["plain", "port", "balancer"] {
        assert_eq!(server.drop_service(name).await, 200, "{name}");
    }
    assert_eq!(store.get(PORTS_KEY).await.unwrap().unwrap().value, &b"k8s:enc:x"[..]);
}

#[tokio::test]
async fn what_is_deleted_by_hand_comes_back() {
    let (_shared, store) = older().await;
    let server = Server::start(store.clone(), &small()).await;
    server.bootstrap().await;
    server.group.spawn_loop("claims", kinds::service::keep_claims(server.engine.clone(), small()));
    for address in had(&*store).await.addresses.keys() {
        assert_eq!(server.send("DELETE", &format!("{ADDRESSES}/{address}"), Value::Null).await.0, 200);
    }
    assert_eq!(server.send("DELETE", &format!("{CIDRS}/kubernetes"), Value::Null).await.0, 200);
    eventually("the addresses come back", async || claimed(&*store).await == had(&*store).await).await;
    eventually("the default range comes back", async || server.send("GET", &format!("{CIDRS}/kubernetes"), Value::Null).await.0 == 200)
        .await;
    // What is deleted with its Service does not.
    assert_eq!(server.drop_service("plain").await, 200);
    check(&*store).await;
}

/// What nobody can read stops no start: the range of the flags stands for it.
#[tokio::test]
async fn a_default_range_that_cannot_be_read_is_stood_in_for() {
    let shared = Shared::memory();
    let store = shared.open().await;
    put(&*store, "/registry/servicecidrs/kubernetes", &b"garbage"[..]).await;
    let server = Server::start(store.clone(), &small()).await;
    server.bootstrap().await;
    assert_eq!(server.make("a", json!({})).await.0, 201);
    server.group.spawn_loop("claims", kinds::service::keep_claims(server.engine.clone(), small()));
    remove(&*store, "/registry/servicecidrs/").await;
    eventually("it is written", async || server.send("GET", &format!("{CIDRS}/kubernetes"), Value::Null).await.0 == 200).await;
    assert_eq!(server.make("b", json!({})).await.0, 201);
    check(&*store).await;
}

fn now() -> String {
    api::time::rfc3339(api::time::Timestamp::now())
}
