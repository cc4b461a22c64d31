//! Hollow nodes: they register, renew their leases and say of the pods bound to them what a kubelet would. Nothing runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use api::{
    k8s::api::core::v1::Pod,
    task::Group,
    time::{Timestamp, rfc3339, rfc3339_micro},
};
use client::{Caches, kube::ResourceExt};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::house::{Asker, House};

const HEARTBEAT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
pub const CPU_MILLIS: u64 = 8000;
pub const PODS_MAX: usize = 30;

/// How pods fare on hollow nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    Good,
    /// Some pods fail, some are not ready for a while.
    Mixed,
}

pub struct Nodes {
    running: BTreeMap<String, Group>,
    luck: Arc<AtomicBool>,
    random: StdRng,
}

struct Hollow {
    name: String,
    number: u64,
    asker: Asker,
    random: StdRng,
    luck: Arc<AtomicBool>,
    lives: BTreeMap<String, Life>,
    next_ip: u64,
}

/// What comes next for a pod, and when.
struct Life {
    stage: Stage,
    due: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Starting,
    Ready,
    Unready,
    Over,
    Stopping,
}

impl Nodes {
    pub fn new(luck: Luck, random: StdRng) -> Self {
        Self { running: BTreeMap::new(), luck: Arc::new(AtomicBool::new(luck == Luck::Mixed)), random }
    }

    pub fn start(&mut self, house: &House, number: u64) {
        let name = name(number);
        if self.running.contains_key(&name) {
            return;
        }
        let group = house.group.child();
        let asker = house.asker(&format!("system:node:{name}"), &["system:nodes"]);
        let caches = Caches::new(asker.0.clone(), group.clone());
        let random = StdRng::seed_from_u64(self.random.random());
        // Addresses of a node's former life are not given again.
        let next_ip = self.random.random_range(1..40) * 1000;
        let hollow = Hollow { name: name.clone(), number, asker, random, luck: self.luck.clone(), lives: BTreeMap::new(), next_ip };
        group.spawn(Box::pin(hollow.run(caches)));
        self.running.insert(name, group);
    }

    /// As when the machine loses its power.
    pub fn silence(&mut self, number: u64) {
        if let Some(group) = self.running.remove(&name(number)) {
            group.stop();
        }
    }

