//! Calls of a plan -> the runtime, one pod at a time; what came of them goes back to the loop.

use std::sync::Arc;

use api::{
    faults::catch,
    k8s::api::core::v1::{Container, Node, Pod, Service},
};
use client::{Cache, Recorder, kube::Client};
use cri::{RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, Runtime, StopPodSandboxRequest};
use tokio::sync::mpsc;

use super::{
    images::Images,
    plan::Call,
    recorder::PodRecorder,
    runtime::{self, RuntimePod, Sandbox},
    start,
    start_limiter::StartLimiter,
    stop,
    sync_loop::Event,
};
use crate::{
    NodeContext, PodContext, cgroups, container_config, labels, meta,
    metrics::{CGROUPS, Metrics, VOLUMES},
    volumes,
};

/// What every worker needs; shared by all.
pub struct Deps {
    pub runtime: Runtime,
    pub node: Arc<NodeContext>,
    pub client: Client,
    pub recorder: Recorder,
    pub volumes: volumes::Manager,
    pub cgroups: cgroups::Manager,
    pub images: Images,
    pub services: Cache<Service>,
    pub nodes: Cache<Node>,
    pub metrics: Metrics,
    pub start_limiter: StartLimiter,
}

/// One pod's calls and what they are made with.
pub struct Work {
    pub deps: Arc<Deps>,
    pub pod: Arc<Pod>,
    pub runtime: Arc<RuntimePod>,
    pub tell: PodRecorder,
    /// For what is worth knowing before all is done.
    pub events: mpsc::Sender<Event>,
}

