//! Containers to start -> image, config, create, start, postStart hook: in parallel, but hooks keep the spec's order.
//!
//! Upstream: `startContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`.

use std::{sync::Arc, time::Duration};

use api::k8s::api::core::v1::Container;
use cri::{CreateContainerRequest, PodSandboxConfig, StartContainerRequest};
use futures::future::join_all;
use tokio::sync::watch;

use super::{hooks, stop, work::Work};
use crate::{
    PodContext, container_config, labels, meta,
    pods::{
        event::Event,
        plan::{
            self, Start,
            outcome::{Outcome, StartCause},
        },
        runtime_state::pod as runtime,
    },
};

/// Upstream gives postStart hooks no limit; a hook that takes longer than this has hung.
const POST_START_MAX: Duration = Duration::from_secs(3600);

/// What all starts of a batch share.
struct Batch<'a> {
    work: &'a Work,
    context: PodContext,
    sandbox_id: String,
    sandbox: PodSandboxConfig,
    /// How many containers of the batch have passed their turn. Users rely on a postStart hook ending before the next container starts.
    turn: watch::Sender<usize>,
    ordered: bool,
    /// There is more than one.
    siblings: bool,
}

struct Failure {
    reason: &'static str,
    message: String,
    cause: StartCause,
}

/// Starts all of `starts`; one outcome for each.
pub async fn all(work: &Work, starts: Vec<Start>) -> Vec<Outcome> {
    let volumes = match work.volumes().await {
        Ok(volumes) => Arc::new(volumes),
        Err(error) => {
            work.tell_volumes(&error);
            return vec![Outcome::SandboxFailed];
        }
    };
    let Some(sandbox) = work.runtime.ready_sandbox() else {
        return vec![Outcome::Failed { error: "the sandbox is gone".into() }];
    };
    let context = work.context(Some(volumes));
    let config = match work.sandbox_config(&context, sandbox.attempt) {
        Ok(config) => config,
        Err(error) => return vec![Outcome::Failed { error: error.to_string() }],
    };
    let ordered = starts.iter().filter_map(|s| work.container(&s.container)).any(|c| post_start(c).is_some());
    let siblings = starts.len() > 1;
    let batch = Batch { siblings, work, context, sandbox_id: sandbox.id.clone(), sandbox: config, turn: watch::channel(0).0, ordered };
    join_all(starts.into_iter().enumerate().map(|(turn, start)| Box::pin(batch.one(turn, start)))).await
}

