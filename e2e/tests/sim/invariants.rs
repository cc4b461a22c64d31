//! Every revision of the store -> what must never be, however briefly. Read from what is really stored, beside the engine.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::time::Timestamp;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use store::{Entry, Event, Range, Rev, Store, faulty::Faulty};
use tokio::time::Instant;

use crate::{house::House, jobs::Ends, losses::Losses, nodes, sets::Ready, storage};

/// How old a view a controller may act upon: its watch may be cut, its request late, and it backs off in between.
pub const STALE: Duration = Duration::from_secs(60);

pub type Watched = Arc<Mutex<State>>;

/// What is stored, by key, and what was seen on the way.
pub struct State {
    pub objects: BTreeMap<String, Stored>,
    pub broken: Vec<String>,
    faulty: Arc<Faulty>,
    /// Of each deployment (uid): how many pods it may have had, until when.
    limits: HashMap<String, VecDeque<(Instant, i64)>>,
    /// Of each deployment (uid): how many pods must stay ready.
    floors: HashMap<String, i64>,
    unanswered: VecDeque<(Instant, u64)>,
    acknowledged: BTreeMap<String, Rev>,
    pub pods_fail: bool,
    pub ready: Ready,
    pub losses: Losses,
    ends: Ends,
}

pub struct Stored {
    pub rev: Rev,
    pub value: Value,
}

/// Follows the store from now on, in the house's group. `pods_fail`: readiness may be lost for other reasons than a rollout.
pub async fn watch(house: &House, pods_fail: bool) -> Watched {
    let page = house.memory.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap();
    let mut events = house.memory.watch("", page.rev).await.unwrap();
    let objects = page.entries.iter().map(|e| (e.key.to_string(), stored(e))).collect();
    let state = Arc::new(Mutex::new(State {
        objects,
        broken: Vec::new(),
        faulty: house.faulty.clone(),
        limits: HashMap::new(),
        floors: HashMap::new(),
        unanswered: [(Instant::now(), 0)].into(),
        acknowledged: BTreeMap::new(),
        pods_fail,
        ready: Ready::default(),
        losses: Losses::default(),
        ends: Ends::default(),
    }));
    let watched = state.clone();
    house.group.spawn(async move {
        while let Some(Ok(batch)) = events.next().await {
            let mut state = watched.lock();
            batch.into_iter().for_each(|event| state.take_in(event));
        }
    });
    state
}

