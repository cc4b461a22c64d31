//! Command line, environment, file -> flags. Every flag is also `SKIFF_<NAME>` and a key of the `--config` file, in that order.

mod admission;
mod at_rest;
mod audit;
mod autoscaling;
mod front_proxy;
mod given;
mod hollow;
mod identity;
mod join;
mod node;
mod nodes;
mod protection;
mod ranges;
mod reading;
mod servers;
mod tokens;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use api::k8s::api::core::v1::Taint;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

pub use self::identity::{AuthenticationFlags, AuthorizationFlags, UNSAID};
pub use admission::AdmissionFlags;
pub use at_rest::AtRestFlags;
pub use audit::AuditFlags;
pub use autoscaling::AutoscalingFlags;
pub use front_proxy::FrontProxyFlags;
pub use given::Given;
pub use hollow::HollowFlags;
pub use join::{CheckFlags, ClusterFlags, JoinFlags, LeaveFlags};
pub use node::own_labels;
pub use nodes::NodesFlags;
pub use protection::ProtectionFlags;
pub use ranges::{PODS as POD_RANGE, Ranges, of_pods as pod_ranges};
pub use servers::ServersFlags;
pub use tokens::{AccessFlags, CreateTokenFlags, DeleteTokenFlags, TokenFlags, TokenVerb};

/// Nodes of one machine: each has a containerd.
pub const NODES_MAX: u32 = 32;

/// Kubernetes in one binary: API server, store, scheduler, controllers, node agent, service proxy, cluster DNS.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring up a cluster on this machine: control plane and node in one process
    Up(Box<UpFlags>),
    /// Run the control plane alone, in the foreground (no root and no containerd needed)
    Server(Box<ServerFlags>),
    /// Make this machine a node of a cluster, in the foreground (--server, --token); or simulate nodes (--hollow N; no root and no containerd needed)
    Agent(Box<AgentVerbFlags>),
    /// Make, list and delete the tokens that machines join with
    Token(TokenFlags),
    /// Print a kubeconfig for the cluster administrator, or merge it into a file
    Kubeconfig(KubeconfigFlags),
    /// Tell what this machine lacks for `skiff up`; with --server: what stands between it and a cluster; with --data-dir: whether what is kept there is sound (nothing is changed)
    Check(CheckFlags),
    /// Take this machine out of the cluster that it joined: its pods go elsewhere, its images stay
    Leave(LeaveFlags),
    /// Stop skiff; pods keep running unless --pods is given
    Down(DownFlags),
    /// Stop skiff and remove what it made: pods, rules, links, mounts, cgroups, data
    Reset(ResetFlags),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Clone, Debug)]
pub struct CommonFlags {
    /// Directory for all that is kept [default: /var/lib/skiff, or ~/.local/share/skiff without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// YAML file whose keys are the names of flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or per module (`info,apiserver=debug`)
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    pub log_level: String,
}

