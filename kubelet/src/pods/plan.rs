//! A pod, what the runtime has of it and our `PodState` -> the calls that sync it. Pure.
//!
//! Upstream: `computePodActions` and `SyncPod` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go`.

pub mod backoff;
pub mod init;
pub mod outcome;
pub mod pod_state;
pub mod restart;

use api::{
    k8s::api::core::v1::{Container, Pod, PodSpec},
    time::Timestamp,
};

use self::pod_state::{Health, PodState, Waiting};
use crate::{
    meta,
    pods::runtime_state::pod::{self as runtime, RuntimePod, Sandbox, State},
};

/// All that a plan reads.
#[derive(Clone, Copy)]
pub struct PlanInput<'a> {
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub runtime: &'a RuntimePod,
    pub pod_state: &'a PodState,
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
pub fn plan(input: PlanInput<'_>) -> Plan {
    if let Some(stop) = &input.pod_state.stop {
        return ending(input, stop.grace_seconds, stop.removes());
    }
    if let Some(until) = input.pod_state.hold_until.filter(|until| *until > input.now) {
        return Plan { wake: Some(until), ..Plan::default() };
    }
    match usable_sandbox(input) {
        Some(_) => containers(input),
        None => sandbox(input),
    }
}

fn ending(input: PlanInput<'_>, grace_seconds: u32, removes: bool) -> Plan {
    let mut calls = Vec::new();
    if !input.runtime.is_stopped() {
        calls.push(Call::StopPod { grace_seconds });
    }
    // One that is being started this moment is not removed, and nothing is taken from under it.
    let created = input.runtime.containers.iter().filter(|c| c.state == State::Created);
    calls.extend(created.map(|c| Call::RemoveContainer { id: c.id.clone() }));
    if !input.pod_state.cleaned {
        calls.push(Call::CleanUp);
    }
    if removes && !input.pod_state.removed {
        calls.push(Call::RemovePod);
    }
    Plan { calls, ..Plan::default() }
}

/// The sandbox that the pod's containers run in, if it is as the pod wants it. Source: `PodSandboxChanged`.
pub fn usable_sandbox(input: PlanInput<'_>) -> Option<&Sandbox> {
    let ready = input.runtime.sandboxes.iter().filter(|s| s.ready).count();
    let sandbox = input.runtime.ready_sandbox().filter(|_| ready == 1)?;
    let host_network = input.spec.host_network.unwrap_or(false);
    let fits = sandbox.host_network == host_network && (host_network || !sandbox.ips.is_empty());
    fits.then_some(sandbox)
}

fn sandbox(input: PlanInput<'_>) -> Plan {
    let mut calls = Vec::new();
    if !input.runtime.is_stopped() {
        calls.push(Call::StopPod { grace_seconds: grace_seconds(input.pod) });
    }
    if needs_sandbox(input) {
        let attempt = input.runtime.sandboxes.first().map_or(0, |s| s.attempt.saturating_add(1));
        calls.push(Call::CreateSandbox { attempt });
    }
    Plan { calls, ..Plan::default() }
}

/// Not where all that is left to do is to show how it ended.
fn needs_sandbox(input: PlanInput<'_>) -> bool {
    let was_started = !input.runtime.sandboxes.is_empty() && !input.runtime.containers.is_empty();
    if !was_started {
        return true;
    }
    if init::failed_for_good(input) {
        return false;
    }
    // What still runs is about to be stopped with its sandbox, which counts as a failure.
    input.spec.containers.iter().any(|c| match input.runtime.container(&c.name).map(|c| &c.state) {
        Some(State::Running { .. }) => restart::after_exit(input.spec, c, 137),
        Some(State::Exited(exit)) => restart::after_exit(input.spec, c, exit.code),
        Some(State::Created) => true,
        _ => input.spec.restart_policy.as_deref() != Some("Never"),
    })
}

fn containers(input: PlanInput<'_>) -> Plan {
    let mut plan = Plan::default();
    if !init::plan(input, &mut plan) {
        return plan;
    }
    let (mut starts, mut alive) = (Vec::new(), plan.has_starts());
    for container in &input.spec.containers {
        alive |= one(input, container, &mut plan, &mut starts);
    }
    if !starts.is_empty() {
        plan.calls.push(Call::Start(starts));
    }
    if !alive && !input.runtime.is_stopped() {
        plan.calls = vec![Call::StopPod { grace_seconds: grace_seconds(input.pod) }];
    }
    plan
}

