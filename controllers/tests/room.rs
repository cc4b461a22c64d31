//! The garbage collector beside the real API server over the memory store: what it does when it cannot learn what the server serves.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{Status, k8s::api::core::v1::ConfigMap, task::Group};
use apiserver::{
    body::{Request, Response},
    certs::{Certs, ServingNames},
    discovery::Discovery,
    engine::Engine,
    identity::{Peer, User},
    serve::{in_process, status_response},
};
use client::kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use futures::future::BoxFuture;
use kinds::auth::{self, Tokens};
use serde_json::json;
use tower::ServiceExt;

const BOUND: Duration = Duration::from_secs(60);
/// Questions of discovery that come to nothing: the first of the first attempt, and the second of the second.
const FAILING: [usize; 2] = [0, 2];

async fn engine(group: &Group) -> Arc<Engine> {
    let dir = tempfile::tempdir().unwrap();
    let names = ServingNames::standard("host", &[IpAddr::from([127, 0, 0, 1])], None, "cluster.local");
    let certs = Certs::open(dir.path(), &names).unwrap();
    let tokens = Arc::new(Tokens::new(auth::ISSUER, certs.service_account_key(), certs.service_account_public()).unwrap());
    let store = Arc::new(store::memory::Memory::new());
    let engine = Engine::new(store, kinds::all(&kinds::Config::default(), &tokens), auth::gates(&tokens), group.clone());
    engine.set_schemas(kinds::schema::shapes());
    engine.mount(Arc::new(Discovery::default()));
    engine.ready().await;
    Box::pin(auth::bootstrap(&engine)).await.unwrap();
    engine
}

fn client_as(engine: &Arc<Engine>, name: &str, groups: &[&str]) -> Client {
    client_over(apiserver::service(engine.clone()), name, groups)
}

fn client_over<S>(service: S, name: &str, groups: &[&str]) -> Client
where
    S: tower::Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let user = User { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..User::default() };
    Client::new(in_process(service, Peer { certificate: Some(user), address: None }), "default")
}

/// The server, for somebody to whom it does not tell at first what it serves; how often it was asked for that.
fn silent_at_first(engine: &Arc<Engine>, name: &str, groups: &[&str]) -> (Client, Arc<AtomicUsize>) {
    let (front, asked) = (apiserver::service(engine.clone()), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    let service = tower::service_fn(move |request: Request| {
        let is_discovery = matches!(request.uri().path(), "/api" | "/apis");
        let fails = is_discovery && FAILING.contains(&count.fetch_add(usize::from(is_discovery), Ordering::SeqCst));
        let front = front.clone();
        let answer: BoxFuture<'static, Result<Response, Infallible>> = if fails {
            Box::pin(std::future::ready(Ok(status_response(&Status::unavailable("not yet")))))
        } else {
            Box::pin(front.oneshot(request))
        };
        answer
    });
    (client_over(service, name, groups), asked)
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(BOUND, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not in time");
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
    let engine = engine(&group).await;
    let maps = Api::<ConfigMap>::namespaced(client_as(&engine, "admin", &["system:masters"]), "default");
    let owner = make(&maps, "owner", None).await;
    make(&maps, "dependent", Some(&owner)).await;
    make(&maps, "other", None).await;
    let caches = client::Caches::new(client_as(&engine, "system:kube-controller-manager", &[]), group.clone());
    let config = controllers::Config {
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        root_ca: "the authority".into(),
        nodes: controllers::NodeConfig::default(),
        terminated_pods_max: controllers::TERMINATED_PODS_MAX,
    };
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    let (silent, asked) = silent_at_first(&engine, collector, &groups);
    let clients = |name: &str| match format!("system:serviceaccount:kube-system:{name}") {
        account if account == collector => silent.clone(),
        account => client_as(&engine, &account, &groups),
    };
    controllers::start(&config, &caches, &clients, &group);
    until("the first discovery fails", async || asked.load(Ordering::SeqCst) > 0).await;
    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    until("the dependent goes", async || maps.get_opt("dependent").await.unwrap().is_none()).await;
    assert!(asked.load(Ordering::SeqCst) > FAILING[1] + 1, "two attempts failed, another one did not");
    assert!(maps.get_opt("other").await.unwrap().is_some());
    assert_eq!(group.fault(), None);
    group.stop();
}