#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address the API is served on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port the API is served on
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// Address that pods and nodes reach the API at [default: this machine's]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the serving certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = host)]
    pub tls_san: Vec<String>,
    /// etcd servers (https://host:2379, ...); without them the embedded store is used
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA that etcd's certificate is checked against
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Where the objects are kept without etcd: `redb` (a file) or `memory` (forgotten at the end)
    #[arg(long, value_name = "STORE", default_value = "redb", value_parser = ["redb", "memory"])]
    pub storage_backend: String,
    /// Addresses of pods: one range, or one of IPv4 and one of IPv6 (`skiff up` serves IPv4 alone so far)
    #[arg(long, value_name = "CIDR,...", default_value = ranges::PODS, value_parser = ranges::of_pods)]
    pub cluster_cidr: Ranges,
    /// Addresses of services: one range (two are not served yet; `skiff up` serves IPv4 alone so far)
    #[arg(long, value_name = "CIDR,...", default_value = "10.96.0.0/12", value_parser = ranges::of_services)]
    pub service_cluster_ip_range: Ranges,
    /// Ports of services of type NodePort
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// The cluster's DNS domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    pub cluster_domain: String,
    /// With --max-mutating-requests-inflight, how many requests are served at a time (without priority and fairness: of those that only read; 0 is no limit)
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_requests_inflight: u32,
    /// With --max-requests-inflight, how many requests are served at a time (without priority and fairness: of those that change something; 0 is no limit)
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_mutating_requests_inflight: u32,
    /// Share what is served at a time between users, by upstream's priority levels; false: first come, first served
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    #[command(flatten)]
    pub protection: ProtectionFlags,
    /// A token that machines can join with for as long as it is not deleted: <id>.<secret>, six and sixteen of a-z and 0-9
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub agent_token: Option<Given>,
    /// How long the certificates of nodes and users last that the cluster signs (certificates.k8s.io), unless they ask for less
    #[arg(long, value_name = "TIME", default_value = "8760h", value_parser = nodes::time)]
    pub cluster_signing_duration: Duration,
    /// What is built in and is not wanted: metrics-server (the resource metrics of `kubectl top`, metrics.k8s.io), where another is installed by Helm, say;
    /// local-storage (the StorageClass skiff-local)
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    pub disable: Vec<Addon>,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
    #[command(flatten)]
    pub at_rest: AtRestFlags,
    #[command(flatten)]
    pub admission: AdmissionFlags,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub front_proxy: FrontProxyFlags,
    #[command(flatten)]
    pub nodes: NodesFlags,
    #[command(flatten)]
    pub autoscaling: AutoscalingFlags,
    #[command(flatten)]
    pub servers: ServersFlags,
    /// All flags and their values, for `/flagz`: no secrets.
    #[arg(skip)]
    pub shown: BTreeMap<String, String>,
}

/// What `--disable` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Addon {
    MetricsServer,
    LocalStorage,
}

#[derive(Args, Clone, Debug)]
pub struct AgentFlags {
    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// This node's address [default: for `skiff agent` what it reaches the server from; else the address of the default route, or of an interface]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// A container runtime that is already running (unix:///run/containerd/containerd.sock), instead of our own containerd
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Directory of static pod manifests [default: <data-dir>/manifests]
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Port of the node agent's own server
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// How much must be free before the node says that it is under pressure, and takes no more pods
    #[arg(long, value_name = "SIGNAL<AMOUNT,...", default_value = kubelet::EvictionHard::DEFAULT)]
    pub eviction_hard: kubelet::EvictionHard,
    /// Labels of the node (key=value, ...)
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<String>,
    /// Taints that the node registers with (key=value:effect, ...)
    #[arg(long, value_name = "TAINTS", value_delimiter = ',', value_parser = node::taint)]
    pub register_with_taints: Vec<Taint>,
    /// How services are led to their endpoints: iptables or nftables
    #[arg(long, value_name = "MODE", default_value_t = proxy::Mode::Iptables)]
    pub proxy_mode: proxy::Mode,
    /// How pods reach those of other nodes: auto (a route to nodes on our own subnet, VXLAN to others), route or vxlan
    #[arg(long, value_name = "WAY", default_value_t = proxy::overlay::PodNetwork::Auto)]
    pub pod_network: proxy::overlay::PodNetwork,
    /// Network identifier of VXLAN: the same on all nodes
    #[arg(long, value_name = "VNI", default_value_t = proxy::overlay::VNI, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vxlan_vni: u32,
    /// UDP port of VXLAN: the same on all nodes
    #[arg(long, value_name = "PORT", default_value_t = proxy::overlay::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
}

#[derive(Args, Clone, Debug)]
pub struct AgentVerbFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[command(flatten)]
    pub join: JoinFlags,
    #[command(flatten)]
    pub agent: AgentFlags,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(flatten)]
    pub hollow: HollowFlags,
    /// For hollow nodes that do not join by --server and --token: the cluster, and who we are there [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// For hollow nodes: the kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct UpFlags {
    #[command(flatten)]
    pub server: ServerFlags,
    #[command(flatten)]
    pub agent: AgentFlags,
    /// Nodes of the cluster, all on this machine: the others have a network, a disk and a containerd of their own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub nodes: u32,
    /// Stay in the foreground, as a service manager wants it
    #[arg(long)]
    pub foreground: bool,
    /// The kubeconfig that the cluster's context is merged into [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct KubeconfigFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Merge into the default kubeconfig, as `skiff up` does, instead of printing
    #[arg(long)]
    pub merge: bool,
    /// Where the cluster is reached, if not at this server's own address: a URL with a name that servers have by --tls-san, say
    #[arg(long, value_name = "URL", value_parser = url)]
    pub server: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct DownFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Also stop all pods and our containerd
    #[arg(long)]
    pub pods: bool,
}

