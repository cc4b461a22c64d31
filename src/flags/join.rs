//! Flags -> the cluster that a node joins.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{CommonFlags, Ranges, domain, given::Given, nodes::time, ranges};

/// Where the cluster is, and what lets us in.
#[derive(Args, Clone, Debug)]
pub struct JoinFlags {
    /// A server of the cluster (https://10.0.0.5:6443), or several; those that it tells of are kept as well
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub server: Vec<String>,
    /// What lets a machine in: `skiff token create` on a server prints one. Needed until the machine has a certificate
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<Given>,
    /// A file with the token, for its owner alone
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Keep what servers tell of this node's pods, so that they start where no server answers (Secrets lie on the disk then)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub offline_start: bool,
    /// Hold a connection to each server, through which it calls this node's agent (exec, logs, port-forward, metrics): the node needs no port that servers reach
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub tunnel: bool,
    /// The hash of the cluster's CA (sha256:...), for a token that does not hold it
    #[arg(long, value_name = "HASH")]
    pub ca_hash: Option<String>,
}

/// What a node must know of its cluster, where no server tells it.
#[derive(Args, Clone, Debug, Default)]
pub struct ClusterFlags {
    /// Addresses of the cluster's pods [default: as the server says]
    #[arg(long, value_name = "CIDR,...", value_parser = ranges::of_pods)]
    pub cluster_cidr: Option<Ranges>,
    /// Address of the cluster's DNS [default: as the server says]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// The cluster's DNS domain [default: as the server says]
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    pub cluster_domain: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct CheckFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[command(flatten)]
    pub join: JoinFlags,
    /// The name that the node would have [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address that the node would have [default: what it reaches the server from]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Port of the node agent's own server
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// How pods would reach those of other nodes: auto, route or vxlan
    #[arg(long, value_name = "WAY", default_value_t = proxy::overlay::PodNetwork::Auto)]
    pub pod_network: proxy::overlay::PodNetwork,
    /// UDP port of VXLAN
    #[arg(long, value_name = "PORT", default_value_t = proxy::overlay::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
    /// Addresses of the cluster's pods [default: as the server says; 10.244.0.0/16 where none does]
    #[arg(long, value_name = "CIDR,...", value_parser = ranges::of_pods)]
    pub cluster_cidr: Option<Ranges>,
}

#[derive(Args, Clone, Debug)]
pub struct LeaveFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    /// How long pods may take to go elsewhere
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    pub timeout: Duration,
    /// Leave also where no server answers, or pods cannot go
    #[arg(long)]
    pub force: bool,
}
