//! The garbage collector beside the real API server over the memory store: what it does when it cannot learn what the server serves.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::{Status, k8s::api::core::v1::ConfigMap, task::Group};
use apiserver::{body::Response, serve::status_response};
use client::kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
    client::Body,
};
use door::{Door, until};
use futures::future::BoxFuture;
use http::Request;
use serde_json::json;
use tower::ServiceExt;

/// Questions of discovery that come to nothing: the first of the first attempt, and the second of the second.
const FAILING: [usize; 2] = [0, 2];

/// The server, for somebody to whom it does not tell at first what it serves; how often it was asked for that.
fn silent_at_first(door: &Door, name: &str, groups: &[&str]) -> (Client, Arc<AtomicUsize>) {
    let (server, asked) = (door.service(name, groups), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let is_discovery = matches!(request.uri().path(), "/api" | "/apis");
        let fails = is_discovery && FAILING.contains(&count.fetch_add(usize::from(is_discovery), Ordering::SeqCst));
        let server = server.clone();
        let answer: BoxFuture<'static, Result<Response, Infallible>> = if fails {
            Box::pin(std::future::ready(Ok(status_response(&Status::unavailable("not yet")))))
        } else {
            Box::pin(server.oneshot(request))
        };
        answer
    });
    (Client::new(service, "default"), asked)
}

async fn make(maps: &Api<ConfigMap>, name: &str, owner: Option<&ConfigMap>) -> ConfigMap {
    let references: Vec<_> = owner
        .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid()}))
        .into_iter()
        .collect();
    let map = serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": references}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap()
}

#[tokio::test]
async fn collection_works_after_a_discovery_that_failed() {
    let group = Group::new();
    let door = Door::new(&group).await;
    let maps = Api::<ConfigMap>::namespaced(door.admin(), "default");
    let owner = make(&maps, "owner", None).await;
    make(&maps, "dependent", Some(&owner)).await;
    make(&maps, "other", None).await;
    let caches = client::Caches::new(door.client("system:kube-controller-manager", &[]), group.clone());
    let config = controllers::Config {
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        root_ca: "the authority".into(),
        nodes: controllers::NodeConfig::default(),
        terminated_pods_max: controllers::TERMINATED_PODS_MAX,
    };
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    let (silent, asked) = silent_at_first(&door, collector, &groups);
    let clients = |name: &str| match format!("system:serviceaccount:kube-system:{name}") {
        account if account == collector => silent.clone(),
        account => door.client(&account, &groups),
    };
    controllers::start(&config, &caches, &clients, &group);
    until("the first discovery fails", async || (asked.load(Ordering::SeqCst) > 0).then_some(())).await;
    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    until("the dependent goes", async || maps.get_opt("dependent").await.unwrap().is_none().then_some(())).await;
    assert!(asked.load(Ordering::SeqCst) > FAILING[1] + 1, "two attempts failed, another one did not");
    assert!(maps.get_opt("other").await.unwrap().is_some());
    assert_eq!(group.fault(), None);
    group.stop();
}