impl AgentFlags {
    /// Of the node: `key=value`, as was checked when they were read.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().filter_map(|label| label.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// What holds for other nodes of the cluster as well, as keys of a `--config` file; not what is of this machine alone.
    pub fn of_all_nodes(&self) -> Map<String, Value> {
        // All of them by name: who adds a flag decides.
        let Self {
            node_name: _,
            node_ip: _,
            container_runtime_endpoint: _,
            pod_manifest_path: _,
            kubelet_port,
            eviction_hard,
            node_labels,
            register_with_taints,
            proxy_mode,
            pod_network,
            vxlan_vni,
            vxlan_port,
        } = self;
        let taints: Vec<String> = register_with_taints.iter().map(node::taint_text).collect();
        let own = [
            ("kubelet-port", json!(kubelet_port)),
            ("eviction-hard", json!(eviction_hard.to_string())),
            ("proxy-mode", json!(proxy_mode.to_string())),
            ("pod-network", json!(pod_network.to_string())),
            ("vxlan-vni", json!(vxlan_vni)),
            ("vxlan-port", json!(vxlan_port)),
        ];
        // Nothing is no label and no taint.
        let lists = [("node-labels", node_labels), ("register-with-taints", &taints)].into_iter().filter(|(_, list)| !list.is_empty());
        let lists = lists.map(|(key, list)| (key, json!(list)));
        own.into_iter().chain(lists).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

#[derive(Args, Clone, Debug)]
pub struct ResetFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// Keep the data: objects, certificates, images, volumes of pods
    #[arg(long)]
    pub keep_data: bool,
}

impl ServerFlags {
    /// Requests served at a time.
    pub fn limits(&self) -> apiserver::fairness::Limits {
        let (reading, mutating) = (self.max_requests_inflight as usize, self.max_mutating_requests_inflight as usize);
        apiserver::fairness::Limits { reading, mutating, fair: self.enable_priority_and_fairness }
    }
}

/// Without `=`, each part is a level: the filter itself would take a misspelt level for a module's name.
fn log_level(text: &str) -> Result<String, String> {
    let known =
        |part: &str| part.contains('=') || ["off", "error", "warn", "info", "debug", "trace"].contains(&part.to_lowercase().as_str());
    if let Some(part) = text.split(',').map(str::trim).find(|part| !known(part)) {
        return Err(format!("{part:?} is no level: error, warn, info, debug or trace"));
    }
    tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn domain(text: &str) -> Result<String, String> {
    let label = |l: &str| {
        let inside = l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        inside && !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("it must be a DNS name, as in cluster.local".to_owned())
    }
}

fn quantity(text: &str) -> Result<String, String> {
    let parsed = api::quantity::Quantity::parse(text)?;
    if parsed.is_negative() { Err("it must not be negative".to_owned()) } else { Ok(text.to_owned()) }
}

fn label(text: &str) -> Result<String, String> {
    let known = |(key, value): (&str, &str)| api::selector::is_label_key(key) && api::selector::is_label_value(value);
    if text.split_once('=').is_some_and(known) { Ok(text.to_owned()) } else { Err("it must be a label, as in disk=ssd".to_owned()) }
}

/// An address, or a DNS name whose first label may be `*`.
fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text).to_lowercase();
    if text.parse::<IpAddr>().is_ok() || domain(&name).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("it must be an IP address or a DNS name".to_owned())
    }
}

/// Of an API server.
fn url(text: &str) -> Result<String, String> {
    client::transport::Server::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
