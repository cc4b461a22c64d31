//! Random numbers -> what users ask for: deployments, services, namespaces, nodes; made, changed, deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    families::Families,
    house::{Asker, House},
    invariants::Watched,
    nodes::{self, Nodes},
    odd,
};

pub const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const NAMES: [&str; 3] = ["web", "db", "queue"];
pub const NODES: u64 = 8;
/// Only `red/web` and `green/web` want it, two pods each at most: with as many again during rollouts they still fit the nodes.
const HOST_PORT: u64 = 8080;

/// What `kubectl taint node n maintenance=v:NoExecute` puts there: without a time.
const TAINT: &str = "maintenance";
const AGAIN: Duration = Duration::from_millis(500);

/// What users of this seed do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Nothing that makes ready pods unready but rollouts and smaller scales.
    Calm,
    Wild,
}

pub struct User {
    pub random: StdRng,
    pub asker: Asker,
    pub watched: Watched,
    manners: Manners,
    silent: BTreeSet<u64>,
    /// What was asked for last, by path.
    pub log: Vec<String>,
    image: BTreeMap<String, u64>,
    pub families: Families,
}

impl User {
    pub fn new(house: &House, watched: Watched, manners: Manners, random: StdRng) -> Self {
        let asker = house.asker("admin", &["system:masters"]);
        Self {
            random,
            asker,
            watched,
            manners,
            silent: BTreeSet::new(),
            log: Vec::new(),
            image: BTreeMap::new(),
            families: Families::default(),
        }
    }

    /// One thing, at random.
    pub async fn act(&mut self, house: &House, nodes: &mut Nodes) {
        let namespace = *NAMESPACES.choose(&mut self.random).unwrap();
        let name = *NAMES.choose(&mut self.random).unwrap();
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        if self.random.random_ratio(1, 6) {
            return self.family(namespace).await;
        }
        if self.random.random_ratio(1, 5) {
            return self.set(namespace).await;
        }
        if self.random.random_ratio(1, 8) {
            return self.job(namespace).await;
        }
        if self.random.random_ratio(1, 8) {
            return self.storage(namespace).await;
        }
        if self.manners == Manners::Wild && self.random.random_ratio(1, 10) {
            return self.trouble(house, nodes).await;
        }
        match self.random.random_range(0..100) {
            0..10 => self.make_namespace(namespace).await,
            10..35 => self.make_deployment(namespace, name).await,
            35..48 => self.scale(&path, namespace, name).await,
            48..61 => self.new_image(&path).await,
            61..69 => self.make_service(namespace, name).await,
            69..74 => self.cordon().await,
            74..78 => self.delete(&path, &format!("/registry/deployments/{namespace}/{name}")).await,
            78..81 => {
                self.delete(
                    &format!("/api/v1/namespaces/{namespace}/services/{name}"),
                    &format!("/registry/services/specs/{namespace}/{name}"),
                )
                .await
            }
            _ if self.manners == Manners::Calm => self.new_image(&path).await,
            81..85 => self.delete_namespace(namespace).await,
            85..90 => self.delete_a_pod().await,
            90..95 => self.silence(nodes),
            95..98 => self.wake(house, nodes),
            _ => self.delete_node().await,
        }
    }

    /// All nodes run and take pods.
    pub async fn mend(&mut self, house: &House, nodes: &mut Nodes) {
        while !self.silent.is_empty() {
            self.wake(house, nodes);
        }
        for number in 0..NODES {
            self.patch(&format!("/api/v1/nodes/{}", nodes::name(number)), json!({"spec": {"unschedulable": null}})).await;
            while !self.taint(number, false).await {
                sleep(AGAIN).await;
            }
        }
    }

    /// What befalls all, or many.
    async fn trouble(&mut self, house: &House, nodes: &mut Nodes) {
        match self.random.random_range(0..10) {
            0 => self.blackout(house, nodes).await,
            1 => self.delete("/api/v1/namespaces/kube-node-lease", "/registry/namespaces/kube-node-lease").await,
            _ => {
                let (number, on) = (self.random.random_range(0..NODES), self.random.random_ratio(1, 2));
                self.taint(number, on).await;
            }
        }
    }

