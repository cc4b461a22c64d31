//! A container's records in the runtime -> its `containerStatuses` entry. Pure.
//!
//! Upstream: `convertToAPIContainerStatuses` in `pkg/kubelet/kubelet_pods.go`.

use api::k8s::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
        LinuxContainerUser, PodStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    meta,
    pods::{
        plan::{PlanInput, init, pod_state::Health, restart},
        runtime_state::pod::{self as runtime, State},
    },
};

/// Upstream's `ContainerReasonStatusUnknown`.
const UNKNOWN: &str = "ContainerStatusUnknown";
const EXIT_CODE_UNKNOWN: i32 = 137;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    Main,
}

/// In the spec's order.
pub fn of_inits(input: PlanInput<'_>, old: &PodStatus) -> Vec<ContainerStatus> {
    let old = old.init_container_statuses.as_deref().unwrap_or_default();
    input.spec.init_containers.iter().flatten().map(|c| one(input, c, Role::Init, old)).collect()
}

/// In name order, as upstream sorts them.
pub fn of_mains(input: PlanInput<'_>, old: &PodStatus) -> Vec<ContainerStatus> {
    let old = old.container_statuses.as_deref().unwrap_or_default();
    let mut all: Vec<_> = input.spec.containers.iter().map(|c| one(input, c, Role::Main, old)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn one(input: PlanInput<'_>, container: &Container, role: Role, old: &[ContainerStatus]) -> ContainerStatus {
    let old = old.iter().find(|s| s.name == container.name);
    let mut records = input.runtime.containers.iter().filter(|c| c.name == container.name);
    let mut status = match records.next() {
        Some(latest) => from_record(input, container, role, latest, old),
        None => without_record(input, container, role, old),
    };
    if let Some(previous) = records.next() {
        status.last_state = Some(state(previous));
    } else if status.last_state.is_none() {
        status.last_state = old.and_then(|o| o.last_state.clone());
    }
    explain(input, container, role, &mut status);
    status.last_state = status.last_state.filter(|s| *s != ContainerState::default());
    status
}

fn from_record(
    input: PlanInput<'_>,
    container: &Container,
    role: Role,
    latest: &runtime::Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let (started, ready) = health(input, container, role, latest);
    let was_running = old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some());
    let lost = latest.state == State::Unknown && was_running;
    ContainerStatus {
        name: container.name.clone(),
        restart_count: i32::try_from(latest.restart_count).unwrap_or(i32::MAX),
        image: latest.image.clone(),
        image_id: latest.image_ref.clone(),
        container_id: Some(format!("containerd://{}", latest.id)),
        state: Some(if lost { unknown("The container could not be located when the pod was terminated") } else { state(latest) }),
        ready,
        started: Some(started),
        volume_mounts: mounts(container),
        resources: Some(container.resources.clone().unwrap_or_default()),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: latest.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: Some(groups.clone()) }),
        }),
        ..ContainerStatus::default()
    }
}

fn without_record(input: PlanInput<'_>, container: &Container, role: Role, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|o| o.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return ContainerStatus { ready: role == Role::Init && old.ready, ..old.clone() };
    }
    if role == Role::Init && !meta::is_sidecar(container) && init::is_initialized(input) {
        return succeeded_long_ago(container, old);
    }
    let has_inits = input.spec.init_containers.as_ref().is_some_and(|i| !i.is_empty());
    let reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
    let ran = old.is_some_and(|o| o.state.as_ref().is_some_and(|s| s.running.is_some()));
    let count = old.map_or(0, |o| o.restart_count) + i32::from(ran && input.pod.metadata.deletion_timestamp.is_none());
    let last = old.and_then(|o| o.last_state.clone()).filter(|s| s.terminated.is_some());
    let lost = "The container could not be located when the pod was deleted.  The container used to be Running";
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(Some(reason.into()), None)),
        last_state: last.or_else(|| ran.then(|| unknown(lost))),
        restart_count: count,
        started: Some(false),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    }
}

/// Its record is gone, but main containers were made after it.
fn succeeded_long_ago(container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
    let ended = ContainerStateTerminated { reason: Some("Completed".into()), message: Some(message.into()), ..Default::default() };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |o| o.restart_count),
        state: Some(ContainerState { terminated: Some(ended), ..ContainerState::default() }),
        ready: true,
        started: Some(false),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    }
}

/// A container that is to be started (again) and cannot be yet shows why.
fn explain(input: PlanInput<'_>, container: &Container, role: Role, status: &mut ContainerStatus) {
    let latest = input.runtime.container(&container.name);
    let done = role == Role::Init && latest.and_then(runtime::Container::exit).is_some_and(|exit| exit.code == 0);
    if done || input.pod_state.stop.is_some() || !restart::should_start(input.spec, container, latest) {
        return;
    }
    let Some(reason) = input.pod_state.waiting.get(&container.name) else { return };
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(Some(reason.reason.clone()), Some(reason.message.clone()).filter(|m| !m.is_empty())));
}

/// (started, ready). Source: `UpdatePodStatus` in `pkg/kubelet/prober/prober_manager.go`.
fn health(input: PlanInput<'_>, container: &Container, role: Role, latest: &runtime::Container) -> (bool, bool) {
    if role == Role::Init && !meta::is_sidecar(container) {
        return (latest.is_running(), latest.exit().is_some_and(|exit| exit.code == 0));
    }
    let probes = input.pod_state.health(&latest.id);
    let good = |probed: bool, result: Option<Health>| if probed { result == Some(Health::Good) } else { true };
    let started = latest.is_running() && good(container.startup_probe.is_some(), probes.startup);
    (started, started && good(container.readiness_probe.is_some(), probes.readiness))
}

fn state(record: &runtime::Container) -> ContainerState {
    match &record.state {
        State::Created | State::Unknown => waiting(None, None),
        State::Running { started_at } => {
            let running = ContainerStateRunning { started_at: Some(Time(api::time::whole_seconds(*started_at))) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        State::Exited(exit) => {
            let text = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
            let ended = ContainerStateTerminated {
                exit_code: exit.code,
                reason: text(&exit.reason),
                message: text(&exit.message),
                // A container that never started has the epoch here, as upstream's has.
                started_at: Some(Time(api::time::whole_seconds(exit.started_at.unwrap_or_default()))),
                finished_at: Some(Time(api::time::whole_seconds(exit.finished_at))),
                container_id: Some(format!("containerd://{}", record.id)),
                signal: None,
            };
            ContainerState { terminated: Some(ended), ..ContainerState::default() }
        }
    }
}

fn waiting(reason: Option<String>, message: Option<String>) -> ContainerState {
    ContainerState { waiting: Some(ContainerStateWaiting { reason, message }), ..ContainerState::default() }
}

fn unknown(message: &str) -> ContainerState {
    let ended = ContainerStateTerminated {
        exit_code: EXIT_CODE_UNKNOWN,
        reason: Some(UNKNOWN.into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(ended), ..ContainerState::default() }
}

/// KEP-3857. Recursive read-only mounts are refused elsewhere, so that none is enabled.
fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let one = |m: &api::k8s::api::core::v1::VolumeMount| {
        let read_only = m.read_only.filter(|ro| *ro);
        VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| "Disabled".into()),
            ..VolumeMountStatus::default()
        }
    };
    Some(mounts.iter().map(one).collect())
}