/// What came of a call, where the loop has to remember it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `None` where the runtime did not show what it made.
    SandboxMade {
        made: Option<Sandbox>,
    },
    /// The sandbox, its cgroup or its volumes; events have been told.
    SandboxFailed,
    Started {
        container: String,
        made: Option<Box<runtime::Container>>,
    },
    StartFailed {
        container: String,
        reason: &'static str,
        message: String,
        cause: StartCause,
    },
    /// What it changed in the runtime is to be looked at.
    Done,
    Cleaned,
    Removed,
    Failed {
        error: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartCause {
    Pull { image: String },
    Other,
}

impl Work {
    /// Makes the calls in order, until one fails.
    pub async fn run(&self, calls: Vec<Call>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for call in calls {
            let done = Box::pin(self.one(call)).await;
            let failed = done.iter().any(|o| matches!(o, Outcome::Failed { .. } | Outcome::SandboxFailed));
            outcomes.extend(done);
            if failed {
                break;
            }
        }
        outcomes
    }

    async fn one(&self, call: Call) -> Vec<Outcome> {
        match call {
            Call::StopPod { grace_seconds } => done(
                stop::pod(self, grace_seconds).await.inspect_err(|e| self.tell.warning("FailedKillPod", format!("error killing pod: {e}"))),
            ),
            Call::CreateSandbox { attempt } => vec![self.create_sandbox(attempt).await],
            Call::StopContainer { id, name, message, grace_seconds } => {
                done(stop::container(self, &id, &name, &message, grace_seconds).await)
            }
            Call::RemoveContainer { id } => done(self.remove_container(&id).await),
            Call::Start(starts) => start::all(self, starts).await,
            Call::CleanUp => self.clean_up().await,
            Call::RemovePod => match self.remove_pod().await {
                Ok(()) => vec![Outcome::Removed],
                Err(error) => vec![Outcome::Failed { error: error.to_string() }],
            },
        }
    }

    /// What the pod's configs are made from.
    pub fn context(&self, volumes: Option<Arc<volumes::PodVolumes>>) -> PodContext {
        let node_ips = || self.deps.node.node_ips.iter().map(ToString::to_string).collect();
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        let sandbox = self.runtime.ready_sandbox();
        PodContext {
            node: self.deps.node.clone(),
            node_object: self.deps.nodes.get(&api::Key::new("", &self.deps.node.node_name)),
            pod: self.pod.clone(),
            pod_ips: if host_network { node_ips() } else { sandbox.map(|s| s.ips.clone()).unwrap_or_default() },
            services: self.services(),
            volumes,
        }
    }

    /// The sandbox's config, whole.
    pub fn sandbox_config(&self, context: &PodContext, attempt: u32) -> Result<cri::PodSandboxConfig, container_config::ConfigError> {
        let mut config = container_config::sandbox(context)?;
        config.metadata = Some(labels::sandbox_metadata(&self.pod, attempt));
        config.labels = labels::of_sandbox(&self.pod);
        config.annotations = self.pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        config.log_directory = labels::log_directory(&self.deps.node.log_dir, &self.pod).to_string_lossy().into_owned();
        Ok(config)
    }

    /// The pod's volumes, made or brought up to date.
    pub async fn volumes(&self) -> Result<volumes::PodVolumes, volumes::Error> {
        self.deps.metrics.timed(VOLUMES, "", self.deps.volumes.prepare(&self.pod)).await
    }

    pub fn container(&self, name: &str) -> Option<&Container> {
        meta::containers(&self.pod).find(|c| c.name == name)
    }

    fn services(&self) -> Vec<Arc<Service>> {
        let (own, master) = (meta::namespace(&self.pod), self.deps.node.master_service_namespace.as_str());
        let mut services = self.deps.services.in_namespace(own);
        if own != master {
            services.extend(self.deps.services.in_namespace(master));
        }
        services
    }

    async fn create_sandbox(&self, attempt: u32) -> Outcome {
        if attempt > 0 {
            self.tell.normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        // Volumes before the sandbox: a pod whose volumes are missing shows none, as upstream.
        let cgroup = self.deps.metrics.timed(CGROUPS, "create", self.with_cgroups(|cgroups, pod| cgroups.create_pod(pod)));
        let (volumes, cgroup) = tokio::join!(Box::pin(self.volumes()), cgroup);
        if let Err(error) = volumes {
            start::tell_mounts(self, &error);
            return Outcome::SandboxFailed;
        }
        for (reason, message) in container_config::dns_warnings(&self.context(None)) {
            self.tell.warning(reason, message);
        }
        if let Err(error) = cgroup {
            self.tell.warning("FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
            return Outcome::SandboxFailed;
        }
        match Box::pin(self.run_sandbox(attempt)).await {
            Ok(made) => Outcome::SandboxMade { made },
            Err(error) => {
                self.tell.warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                Outcome::SandboxFailed
            }
        }
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<Option<Sandbox>, String> {
        let config = self.sandbox_config(&self.context(None), attempt).map_err(|e| e.to_string())?;
        tokio::fs::create_dir_all(&config.log_directory).await.map_err(|e| format!("{}: {e}", config.log_directory))?;
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let made = self.deps.start_limiter.sandboxes.during(self.deps.runtime.run_pod_sandbox(request)).await;
        let id = made.map_err(|e| e.to_string())?.pod_sandbox_id;
        Ok(runtime::inspect_sandbox(&self.deps.runtime, &id).await.unwrap_or_default())
    }

    async fn remove_container(&self, id: &str) -> cri::Result<()> {
        // A container whose state is unknown may still run.
        let stopped = self.deps.runtime.stop_container(id, 0).await;
        stopped.or_else(gone)?;
        let request = RemoveContainerRequest { container_id: id.into() };
        self.deps.runtime.remove_container(request).await.map(drop).or_else(gone)
    }

    async fn clean_up(&self) -> Vec<Outcome> {
        match self.deps.volumes.teardown(meta::uid(&self.pod)).await {
            Ok(()) => {}
            Err(error) => return vec![Outcome::Failed { error: error.to_string() }],
        }
        match self.with_cgroups(|cgroups, pod| cgroups.remove_pod(meta::uid(pod))).await {
            Ok(()) => vec![Outcome::Cleaned],
            Err(error) => vec![Outcome::Failed { error }],
        }
    }

    /// Cgroups are files whose writing may wait for the kernel.
    async fn with_cgroups<F>(&self, work: F) -> Result<(), String>
    where
        F: FnOnce(&cgroups::Manager, &Pod) -> Result<(), cgroups::Error> + Send + 'static,
    {
        let (cgroups, pod) = (self.deps.cgroups.clone(), self.pod.clone());
        let done = tokio::task::spawn_blocking(move || catch("pods", || work(&cgroups, &pod))).await;
        done.map_err(|e| e.to_string())?.map_err(|panic| panic.to_string())?.map_err(|e| e.to_string())
    }

    async fn remove_pod(&self) -> cri::Result<()> {
        remove_all(&self.deps.runtime, &self.runtime).await?;
        // The pod is gone for its users: its logs go with it.
        let logs = labels::log_directory(&self.deps.node.log_dir, &self.pod);
        let _ = tokio::fs::remove_dir_all(logs).await;
        Ok(())
    }
}

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

/// Fresh from the runtime, for the loop.
pub async fn look(deps: &Deps, uid: &str) -> Option<RuntimePod> {
    match runtime::inspect(&deps.runtime, uid).await {
        Ok(pod) => Some(pod),
        Err(error) => {
            tracing::warn!(uid, %error, "the runtime does not tell of a pod");
            None
        }
    }
}

fn done(result: cri::Result<()>) -> Vec<Outcome> {
    match result {
        Ok(()) => vec![Outcome::Done],
        Err(error) => vec![Outcome::Failed { error: error.to_string() }],
    }
}
