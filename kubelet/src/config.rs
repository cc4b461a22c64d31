//! What the front door knows -> the configuration of the node agent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use api::k8s::api::core::v1::Taint;
use sha2::{Digest, Sha256};

use crate::{containerd::Layout, eviction::EvictionHard, serving::Issuer};

/// Where the first node of a machine is kept.
const USUAL_DIR: &str = "/var/lib/skiff/agent";

/// Called with `spec.podCIDR` and the runtime's CNI configuration directory as soon as the CIDR is known, and again when it changes.
/// Writes the pod network's configuration there; until it did, the node's network is not ready.
pub type OnPodCidr = Arc<dyn Fn(&str, &Path) -> Result<(), String> + Send + Sync>;

/// One node. Plain data but for the callbacks.
#[derive(Clone)]
pub struct Config {
    /// Where all that this node keeps lies: `<data-dir>/agent`, absolute.
    pub agent_dir: PathBuf,
    pub node_name: String,
    /// Shown as the node's `Hostname` address and `kubernetes.io/hostname` label.
    pub hostname: String,
    /// The first is `InternalIP`, `status.hostIP` of pods; at most one of each family.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of the cluster's DNS; empty: pods get the node's.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// `/etc/resolv.conf`, or what stands in for it.
    pub resolv_conf: PathBuf,
    /// `unix:///run/containerd/containerd.sock`; `None`: our own containerd.
    pub container_runtime_endpoint: Option<String>,
    /// Directory of static pods; made if it is not there.
    pub pod_manifest_path: Option<PathBuf>,
    /// [`cgroup_root`]
    pub cgroup_root: String,
    /// When the node says that it is under pressure, and what pods may not have of it.
    pub eviction_hard: EvictionHard,
    /// Upstream's default is 110.
    pub max_pods: u32,
    /// Labels that the node registers with, beside its own.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with, once.
    pub taints: Vec<Taint>,
    /// `v1.36.0`
    pub version: String,
    /// The node's own HTTPS server.
    pub address: SocketAddr,
    /// Called at the start, and again before what it gave expires.
    pub serving: Issuer,
    /// Whose client certificates the node's server trusts.
    pub client_ca_pem: String,
    pub on_pod_cidr: OnPodCidr,
}

impl Config {
    /// Upstream's defaults for everything that has one. `agent_dir` is absolute.
    pub fn new(agent_dir: PathBuf, node_name: String, on_pod_cidr: OnPodCidr) -> Self {
        Self {
            cgroup_root: cgroup_root(&agent_dir),
            agent_dir,
            hostname: node_name.clone(),
            node_name,
            node_ips: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            container_runtime_endpoint: None,
            pod_manifest_path: None,
            eviction_hard: EvictionHard::default(),
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            version: "v1.36.0".into(),
            address: SocketAddr::from(([0, 0, 0, 0], 10250)),
            serving: Arc::new(|| Box::pin(std::future::ready(Err("nobody issues one".into())))),
            client_ca_pem: String::new(),
            on_pod_cidr,
        }
    }

    pub fn layout(&self) -> Layout {
        layout(&self.agent_dir)
    }
}

/// Our containerd's directories under `<data-dir>/agent`.
pub fn layout(agent_dir: &Path) -> Layout {
    Layout::under(agent_dir, &agent_dir.join("run"))
}

/// The top cgroup of the pods of a node that is kept in `agent_dir`: `kubepods`; for a second one on the same machine a name of its own,
/// so that none takes the other's pods for its own leftovers.
pub fn cgroup_root(agent_dir: &Path) -> String {
    if agent_dir == Path::new(USUAL_DIR) {
        return crate::cgroups::ROOT.into();
    }
    let digest = Sha256::digest(agent_dir.as_os_str().as_encoded_bytes());
    format!("{}-{}", crate::cgroups::ROOT, api::hex(&digest[..4]))
}

/// Volumes, termination logs, hosts files: upstream's `/var/lib/kubelet`.
pub fn root_dir(agent_dir: &Path) -> PathBuf {
    agent_dir.join("kubelet")
}

/// Archives of images for machines without a registry.
pub fn archive_dir(agent_dir: &Path) -> PathBuf {
    agent_dir.join("images")
}

/// Upstream's `/var/log/pods`.
pub fn log_dir(agent_dir: &Path) -> PathBuf {
    agent_dir.join("logs")
}
