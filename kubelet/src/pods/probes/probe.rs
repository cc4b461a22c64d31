//! A container's probes -> results, one task for each probe of each running container.
//!
//! Upstream: `pkg/kubelet/prober`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use api::{
    faults::catch_all,
    k8s::api::core::v1::{Container, Pod, Probe},
    task::Group,
    time::{Timestamp, after, span},
};
use client::Recorder;
use cri::Runtime;
use tokio::sync::mpsc;

use super::{
    grpc_health,
    http::{self, Target},
};
use crate::{
    meta,
    pods::{
        plan::pod_state::{Health, ProbeResults},
        recorder::PodRecorder,
        runtime_state::pod::{RuntimePod, State},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// A probe's result changed.
#[derive(Clone, Debug)]
pub struct Finding {
    pub uid: String,
    pub container_id: String,
    pub kind: Kind,
    pub health: Health,
}

/// One pod's probe tasks. Dropping it ends them.
#[derive(Default)]
pub struct Probes {
    running: BTreeMap<(String, Kind), Group>,
}

/// Where probes' results go, and what they are made with.
#[derive(Clone)]
pub struct Prober {
    pub runtime: Runtime,
    pub recorder: Recorder,
    /// Where pods on the host's network answer.
    pub node_ip: Option<IpAddr>,
    pub group: Group,
    pub findings: mpsc::Sender<Finding>,
}

struct Task {
    runtime: Runtime,
    tell: PodRecorder,
    findings: mpsc::Sender<Finding>,
    uid: String,
    container: Container,
    container_id: String,
    kind: Kind,
    probe: Probe,
    host: String,
    started_at: Timestamp,
    health: Option<Health>,
}

impl Probes {
    /// Begins and ends tasks so that they fit what runs. `results`: liveness and readiness begin once startup is good.
    pub fn fit(&mut self, prober: &Prober, pod: &Pod, runtime: &RuntimePod, results: &BTreeMap<String, ProbeResults>, stopping: bool) {
        let mut wanted = BTreeSet::new();
        for container in meta::containers(pod) {
            let Some(record) = runtime.container(&container.name) else { continue };
            let State::Running { started_at } = record.state else { continue };
            let known = results.get(&record.id).copied().unwrap_or_default();
            for (kind, probe) in due(container, known, stopping) {
                let key = (record.id.clone(), kind);
                if !self.running.contains_key(&key) {
                    let task = Task::new(prober, pod, container, &record.id, kind, probe, runtime, started_at, known);
                    let group = prober.group.child();
                    group.spawn(Box::pin(task.run()));
                    self.running.insert(key.clone(), group);
                }
                wanted.insert(key);
            }
        }
        self.running.retain(|key, group| {
            let keep = wanted.contains(key);
            if !keep {
                group.stop();
            }
            keep
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.running.values().for_each(Group::stop);
    }
}

/// Which probes run now. Readiness goes on while the pod stops, so that its endpoint leaves when it should.
fn due(container: &Container, known: ProbeResults, stopping: bool) -> impl Iterator<Item = (Kind, &Probe)> {
    let started = container.startup_probe.is_none() || known.startup == Some(Health::Good);
    let startup = container.startup_probe.as_ref().filter(|_| known.startup.is_none() && !stopping);
    // A container that failed is about to be stopped: nothing more to learn.
    let liveness = container.liveness_probe.as_ref().filter(|_| started && !stopping && known.liveness != Some(Health::Bad));
    let readiness = container.readiness_probe.as_ref().filter(|_| started);
    let all = [(Kind::Startup, startup), (Kind::Liveness, liveness), (Kind::Readiness, readiness)];
    all.into_iter().filter_map(|(kind, probe)| Some((kind, probe?)))
}

impl Task {
    #[allow(clippy::too_many_arguments)]
    fn new(
        prober: &Prober,
        pod: &Pod,
        container: &Container,
        id: &str,
        kind: Kind,
        probe: &Probe,
        runtime: &RuntimePod,
        started_at: Timestamp,
        known: ProbeResults,
    ) -> Self {
        let sandbox_ip = runtime.ready_sandbox().and_then(|s| s.ips.first()).cloned();
        let node_ip = prober.node_ip.as_ref().map(ToString::to_string);
        Self {
            tell: PodRecorder::about(&prober.recorder, pod).container(pod, container),
            runtime: prober.runtime.clone(),
            findings: prober.findings.clone(),
            uid: meta::uid(pod).into(),
            container: container.clone(),
            container_id: id.into(),
            kind,
            probe: probe.clone(),
            host: sandbox_ip.or(node_ip).unwrap_or_default(),
            started_at,
            // A container that was adopted keeps what was known of it.
            health: match kind {
                Kind::Startup => known.startup,
                Kind::Liveness => known.liveness,
                Kind::Readiness => known.readiness,
            },
        }
    }

    async fn run(mut self) {
        let seconds = |value: Option<i32>, default: i32| span(value.filter(|v| *v > 0).unwrap_or(default));
        let count = |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
        let period = seconds(self.probe.period_seconds, 10);
        let limit = seconds(self.probe.timeout_seconds, 1);
        let (good_min, bad_min) = (count(self.probe.success_threshold, 1), count(self.probe.failure_threshold, 3));
        self.initial_delay().await;
        let (mut last, mut in_a_row) = (None, 0_u32);
        loop {
            let Ok(health) = catch_all("probe", self.once(limit)).await else {
                // It says nothing about the container.
                tokio::time::sleep(period).await;
                continue;
            };
            in_a_row = if last == Some(health) { in_a_row.saturating_add(1) } else { 1 };
            last = Some(health);
            let needed = if health == Health::Good { good_min } else { bad_min };
            if in_a_row >= needed && self.health != Some(health) && !self.report(health).await {
                return;
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn initial_delay(&self) {
        let ready_at = after(self.started_at, span(self.probe.initial_delay_seconds.unwrap_or(0)));
        let left = ready_at.duration_since(Timestamp::now());
        if left.is_positive() {
            tokio::time::sleep(left.unsigned_abs()).await;
        }
    }

    /// False where the loop is gone.
    async fn report(&mut self, health: Health) -> bool {
        self.health = Some(health);
        let finding = Finding { uid: self.uid.clone(), container_id: self.container_id.clone(), kind: self.kind, health };
        self.findings.send(finding).await.is_ok()
    }

    async fn once(&self, limit: Duration) -> Health {
        let name = match self.kind {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        };
        match self.ask(limit).await {
            Ok(()) => Health::Good,
            Err(output) => {
                self.tell.warning("Unhealthy", format!("{name} probe failed: {output}"));
                Health::Bad
            }
        }
    }

    async fn ask(&self, limit: Duration) -> Result<(), String> {
        if let Some(exec) = &self.probe.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(get) = &self.probe.http_get {
            let (status, body) = http::get(&Target::of(get, &self.container, &self.host)?, limit).await?;
            return match status.as_u16() {
                200..400 => Ok(()),
                _ if body.is_empty() => Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
                _ => Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
            };
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| self.host.clone());
            let port = http::port(&tcp.port, &self.container)?;
            let connected = tokio::time::timeout(limit, http::connect(&host, port)).await;
            return connected.unwrap_or_else(|_| Err(format!("dial tcp {host}:{port}: i/o timeout"))).map(drop);
        }
        if let Some(grpc) = &self.probe.grpc {
            return grpc_health::check(&self.host, grpc, limit).await;
        }
        Err("missing probe handler".into())
    }

    async fn exec(&self, command: &[String], limit: Duration) -> Result<(), String> {
        let ran = tokio::time::timeout(limit, self.runtime.exec_sync(&self.container_id, command, limit)).await;
        let late = || format!("command timed out: \"{}\" timed out after {}s", command.join(" "), limit.as_secs());
        let ran = ran.map_err(|_| late())?.map_err(|e| e.to_string())?;
        match ran.exit_code {
            0 => Ok(()),
            _ => Err(String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()),
        }
    }
}
