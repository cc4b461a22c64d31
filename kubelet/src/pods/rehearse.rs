//! A pod -> synced against a runtime that does what it is called for: for the fuzz targets.

use std::sync::Arc;

use api::{k8s::api::core::v1::Pod, time::Timestamp};

use super::{
    desired::admit::{self, NodeCapacity},
    plan::{Call, grace_seconds, hash, outcome::Outcome, pod_state::StopCause},
    runtime_state::pod::{Container, Exit, RuntimePod, Sandbox, State},
    sync_loop::entry::{Entry, Origin},
    workers,
};
use crate::{container_config::qos, meta};

/// Plans that one pod needs at most, until it rests.
const STEPS_MAX: u32 = 24;

/// From nothing to running, through an end of all its containers, to its own end; how many calls that took.
pub fn rehearse(pod: &Arc<Pod>, now: Timestamp) -> usize {
    let _ = (admit::refusal(pod, &[pod], NodeCapacity::default(), None), qos::class(pod));
    for container in meta::containers(pod) {
        let image = container.image.as_deref().unwrap_or_default();
        let _ = (workers::with_default_tag(image).is_ok(), workers::registry(image));
    }
    let mut entry = Entry::new(Origin::Api, pod.clone());
    entry.inspected(RuntimePod::default());
    let mut calls = bring(&mut entry, now);
    let mut after = entry.runtime.as_deref().cloned().unwrap_or_default();
    for container in &mut after.containers {
        let exit = Exit { code: 1, finished_at: now, started_at: Some(now), ..Exit::default() };
        container.state = State::Exited(exit);
    }
    entry.inspected(after);
    calls += bring(&mut entry, now);
    entry.stop(StopCause::Deleted, grace_seconds(pod));
    calls + bring(&mut entry, now)
}

/// Plans, and does what was planned, until there is nothing more to do.
fn bring(entry: &mut Entry, now: Timestamp) -> usize {
    let mut made = 0;
    for _ in 0..STEPS_MAX {
        let Some((plan, _)) = entry.advance(&["192.0.2.1".to_owned()], now) else { break };
        if plan.calls.is_empty() {
            break;
        }
        made += plan.calls.len();
        let mut runtime = entry.runtime.as_deref().cloned().unwrap_or_default();
        let outcomes = plan.calls.iter().map(|call| carry_out(call, &entry.pod, &mut runtime, now)).collect();
        entry.worker_done(outcomes, now);
        entry.inspected(runtime);
    }
    made
}

fn carry_out(call: &Call, pod: &Pod, runtime: &mut RuntimePod, now: Timestamp) -> Outcome {
    match call {
        Call::StopPod { .. } => {
            runtime.sandboxes.iter_mut().for_each(|s| s.ready = false);
            runtime.containers.iter_mut().for_each(|c| end(c, now));
        }
        Call::CreateSandbox { attempt } => {
            let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
            let ips = vec!["10.244.0.2".to_owned()];
            let id = format!("s{attempt}");
            runtime.sandboxes.insert(0, Sandbox { id, attempt: *attempt, ready: true, created_at: now, ips, host_network });
        }
        Call::StopContainer { id, .. } => runtime.containers.iter_mut().filter(|c| c.id == *id).for_each(|c| end(c, now)),
        Call::RemoveContainer { id } => runtime.containers.retain(|c| c.id != *id),
        Call::Start(starts) => {
            for start in starts {
                let spec = meta::containers(pod).find(|c| c.name == start.container);
                let id = format!("{}-{}", start.container, start.restart_count);
                let mut container = Container::named(&id, &start.container);
                container.restart_count = start.restart_count;
                container.state = State::Running { started_at: now };
                container.hash = spec.map(hash).unwrap_or_default();
                runtime.containers.insert(0, container);
            }
        }
        Call::CleanUp => return Outcome::Cleaned,
        Call::RemovePod => {
            *runtime = RuntimePod::default();
            return Outcome::Removed;
        }
    }
    Outcome::Done
}

fn end(container: &mut Container, now: Timestamp) {
    if container.may_run() {
        container.state = State::Exited(Exit { code: 137, finished_at: now, ..Exit::default() });
    }
}
