//! Calls of a plan -> the runtime, one pod at a time; what came of them goes back to the loop.

use api::k8s::api::node::v1::RuntimeClass;
use cri::{RemoveContainerRequest, RunPodSandboxRequest};

use super::{
    remove::{gone, remove_all},
    start, stop,
    work::Work,
};
use crate::{
    container_config, labels, meta,
    metrics::CGROUPS,
    pods::{
        plan::{Call, outcome::Outcome},
        runtime_state::pod::{self as runtime, Sandbox},
    },
};

/// Makes the calls in order, until one fails.
pub async fn run(work: &Work, calls: Vec<Call>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for call in calls {
        let done = Box::pin(one(work, call)).await;
        let failed = done.iter().any(|o| matches!(o, Outcome::Failed { .. } | Outcome::SandboxFailed));
        outcomes.extend(done);
        if failed {
            break;
        }
    }
    outcomes
}

async fn one(work: &Work, call: Call) -> Vec<Outcome> {
    match call {
        Call::StopPod { grace_seconds } => done(
            stop::pod(work, grace_seconds).await.inspect_err(|e| work.tell.warning("FailedKillPod", format!("error killing pod: {e}"))),
        ),
        Call::CreateSandbox { attempt } => vec![create_sandbox(work, attempt).await],
        Call::StopContainer { id, name, message, grace_seconds } => done(stop::container(work, &id, &name, &message, grace_seconds).await),
        Call::RemoveContainer { id } => done(remove_container(work, &id).await),
        Call::Start(starts) => start::all(work, starts).await,
        Call::CleanUp => clean_up(work).await,
        Call::RemovePod => match remove_pod(work).await {
            Ok(()) => vec![Outcome::Removed],
            Err(error) => vec![Outcome::Failed { error: error.to_string() }],
        },
    }
}

async fn create_sandbox(work: &Work, attempt: u32) -> Outcome {
    if attempt > 0 {
        work.tell.normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
    }
    // Volumes before the sandbox: a pod whose volumes are missing shows none, as upstream.
    let cgroup = work.deps.metrics.timed(CGROUPS, "create", work.with_cgroups(|cgroups, pod| cgroups.create_pod(pod)));
    let (volumes, cgroup) = tokio::join!(Box::pin(work.volumes()), cgroup);
    if let Err(error) = volumes {
        work.tell_volumes(&error);
        return Outcome::SandboxFailed;
    }
    for (reason, message) in container_config::dns_warnings(&work.context(None)) {
        work.tell.warning(reason, message);
    }
    if let Err(error) = cgroup {
        work.tell.warning("FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
        return Outcome::SandboxFailed;
    }
    match Box::pin(run_sandbox(work, attempt)).await {
        Ok(made) => Outcome::SandboxMade { made },
        Err(error) => {
            work.tell.warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
            Outcome::SandboxFailed
        }
    }
}

async fn run_sandbox(work: &Work, attempt: u32) -> Result<Option<Sandbox>, String> {
    let runtime_handler = runtime_handler(work).await?;
    let config = work.sandbox_config(&work.context(None), attempt).map_err(|e| e.to_string())?;
    tokio::fs::create_dir_all(&config.log_directory).await.map_err(|e| format!("{}: {e}", config.log_directory))?;
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler };
    let made = work.deps.start_limiter.sandboxes.during(work.deps.runtime.run_pod_sandbox(request)).await;
    let id = made.map_err(|e| e.to_string())?.pod_sandbox_id;
    Ok(runtime::inspect_sandbox(&work.deps.runtime, &id).await.unwrap_or_default())
}

/// Of the pod's RuntimeClass; empty, the runtime's default, where it names none. Asked for when it is needed: a class's handler never changes.
/// Whether the runtime knows the handler it says itself. Source: `LookupRuntimeHandler` in `pkg/kubelet/runtimeclass`.
async fn runtime_handler(work: &Work) -> Result<String, String> {
    let class = work.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).filter(|name| !name.is_empty());
    let Some(class) = class else { return Ok(String::new()) };
    match client::watch::get::<RuntimeClass>(&work.deps.client, None, class).await {
        Ok(found) => Ok(found.object.handler),
        Err(client::kube::Error::Api(status)) if status.code == 404 => Err(status.message),
        Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
    }
}

async fn remove_container(work: &Work, id: &str) -> cri::Result<()> {
    // A container whose state is unknown may still run.
    let stopped = work.deps.runtime.stop_container(id, 0).await;
    stopped.or_else(gone)?;
    let request = RemoveContainerRequest { container_id: id.into() };
    work.deps.runtime.remove_container(request).await.map(drop).or_else(gone)
}

async fn clean_up(work: &Work) -> Vec<Outcome> {
    match work.deps.volumes.teardown(meta::uid(&work.pod)).await {
        Ok(()) => {}
        Err(error) => return vec![Outcome::Failed { error: error.to_string() }],
    }
    match work.with_cgroups(|cgroups, pod| cgroups.remove_pod(meta::uid(pod))).await {
        Ok(()) => vec![Outcome::Cleaned],
        Err(error) => vec![Outcome::Failed { error }],
    }
}

async fn remove_pod(work: &Work) -> cri::Result<()> {
    remove_all(&work.deps.runtime, &work.runtime).await?;
    // The pod is gone for its users: its logs go with it.
    let logs = labels::log_directory(&work.deps.node.log_dir, &work.pod);
    let _ = tokio::fs::remove_dir_all(logs).await;
    Ok(())
}

fn done(result: cri::Result<()>) -> Vec<Outcome> {
    match result {
        Ok(()) => vec![Outcome::Done],
        Err(error) => vec![Outcome::Failed { error: error.to_string() }],
    }
}
