//! A container's image name and pull policy -> an image on this machine, or why not.
//!
//! Upstream: `EnsureImageExists` in `pkg/kubelet/images/image_manager.go`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::k8s::api::core::v1::{Container, Pod, Secret};
use client::kube::Client;
use cri::{AuthConfig, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest, Runtime};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{image_name, registry_auth};
use crate::{meta, pods::recorder::PodRecorder};

/// Pulls at a time; upstream's default is one, which lets a big image hold up all others.
const PULLS_MAX: usize = 4;
/// Of one registry: one that hangs leaves the others a way.
const PULLS_OF_REGISTRY_MAX: usize = 2;
/// How long a pull waits for others; it is tried again then, as one that failed.
const QUEUE_BOUND: Duration = Duration::from_secs(1800);
/// Until a Secret with credentials is read.
const SECRET_BOUND: Duration = Duration::from_secs(10);

/// Brings images. Clones share the bound on pulls.
#[derive(Clone)]
pub struct Images {
    runtime: Runtime,
    client: Client,
    pulls: Arc<Pulls>,
}

/// The bounds on pulls.
struct Pulls {
    all: Arc<Semaphore>,
    /// By registry; those that nobody pulls from are forgotten.
    of: Mutex<HashMap<String, Arc<Semaphore>>>,
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
        Self { runtime, client, pulls: Arc::new(Pulls::new()) }
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
        // Before its turn: nobody waits for a server that is slow with them.
        let secrets = self.pull_secrets(pod, tell).await;
        let failed = |error: String| {
            tell.warning("Failed", format!("Failed to pull image \"{name}\": {error}"));
            Failure { reason: "ErrImagePull", message: error, image: name.into(), pulled: true }
        };
        let turn = timeout(QUEUE_BOUND, self.pulls.turn(image_name::registry(full))).await;
        let _turn = turn.map_err(|_| failed(format!("other pulls did not end within {QUEUE_BOUND:?}")))?;
        let began = Instant::now();
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
        with_each(auths, |auth| async move { self.runtime.pull_image(request(auth)).await.map(drop) }).await
    }

    async fn pull_secrets(&self, pod: &Pod, tell: &PodRecorder) -> Vec<Secret> {
        let names = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|r| r.name.clone());
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let read = names.filter(|name| !name.is_empty()).map(|name| async move {
            let read = client::watch::get::<Secret>(&self.client, Some(meta::namespace(pod)), &name);
            let secret = timeout(SECRET_BOUND, read).await;
            secret.ok().and_then(Result::ok).map(|seen| seen.object).ok_or(name)
        });
        for secret in join_all(read).await {
            match secret {
                Ok(secret) => found.push(secret),
                Err(name) => missing.push(name),
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

impl Pulls {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(PULLS_MAX)), of: Mutex::default() }
    }

    /// Until it is dropped.
    async fn turn(&self, registry: &str) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
        let of_registry = {
            let mut of = self.of.lock();
            of.retain(|_, places| Arc::strong_count(places) > 1);
            of.entry(registry.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PULLS_OF_REGISTRY_MAX))).clone()
        };
        // Who waits for its registry takes no place from others. Neither is ever closed.
        let own = of_registry.acquire_owned().await.ok();
        (own, self.all.clone().acquire_owned().await.ok())
    }
}

/// With each credential in turn, and without one where there is none. Who did not answer to one answers to none.
async fn with_each<F: Future<Output = cri::Result<()>>>(auths: Vec<AuthConfig>, pull: impl Fn(Option<AuthConfig>) -> F) -> cri::Result<()> {
    let mut auths = auths.into_iter().map(Some).collect::<Vec<_>>();
    let last = auths.pop().flatten();
    for auth in auths {
        let pulled = pull(auth).await;
        if pulled.as_ref().err().is_none_or(is_silence) {
            return pulled;
        }
    }
    pull(last).await
}

/// Whether nobody answered, as far as the runtime tells: its words are Go's.
fn is_silence(error: &cri::Error) -> bool {
    match error {
        cri::Error::Deadline { .. } | cri::Error::Unavailable(_) => true,
        cri::Error::Failed { message, .. } => {
            ["i/o timeout", "handshake timeout", "deadline exceeded"].iter().any(|word| message.contains(word))
        }
        _ => false,
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::FutureExt;

    use super::*;

    fn auth(name: &str) -> AuthConfig {
        AuthConfig { username: name.into(), ..AuthConfig::default() }
    }

    #[tokio::test]
    async fn the_next_credential_is_tried_after_a_refusal_and_not_after_silence() {
        let tried = RefCell::new(Vec::new());
        let silent = || cri::Error::Deadline { call: "PullImage", after: Duration::from_secs(3600) };
        let pull = |auth: Option<AuthConfig>| {
            let name = auth.map(|auth| auth.username).unwrap_or_default();
            tried.borrow_mut().push(name.clone());
            std::future::ready(match name.as_str() {
                "silent" => Err(silent()),
                "refused" => Err(cri::Error::NotFound("no such image".into())),
                _ => Ok(()),
            })
        };
        assert!(with_each(vec![auth("refused"), auth("good"), auth("never")], pull).await.is_ok());
        assert!(with_each(vec![auth("silent"), auth("never")], pull).await.is_err());
        assert!(with_each(vec![auth("refused"), auth("refused")], pull).await.is_err());
        assert!(with_each(Vec::new(), pull).await.is_ok());
        assert_eq!(*tried.borrow(), ["refused", "good", "silent", "refused", "refused", ""]);
    }

    #[tokio::test]
    async fn a_registry_that_hangs_leaves_others_a_way() {
        let pulls = Pulls::new();
        let hang = [pulls.turn("a").await, pulls.turn("a").await];
        let mut third = Box::pin(pulls.turn("a"));
        assert!(third.as_mut().now_or_never().is_none(), "it waits");
        let others = [pulls.turn("b").await, pulls.turn("b").await];
        assert!(pulls.turn("c").now_or_never().is_none(), "all are taken");
        drop((hang, others));
        drop(third.await);
        assert!(pulls.turn("c").now_or_never().is_some());
        assert!(pulls.of.lock().len() <= 1, "registries that nobody pulls from are forgotten");
    }
}