/// One container's part. False where it has ended for good.
fn one(input: PlanInput<'_>, container: &Container, plan: &mut Plan, starts: &mut Vec<Start>) -> bool {
    let latest = input.runtime.container(&container.name);
    match latest.map(|c| (c, &c.state)) {
        Some((running, State::Running { .. })) => stop_if_unfit(input, container, running, plan, starts),
        Some((broken, State::Created | State::Unknown)) => {
            plan.calls.push(Call::RemoveContainer { id: broken.id.clone() });
            start(input, container, broken.restart_count, plan, starts);
            true
        }
        Some((ended, State::Exited(exit))) => {
            if !restart::after_exit(input.spec, container, exit.code) {
                return false;
            }
            match input.pod_state.crash_until(&container.name, exit, input.now) {
                Some(until) => back_off(input, container, until, plan),
                None => start(input, container, ended.restart_count.saturating_add(1), plan, starts),
            }
            true
        }
        None => {
            start(input, container, restarts_before(input.pod, &container.name), plan, starts);
            true
        }
    }
}

/// Liveness or startup probes failed, or the spec changed: it is stopped, and started again if its policy says so.
fn stop_if_unfit(
    input: PlanInput<'_>,
    container: &Container,
    running: &runtime::Container,
    plan: &mut Plan,
    starts: &mut Vec<Start>,
) -> bool {
    let health = input.pod_state.health(&running.id);
    let own_grace = |probe: &Option<api::k8s::api::core::v1::Probe>| probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
    let (cause, probe_grace, restarts) = if running.hash != hash(container) {
        ("definition changed", None, true)
    } else if health.liveness == Some(Health::Bad) {
        ("failed liveness probe", own_grace(&container.liveness_probe), restart::after_exit(input.spec, container, 137))
    } else if health.startup == Some(Health::Bad) {
        ("failed startup probe", own_grace(&container.startup_probe), restart::after_exit(input.spec, container, 137))
    } else {
        return true;
    };
    let grace = probe_grace.and_then(|s| u32::try_from(s).ok()).unwrap_or_else(|| grace_seconds(input.pod));
    let mut message = format!("Container {} {cause}", container.name);
    if restarts {
        message += ", will be restarted";
        // Where any exit restarts it, the next plan does, after its back-off. Elsewhere the exit must not decide.
        if !restart::after_exit(input.spec, container, 0) {
            starts.push(Start { container: container.name.clone(), restart_count: running.restart_count.saturating_add(1) });
        }
    }
    plan.calls.push(Call::StopContainer { id: running.id.clone(), name: container.name.clone(), message, grace_seconds: grace });
    restarts
}

/// Starts it, unless its image may not be pulled yet or its last start failed a moment ago.
fn start(input: PlanInput<'_>, container: &Container, restart_count: u32, plan: &mut Plan, starts: &mut Vec<Start>) {
    let image = container.image.as_deref().unwrap_or_default();
    if let Some(until) = input.pod_state.pull_until(image, input.now) {
        return pull_back_off(input, container, until, plan);
    }
    let held = input.pod_state.waiting.get(&container.name).and_then(|w| w.retry_at).filter(|at| *at > input.now);
    match held {
        Some(until) => plan.wake_at(until),
        None => starts.push(Start { container: container.name.clone(), restart_count }),
    }
}

fn pull_back_off(input: PlanInput<'_>, container: &Container, until: Timestamp, plan: &mut Plan) {
    /// The first reason is shown for a moment, so that a user who looks learns what failed.
    const SHOWN: std::time::Duration = std::time::Duration::from_secs(5);
    let image = container.image.as_deref().unwrap_or_default();
    let Some(failure) = input.pod_state.pulls.get(image) else { return };
    let since = failure.failed_at + SHOWN;
    if input.now < since {
        return plan.wake_at(since.min(until));
    }
    let message = format!("Back-off pulling image \"{image}\": {}", failure.text);
    plan.waiting.push((container.name.clone(), Waiting { reason: "ImagePullBackOff".into(), message, retry_at: None }));
    plan.wake_at(until);
}

fn back_off(input: PlanInput<'_>, container: &Container, until: Timestamp, plan: &mut Plan) {
    let delay = input.pod_state.crashes.get(&container.name).map(backoff::Backoff::text).unwrap_or_default();
    let message = format!("back-off {delay} restarting failed container={} pod={}", container.name, meta::format(input.pod));
    plan.waiting.push((container.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message, retry_at: None }));
    plan.wake_at(until);
}

