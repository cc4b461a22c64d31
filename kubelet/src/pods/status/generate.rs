//! A pod, the runtime's view and what we remember -> the status that the API shows. Pure.
//!
//! Upstream: `generateAPIPodStatus` and `getPhase` in `pkg/kubelet/kubelet_pods.go`.

use api::k8s::{
    api::core::v1::{Container, ContainerState, ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{conditions, container_status};
use crate::{
    meta,
    pods::plan::{PlanInput, pod_state::StopCause, restart, usable_sandbox},
};

/// What a status is made from beside a plan's input.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub input: PlanInput<'a>,
    pub host_ips: &'a [String],
}

/// The whole status. Conditions that are not the kubelet's own are kept as the API has them.
pub fn generate(facts: Facts<'_>) -> PodStatus {
    let input = facts.input;
    // The last status we made, else what the API has (after a restart of ours).
    let none = PodStatus::default();
    let old = input.pod_state.status.as_deref().or(input.pod.status.as_ref()).unwrap_or(&none);
    let init = container_status::of_inits(input, old);
    let main = container_status::of_mains(input, old);
    let mut status = PodStatus { phase: Some(next_phase(input, old, &init, &main)), ..base(old, input.pod) };
    reasons(input, old, &mut status);
    status.observed_generation = input.pod.metadata.generation;
    status.qos_class = old.qos_class.clone().or_else(|| Some(crate::container_config::qos::class(input.pod).to_string()));
    status.start_time = old.start_time.clone().or_else(|| Some(Time(api::time::whole_seconds(input.now))));
    ips(facts, old, &mut status);
    status.conditions = Some(conditions::all(input, old, &init, &main, status.phase.as_deref().unwrap_or_default()));
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!main.is_empty()).then_some(main);
    status
}

/// A phase from which no pod returns.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// What others write: kept as the API has it.
fn base(old: &PodStatus, pod: &Pod) -> PodStatus {
    let api = pod.status.as_ref();
    PodStatus {
        nominated_node_name: api.and_then(|s| s.nominated_node_name.clone()),
        ephemeral_container_statuses: api.and_then(|s| s.ephemeral_container_statuses.clone()),
        resource_claim_statuses: api.and_then(|s| s.resource_claim_statuses.clone()),
        resize: old.resize.clone(),
        ..PodStatus::default()
    }
}

fn next_phase(input: PlanInput<'_>, old: &PodStatus, init: &[ContainerStatus], main: &[ContainerStatus]) -> String {
    if let Some(StopCause::Failed { .. }) = input.pod_state.stop.as_ref().map(|s| &s.cause) {
        return "Failed".into();
    }
    // A terminal phase stays, also one that skiff did not set.
    let api = input.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    for seen in [api, old.phase.as_deref()] {
        if is_terminal(seen) {
            return seen.unwrap_or_default().into();
        }
    }
    let ended = input.pod_state.stop.is_some() && input.runtime.is_stopped();
    let initialized = input.spec.containers.iter().any(|c| input.runtime.container(&c.name).is_some_and(|c| c.is_running()));
    phase(input.spec, init, main, ended && !meta::is_static(input.pod), initialized).into()
}

fn reasons(input: PlanInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    if let Some(StopCause::Failed { reason, message }) = input.pod_state.stop.as_ref().map(|s| &s.cause) {
        (status.reason, status.message) = (Some(reason.clone()), Some(message.clone()));
    } else if status.phase == old.phase {
        let api = input.pod.status.as_ref();
        status.reason = old.reason.clone().or_else(|| api.and_then(|s| s.reason.clone()));
        status.message = old.message.clone().or_else(|| api.and_then(|s| s.message.clone()));
    }
}

