//! A container's image name and pull policy -> an image on this machine, or why not.
//!
//! Upstream: `EnsureImageExists` in `pkg/kubelet/images/image_manager.go`.

use std::{sync::Arc, time::Instant};

use api::k8s::api::core::v1::{Container, Pod, Secret};
use client::kube::Client;
use cri::{AuthConfig, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest, Runtime};
use tokio::sync::Semaphore;

use super::{image_name, registry_auth};
use crate::{meta, pods::recorder::PodRecorder};

/// Pulls at a time; upstream's default is one, which lets a big image hold up all others.
const PULLS_MAX: usize = 4;

/// Brings images. Clones share the bound on pulls.
#[derive(Clone)]
pub struct Images {
    runtime: Runtime,
    client: Client,
    pulls: Arc<Semaphore>,
}

#[derive(Debug)]
pub struct Failure {
    /// As shown in `state.waiting.reason`.
    pub reason: &'static str,
    pub message: String,
    /// The pod's own name of the image.
    pub image: String,
    /// A pull was tried and failed: the next one has to wait.
    pub pulled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Images {
    pub fn new(runtime: Runtime, client: Client) -> Self {
        Self { runtime, client, pulls: Arc::new(Semaphore::new(PULLS_MAX)) }
    }

    /// The image of `container`, pulled where its policy asks for it.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &PodSandboxConfig,
        tell: &PodRecorder,
    ) -> Result<cri::Image, Failure> {
        let name = container.image.clone().unwrap_or_default();
        let failure = |reason, message| Failure { reason, message, image: name.clone(), pulled: false };
        let full = image_name::with_default_tag(&name).map_err(|why| {
            let message = format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {why}");
            tell.warning("InspectFailed", message.clone());
            failure("InvalidImageName", message)
        })?;
        let policy = policy(container, &full);
        let present = self.find(&full).await.map_err(|error| {
            let message = format!("Failed to inspect image \"{full}\": {error}");
            tell.warning("InspectFailed", message.clone());
            failure("ImageInspectError", message)
        })?;
        match (present, policy) {
            (Some(image), Policy::IfNotPresent | Policy::Never) => {
                tell.normal("Pulled", format!("Container image \"{name}\" already present on machine"));
                Ok(image)
            }
            (None, Policy::Never) => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                tell.warning("ErrImageNeverPull", message.clone());
                Err(failure("ErrImageNeverPull", message))
            }
            _ => self.pull(pod, &name, &full, sandbox, tell).await,
        }
    }

    async fn find(&self, name: &str) -> cri::Result<Option<cri::Image>> {
        let request = ImageStatusRequest { image: Some(spec(name, name)), verbose: false };
        Ok(self.runtime.image_status(request).await?.image)
    }

    async fn pull(&self, pod: &Pod, name: &str, full: &str, sandbox: &PodSandboxConfig, tell: &PodRecorder) -> Result<cri::Image, Failure> {
        tell.normal("Pulling", format!("Pulling image \"{name}\""));
        let asked = Instant::now();
        let _permit = self.pulls.acquire().await;
        let began = Instant::now();
        let secrets = self.pull_secrets(pod, tell).await;
        let failed = |error: String| {
            tell.warning("Failed", format!("Failed to pull image \"{name}\": {error}"));
            Failure { reason: "ErrImagePull", message: error, image: name.into(), pulled: true }
        };
        self.pull_with(registry_auth::for_image(&secrets, full), name, full, sandbox).await.map_err(|e| failed(e.to_string()))?;
        let image = self.find(full).await.map_err(|e| failed(e.to_string()))?;
        let image = image.ok_or_else(|| failed("the image is not there after it was pulled".into()))?;
        let (took, waited) = (began.elapsed(), asked.elapsed());
        let text = |d: std::time::Duration| format!("{:.3}s", d.as_secs_f64());
        let size = image.size;
        let done = format!(
            "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {size} bytes.",
            text(took),
            text(waited)
        );
        tell.normal("Pulled", done);
        Ok(image)
    }

    /// With each credential in turn, and without one where there is none.
    async fn pull_with(&self, auths: Vec<AuthConfig>, name: &str, full: &str, sandbox: &PodSandboxConfig) -> cri::Result<()> {
        let request = |auth| PullImageRequest { image: Some(spec(full, name)), auth, sandbox_config: Some(sandbox.clone()) };
        let Some((last, first)) = auths.split_last() else { return self.runtime.pull_image(request(None)).await.map(drop) };
        for auth in first {
            if self.runtime.pull_image(request(Some(auth.clone()))).await.is_ok() {
                return Ok(());
            }
        }
        self.runtime.pull_image(request(Some(last.clone()))).await.map(drop)
    }

    async fn pull_secrets(&self, pod: &Pod, tell: &PodRecorder) -> Vec<Secret> {
        let names = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|r| r.name.clone());
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in names.filter(|name| !name.is_empty()) {
            match client::watch::get::<Secret>(&self.client, Some(meta::namespace(pod)), &name).await {
                Ok(secret) => found.push(secret.object),
                Err(_) => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let list = missing.join(", ");
            let message = format!("Unable to retrieve some image pull secrets ({list}); attempting to pull the image may not succeed.");
            tell.warning("FailedToRetrieveImagePullSecret", message);
        }
        found
    }
}

fn spec(full: &str, user: &str) -> ImageSpec {
    ImageSpec { image: full.into(), user_specified_image: user.into(), ..ImageSpec::default() }
}

/// Static pods come without the API's defaults.
fn policy(container: &Container, full: &str) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if full.ends_with(":latest") => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}
