//! Ranges that are full, that come and go, and what is asked for of them.

use std::collections::BTreeSet;

use apiserver::identity::User;
use futures::future::join_all;
use kinds::Config;
use serde_json::{Value, json};

use crate::{
    stores::Shared,
    world::{ADDRESSES, CIDRS, SERVICES, Server, check, message, small},
};

async fn server() -> (Server, Shared) {
    let shared = Shared::memory();
    let server = Server::start(shared.open().await, &small()).await;
    server.bootstrap().await;
    (server, shared)
}

fn address(made: &(u16, Value)) -> &str {
    assert_eq!(made.0, 201, "{made:?}");
    made.1["spec"]["clusterIP"].as_str().unwrap()
}

#[tokio::test]
async fn a_service_has_an_object_for_its_address_that_comes_and_goes_with_it() {
    let (server, shared) = server().await;
    let made = server.make("web", json!({"clusterIP": "10.96.0.5"})).await;
    assert_eq!(address(&made), "10.96.0.5");
    let object = server.get(&format!("{ADDRESSES}/10.96.0.5")).await;
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(
        (&object["kind"], &object["apiVersion"], &object["metadata"]["labels"]),
        (&json!("IPAddress"), &json!("networking.k8s.io/v1"), &labels)
    );
    assert_eq!(object["spec"], json!({"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}));
    assert!(object["metadata"]["uid"].is_string() && object["metadata"]["creationTimestamp"].is_string(), "{object}");
    // One transaction: both are of one revision.
    let service = server.get(&format!("{SERVICES}/web")).await;
    assert_eq!(object["metadata"]["resourceVersion"], service["metadata"]["resourceVersion"]);
    assert_eq!(server.drop_service("web").await, 200);
    assert_eq!(server.send("GET", &format!("{ADDRESSES}/10.96.0.5"), Value::Null).await.0, 404);
    check(&*shared.open().await).await;
}

#[tokio::test]
async fn a_full_range_says_so_until_there_is_another() {
    let (server, shared) = server().await;
    let names: Vec<String> = (0..16).map(|i| format!("s{i}")).collect();
    let replies = join_all(names.iter().map(|name| server.make(name, json!({})))).await;
    let (made, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.0 == 201);
    assert_eq!((made.len(), made.iter().map(|made| address(made)).collect::<BTreeSet<_>>().len()), (14, 14), "{replies:?}");
    for refused in refused {
        assert!(refused.0 == 500 && message(refused).ends_with("\": range is full"), "{refused:?}");
        assert!(message(refused).contains("failed to allocate a serviceIP for Service \"s"), "{refused:?}");
    }
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/29"]}});
    assert_eq!(server.send("POST", CIDRS, more).await.0, 201);
    assert_eq!(address(&server.make("b", json!({"clusterIP": "10.97.0.6"})).await), "10.97.0.6");
    let given = server.make("a", json!({})).await;
    assert!(address(&given).starts_with("10.97.0."), "{given:?}");
    let outside = server.make("c", json!({"clusterIP": "10.97.0.7"})).await;
    assert!(message(&outside).ends_with("The range of valid IPs is 10.96.0.0/28, 10.97.0.0/29"), "{outside:?}");
    // What is not ready gives nothing out; what was given stays.
    let status = json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    assert_eq!(server.send("PATCH", &format!("{CIDRS}/more/status"), status).await.0, 200);
    let refused = server.make("c", json!({})).await;
    assert!(message(&refused).ends_with("range is full"), "{refused:?}");
    assert_eq!(server.send("DELETE", &format!("{CIDRS}/more"), Value::Null).await.0, 200);
    assert_eq!(server.drop_service("a").await, 200);
    let claimed = check(&*shared.open().await).await;
    assert_eq!((claimed.addresses.len(), claimed.addresses.get("10.97.0.6").map(String::as_str)), (15, Some("b")));
}

#[tokio::test]
async fn the_default_range_is_made_ready_and_once() {
    let (server, shared) = server().await;
    let made = server.get(&format!("{CIDRS}/kubernetes")).await;
    assert_eq!(made["spec"]["cidrs"], json!(["10.96.0.0/28"]));
    let condition = &made["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Ready"), &json!("True")));
    assert_eq!(condition["message"], "Kubernetes default Service CIDR is ready");
    let store = shared.open().await;
    let before = store.revision().await.unwrap();
    let other = Server::start(store.clone(), &small()).await;
    tokio::join!(server.bootstrap(), other.bootstrap());
    assert_eq!(store.revision().await.unwrap(), before, "nothing is left to do");
}

#[tokio::test]
async fn what_is_not_made_claims_nothing() {
    let (server, shared) = server().await;
    let store = shared.open().await;
    assert_eq!(server.make("a", json!({"type": "NodePort", "clusterIP": "10.96.0.5"})).await.0, 201);
    let before = store.revision().await.unwrap();
    let dry = format!("{SERVICES}?dryRun=All");
    for _ in 0..20 {
        let (code, made) =
            server.send("POST", &dry, json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})).await;
        assert!(code == 201 && made["spec"]["clusterIP"].is_string() && made["spec"]["ports"][0]["nodePort"].is_i64(), "{made}");
        assert_eq!(server.send("DELETE", &format!("{SERVICES}/a?dryRun=All"), Value::Null).await.0, 200);
        let patch = json!({"spec": {"type": "ExternalName", "externalName": "x.y"}});
        assert_eq!(server.send("PATCH", &format!("{SERVICES}/a?dryRun=All"), patch).await.0, 200);
        // The name is taken, and so are its address and its port.
        assert_eq!(server.make("a", json!({"type": "NodePort"})).await.0, 409);
        assert_eq!(server.make("a", json!({"clusterIP": "10.96.0.5"})).await.0, 409);
        assert_eq!(server.make("b", json!({"clusterIP": "10.96.0.5"})).await.0, 422);
    }
    assert_eq!(store.revision().await.unwrap(), before);
    check(&*store).await;
}

