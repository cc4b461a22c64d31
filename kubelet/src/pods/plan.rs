//! A pod, what the runtime has of it and what we remember -> the calls that bring it on. Pure.
//!
//! Upstream: `computePodActions` and `SyncPod` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go`.

use api::{
    k8s::api::core::v1::{Container, Pod, PodSpec},
    time::Timestamp,
};

use super::{
    init,
    memory::{Health, Memory, Waiting},
    restart,
    runtime::{self, RuntimePod, Sandbox, State},
};
use crate::meta;

/// All that a plan is made from.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub runtime: &'a RuntimePod,
    pub memory: &'a Memory,
    pub now: Timestamp,
}

/// What to do now, what to show for what cannot be done yet, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub calls: Vec<Call>,
    pub waiting: Vec<(String, Waiting)>,
    pub wake: Option<Timestamp>,
}

/// One thing to do for a pod. Calls of a plan are made in order; the first that fails ends the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Stop every container that runs, then every sandbox.
    StopPod { grace_seconds: u32 },
    /// Cgroup, volumes, network: what containers start in.
    CreateSandbox { attempt: u32 },
    /// Stop one container.
    StopContainer { id: String, name: String, message: String, grace_seconds: u32 },
    /// Remove a container that never ran, or whose state the runtime lost.
    RemoveContainer { id: String },
    /// Start these; independent of each other but for postStart hooks.
    Start(Vec<Start>),
    /// Take volumes and cgroup away.
    CleanUp,
    /// Remove all that is left of it in the runtime.
    RemovePod,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub container: String,
    pub restart_count: u32,
}

/// What the pod needs next.
pub fn plan(world: World<'_>) -> Plan {
    if let Some(stop) = &world.memory.stop {
        return ending(world, stop.grace_seconds, stop.removes());
    }
    if let Some(until) = world.memory.hold_until.filter(|until| *until > world.now) {
        return Plan { wake: Some(until), ..Plan::default() };
    }
    match usable_sandbox(world) {
        Some(_) => containers(world),
        None => sandbox(world),
    }
}

fn ending(world: World<'_>, grace_seconds: u32, removes: bool) -> Plan {
    let mut calls = Vec::new();
    if !world.runtime.is_stopped() {
        calls.push(Call::StopPod { grace_seconds });
    }
    if !world.memory.cleaned {
        calls.push(Call::CleanUp);
    }
    if removes && !world.memory.removed {
        calls.push(Call::RemovePod);
    }
    Plan { calls, ..Plan::default() }
}

/// The sandbox that the pod's containers run in, if it is as the pod wants it. Source: `PodSandboxChanged`.
pub fn usable_sandbox(world: World<'_>) -> Option<&Sandbox> {
    let ready = world.runtime.sandboxes.iter().filter(|s| s.ready).count();
    let sandbox = world.runtime.ready_sandbox().filter(|_| ready == 1)?;
    let host_network = world.spec.host_network.unwrap_or(false);
    let fits = sandbox.host_network == host_network && (host_network || !sandbox.ips.is_empty());
    fits.then_some(sandbox)
}

fn sandbox(world: World<'_>) -> Plan {
    let mut calls = Vec::new();
    if !world.runtime.is_stopped() {
        calls.push(Call::StopPod { grace_seconds: grace_seconds(world.pod) });
    }
    if needs_sandbox(world) {
        let attempt = world.runtime.sandboxes.first().map_or(0, |s| s.attempt + 1);
        calls.push(Call::CreateSandbox { attempt });
    }
    Plan { calls, ..Plan::default() }
}

/// Not where all that is left to do is to show how it ended.
fn needs_sandbox(world: World<'_>) -> bool {
    let was_started = !world.runtime.sandboxes.is_empty() && !world.runtime.containers.is_empty();
    if !was_started {
        return true;
    }
    if init::failed_for_good(world) {
        return false;
    }
    // What still runs is about to be stopped with its sandbox, which counts as a failure.
    world.spec.containers.iter().any(|c| match world.runtime.container(&c.name).map(|c| &c.state) {
        Some(State::Running { .. }) => restart::after_exit(world.spec, c, 137),
        Some(State::Exited(exit)) => restart::after_exit(world.spec, c, exit.code),
        _ => world.spec.restart_policy.as_deref() != Some("Never"),
    })
}

fn containers(world: World<'_>) -> Plan {
    let mut plan = Plan::default();
    if !init::plan(world, &mut plan) {
        return plan;
    }
    let (mut starts, mut alive) = (Vec::new(), plan.has_starts());
    for container in &world.spec.containers {
        alive |= one(world, container, &mut plan, &mut starts);
    }
    if !starts.is_empty() {
        plan.calls.push(Call::Start(starts));
    }
    if !alive && !world.runtime.is_stopped() {
        plan.calls = vec![Call::StopPod { grace_seconds: grace_seconds(world.pod) }];
    }
    plan
}

