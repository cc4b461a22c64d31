//! Init containers, in their order -> the next one to start, or that they are done. Pure.
//!
//! Upstream: `computeInitContainerActions` in `kuberuntime_container.go`; sidecars: KEP-753.

use api::k8s::api::core::v1::Container;

use super::{Call, Plan, PlanInput, Start, grace_seconds, one, pod_state::Health, restart, usable_sandbox};
use crate::{
    meta,
    pods::runtime_state::pod::{self as runtime, State},
};

/// Plans init containers. True once the main containers may start.
pub fn plan(input: PlanInput<'_>, plan: &mut Plan) -> bool {
    let initialized = is_initialized(input);
    for (index, container) in inits(input).iter().enumerate() {
        let passed = if meta::is_sidecar(container) {
            sidecar(input, container, plan)
        } else {
            initialized || passed_before(input, index) || regular(input, container, plan)
        };
        if !passed && !initialized {
            return false;
        }
    }
    true
}

/// True where an init container ended and will not be tried again: the pod has failed.
pub fn failed_for_good(input: PlanInput<'_>) -> bool {
    inits(input).iter().filter(|c| !meta::is_sidecar(c)).any(|c| {
        let exit = input.runtime.container(&c.name).and_then(runtime::Container::exit);
        exit.is_some_and(|exit| exit.code != 0 && !restart::after_exit(input.spec, c, exit.code))
    })
}

/// A main container was made in this sandbox: init containers have done their part, whatever became of their records.
pub fn is_initialized(input: PlanInput<'_>) -> bool {
    input.spec.containers.iter().any(|c| in_sandbox(input, &c.name).is_some())
}

/// A running sidecar with this name has started in the sense of its startup probe.
pub fn has_started(input: PlanInput<'_>, container: &Container, running: &runtime::Container) -> bool {
    container.startup_probe.is_none() || input.pod_state.health(&running.id).startup == Some(Health::Good)
}

/// Keeps it running. True once it has started.
fn sidecar(input: PlanInput<'_>, container: &Container, plan: &mut Plan) -> bool {
    let mut starts = Vec::new();
    one(input, container, plan, &mut starts);
    let unplanned = starts.is_empty();
    push(plan, starts);
    let running = input.runtime.container(&container.name).filter(|c| c.is_running());
    unplanned && running.is_some_and(|running| has_started(input, container, running))
}

/// Runs it to its end. True once it has succeeded in this sandbox.
fn regular(input: PlanInput<'_>, container: &Container, plan: &mut Plan) -> bool {
    let mut starts = Vec::new();
    match in_sandbox(input, &container.name).map(|c| &c.state) {
        Some(State::Exited(exit)) if exit.code == 0 => return true,
        Some(State::Exited(exit)) if !restart::after_exit(input.spec, container, exit.code) => {
            plan.calls = vec![Call::StopPod { grace_seconds: grace_seconds(input.pod) }];
            return false;
        }
        Some(_) => {
            one(input, container, plan, &mut starts);
        }
        // It ran in an earlier sandbox at most: once more, whatever its policy says.
        None => first(input, container, plan, &mut starts),
    }
    push(plan, starts);
    false
}

fn first(input: PlanInput<'_>, container: &Container, plan: &mut Plan, starts: &mut Vec<Start>) {
    let before = input.runtime.container(&container.name).map(|c| c.restart_count + 1);
    let image = container.image.as_deref().unwrap_or_default();
    let held = input.pod_state.waiting.get(&container.name).and_then(|w| w.retry_at).filter(|at| *at > input.now);
    if before.is_none() || held.is_some() || input.pod_state.pull_until(image, input.now).is_some() {
        let forgetful = runtime::RuntimePod { sandboxes: input.runtime.sandboxes.clone(), containers: Vec::new() };
        one(PlanInput { runtime: &forgetful, ..input }, container, plan, starts);
        return;
    }
    starts.push(Start { container: container.name.clone(), restart_count: before.unwrap_or(0) });
}

/// A later init container was made in this sandbox, so this one had succeeded, though its record may be gone.
fn passed_before(input: PlanInput<'_>, index: usize) -> bool {
    inits(input).iter().skip(index + 1).any(|later| in_sandbox(input, &later.name).is_some())
}

fn in_sandbox<'a>(input: PlanInput<'a>, name: &str) -> Option<&'a runtime::Container> {
    let sandbox = usable_sandbox(input)?;
    input.runtime.container(name).filter(|c| c.sandbox_id == sandbox.id)
}

fn inits(input: PlanInput<'_>) -> &[Container] {
    input.spec.init_containers.as_deref().unwrap_or_default()
}

fn push(plan: &mut Plan, starts: Vec<Start>) {
    if !starts.is_empty() {
        plan.calls.push(Call::Start(starts));
    }
}
