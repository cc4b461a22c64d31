//! Store, engine, controllers, scheduler -> one control plane in this thread.

use std::{sync::Arc, time::Duration};

use api::task::Group;
use client::{kube::Client, leader::Clock};
use door::Door;
use http::Request;
use kinds::auth;
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
    pub door: Arc<Door>,
}

/// The authority of [`Door`].
struct Ca(Arc<apiserver::certs::Certs>);

/// Who asks, in process.
#[derive(Clone)]
pub struct Asker(pub Client);

impl House {
    pub async fn build(random: StdRng) -> Self {
        let house = Self::idle(random).await;
        house.start_controllers();
        house
    }

    /// Without controllers and scheduler.
    pub async fn idle(mut random: StdRng) -> Self {
        let (group, memory) = (Group::new(), Arc::new(Memory::without_thread()));
        let tended = memory.clone();
        group.spawn(async move { tended.tend().await });
        let faulty = Arc::new(Faulty::new(memory.clone(), Box::new(move || random.random())));
        let door = Arc::new(Door::over(faulty.clone(), &group).await);
        let caches = client::Caches::new(door.client("system:kube-controller-manager", &[]), group.clone());
        let house = Self { group, memory, faulty, caches, door };
        house.group.spawn_loop("system namespaces", auth::keep_namespaces(house.door.engine.clone()));
        house
    }

    pub fn asker(&self, name: &str, groups: &[&str]) -> Asker {
        Asker(self.door.client(name, groups))
    }

    pub fn set(&self, faults: Faults) {
        self.faulty.set(faults);
    }

    fn start_controllers(&self) {
        let clients = |name: &str| {
            let account = format!("system:serviceaccount:kube-system:{name}");
            self.door.client(&account, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
        };
        controllers::start(&config(&self.door), &self.caches, &clients, &self.group);
        scheduler::start(self.door.client("system:kube-scheduler", &[]), &self.caches, &self.group);
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca(..)")
    }
}

impl controllers::Authority for Ca {
    fn look(&self, request: &[u8]) -> Result<api::csr::Requested, String> {
        apiserver::certs::request::look(request)
    }

    fn sign(&self, request: &[u8], usages: &[String], seconds: u64) -> Result<String, String> {
        self.0.sign(request, usages, seconds)
    }
}

/// What the controllers of `door` are told. Their clock is of the time that passes in here.
pub fn config(door: &Door) -> controllers::Config {
    let origin = tokio::time::Instant::now();
    controllers::Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        root_ca: "the authority".into(),
        authority: Arc::new(Ca(door.certs.clone())),
        signing_seconds: controllers::SIGNING_SECONDS,
        reserved: controllers::Reserved::default(),
        nodes: controllers::NodeConfig::default(),
        clock: Clock::of(move || origin.elapsed()),
        terminated_pods_max: controllers::TERMINATED_PODS_MAX,
        autoscalers: controllers::AutoscalerConfig::default(),
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