impl Plan {
    pub fn wake_at(&mut self, at: Timestamp) {
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
    own.map_or(30, |seconds| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX))
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
    api::hex(&hasher.finalize()[..4])
}

/// Restarts that the status counts where the runtime has forgotten the container.
fn restarts_before(pod: &Pod, container: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == container);
    let ran = found.filter(|s| s.container_id.is_some());
    ran.and_then(|s| u32::try_from(s.restart_count).ok()).map_or(0, |count| count.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::{
        plan::pod_state::{ProbeResults, Stop, StopCause},
        runtime_state::pod::Exit,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn sandbox() -> Sandbox {
        Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.1".into()], ..Sandbox::default() }
    }

    fn record(pod: &Pod, name: &str, state: State) -> runtime::Container {
        let spec = meta::containers(pod).find(|c| c.name == name).unwrap();
        runtime::Container { state, hash: hash(spec), sandbox_id: "s".into(), ..runtime::Container::named(name, name) }
    }

    fn running() -> State {
        State::Running { started_at: at(1) }
    }

    fn exited(code: i32) -> State {
        State::Exited(Exit { code, finished_at: at(100), ..Exit::default() })
    }

    fn calls(pod: &Pod, containers: Vec<runtime::Container>, pod_state: &PodState, now: i64) -> Plan {
        let runtime = RuntimePod { sandboxes: vec![sandbox()], containers };
        plan(PlanInput { pod, spec: pod.spec.as_ref().unwrap(), runtime: &runtime, pod_state, now: at(now) })
    }

    fn starts(names: &[(&str, u32)]) -> Vec<Call> {
        vec![Call::Start(names.iter().map(|(name, count)| Start { container: (*name).into(), restart_count: *count }).collect())]
    }

    #[test]
    fn a_new_pod_gets_its_sandbox_then_all_its_containers() {
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let input =
            |runtime| plan(PlanInput { pod: &pod, spec: pod.spec.as_ref().unwrap(), runtime, pod_state: &PodState::default(), now: at(0) });
        assert_eq!(input(&RuntimePod::default()).calls, [Call::CreateSandbox { attempt: 0 }]);
        assert_eq!(calls(&pod, vec![], &PodState::default(), 0).calls, starts(&[("a", 0), ("b", 0)]));
        let all = vec![record(&pod, "a", running()), record(&pod, "b", running())];
        assert_eq!(calls(&pod, all, &PodState::default(), 0), Plan::default());
    }

    #[test]
    fn a_dead_sandbox_is_replaced_unless_nothing_is_to_run_again() {
        for (policy, creates) in [("Always", true), ("Never", false)] {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let runtime =
                RuntimePod { sandboxes: vec![Sandbox { ready: false, ..sandbox() }], containers: vec![record(&pod, "a", exited(1))] };
            let input =
                PlanInput { pod: &pod, spec: pod.spec.as_ref().unwrap(), runtime: &runtime, pod_state: &PodState::default(), now: at(200) };
            assert_eq!(plan(input).calls.contains(&Call::CreateSandbox { attempt: 1 }), creates, "{policy}");
        }
    }

    #[test]
    fn what_was_never_started_needs_no_stop() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        let remove = Call::RemoveContainer { id: "a".into() };
        let created = vec![record(&pod, "a", State::Created)];
        let mut runtime = RuntimePod { sandboxes: vec![Sandbox { ready: false, ..sandbox() }], containers: created };
        let deleted = PodState { stop: Some(Stop { cause: StopCause::Deleted, grace_seconds: 7 }), ..PodState::default() };
        let kept = PodState::default();
        let calls = |runtime: &RuntimePod, pod_state: &PodState| {
            plan(PlanInput { pod: &pod, spec: pod.spec.as_ref().unwrap(), runtime, pod_state, now: at(0) }).calls
        };
        assert_eq!(calls(&runtime, &deleted), [remove.clone(), Call::CleanUp, Call::RemovePod]);
        assert_eq!(calls(&runtime, &kept), [Call::CreateSandbox { attempt: 1 }]);
        runtime.sandboxes[0].ready = true;
        assert_eq!(calls(&runtime, &deleted)[0], Call::StopPod { grace_seconds: 7 });
        assert_eq!(calls(&runtime, &kept)[0], remove);
    }

    #[test]
    fn init_containers_run_one_after_the_other_and_sidecars_only_have_to_start() {
        let inits = json!([{"name": "i"}, {"name": "side", "restartPolicy": "Always"}, {"name": "j"}]);
        let pod = pod(json!({"initContainers": inits, "containers": [{"name": "a"}]}));
        let pod_state = PodState::default();
        let mut have = Vec::new();
        for (next, then) in [("i", exited(0)), ("side", running()), ("j", exited(0)), ("a", running())] {
            assert_eq!(calls(&pod, have.clone(), &pod_state, 0).calls, starts(&[(next, 0)]), "{next}");
            have.push(record(&pod, next, then));
        }
        assert_eq!(calls(&pod, have, &pod_state, 0).calls, []);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let plan = calls(&pod, vec![record(&pod, "i", exited(1))], &PodState::default(), 200);
        assert_eq!(plan.calls, [Call::StopPod { grace_seconds: 30 }]);
    }

    #[test]
    fn crashes_back_off() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let dead = || vec![record(&pod, "a", exited(1))];
        let mut pod_state = PodState::default();
        assert_eq!(calls(&pod, dead(), &pod_state, 100).calls, starts(&[("a", 1)]), "the first restart is immediate");
        pod_state.restarted("a", &Exit { finished_at: at(100), ..Exit::default() }, at(100));
        let waits = calls(&pod, dead(), &pod_state, 105);
        assert_eq!((waits.calls, waits.wake), (vec![], Some(at(110))));
        assert_eq!(waits.waiting[0].1.reason, "CrashLoopBackOff");
        assert_eq!(waits.waiting[0].1.message, "back-off 10s restarting failed container=a pod=p_n(u)");
        assert_eq!(calls(&pod, dead(), &pod_state, 110).calls, starts(&[("a", 1)]));
    }

    #[test]
    fn failed_pulls_back_off_and_say_so_after_a_moment() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "x"}]}));
        let mut pod_state = PodState::default();
        pod_state.pull_failed("x", "ErrImagePull: no".into(), at(0));
        assert_eq!(calls(&pod, vec![], &pod_state, 1), Plan { wake: Some(at(5)), ..Plan::default() });
        let waits = calls(&pod, vec![], &pod_state, 5);
        assert_eq!(waits.waiting[0].1.message, "Back-off pulling image \"x\": ErrImagePull: no");
        assert_eq!(calls(&pod, vec![], &pod_state, 10).calls, starts(&[("a", 0)]));
    }

    #[test]
    fn a_container_that_fails_its_liveness_probe_is_stopped() {
        let probe = json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 3});
        let pod = pod(json!({"containers": [{"name": "a", "livenessProbe": probe}]}));
        let mut pod_state = PodState::default();
        pod_state.probes.insert("a".into(), ProbeResults { liveness: Some(Health::Bad), ..ProbeResults::default() });
        let message = "Container a failed liveness probe, will be restarted".to_owned();
        let stop = Call::StopContainer { id: "a".into(), name: "a".into(), message, grace_seconds: 3 };
        assert_eq!(calls(&pod, vec![record(&pod, "a", running())], &pod_state, 0).calls, [stop]);
    }

    #[test]
    fn when_the_main_containers_are_done_so_are_the_sidecars() {
        let inits = json!([{"name": "side", "restartPolicy": "Always"}]);
        let pod = pod(json!({"restartPolicy": "OnFailure", "initContainers": inits, "containers": [{"name": "a"}]}));
        let have = vec![record(&pod, "a", exited(0)), record(&pod, "side", running())];
        assert_eq!(calls(&pod, have, &PodState::default(), 200).calls, [Call::StopPod { grace_seconds: 30 }]);
    }

    #[test]
    fn a_deleted_pod_is_stopped_cleaned_and_removed() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let stop = Some(Stop { cause: StopCause::Deleted, grace_seconds: 7 });
        let pod_state = PodState { stop, ..PodState::default() };
        let all = [Call::StopPod { grace_seconds: 7 }, Call::CleanUp, Call::RemovePod];
        assert_eq!(calls(&pod, vec![record(&pod, "a", running())], &pod_state, 0).calls, all);
        let pod_state = PodState { cleaned: true, removed: true, ..pod_state };
        let runtime = RuntimePod::default();
        let input = PlanInput { pod: &pod, spec: pod.spec.as_ref().unwrap(), runtime: &runtime, pod_state: &pod_state, now: at(0) };
        assert_eq!(plan(input), Plan::default());
    }
}
