//! What is left of a pod in the runtime -> nothing.

use cri::{RemoveContainerRequest, RemovePodSandboxRequest, Runtime, StopPodSandboxRequest};

use crate::pods::runtime_state::pod::RuntimePod;

/// Removes a stopped pod's containers and sandboxes from the runtime.
pub async fn remove_all(runtime: &Runtime, pod: &RuntimePod) -> cri::Result<()> {
    for container in &pod.containers {
        let request = RemoveContainerRequest { container_id: container.id.clone() };
        runtime.remove_container(request).await.map(drop).or_else(gone)?;
    }
    for sandbox in &pod.sandboxes {
        remove_sandbox(runtime, &sandbox.id).await?;
    }
    Ok(())
}

/// Stops a sandbox and removes it with all that is in it.
pub async fn remove_sandbox(runtime: &Runtime, id: &str) -> cri::Result<()> {
    runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop).or_else(gone)?;
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop).or_else(gone)
}

/// What is no longer there needs no stopping.
pub fn gone(error: cri::Error) -> cri::Result<()> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}