    /// All nodes fall silent at once, and speak again some time later.
    async fn blackout(&mut self, house: &House, nodes: &mut Nodes) {
        let others: Vec<u64> = (0..NODES).filter(|n| !self.silent.contains(n)).collect();
        let seconds = self.random.random_range(20..500);
        self.log.push(format!("blackout of {seconds} s"));
        others.iter().for_each(|number| nodes.silence(*number));
        sleep(Duration::from_secs(seconds)).await;
        others.iter().for_each(|number| nodes.start(house, *number));
    }

    /// As `kubectl taint` does; whether that is so now.
    async fn taint(&mut self, number: u64, on: bool) -> bool {
        let path = format!("/api/v1/nodes/{}", nodes::name(number));
        let node = match self.asker.ask("GET", &path, &Value::Null).await {
            Ok(node) => node,
            Err((code, _)) => return code == 404 && !on,
        };
        let mut taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        let had = taints.len();
        taints.retain(|t| t["key"] != TAINT);
        if on {
            taints.push(json!({"key": TAINT, "value": "v", "effect": "NoExecute"}));
        } else if taints.len() == had {
            return true;
        }
        let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
        let version = &node["metadata"]["resourceVersion"];
        self.patch(&path, json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}})).await
    }

    pub async fn make_namespace(&mut self, name: &str) {
        let body = json!({"metadata": {"name": name}});
        self.make("/api/v1/namespaces", &format!("/registry/namespaces/{name}"), body).await;
    }

    /// One that nothing is refused by.
    pub async fn make_quota(&mut self, namespace: &str) {
        let hard = json!({"pods": "1k", "count/pods": "1k", "count/replicasets.apps": "1k"});
        let body = json!({"metadata": {"name": "all"}, "spec": {"hard": hard}});
        self.make(&format!("/api/v1/namespaces/{namespace}/resourcequotas"), &format!("/registry/resourcequotas/{namespace}/all"), body)
            .await;
    }

    async fn make_deployment(&mut self, namespace: &str, name: &str) {
        let wants_port = name == "web" && namespace != "blue";
        let cpu = format!("{}m", self.random.random_range(1..9) * 100);
        let ports = if wants_port { json!([{"containerPort": 80, "hostPort": HOST_PORT}]) } else { json!([{"containerPort": 80}]) };
        let container = json!({"name": "c", "image": "i:0", "ports": ports, "resources": {"requests": {"cpu": cpu}}});
        let labels = json!({"app": name});
        let mut spec = json!({
            "replicas": self.size(wants_port), "minReadySeconds": *[0, 0, 3].choose(&mut self.random).unwrap(),
            "strategy": self.strategy(), "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [container], "tolerations": self.tolerations()}},
        });
        odd::spice(&mut spec, &mut self.random);
        let body = json!({"metadata": {"name": name}, "spec": spec});
        self.make(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &format!("/registry/deployments/{namespace}/{name}"), body)
            .await;
    }

    async fn make_service(&mut self, namespace: &str, name: &str) {
        let body = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
        self.make(&format!("/api/v1/namespaces/{namespace}/services"), &format!("/registry/services/specs/{namespace}/{name}"), body).await;
        self.patch(&format!("/api/v1/namespaces/{namespace}/services/{name}/status"), odd::service_status()).await;
        let (collection, body) = odd::beside(&mut self.random);
        let done = self.asker.ask("POST", collection, &body).await;
        self.note("create", collection, &body.to_string(), &done);
    }

    fn size(&mut self, wants_port: bool) -> u64 {
        self.random.random_range(0..if wants_port { 3 } else { 6 })
    }

    fn tolerations(&mut self) -> Value {
        let seconds = *[0, 20, 20, i64::MAX, 100_000_000, -1].choose(&mut self.random).unwrap();
        match self.random.random_range(0..2) {
            0 => json!([]),
            _ => json!([{"key": TAINT, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]),
        }
    }

    fn strategy(&mut self) -> Value {
        let (surge, unavailable) = [(json!("25%"), json!("25%")), (json!(1), json!(0)), (json!(0), json!(1)), (json!(2), json!("50%"))]
            .choose(&mut self.random)
            .unwrap()
            .clone();
        match self.random.random_range(0..6) {
            0 => json!({"type": "Recreate"}),
            _ => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
        }
    }

    async fn scale(&mut self, path: &str, namespace: &str, name: &str) {
        let replicas = self.size(name == "web" && namespace != "blue");
        self.patch(path, json!({"spec": {"replicas": replicas}})).await;
    }

    pub async fn new_image(&mut self, path: &str) {
        let image = self.image.entry(path.to_owned()).or_insert(0);
        *image += 1;
        let image = json!({"image": format!("i:{image}")});
        self.patch(path, json!({"spec": {"template": {"metadata": {"annotations": image}}}})).await;
    }

    async fn cordon(&mut self) {
        let unschedulable = if self.random.random_ratio(2, 5) { json!(true) } else { Value::Null };
        let number = self.random.random_range(0..NODES);
        self.patch(&format!("/api/v1/nodes/{}", nodes::name(number)), json!({"spec": {"unschedulable": unschedulable}})).await;
    }

    fn silence(&mut self, nodes: &mut Nodes) {
        let number = self.random.random_range(0..NODES);
        self.log.push(format!("silence {number}"));
        if self.silent.len() < 3 {
            nodes.silence(number);
            self.silent.insert(number);
        }
    }

    fn wake(&mut self, house: &House, nodes: &mut Nodes) {
        if let Some(number) = self.silent.pop_first() {
            self.log.push(format!("wake {number}"));
            nodes.start(house, number);
        }
    }

    async fn delete_node(&mut self) {
        let name = nodes::name(self.random.random_range(0..NODES));
        self.delete(&format!("/api/v1/nodes/{name}"), &format!("/registry/minions/{name}")).await;
    }

    async fn delete_a_pod(&mut self) {
        let pods: Vec<(String, String)> = {
            let state = self.watched.lock();
            let name = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_str).unwrap_or("").to_owned();
            state.of("pods", "").map(|p| (name(p, "/metadata/namespace"), name(p, "/metadata/name"))).collect()
        };
        if let Some((namespace, name)) = pods.choose(&mut self.random) {
            let key = format!("/registry/pods/{namespace}/{name}");
            self.delete(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &key).await;
        }
    }

    async fn delete_namespace(&mut self, name: &str) {
        self.watched.lock().may_go_with(name);
        self.delete(&format!("/api/v1/namespaces/{name}"), &format!("/registry/namespaces/{name}")).await;
    }

    pub async fn delete(&mut self, path: &str, key: &str) {
        self.watched.lock().may_go(key);
        let policy = if self.random.random_ratio(1, 3) { "Foreground" } else { "Background" };
        let done = self.asker.ask("DELETE", path, &json!({"propagationPolicy": policy})).await;
        self.note("delete", path, policy, &done);
    }

    pub async fn make(&mut self, collection: &str, key: &str, body: Value) {
        let done = self.asker.ask("POST", collection, &body).await;
        self.acknowledged(key.to_owned(), &done);
        self.note("create", key, &body["spec"].to_string(), &done);
    }

    pub async fn patch(&mut self, path: &str, body: Value) -> bool {
        let done = self.asker.ask("PATCH", path, &body).await;
        self.note("patch", path, &body.to_string(), &done);
        done.is_ok()
    }

    fn acknowledged(&self, key: String, done: &Result<Value, (u16, String)>) {
        let rev = done.as_ref().ok().and_then(|o| o.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok());
        if let Some(rev) = rev {
            self.watched.lock().acknowledge(key, rev);
        }
    }

    pub fn note(&mut self, verb: &str, what: &str, how: &str, done: &Result<Value, (u16, String)>) {
        let answer = match done {
            Ok(_) => "ok".to_owned(),
            Err((code, message)) => format!("{code} {message}"),
        };
        self.log.push(format!("{verb} {what} {how}: {answer}"));
    }
}