impl State {
    /// All objects under `/registry/<resource>/`, of one namespace unless that is empty.
    pub fn of<'a>(&'a self, resource: &str, namespace: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let prefix = if namespace.is_empty() { format!("/registry/{resource}/") } else { format!("/registry/{resource}/{namespace}/") };
        self.objects.range(prefix.clone()..).take_while(move |(k, _)| k.starts_with(&prefix)).map(|(_, s)| &s.value)
    }

    /// A write to this key was answered with this revision; it must stay readable.
    pub fn acknowledge(&mut self, key: String, rev: Rev) {
        self.acknowledged.insert(key, rev);
    }

    /// Somebody asked for its end, or for that of all below it.
    pub fn may_go(&mut self, key: &str) {
        self.losses.ask(key);
        self.acknowledged.retain(|k, _| k != key);
    }

    /// A namespace takes all that is in it.
    pub fn may_go_with(&mut self, namespace: &str) {
        self.acknowledged.retain(|k, _| !k.contains(&format!("/{namespace}/")) && *k != format!("/registry/namespaces/{namespace}"));
    }

    /// All that was acknowledged is there, no older than it was.
    pub fn check_acknowledged(&mut self) {
        for (key, rev) in &self.acknowledged {
            match self.objects.get(key) {
                Some(stored) if stored.rev >= *rev => {}
                Some(stored) => self.broken.push(format!("{key}: acknowledged at {rev}, stored at {}", stored.rev)),
                None => self.broken.push(format!("{key}: acknowledged at {rev}, not there")),
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        let (key, rev) = (event.key().to_string(), event.rev());
        if std::env::var("SKIFF_SIM_TRAIL").is_ok_and(|part| key.contains(&part)) {
            println!("{:?} {}", Instant::now(), trail(&event));
        }
        let before = self.broken.len();
        match event {
            Event::Put { entry, prev } => {
                let old = prev.map(|p| stored(&p).value);
                let new = stored(&entry);
                let value = new.value.clone();
                self.objects.insert(key.clone(), new);
                self.put(&key, old.as_ref(), &value);
                self.broken.extend(self.losses.put(&key, old.as_ref(), &value, &self.objects));
            }
            Event::Delete { prev, .. } => {
                self.objects.remove(&key);
                if let Some(prev) = prev {
                    let old = stored(&prev).value;
                    self.gone(&key, &old);
                    self.broken.extend(self.losses.gone(&key, &old, &self.objects));
                }
            }
        }
        self.broken[before..].iter_mut().for_each(|law| *law = format!("at revision {rev}, {key}: {law}"));
    }

    fn put(&mut self, key: &str, old: Option<&Value>, new: &Value) {
        let namespace = text(new, "/metadata/namespace");
        if !namespace.is_empty() && !self.objects.contains_key(&format!("/registry/namespaces/{namespace}")) {
            self.broken.push(format!("written into namespace {namespace}, which is no more"));
        }
        match resource(key) {
            "pods" => self.pod(old, new),
            "jobs" => self.broken.extend(self.ends.job(old, new)),
            "deployments" => self.deployment(new),
            "persistentvolumeclaims" => {
                let broken = storage::claim(self, old, new);
                self.broken.extend(broken);
            }
            _ => {}
        }
    }

    fn gone(&mut self, key: &str, old: &Value) {
        match resource(key) {
            "namespaces" => {
                let name = text(old, "/metadata/name");
                let left: Vec<&String> =
                    self.objects.iter().filter(|(_, s)| text(&s.value, "/metadata/namespace") == name).map(|(k, _)| k).collect();
                if !left.is_empty() {
                    self.broken.push(format!("namespace gone before {left:?}"));
                }
            }
            "deployments" => drop(self.floors.remove(text(old, "/metadata/uid"))),
            "pods" => {
                self.floor_of(old);
                self.set_pod_gone(old);
            }
            "persistentvolumes" => {
                let broken = storage::volume_gone(self, old);
                self.broken.extend(broken);
            }
            _ => {}
        }
    }

    fn pod(&mut self, old: Option<&Value>, new: &Value) {
        self.ends.pod(new);
        let node = text(new, "/spec/nodeName");
        let same = old.is_some_and(|o| text(o, "/metadata/uid") == text(new, "/metadata/uid"));
        let was = old.filter(|_| same).map_or("", |o| text(o, "/spec/nodeName"));
        if !was.is_empty() && was != node {
            self.broken.push(format!("bound to {was}, then to {node:?}"));
        }
        if was.is_empty() && !node.is_empty() {
            self.node_holds(node);
        }
        if old.is_none() {
            self.not_too_many(new);
        }
        self.floor_of(new);
        self.set_pod(old, new);
    }

    fn node_holds(&mut self, node: &str) {
        let Some(stored) = self.objects.get(&format!("/registry/minions/{node}")) else { return };
        let room = stored.value.pointer("/status/allocatable/cpu").map_or(nodes::CPU_MILLIS, millis);
        let pods: Vec<&Value> = self.of("pods", "").filter(|p| text(p, "/spec/nodeName") == node && !is_over(p)).collect();
        let cpu: u64 = pods.iter().map(|p| requested(p)).sum();
        let mut ports: Vec<u64> = pods.iter().flat_map(|p| host_ports(p)).collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        let (count, doubled) = (pods.len(), ports.len() < all);
        if cpu > room {
            self.broken.push(format!("{node} has {room}m of CPU and is given {cpu}m"));
        }
        if count > nodes::PODS_MAX {
            self.broken.push(format!("{node} has room for {} pods and is given {count}", nodes::PODS_MAX));
        }
        if doubled {
            self.broken.push(format!("two pods on one host port of {node}"));
        }
    }

    fn deployment(&mut self, new: &Value) {
        let uid = text(new, "/metadata/uid").to_owned();
        let (desired, surge, unavailable) = fences(new);
        let limits = self.limits.entry(uid.clone()).or_default();
        let now = Instant::now();
        match limits.back_mut() {
            Some((until, limit)) if *limit == desired + surge => *until = now,
            Some((until, _)) => {
                *until = now;
                limits.push_back((now, desired + surge));
            }
            None => limits.push_back((now, desired + surge)),
        }
        if let Some(floor) = self.floors.get_mut(&uid) {
            *floor = (*floor).min(desired - unavailable);
        }
        if text(new, "/spec/strategy/type") == "Recreate" || !text(new, "/metadata/deletionTimestamp").is_empty() {
            self.floors.remove(&uid);
        }
        // Its status tells when its pods have been ready for long enough: no write of a pod does.
        self.floor(new);
    }

    /// A new pod of a deployment: within what the deployment allowed not long ago. A write without an answer may have been done twice. The
    /// surge bounds what the sets are told: pods that another set was told to give up, and has not yet, do not count.
    fn not_too_many(&mut self, pod: &Value) {
        let slack = self.unanswered_lately();
        let Some(deployment) = self.deployment_of(pod) else { return };
        let (uid, now) = (text(deployment, "/metadata/uid").to_owned(), Instant::now());
        let active = self.counted(deployment, pod);
        let Some(limits) = self.limits.get_mut(&uid) else { return };
        while limits.len() > 1 && limits.front().is_some_and(|(until, _)| *until + STALE < now) {
            limits.pop_front();
        }
        let limit = limits.iter().map(|(_, limit)| *limit).max().unwrap_or(0) + slack;
        if active > limit {
            let sets = self.sizes(&uid, text(pod, "/metadata/namespace"));
            self.broken.push(format!("its deployment may have {limit} pods and has {active}; sets {sets:?}"));
        }
    }

    pub fn unanswered_lately(&mut self) -> i64 {
        let (now, all) = (Instant::now(), self.faulty.unanswered());
        self.unanswered.push_back((now, all));
        // The last count from before the window stays: all that is above it failed within.
        while self.unanswered.get(1).is_some_and(|(at, _)| *at + STALE < now) {
            self.unanswered.pop_front();
        }
        let before = self.unanswered.front().map_or(0, |(_, n)| *n);
        i64::try_from(all - before).unwrap_or(i64::MAX)
    }

    /// Once all pods were available, a rollout leaves enough of them.
    fn floor_of(&mut self, pod: &Value) {
        if let Some(deployment) = self.deployment_of(pod).cloned() {
            self.floor(&deployment);
        }
    }

    fn floor(&mut self, deployment: &Value) {
        if self.pods_fail
            || text(deployment, "/spec/strategy/type") == "Recreate"
            || !text(deployment, "/metadata/deletionTimestamp").is_empty()
        {
            return;
        }
        let (desired, _, unavailable) = fences(deployment);
        let patience = deployment.pointer("/spec/minReadySeconds").and_then(Value::as_i64).unwrap_or(0);
        let active: Vec<&Value> = self.pods_of(deployment).filter(|p| is_active(p)).collect();
        let ready = active.iter().filter(|p| is_ready(p)).count() as i64;
        let available = active.iter().filter(|p| is_available(p, patience)).count() as i64;
        let uid = text(deployment, "/metadata/uid").to_owned();
        // Not while somebody acts on what was wanted before, or has not seen which pods are ready: pods may be told to go already.
        if available == desired && self.is_at_rest(deployment) {
            self.floors.insert(uid, desired - unavailable);
        } else if let Some(floor) = self.floors.get(&uid)
            && ready < *floor
        {
            self.broken.push(format!("its deployment must keep {floor} pods ready and has {ready}"));
        }
    }

    /// Its last change was seen, and each of its sets has the pods that it was told to have.
    fn is_at_rest(&self, deployment: &Value) -> bool {
        let seen = deployment.pointer("/status/observedGeneration") == deployment.pointer("/metadata/generation");
        let mut sets = self.of("replicasets", text(deployment, "/metadata/namespace")).filter(|set| controls(deployment, set));
        let told = |set: &Value| set.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let has = |set: &Value| self.pods_of(deployment).filter(|p| is_active(p) && controls(set, p)).count() as i64;
        seen && sets.all(|set| has(set) == told(set))
    }

    /// Names, sizes asked for and told of a deployment's sets.
    fn sizes(&self, uid: &str, namespace: &str) -> Vec<String> {
        let own = |set: &&Value| set.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str) == Some(uid);
        let size = |set: &Value| format!("{}: {} {}", text(set, "/metadata/name"), set["spec"]["replicas"], set["status"]["replicas"]);
        self.of("replicasets", namespace).filter(own).map(size).collect()
    }

    /// The active pods of the deployment; of sets other than that of `new` no more than they should have.
    fn counted(&self, deployment: &Value, new: &Value) -> i64 {
        let sets = self.of("replicasets", text(deployment, "/metadata/namespace")).filter(|set| controls(deployment, set));
        let of = |set: &Value| {
            let active = self.pods_of(deployment).filter(|p| is_active(p) && controls(set, p)).count() as i64;
            if controls(set, new) { active } else { active.min(set["spec"]["replicas"].as_i64().unwrap_or(0)) }
        };
        sets.map(of).sum()
    }

    fn deployment_of(&self, pod: &Value) -> Option<&Value> {
        let namespace = text(pod, "/metadata/namespace");
        let set = self.of("replicasets", namespace).find(|set| controls(set, pod))?;
        self.of("deployments", namespace).find(|d| controls(d, set))
    }

    pub fn pods_of<'a>(&'a self, deployment: &'a Value) -> impl Iterator<Item = &'a Value> + use<'a> {
        let namespace = text(deployment, "/metadata/namespace");
        let sets: Vec<&Value> = self.of("replicasets", namespace).filter(|set| controls(deployment, set)).collect();
        self.of("pods", namespace).filter(move |pod| sets.iter().any(|set| controls(set, pod)))
    }
}

pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn controls(owner: &Value, object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let uid = text(owner, "/metadata/uid");
    owners.into_iter().any(|r| r["controller"] == true && r["uid"] == uid)
}

pub fn is_active(pod: &Value) -> bool {
    !is_over(pod) && text(pod, "/metadata/deletionTimestamp").is_empty()
}

pub fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Ready for so many seconds.
fn is_available(pod: &Value, seconds: i64) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready" && c["status"] == "True");
    let since = ready.and_then(|c| c["lastTransitionTime"].as_str()?.parse::<Timestamp>().ok());
    since.is_some_and(|since| Timestamp::now().as_second() - since.as_second() >= seconds)
}

/// Desired pods, those that may be more, those that may be missing.
pub fn fences(deployment: &Value) -> (i64, i64, i64) {
    let desired = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        return (desired, 0, desired);
    }
    let of = |field: &str, up: bool| match deployment.pointer(&format!("/spec/strategy/rollingUpdate/{field}")) {
        Some(Value::String(part)) => {
            let part = part.trim_end_matches('%').parse::<i64>().unwrap() * desired;
            if up { (part + 99) / 100 } else { part / 100 }
        }
        number => number.and_then(Value::as_i64).unwrap_or(0),
    };
    let (surge, unavailable) = (of("maxSurge", true), of("maxUnavailable", false));
    (desired, surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable }.min(desired))
}