/// One container's part. False where it has ended for good.
pub(super) fn one(world: World<'_>, container: &Container, plan: &mut Plan, starts: &mut Vec<Start>) -> bool {
    let latest = world.runtime.container(&container.name);
    match latest.map(|c| (c, &c.state)) {
        Some((running, State::Running { .. })) => stop_if_unfit(world, container, running, plan, starts),
        Some((broken, State::Created | State::Unknown)) => {
            plan.calls.push(Call::RemoveContainer { id: broken.id.clone() });
            start(world, container, broken.restart_count, plan, starts);
            true
        }
        Some((ended, State::Exited(exit))) => {
            if !restart::after_exit(world.spec, container, exit.code) {
                return false;
            }
            match world.memory.crash_until(&container.name, exit, world.now) {
                Some(until) => back_off(world, container, until, plan),
                None => start(world, container, ended.restart_count + 1, plan, starts),
            }
            true
        }
        None => {
            start(world, container, restarts_before(world.pod, &container.name), plan, starts);
            true
        }
    }
}

/// Liveness or startup probes failed, or the spec changed: it is stopped, and started again if its policy says so.
fn stop_if_unfit(world: World<'_>, container: &Container, running: &runtime::Container, plan: &mut Plan, starts: &mut Vec<Start>) -> bool {
    let health = world.memory.health(&running.id);
    let own_grace = |probe: &Option<api::k8s::api::core::v1::Probe>| probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
    let (cause, probe_grace, restarts) = if running.hash != hash(container) {
        ("definition changed", None, true)
    } else if health.liveness == Some(Health::Bad) {
        ("failed liveness probe", own_grace(&container.liveness_probe), restart::after_exit(world.spec, container, 137))
    } else if health.startup == Some(Health::Bad) {
        ("failed startup probe", own_grace(&container.startup_probe), restart::after_exit(world.spec, container, 137))
    } else {
        return true;
    };
    let grace = probe_grace.and_then(|s| u32::try_from(s).ok()).unwrap_or_else(|| grace_seconds(world.pod));
    let mut message = format!("Container {} {cause}", container.name);
    if restarts {
        message += ", will be restarted";
        // Where any exit restarts it, the next plan does, after its back-off. Elsewhere the exit must not decide.
        if !restart::after_exit(world.spec, container, 0) {
            starts.push(Start { container: container.name.clone(), restart_count: running.restart_count + 1 });
        }
    }
    plan.calls.push(Call::StopContainer { id: running.id.clone(), name: container.name.clone(), message, grace_seconds: grace });
    restarts
}

/// Starts it, unless its image may not be pulled yet or its last start failed a moment ago.
fn start(world: World<'_>, container: &Container, restart_count: u32, plan: &mut Plan, starts: &mut Vec<Start>) {
    let image = container.image.as_deref().unwrap_or_default();
    if let Some(until) = world.memory.pull_until(image, world.now) {
        return pull_back_off(world, container, until, plan);
    }
    let held = world.memory.waiting.get(&container.name).and_then(|w| w.retry_at).filter(|at| *at > world.now);
    match held {
        Some(until) => plan.wake_at(until),
        None => starts.push(Start { container: container.name.clone(), restart_count }),
    }
}

fn pull_back_off(world: World<'_>, container: &Container, until: Timestamp, plan: &mut Plan) {
    /// The first reason is shown for a moment, so that whoever looks learns what failed.
    const SHOWN: std::time::Duration = std::time::Duration::from_secs(5);
    let image = container.image.as_deref().unwrap_or_default();
    let Some(failure) = world.memory.pulls.get(image) else { return };
    let since = failure.failed_at + SHOWN;
    if world.now < since {
        return plan.wake_at(since.min(until));
    }
    let message = format!("Back-off pulling image \"{image}\": {}", failure.text);
    plan.waiting.push((container.name.clone(), Waiting { reason: "ImagePullBackOff".into(), message, retry_at: None }));
    plan.wake_at(until);
}

fn back_off(world: World<'_>, container: &Container, until: Timestamp, plan: &mut Plan) {
    let delay = world.memory.crashes.get(&container.name).map(super::backoff::Backoff::text).unwrap_or_default();
    let message = format!("back-off {delay} restarting failed container={} pod={}", container.name, meta::format(world.pod));
    plan.waiting.push((container.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message, retry_at: None }));
    plan.wake_at(until);
}

impl Plan {
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn has_starts(&self) -> bool {
        self.calls.iter().any(|call| matches!(call, Call::Start(_)))
    }
}

/// Seconds between asking a pod's containers to end and killing them.
pub fn grace_seconds(pod: &Pod) -> u32 {
    let deletion = pod.metadata.deletion_grace_period_seconds;
    let own = deletion.or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
    own.and_then(|seconds| u32::try_from(seconds.max(0)).ok()).unwrap_or(30)
}

/// Identifies the part of a container whose change restarts it: its name and image, as upstream
/// (`HashContainer` in `pkg/kubelet/container/helpers.go`).
pub fn hash(container: &Container) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for part in [container.name.as_str(), container.image.as_deref().unwrap_or_default()] {
        hasher.update(part);
        hasher.update([0]);
    }
    hasher.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Restarts that the status tells of where the runtime has forgotten the container.
fn restarts_before(pod: &Pod, container: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == container);
    let ran = found.filter(|s| s.container_id.is_some());
    ran.and_then(|s| u32::try_from(s.restart_count).ok()).map_or(0, |count| count + 1)
}