    /// From now on nothing fails.
    pub fn be_lucky(&self) {
        self.luck.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

pub fn name(number: u64) -> String {
    format!("n{number}")
}

impl Hollow {
    async fn run(mut self, caches: Caches) {
        let pods = caches.filtered::<Pod>(&format!("spec.nodeName={}", self.name));
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        pods.on_change(move |_, _| notify.notify_one());
        let mut beat = Instant::now();
        loop {
            if Instant::now() >= beat {
                let next = if self.heartbeat().await.is_ok() { HEARTBEAT } else { AGAIN };
                beat = Instant::now() + next;
            }
            let due = self.tend(&pods.list()).await.unwrap_or(beat).min(beat);
            // Either way it is time to look.
            let _ = timeout(due.saturating_duration_since(Instant::now()), changed.notified()).await;
        }
    }

    async fn heartbeat(&mut self) -> Result<(), (u16, String)> {
        let path = format!("/api/v1/nodes/{}", self.name);
        let node = match self.asker.ask("GET", &path, &Value::Null).await {
            Err((404, _)) => {
                let labels = json!({"kubernetes.io/hostname": self.name});
                let node = json!({"metadata": {"name": self.name, "labels": labels}, "status": status()});
                self.asker.ask("POST", "/api/v1/nodes", &node).await?
            }
            found => found?,
        };
        let ready = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        if !ready.clone().any(|c| c["type"] == "Ready" && c["status"] == "True") {
            self.asker.ask("PATCH", &format!("{path}/status"), &json!({"status": status()})).await?;
        }
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": rfc3339_micro(Timestamp::now())});
        match self.asker.ask("PATCH", &format!("{leases}/{}", self.name), &json!({"spec": spec})).await {
            Err((404, _)) => self.asker.ask("POST", leases, &json!({"metadata": {"name": self.name}, "spec": spec})).await.map(drop),
            done => done.map(drop),
        }
    }

    /// Does what is due; when the next is.
    async fn tend(&mut self, pods: &[Arc<Pod>]) -> Option<Instant> {
        let there: Vec<String> = pods.iter().filter_map(|p| p.uid()).collect();
        self.lives.retain(|uid, _| there.contains(uid));
        for pod in pods {
            self.plan(pod);
            let uid = pod.uid().unwrap_or_default();
            let due = self.lives.get(&uid).is_some_and(|life| life.due <= Instant::now());
            if due {
                let stage = self.lives[&uid].stage;
                let done = self.carry_out(pod, stage).await;
                self.after(&uid, stage, done.is_ok());
            }
        }
        self.lives.values().filter(|l| l.stage != Stage::Over).map(|l| l.due).min()
    }

    fn plan(&mut self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            let stopping = self.lives.get(&uid).is_some_and(|l| l.stage == Stage::Stopping);
            if !stopping {
                let due = self.soon(100, 3000);
                self.lives.insert(uid, Life { stage: Stage::Stopping, due });
            }
        } else if !self.lives.contains_key(&uid) {
            let due = self.soon(200, 5000);
            self.lives.insert(uid, Life { stage: if is_over(pod) { Stage::Over } else { Stage::Starting }, due });
        } else if !is_ready(pod) && self.lives.get(&uid).is_some_and(|life| life.stage == Stage::Ready) {
            // Somebody took it for unready while we were silent: as any node agent, we say again what is.
            let due = self.soon(200, 5000);
            self.lives.insert(uid, Life { stage: Stage::Unready, due });
        }
    }

    async fn carry_out(&mut self, pod: &Pod, stage: Stage) -> Result<(), (u16, String)> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let uid = pod.uid();
        let status = match stage {
            Stage::Stopping => {
                // As any node agent does: a Job waits for a pod to say how it ended.
                if is_of_job(pod) && !is_over(pod) {
                    let failed = json!({"metadata": {"uid": uid}, "status": {"phase": "Failed", "conditions": conditions(false)}});
                    match self.asker.ask("PATCH", &format!("{path}/status"), &failed).await {
                        Ok(_) | Err((404 | 409, _)) => {}
                        Err(other) => return Err(other),
                    }
                }
                let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                return match self.asker.ask("DELETE", &path, &options).await {
                    Err((404 | 409, _)) => Ok(()),
                    done => done.map(drop),
                };
            }
            Stage::Starting if self.unlucky(20) => json!({"phase": "Failed", "reason": "Unlucky", "conditions": conditions(false)}),
            Stage::Starting | Stage::Unready => {
                let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_else(|| self.ip());
                json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": rfc3339(Timestamp::now()), "conditions": conditions(true)})
            }
            Stage::Ready if is_of_job(pod) => json!({"phase": "Succeeded", "conditions": conditions(false)}),
            Stage::Ready if self.unlucky(4) => json!({"conditions": conditions(false)}),
            Stage::Ready | Stage::Over => return Ok(()),
        };
        let ends = status["phase"] == "Failed" || status["phase"] == "Succeeded";
        let became_unready = stage == Stage::Ready;
        match self.asker.ask("PATCH", &format!("{path}/status"), &json!({"metadata": {"uid": uid}, "status": status})).await {
            Err((404 | 409, _)) => return Ok(()),
            done => done?,
        };
        if (ends || became_unready)
            && let Some(life) = uid.and_then(|uid| self.lives.get_mut(&uid))
        {
            life.stage = if ends { Stage::Over } else { Stage::Unready };
        }
        Ok(())
    }

    fn after(&mut self, uid: &str, before: Stage, done: bool) {
        let due = if done { self.soon(1000, 20_000) } else { Instant::now() + AGAIN };
        let Some(life) = self.lives.get_mut(uid) else { return };
        life.due = due;
        if done && life.stage == before {
            life.stage = match before {
                Stage::Starting | Stage::Unready => Stage::Ready,
                same => same,
            };
        }
    }

    fn unlucky(&mut self, of: u32) -> bool {
        self.random.random_ratio(1, of) && self.luck.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn soon(&mut self, from: u64, to: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.random.random_range(from..to))
    }

    fn ip(&mut self) -> String {
        self.next_ip += 1;
        format!("10.{}.{}.{}", 100 + self.number, self.next_ip / 250, 1 + self.next_ip % 250)
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded"))
}

fn is_of_job(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Job")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn status() -> Value {
    let (cpu, pods) = (format!("{CPU_MILLIS}m"), PODS_MAX.to_string());
    let room = json!({"cpu": cpu, "memory": "16Gi", "pods": pods});
    json!({"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]})
}

fn conditions(ready: bool) -> Value {
    let (ready, now) = (if ready { "True" } else { "False" }, rfc3339(Timestamp::now()));
    let of = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
    json!([of("Ready", ready), of("ContainersReady", ready), of("Initialized", "True"), of("PodScheduled", "True")])
}