/// One write, as `SKIFF_SIM_TRAIL=<part of a key>` prints it.
fn trail(event: &Event) -> String {
    let (rev, key) = (event.rev(), event.key());
    match event {
        Event::Put { entry, prev } => {
            let mut value = stored(entry).value;
            value["metadata"].as_object_mut().expect("an object").remove("managedFields");
            format!("{rev} {} {key} {value}", if prev.is_some() { "MODIFIED" } else { "ADDED" })
        }
        Event::Delete { .. } => format!("{rev} DELETED {key}"),
    }
}

fn stored(entry: &Entry) -> Stored {
    Stored { rev: entry.rev, value: serde_json::from_slice(&entry.value).expect("JSON is stored") }
}

fn resource(key: &str) -> &str {
    key.split('/').nth(2).unwrap_or("")
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten()
}

fn requested(pod: &Value) -> u64 {
    containers(pod).filter_map(|c| c.pointer("/resources/requests/cpu")).map(millis).sum()
}

fn host_ports(pod: &Value) -> Vec<u64> {
    let ports = containers(pod).flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.filter_map(|p| p["hostPort"].as_u64()).filter(|p| *p > 0).collect()
}

fn millis(cpu: &Value) -> u64 {
    let text = cpu.as_str().unwrap_or("0");
    match text.strip_suffix('m') {
        Some(millis) => millis.parse().unwrap(),
        None => text.parse::<u64>().unwrap() * 1000,
    }
}
