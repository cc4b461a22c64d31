//! Container statuses and a phase -> the pod's conditions. Pure.
//!
//! Upstream: `pkg/kubelet/status/generate.go`; transition times: `updateLastTransitionTime` in `status_manager.go`.

use api::k8s::{
    api::core::v1::{Container, ContainerStatus, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    meta,
    pods::plan::{PlanInput, usable_sandbox},
};

/// Those the kubelet answers for. Source: `pkg/kubelet/types/pod_status.go`.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// A condition's value before its times are known.
#[derive(Default)]
struct Value {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Others' conditions as the API has them, then the kubelet's own.
pub fn all(input: PlanInput<'_>, old: &PodStatus, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Vec<PodCondition> {
    let api = input.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut conditions: Vec<PodCondition> = api.iter().filter(|c| !OWN.contains(&c.type_.as_str())).cloned().collect();
    let containers_ready = containers_ready(input, init, main, phase);
    let values = [
        Value { holds: usable_sandbox(input).is_some(), ..Value::default() },
        initialized(input, init, main, phase),
        ready(input, &conditions, &containers_ready),
        containers_ready,
        Value { holds: true, ..Value::default() },
    ];
    for (kind, value) in OWN.into_iter().zip(values) {
        conditions.push(with_times(input, old, kind, value));
    }
    conditions
}

fn with_times(input: PlanInput<'_>, old: &PodStatus, kind: &str, value: Value) -> PodCondition {
    let status = if value.holds { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: value.reason.map(Into::into),
        message: value.message,
        last_transition_time: since.or_else(|| Some(Time(api::time::whole_seconds(input.now)))),
        last_probe_time: None,
        observed_generation: input.pod.metadata.generation,
    }
}

fn containers_ready(input: PlanInput<'_>, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Value {
    let sidecars = input.spec.init_containers.iter().flatten().filter(|c| meta::is_sidecar(c)).map(|c| (c, init));
    let all = sidecars.chain(input.spec.containers.iter().map(|c| (c, main)));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (container, statuses) in all {
        match find(statuses, container) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Value { reason: Some("PodCompleted"), ..Value::default() };
    }
    if phase == "Failed" {
        return Value { reason: Some("PodFailed"), ..Value::default() };
    }
    match listed(&[("unknown", unknown), ("unready", unready)]) {
        None => Value { holds: true, ..Value::default() },
        message => Value { holds: false, reason: Some("ContainersNotReady"), message },
    }
}

fn ready(input: PlanInput<'_>, others: &[PodCondition], containers: &Value) -> Value {
    if !containers.holds {
        return Value { holds: false, reason: containers.reason, message: containers.message.clone() };
    }
    let missing = |gate: &String| match others.iter().find(|c| c.type_ == *gate) {
        None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
        Some(c) if c.status != "True" => Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", c.status)),
        Some(_) => None,
    };
    let messages: Vec<String> = input.spec.readiness_gates.iter().flatten().filter_map(|g| missing(&g.condition_type)).collect();
    match messages.is_empty() {
        true => Value { holds: true, ..Value::default() },
        false => Value { holds: false, reason: Some("ReadinessGatesNotReady"), message: Some(messages.join(", ")) },
    }
}

fn initialized(input: PlanInput<'_>, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Value {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in input.spec.init_containers.iter().flatten() {
        match find(init, container) {
            None => unknown.push(container.name.as_str()),
            Some(s) if !(if meta::is_sidecar(container) { s.started == Some(true) } else { s.ready }) => {
                incomplete.push(container.name.as_str());
            }
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Value { holds: true, reason: Some("PodCompleted"), message: None };
    }
    if main.iter().any(has_started) {
        return Value { holds: true, ..Value::default() };
    }
    match listed(&[("unknown", unknown), ("incomplete", incomplete)]) {
        None => Value { holds: true, ..Value::default() },
        message => Value { holds: false, reason: Some("ContainersNotInitialized"), message },
    }
}

/// Source: `HasAnyRegularContainerStarted`.
fn has_started(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    let ended_before = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    state.is_some_and(|s| s.running.is_some() || s.terminated.is_some()) || ended_before
}

/// `containers with unready status: [a b], ...`, as Go prints a list.
fn listed(kinds: &[(&str, Vec<&str>)]) -> Option<String> {
    let some = kinds.iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<String> = some.map(|(kind, names)| format!("containers with {kind} status: [{}]", names.join(" "))).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn find<'a>(statuses: &'a [ContainerStatus], container: &Container) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == container.name)
}
