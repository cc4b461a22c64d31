//! One pod, and what its calls are made with.

use std::sync::Arc;

use api::{
    faults::catch,
    k8s::api::core::v1::{Container, Pod, Service},
};
use tokio::sync::mpsc;

use super::deps::Deps;
use crate::{
    PodContext, cgroups,
    container_config::{self, qos::OomScores},
    labels, meta,
    metrics::VOLUMES,
    pods::{event::Event, recorder::PodRecorder, runtime_state::pod::RuntimePod},
    volumes,
};

/// What the pod and the runtime were when its calls were planned.
pub struct Work {
    pub deps: Arc<Deps>,
    pub pod: Arc<Pod>,
    pub runtime: Arc<RuntimePod>,
    pub tell: PodRecorder,
    /// For what is worth knowing before all is done.
    pub events: mpsc::Sender<Event>,
}

impl Work {
    /// What the pod's configs are made from.
    pub fn context(&self, volumes: Option<Arc<volumes::PodVolumes>>) -> PodContext {
        let node_ips = || self.deps.node.node_ips.iter().map(ToString::to_string).collect();
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        let sandbox = self.runtime.ready_sandbox();
        PodContext {
            node: self.deps.node.clone(),
            node_object: self.deps.nodes.get(&api::Key::new("", &self.deps.node.node_name)),
            pod: self.pod.clone(),
            oom_scores: OomScores::of(&self.pod, self.deps.node.memory_capacity_bytes),
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
        let made = self.deps.metrics.timed(VOLUMES, "", self.deps.volumes.prepare(&self.pod)).await;
        if let Some(unwatched) = self.deps.volumes.unwatched(meta::uid(&self.pod)) {
            self.tell.warning(
                "TooManyObjectsToWatch",
                format!(
                    "The pod names more ConfigMaps and Secrets than this node watches for one: changes of {unwatched} of them show after a minute or more, \
                     and a start of the node without a server does not have them"
                ),
            );
        }
        made
    }

    pub fn container(&self, name: &str) -> Option<&Container> {
        meta::containers(&self.pod).find(|c| c.name == name)
    }

    /// One event for each volume that is not ready.
    pub fn tell_volumes(&self, error: &volumes::Error) {
        match error {
            volumes::Error::SetUp(failures) => failures.iter().for_each(|f| self.tell.warning(f.reason, f.message.clone())),
            other => self.tell.warning("FailedMount", other.to_string()),
        }
    }

    /// Cgroups are files whose writing may wait for the kernel.
    pub async fn with_cgroups<F>(&self, work: F) -> Result<(), String>
    where
        F: FnOnce(&cgroups::Manager, &Pod) -> Result<(), cgroups::Error> + Send + 'static,
    {
        let (cgroups, pod) = (self.deps.cgroups.clone(), self.pod.clone());
        let done = tokio::task::spawn_blocking(move || catch("pods", || work(&cgroups, &pod))).await;
        done.map_err(|e| e.to_string())?.map_err(|panic| panic.to_string())?.map_err(|e| e.to_string())
    }

    fn services(&self) -> Vec<Arc<Service>> {
        let (own, master) = (meta::namespace(&self.pod), self.deps.node.master_service_namespace.as_str());
        let mut services = self.deps.services.in_namespace(own);
        if own != master {
            services.extend(self.deps.services.in_namespace(master));
        }
        services
    }
}
