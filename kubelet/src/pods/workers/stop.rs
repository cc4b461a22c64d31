//! Running containers -> stopped: preStop hook, stop signal, SIGKILL when the grace is over; sidecars after those they serve.
//!
//! Upstream: `killContainer` and `terminationOrdering` in `pkg/kubelet/kuberuntime`.

use std::{collections::BTreeSet, time::Duration};

use api::k8s::api::core::v1::{Container, LifecycleHandler};
use cri::StopPodSandboxRequest;
use futures::future::{join_all, try_join_all};
use tokio::{sync::watch, time::Instant};

use super::{hooks, remove::gone, work::Work};
use crate::{meta, pods::runtime_state::pod as runtime};

/// Every container gets a moment, also where the grace is zero or used up.
const GRACE_MIN: Duration = Duration::from_secs(1);

type Ended = watch::Sender<BTreeSet<String>>;

/// Stops all containers, then the sandboxes.
pub async fn pod(work: &Work, grace_seconds: u32) -> cri::Result<()> {
    let running: Vec<&runtime::Container> = work.runtime.containers.iter().filter(|c| c.may_run()).collect();
    let names: BTreeSet<String> = running.iter().map(|c| c.name.clone()).collect();
    let ended = Ended::new(BTreeSet::new());
    let stops = running.iter().map(|container| {
        let first = before(work, &container.name, &names);
        let message = format!("Stopping container {}", container.name);
        let ended = &ended;
        Box::pin(async move {
            let stopped = one(work, container, &message, grace_seconds, Some((first, ended))).await;
            ended.send_modify(|set| {
                set.insert(container.name.clone());
            });
            stopped
        })
    });
    // All are tried, also when one fails.
    join_all(stops).await.into_iter().collect::<cri::Result<()>>()?;
    let sandboxes = work.runtime.sandboxes.iter().filter(|s| s.ready);
    let stop = |id: &str| work.deps.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() });
    try_join_all(sandboxes.map(|s| async { stop(&s.id).await.map(drop).or_else(gone) })).await.map(drop)
}

/// Stops one container.
pub async fn container(work: &Work, id: &str, name: &str, message: &str, grace_seconds: u32) -> cri::Result<()> {
    let known = work.runtime.by_id(id).cloned();
    let container = known.unwrap_or_else(|| runtime::Container::named(id, name));
    one(work, &container, message, grace_seconds, None).await
}

async fn one(
    work: &Work,
    container: &runtime::Container,
    message: &str,
    grace_seconds: u32,
    order: Option<(BTreeSet<String>, &Ended)>,
) -> cri::Result<()> {
    let spec = work.container(&container.name);
    match spec {
        Some(spec) => work.tell.container(&work.pod, spec).normal("Killing", message),
        None => work.tell.normal("Killing", message),
    }
    let deadline = Instant::now() + Duration::from_secs(u64::from(grace_seconds));
    if let Some((spec, hook)) = spec.and_then(|spec| Some((spec, pre_stop(spec)?))).filter(|_| grace_seconds > 0) {
        run_pre_stop(work, spec, &container.id, hook, deadline).await;
    }
    if let Some((first, ended)) = order {
        let turn = async { ended.subscribe().wait_for(|set| set.is_superset(&first)).await.is_ok() };
        // Past the grace period no container waits for another.
        let _ = tokio::time::timeout_at(deadline, turn).await;
    }
    let left = deadline.saturating_duration_since(Instant::now()).max(GRACE_MIN);
    let seconds = u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    work.deps.runtime.stop_container(&container.id, seconds).await.or_else(gone)
}

async fn run_pre_stop(work: &Work, spec: &Container, id: &str, hook: &LifecycleHandler, deadline: Instant) {
    let host = work.runtime.ready_sandbox().and_then(|s| s.ips.first()).cloned();
    let host = host.or_else(|| work.deps.node.node_ips.first().map(ToString::to_string));
    let ran = tokio::time::timeout_at(deadline, hooks::run(work, spec, id, hook, host.as_deref())).await;
    if matches!(ran, Ok(Err(_))) {
        work.tell.container(&work.pod, spec).warning("FailedPreStopHook", "PreStopHook failed");
    }
}

/// Which of `running` end before the container: for a sidecar the main containers and the sidecars after it.
fn before(work: &Work, name: &str, running: &BTreeSet<String>) -> BTreeSet<String> {
    let Some(spec) = &work.pod.spec else { return BTreeSet::new() };
    let sidecars: Vec<&Container> = spec.init_containers.iter().flatten().filter(|c| meta::is_sidecar(c)).collect();
    let Some(place) = sidecars.iter().position(|c| c.name == name) else { return BTreeSet::new() };
    let later = sidecars.iter().skip(place + 1).copied();
    spec.containers.iter().chain(later).map(|c| c.name.clone()).filter(|n| running.contains(n)).collect()
}

fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}
