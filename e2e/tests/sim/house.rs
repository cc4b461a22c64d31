//! Store, engine, controllers, scheduler -> one control plane in this thread.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::task::Group;
use apiserver::{
    certs::{Certs, ServingNames},
    discovery::Discovery,
    engine::Engine,
    identity::{Peer, User},
    serve::in_process,
};
use client::kube::Client;
use http::Request;
use kinds::auth::{self, Tokens};
use rand::{Rng, rngs::StdRng};
use serde_json::Value;
use store::{
    faulty::{Faults, Faulty},
    memory::Memory,
};

const ANSWER_BOUND: Duration = Duration::from_secs(40);

pub struct House {
    pub group: Group,
    /// What is really stored.
    pub memory: Arc<Memory>,
    /// What the engine sees of it.
    pub faulty: Arc<Faulty>,
    pub caches: client::Caches,
    engine: Arc<Engine>,
}

/// Who asks, in process.
#[derive(Clone)]
pub struct Asker(pub Client);

impl House {
    pub async fn build(mut dice: StdRng) -> Self {
        let (group, memory) = (Group::new(), Arc::new(Memory::without_thread()));
        let tended = memory.clone();
        group.spawn(async move { tended.tend().await });
        let faulty = Arc::new(Faulty::new(memory.clone(), Box::new(move || dice.random())));
        let dir = tempfile::tempdir().unwrap();
        let names = ServingNames::standard("host", &[IpAddr::from([127, 0, 0, 1])], None, "cluster.local");
        let certs = Certs::open(dir.path(), &names).unwrap();
        let tokens = Arc::new(Tokens::new(auth::ISSUER, certs.service_account_key(), certs.service_account_public()).unwrap());
        let laws = kinds::Config {
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: 30000..=32767,
            cluster_domain: "cluster.local".into(),
        };
        let engine = Engine::new(faulty.clone(), kinds::all(&laws, &tokens), auth::gates(&tokens), group.clone());
        engine.set_schemas(kinds::schema::shapes());
        engine.set_fairness(&kinds::flow::config(apiserver::fairness::Limits::default()));
        engine.mount(Arc::new(Discovery::default()));
        engine.ready().await;
        Box::pin(auth::bootstrap(&engine)).await.unwrap();
        let caches = client::Caches::new(client_as(&engine, "system:kube-controller-manager", &[]), group.clone());
        let house = Self { group, memory, faulty, caches, engine };
        house.start_loops();
        house
    }

    pub fn asker(&self, name: &str, groups: &[&str]) -> Asker {
        Asker(client_as(&self.engine, name, groups))
    }

    pub fn set(&self, faults: Faults) {
        self.faulty.set(faults);
    }

    fn start_loops(&self) {
        self.group.spawn_loop("system namespaces", auth::keep_namespaces(self.engine.clone()));
        let config = controllers::Config {
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            root_ca: "the authority".into(),
            nodes: controllers::NodeConfig::default(),
            terminated_pods_max: controllers::TERMINATED_PODS_MAX,
        };
        let clients = |name: &str| {
            let account = format!("system:serviceaccount:kube-system:{name}");
            client_as(&self.engine, &account, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
        };
        controllers::start(&config, &self.caches, &clients, &self.group);
        scheduler::start(client_as(&self.engine, "system:kube-scheduler", &[]), &self.caches, &self.group);
    }
}

impl Asker {
    /// The answer, or the status code and message of the refusal; code 0 is no answer at all.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", content).body(body).unwrap();
        match tokio::time::timeout(ANSWER_BOUND, self.0.request::<Value>(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(client::kube::Error::Api(status))) => Err((status.code, status.message.clone())),
            Ok(Err(other)) => Err((0, other.to_string())),
            Err(_) => Err((0, "no answer in time".into())),
        }
    }
}

fn client_as(engine: &Arc<Engine>, name: &str, groups: &[&str]) -> Client {
    let user = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
    let peer = Peer { certificate: Some(user), address: None };
    Client::new(in_process(apiserver::service(engine.clone()), peer), "default")
}
