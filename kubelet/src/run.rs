//! Config -> a running node agent; and what `down` and `reset` need when it does not run.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::api::core::v1::{Node, Pod, Service},
    task::Group,
};
use client::{Caches, Recorder, kube::Client};
use cri::Runtime;
use tokio::sync::watch;

use crate::{
    Config, NodeContext, Pods, cgroups, config,
    containerd::{self, Layout},
    csi::{self, Csi},
    image_gc,
    machine::Machine,
    metrics::Metrics,
    node::{self, Reporter},
    pods, server, serving, static_pods,
    stats::Stats,
    volumes,
};

/// How long [`stop_pods`] waits for containers to end before they are killed.
const STOP_GRACE_SECONDS: u32 = 10;
/// Until containerd knows of a shim what became of it.
const STOP_TRIES: u32 = 10;
const STOP_PAUSE: Duration = Duration::from_millis(500);
/// Until a killed process has left its cgroup.
const CGROUP_TRIES: u32 = 50;
const CGROUP_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    #[error("the container runtime: {0}")]
    Runtime(#[from] cri::Error),
    #[error(transparent)]
    Cgroup(#[from] cgroups::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error(transparent)]
    Serving(#[from] serving::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("container runtime endpoint {0:?}: only unix:///path is supported")]
    Endpoint(String),
    #[error("node {name:?} cannot be registered: {why}")]
    Register { name: String, why: String },
}

/// A node agent that runs. Dropping it changes nothing: its tasks live in their group.
#[derive(Clone)]
pub struct Agent {
    pub pods: Pods,
    pub runtime: Runtime,
    /// Where the node's server is.
    pub address: SocketAddr,
    pub(crate) ready: watch::Receiver<bool>,
    #[cfg(test)]
    pub(crate) metrics: Metrics,
}

impl Agent {
    /// Resolves once the API shows the node as Ready, and pods are let on it. False where the agent ended before.
    pub async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }
}

/// Starts the runtime (or finds it), the node's server, the node's registration and the pod loop; all of it goes on in `group`.
/// `client` and `caches` act as `system:node:<name>`. Pods and containerd outlive the group: see [`stop_pods`].
///
/// # Errors
/// What cannot be mended by waiting: no containerd, no cgroups, the server's port is taken.
pub async fn run(config: Config, client: Client, caches: Caches, group: Group) -> Result<Agent, Error> {
    let metrics = Metrics::default();
    let (runtime, kept_images) = Box::pin(start_runtime(&config, &group)).await?;
    let runtime = runtime.observed(metrics.observer());
    let machine = Machine::look(&config.agent_dir);
    let allocatable = node::allocatable(&config, &machine);
    let context = Arc::new(context(&config, &machine));
    let (ready_in, ready) = watch::channel(false);
    let (cgroups, pods) = (cgroups::Manager::detect(&config.cgroup_root)?, Pods::default());
    let stats = Stats::new(&config.node_name, config.agent_dir.clone(), cgroups.clone(), pods.clone(), &group);
    let served = server::Node { runtime: runtime.clone(), pods, client: client.clone(), metrics: metrics.clone(), stats };
    let agent = Agent {
        pods: served.pods.clone(),
        runtime: runtime.clone(),
        address: Box::pin(serve(&config, &context, served, &group)).await?,
        ready,
        #[cfg(test)]
        metrics: metrics.clone(),
    };

    cgroups.setup()?;
    if let Err(error) = cgroups.set_allocatable(allocatable.cpu_milli, allocatable.memory_bytes) {
        // Pods that run may have more than that already.
        tracing::warn!(%error, "failed to set the limits of the kubepods cgroup to node allocatable");
    }
    if let Err(error) = volumes::make_shared(&context.root_dir) {
        tracing::warn!(%error, "failed to make the directory of pods a shared mount: containers cannot mount anything for others");
    }
    let recorder = Recorder::new(client.clone(), "kubelet", Some(&config.node_name), &group);
    let nodes = caches.filtered::<Node>(&format!("metadata.name={}", config.node_name));
    let csi = Csi::new(&config.node_name, client.clone(), nodes.clone(), recorder.clone());
    let volumes = volumes::Manager::new(context.root_dir.clone(), client.clone(), csi.clone(), &group);
    volumes.set_allocatable(allocatable);
    let config = Arc::new(config);
    let reporter = Reporter {
        config: config.clone(),
        client: client.clone(),
        runtime: runtime.clone(),
        nodes: nodes.clone(),
        recorder: recorder.clone(),
        machine,
        csi: csi.clone(),
        ready: ready_in,
    };
    let name = config.node_name.clone();
    let registered = Box::pin(reporter.register()).await.map_err(|why| Error::Register { name, why })?;
    reporter.start(registered, &group);
    csi::start(&csi, &context.root_dir, &group);

    let image_gc_recorder = recorder.clone();
    let deps = Arc::new(pods::Deps {
        images: pods::Images::new(runtime.clone(), client.clone()),
        runtime,
        node: context,
        client,
        recorder,
        volumes,
        cgroups,
        services: caches.of::<Service>(),
        nodes,
        metrics,
        start_limiter: pods::StartLimiter::new(),
    });
    let cache = caches.filtered::<Pod>(&format!("spec.nodeName={}", config.node_name));
    let room = pods::NodeCapacity { allocatable, pods_max: config.max_pods };
    let events = pods::start(deps, cache, agent.pods.clone(), room, config.pod_manifest_path.is_some(), &group);
    if let Some(dir) = config.pod_manifest_path.clone() {
        let at = |source| Error::File { path: dir.clone(), source };
        static_pods::follow(dir.clone(), config.node_name.clone(), events, &group).map_err(at)?;
    }
    image_gc::start(agent.runtime.clone(), image_gc_recorder, config.node_name.clone(), kept_images, &group);
    Ok(agent)
}

/// Stops all pods of this node and the containerd of ours, if they run: `skiff down --pods`, `skiff reset`. For when [`run`] does not run.
///
/// # Errors
/// What could not be stopped, though it was tried for some seconds; ask again.
pub async fn stop_pods(agent_dir: &Path) -> Result<(), Error> {
    let layout = config::layout(agent_dir);
    if !containerd::is_running(&layout) {
        return Ok(());
    }
    let group = Group::new();
    let runtime = Runtime::at(&layout.socket());
    let mut removed = Box::pin(remove_all(&runtime)).await;
    for _ in 0..STOP_TRIES {
        let Err(error) = &removed else { break };
        // A shim that ends at this moment, or one that containerd has yet to find again after a start of its own.
        tracing::debug!(%error, "failed to stop pods; retrying");
        tokio::time::sleep(STOP_PAUSE).await;
        removed = Box::pin(remove_all(&runtime)).await;
    }
    group.stop();
    containerd::stop(&layout).await?;
    removed
}

/// Unmounts and removes what pods left: volumes, root file systems, cgroups. After [`stop_pods`].
///
/// # Errors
/// What could not be removed; ask again.
pub async fn clean(agent_dir: &Path) -> Result<(), Error> {
    let layout: Layout = config::layout(agent_dir);
    containerd::end_shims(&layout).await?;
    for below in [config::root_dir(agent_dir), layout.state, layout.root] {
        volumes::unmount_below(&below).map_err(|source| Error::File { path: below.clone(), source })?;
    }
    let cgroups = cgroups::Manager::detect(&config::cgroup_root(agent_dir))?;
    for _ in 0..CGROUP_TRIES {
        match cgroups.remove_all() {
            Err(cgroups::Error::Busy(_)) => tokio::time::sleep(CGROUP_PAUSE).await,
            done => return Ok(done?),
        }
    }
    Ok(cgroups.remove_all()?)
}

async fn remove_all(runtime: &Runtime) -> Result<(), Error> {
    let containers = runtime.list_containers(cri::ListContainersRequest::default()).await?.containers;
    let running = containers.iter().filter(|c| c.state() == cri::ContainerState::ContainerRunning);
    let stops = running.map(|c| Box::pin(runtime.stop_container(&c.id, STOP_GRACE_SECONDS)));
    for stopped in futures::future::join_all(stops).await {
        stopped.or_else(crate::pods::gone)?;
    }
    let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.items;
    let removals = sandboxes.iter().map(|s| Box::pin(crate::pods::remove_sandbox(runtime, &s.id)));
    futures::future::try_join_all(removals).await?;
    Ok(())
}

async fn serve(config: &Config, context: &NodeContext, served: server::Node, group: &Group) -> Result<SocketAddr, Error> {
    let server_config = server::Config {
        address: config.address,
        serving: serving::start(config.serving.clone(), group).await?,
        client_ca_pem: config.client_ca_pem.clone(),
        node_name: config.node_name.clone(),
    };
    let address = server::serve(server_config, served.clone(), group).await?;
    let at = |source| Error::File { path: context.log_dir.clone(), source };
    server::rotate(&context.log_dir, server::LogLimits::default(), served.pods, served.runtime, group).map_err(at)?;
    Ok(address)
}

/// The runtime, and the names of images that nobody is to remove.
async fn start_runtime(config: &Config, group: &Group) -> Result<(Runtime, BTreeSet<String>), Error> {
    match &config.container_runtime_endpoint {
        None => {
            let layout = config.layout();
            containerd::in_memory(&layout)?;
            let runtime = Box::pin(containerd::start(layout.clone(), group)).await?;
            let kept = containerd::import_archives(&layout, &config::archive_dir(&config.agent_dir)).await;
            Ok((runtime, kept))
        }
        Some(endpoint) => {
            let path = endpoint.strip_prefix("unix://").filter(|p| p.starts_with('/')).ok_or_else(|| Error::Endpoint(endpoint.clone()))?;
            let runtime = Runtime::at(Path::new(path));
            runtime.version(cri::VersionRequest::default()).await?;
            Ok((runtime, BTreeSet::new()))
        }
    }
}

fn context(config: &Config, machine: &Machine) -> NodeContext {
    NodeContext {
        node_name: config.node_name.clone(),
        node_ips: config.node_ips.clone(),
        root_dir: config::root_dir(&config.agent_dir),
        log_dir: config::log_dir(&config.agent_dir),
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: config.resolv_conf.clone(),
        cgroup_root: format!("/{}", config.cgroup_root.trim_matches('/')),
        master_service_namespace: "default".into(),
        cpu_cfs_quota: true,
        memory_capacity_bytes: machine.memory_bytes,
        sandbox_profile: config.container_runtime_endpoint.is_none().then(|| config.layout().pause_profile()),
    }
}