impl Batch<'_> {
    async fn one(&self, turn: usize, start: Start) -> Outcome {
        let name = start.container.clone();
        let result = match self.work.container(&name) {
            Some(container) => self.start(turn, container, start.restart_count).await,
            None => Err(Failure::other("CreateContainerConfigError", "no such container in the pod's spec")),
        };
        self.turn.send_modify(|passed| *passed = (*passed).max(turn + 1));
        match result {
            Ok(id) => {
                let made = self.made(&id).await;
                self.show(made.as_deref()).await;
                Outcome::Started { made, container: name }
            }
            Err(Failure { reason, message, cause }) => Outcome::StartFailed { container: name, reason, message, cause },
        }
    }

    /// The id of the container that runs now.
    async fn start(&self, turn: usize, container: &Container, restart_count: u32) -> Result<String, Failure> {
        let tell = self.work.tell.container(&self.work.pod, container);
        let failed = |reason, message: String| {
            tell.warning("Failed", format!("Error: {message}"));
            Failure::other(reason, message)
        };
        let ensured = self.work.deps.images.ensure(&self.work.pod, container, &self.sandbox, &tell).await;
        let image = ensured.map_err(|failure| {
            tell.warning("Failed", format!("Error: {}", failure.reason));
            let cause = if failure.pulled { StartCause::Pull { image: failure.image } } else { StartCause::Other };
            Failure { reason: failure.reason, message: failure.message, cause }
        })?;
        let config = self.config(container, restart_count, &image).await.map_err(|(reason, message)| failed(reason, message))?;
        let request = CreateContainerRequest {
            pod_sandbox_id: self.sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        };
        let created = self.work.deps.runtime.create_container(request).await;
        let id = created.map_err(|e| failed("CreateContainerError", e.to_string()))?.container_id;
        tell.normal("Created", "Container created");
        self.wait_turn(turn).await;
        let started = self.start_container(&id).await;
        started.map_err(|e| failed("RunContainerError", e.to_string()))?;
        tell.normal("Started", "Container started");
        self.post_start(container, &id).await?;
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> cri::Result<()> {
        let deps = &self.work.deps;
        let start = deps.runtime.start_container(StartContainerRequest { container_id: id.into() });
        deps.start_limiter.containers.during(start).await.map(drop)
    }

    /// Its siblings may be pulled for a long time yet.
    async fn show(&self, made: Option<&runtime::Container>) {
        if let Some(container) = made.filter(|_| self.siblings) {
            let uid = meta::uid(&self.work.pod).to_owned();
            let _ = self.work.events.send(Event::ContainerStarted { uid, container: Box::new(container.clone()) }).await;
        }
    }

    async fn made(&self, id: &str) -> Option<Box<runtime::Container>> {
        let seen = runtime::inspect_container(&self.work.deps.runtime, id, &self.sandbox_id).await;
        seen.unwrap_or_default().map(Box::new)
    }

    async fn wait_turn(&self, turn: usize) {
        if self.ordered {
            // The sender is ours: the wait cannot fail. Those before us end, for every call of theirs has a deadline.
            let _ = self.turn.subscribe().wait_for(|passed| *passed >= turn).await;
        }
    }

    async fn config(
        &self,
        container: &Container,
        restart_count: u32,
        image: &cri::Image,
    ) -> Result<cri::ContainerConfig, (&'static str, String)> {
        let work = self.work;
        let built = container_config::container(&self.context, container, image).await;
        let mut config = built.map_err(|error| (error.reason(), error.to_string()))?;
        config.metadata = Some(cri::ContainerMetadata { name: container.name.clone(), attempt: restart_count });
        config.labels = labels::of_container(&work.pod, container);
        config.annotations.extend(labels::annotations(&work.pod, container, restart_count, &plan::hash(container)));
        config.log_path = format!("{}/{restart_count}.log", container.name);
        let log_dir = std::path::Path::new(&self.sandbox.log_directory).join(&container.name);
        tokio::fs::create_dir_all(&log_dir).await.map_err(|e| ("CreateContainerConfigError", format!("{}: {e}", log_dir.display())))?;
        Ok(config)
    }

    async fn post_start(&self, container: &Container, id: &str) -> Result<(), Failure> {
        let Some(hook) = post_start(container) else { return Ok(()) };
        let host = self.context.pod_ips.first().map(String::as_str);
        let ran = tokio::time::timeout(POST_START_MAX, hooks::run(self.work, container, id, hook, host)).await;
        let Err(error) = ran.unwrap_or_else(|_| Err(format!("no end within {POST_START_MAX:?}"))) else { return Ok(()) };
        // The text may hold what the application printed: it goes to the status, not to an event.
        self.work.tell.container(&self.work.pod, container).warning("FailedPostStartHook", "PostStartHook failed");
        let grace = plan::grace_seconds(&self.work.pod);
        if let Err(error) = stop::container(self.work, id, &container.name, "FailedPostStartHook", grace).await {
            tracing::warn!(container = container.name, %error, "failed to stop a container whose postStart hook failed");
        }
        Err(Failure::other("PostStartHookError", error))
    }
}

impl Failure {
    fn other(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), cause: StartCause::Other }
    }
}

fn post_start(container: &Container) -> Option<&api::k8s::api::core::v1::LifecycleHandler> {
    container.lifecycle.as_ref()?.post_start.as_ref()
}