fn ips(facts: Facts<'_>, old: &PodStatus, status: &mut PodStatus) {
    status.host_ip = facts.host_ips.first().cloned();
    status.host_ips = (!facts.host_ips.is_empty()).then(|| facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let pod_ips: Vec<String> = match (facts.input.spec.host_network.unwrap_or(false), usable_sandbox(facts.input)) {
        (true, _) => facts.host_ips.to_vec(),
        (false, Some(sandbox)) => sandbox.ips.clone(),
        // A pod that is being restarted or has ended keeps the address it had.
        (false, None) => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    status.pod_ip = pod_ips.first().cloned();
    status.pod_ips = (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect());
}

#[derive(Default)]
struct Counts {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    final_: usize,
    succeeded: usize,
}

/// `is_terminal`: the pod is being ended and nothing of it runs. `initialized`: a main container runs.
fn phase(spec: &PodSpec, init: &[ContainerStatus], main: &[ContainerStatus], is_terminal: bool, initialized: bool) -> &'static str {
    let inits = Inits::count(spec, init);
    if inits.failed {
        return "Failed";
    }
    let mut n = Counts { running: inits.running, waiting: inits.waiting, unknown: inits.unknown, ..Counts::default() };
    for container in &spec.containers {
        n.add(spec, container, find(main, &container.name));
    }
    let init_pending = inits.pending > 0 || (inits.pending_sidecars > 0 && !initialized);
    if init_pending || n.waiting > 0 || n.unknown > 0 {
        return "Pending";
    }
    match n {
        Counts { running: 1.., .. } => "Running",
        Counts { stopped: 0, .. } => "Pending",
        _ if !is_terminal && n.stopped != n.final_ => "Running",
        _ if n.stopped == n.succeeded => "Succeeded",
        _ => "Failed",
    }
}

impl Counts {
    fn add(&mut self, spec: &PodSpec, container: &Container, status: Option<&ContainerStatus>) {
        let state = status.and_then(|s| s.state.as_ref());
        let last = status.and_then(|s| s.last_state.as_ref()).and_then(|s| s.terminated.as_ref());
        match state {
            Some(ContainerState { running: Some(_), .. }) => self.running += 1,
            Some(ContainerState { terminated: Some(ended), .. }) => {
                self.stopped += 1;
                self.final_ += usize::from(!restart::after_exit(spec, container, ended.exit_code));
                self.succeeded += usize::from(ended.exit_code == 0);
            }
            Some(ContainerState { waiting: Some(_), .. }) => match last {
                Some(ended) => {
                    self.stopped += 1;
                    self.final_ += usize::from(!restart::after_exit(spec, container, ended.exit_code));
                }
                None => self.waiting += 1,
            },
            _ => self.unknown += 1,
        }
    }
}

#[derive(Default)]
struct Inits {
    pending: usize,
    pending_sidecars: usize,
    running: usize,
    waiting: usize,
    unknown: usize,
    failed: bool,
}

impl Inits {
    fn count(spec: &PodSpec, statuses: &[ContainerStatus]) -> Self {
        let mut this = Self::default();
        for container in spec.init_containers.iter().flatten() {
            let status = find(statuses, &container.name);
            match meta::is_sidecar(container) {
                true => this.sidecar(status),
                false => this.regular(spec, container, status),
            }
        }
        this
    }

    fn regular(&mut self, spec: &PodSpec, container: &Container, status: Option<&ContainerStatus>) {
        let ended = |state: Option<&ContainerState>| state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
        let state = status.and_then(|s| s.state.as_ref());
        let last = status.and_then(|s| s.last_state.as_ref());
        let waits = state.is_some_and(|s| s.waiting.is_some());
        match ended(state).or_else(|| ended(last).filter(|_| waits)) {
            Some(0) => {}
            Some(code) => self.failed |= !restart::after_exit(spec, container, code),
            None => self.pending += 1,
        }
        // A failed one that will be tried again leaves the pod pending: the main containers wait.
    }

    fn sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(state) = status.and_then(|s| s.state.as_ref()) else {
            self.unknown += 1;
            return;
        };
        let started = status.and_then(|s| s.started) == Some(true);
        let ran = status.and_then(|s| s.last_state.as_ref()).is_some_and(|s| s.terminated.is_some());
        if state.running.is_some() {
            self.pending_sidecars += usize::from(!started);
            self.running += 1;
        } else if state.terminated.is_none() && !ran {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}