#[tokio::test]
async fn an_address_that_somebody_holds_stays_taken() {
    let (server, _shared) = server().await;
    let made = server.make("a", json!({"clusterIP": "10.96.0.5"})).await;
    let path = format!("{ADDRESSES}/{}", address(&made));
    assert_eq!(server.send("PATCH", &path, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await.0, 200);
    assert_eq!(server.drop_service("a").await, 200);
    assert!(server.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    // Not even its former owner's namesake gets it while it goes.
    assert_eq!(server.make("a", json!({"clusterIP": "10.96.0.5"})).await.0, 422);
    assert_eq!(server.send("PATCH", &path, json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(address(&server.make("a", json!({"clusterIP": "10.96.0.5"})).await), "10.96.0.5");
}

/// All at once, for the last address of a range.
#[tokio::test]
async fn a_crowd_gets_all_there_are() {
    let shared = Shared::memory();
    let config = Config { service_cidrs: vec!["10.96.0.0/22".parse().unwrap()], ..Config::default() };
    let server = Server::start(shared.open().await, &config).await;
    server.bootstrap().await;
    let (services, user) = (api::GroupResource::new("", "services"), User::default());
    let make = async |i: u32| {
        let mut object = json!({"metadata": {"name": format!("s{i}")}, "spec": {"ports": [{"port": 80}]}});
        if i < 400 {
            // In one piece: whoever comes upon it comes out at the same end.
            object["spec"]["clusterIP"] = std::net::Ipv4Addr::from((10 << 24 | 96 << 16) + 300 + i).to_string().into();
        }
        server.engine.create(&services, "default", object, &user).await.map(drop).map_err(|status| status.message)
    };
    assert_eq!(join_all((0..400).map(make)).await, vec![Ok(()); 400]);
    assert_eq!(join_all((400..1022).map(make)).await, vec![Ok(()); 622]);
    let refused = server.make("more", json!({})).await;
    assert!(refused.0 == 500 && message(&refused).ends_with("range is full"), "{refused:?}");
    assert_eq!(check(&*shared.open().await).await.addresses.len(), 1022);
}
