//! A node and a pod -> what the files, environment and container configs of that pod are made from.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use api::k8s::api::core::v1::{Node, Pod, Service};

use crate::{container_config::qos::OomScores, volumes::PodVolumes};

/// What is the same for every pod of this node. Shared by all workers.
#[derive(Clone, Debug)]
pub struct NodeContext {
    pub node_name: String,
    pub node_ips: Vec<IpAddr>,
    /// `<root>/pods/<uid>/...`: volumes, termination logs, hosts files. Upstream's `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// `<log_dir>/<ns>_<name>_<uid>/<container>/N.log`. Upstream's `/var/log/pods`.
    pub log_dir: PathBuf,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
    /// Root of the pods' cgroups, `/kubepods`.
    pub cgroup_root: String,
    /// The namespace of the `kubernetes` service, whose variables every pod gets.
    pub master_service_namespace: String,
    pub cpu_cfs_quota: bool,
    pub memory_capacity_bytes: i64,
    /// The seccomp profile of sandboxes, where their program is ours; without it they have the runtime's own.
    pub sandbox_profile: Option<PathBuf>,
}

/// One pod at the moment its sandbox or one of its containers is made.
#[derive(Clone)]
pub struct PodContext {
    pub node: Arc<NodeContext>,
    /// The node's object, for allocatable and `status.hostIPs`; `None` while it is not registered.
    pub node_object: Option<Arc<Node>>,
    pub pod: Arc<Pod>,
    /// Of the pod's containers.
    pub oom_scores: OomScores,
    /// Of the sandbox; the node's own where the pod is on the host's network; empty while there is no sandbox.
    pub pod_ips: Vec<String>,
    /// All services of the pod's namespace and of the master service's.
    pub services: Vec<Arc<Service>>,
    /// `None` for the sandbox.
    pub volumes: Option<Arc<PodVolumes>>,
}

/// How often this container was started before: the attempt, and the log's file name (`N.log`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub u32);
