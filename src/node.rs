//! A machine and a cluster -> its node: node agent, service proxy and DNS, assembled. Whoever runs the control plane says what a node must know of it.

pub mod cluster_config;
// A program of its own, which build.rs compiles; here for its test and the lints.
#[cfg(test)]
#[expect(dead_code)]
mod cni_shim;
pub mod discover;
pub mod join;
pub mod join_token;
pub mod kept;
pub mod leave;
pub mod preflight;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api::task::Group;
use client::Caches;
use ipnet::IpNet;
use kubelet::OnPodCidr;
use proxy::{
    Family,
    cni::{self, NetworkConfig, write_conflist},
    overlay::{self, PodNetwork},
};

use crate::{
    flags::AgentFlags,
    machine::{dirs::Dirs, instance::NodeLock, progress::Progress},
};

/// What the runtime calls as its network plugins: `src/node/cni_shim.rs`.
pub const PLUGIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugin"));
const DNS_PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long the node may take to become Ready.
const READY_BOUND: Duration = Duration::from_secs(120);
/// A connection that is just being replaced, as with a new certificate, is no server that is gone.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// What a node must know of itself and of its cluster.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub dirs: Dirs,
    pub name: String,
    /// As the machine calls itself.
    pub host_name: String,
    /// Where others reach the node.
    pub address: IpAddr,
    /// Where pods' addresses come from, at most one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where the cluster's names are asked for: the node answers there itself.
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub flags: AgentFlags,
}

/// How the rooms of a node come to the API server, and who may come to the node.
pub struct Access {
    /// As `system:node:NAME`.
    pub kubelet: Caches,
    /// Of the service proxy and of DNS, which read the same: as [`proxy::USER`], or as the node (docs/decisions/a-node-is-one-user.md).
    pub proxy: Caches,
    /// Makes the node agent's serving certificates.
    pub serving: kubelet::Issuer,
    /// Whose clients the node agent takes (PEM).
    pub client_ca: String,
}

impl NodeConfig {
    /// # Errors
    /// A range or an address is of a family that nodes do not serve.
    pub fn check(&self) -> anyhow::Result<()> {
        are_served("--cluster-cidr", &self.cluster_cidrs)?;
        are_served("the cluster DNS address", &[IpNet::from(self.cluster_dns)])
    }
}

/// Whether nodes serve addresses of these ranges: before anything is started, so that nobody waits for a node that cannot be.
///
/// # Errors
/// It names the range, and `what` it was given for.
pub fn are_served(what: &str, ranges: &[IpNet]) -> anyhow::Result<()> {
    match ranges.iter().find(|range| !Family::of_net(**range).is_served()) {
        Some(range) => bail!("{what}: {range} is {}, which skiff's nodes do not serve yet", Family::of_net(*range)),
        None => Ok(()),
    }
}

/// Resolves once the node is Ready and DNS answers. Where no server is there (`is_alone`) to say that the node is Ready, it need not be. The node is ours
/// as long as what is returned is held.
pub async fn start(
    config: &NodeConfig,
    access: Access,
    is_alone: &(dyn Fn() -> bool + Send + Sync),
    group: &Group,
    progress: &Progress,
) -> anyhow::Result<NodeLock> {
    config.check()?;
    let claimed = NodeLock::claim(&config.dirs)?;
    proxy::settings::remember(&config.dirs.agent()).context("noting the kernel's settings")?;
    let of_agent = agent_config(config, &access, overlay::pod_mtu_here(config.flags.pod_network, config.address, group).await);
    network_plugin(&of_agent.layout().cni_bin_dir, group)?;
    let agent = Box::pin(kubelet::run(of_agent, access.kubelet.client(), access.kubelet.clone(), group.clone())).await?;
    progress.step("container runtime");

    let rules = proxy::Config {
        mode: config.flags.proxy_mode,
        node_name: config.name.clone(),
        families: Family::SERVED.to_vec(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        answered_here: vec![config.cluster_dns],
        vxlan_port: (config.flags.pod_network != PodNetwork::Route).then_some(config.flags.vxlan_port),
    };
    let services = access.proxy.clone();
    overlay::run(pods_of_others(config), &services, group).await?;
    Box::pin(proxy::run(rules, services.clone(), group.clone())).await?;
    progress.step(&format!("services ({})", config.flags.proxy_mode));
    let names = proxy::dns::Config {
        domain: config.cluster_domain.clone(),
        address: config.cluster_dns,
        port: DNS_PORT,
        resolv_conf: RESOLV_CONF.into(),
    };
    Box::pin(proxy::dns::run(names, services, group.clone())).await?;
    progress.step(&format!("DNS ({})", config.cluster_dns));

    became_ready(config, &agent, is_alone, progress).await?;
    Ok(claimed)
}

async fn became_ready(
    config: &NodeConfig,
    agent: &kubelet::Agent,
    is_alone: &(dyn Fn() -> bool + Send + Sync),
    progress: &Progress,
) -> anyhow::Result<()> {
    if is_alone() && tokio::time::timeout(ALONE_AFTER, agent.ready()).await.is_err() && is_alone() {
        progress.step("no server answers: pods that were here are started, and the node is Ready once a server is there");
        return Ok(());
    }
    let (node, log) = (&config.name, config.dirs.log());
    match tokio::time::timeout(READY_BOUND, agent.ready()).await {
        Ok(true) => progress.step(&format!("node {node} is Ready")),
        Ok(false) => bail!("the node agent ended before the node was Ready; see {}", log.display()),
        Err(_) if is_alone() => progress.step("the servers are gone; the node is Ready once one is there"),
        Err(_) => bail!("node {node} is not Ready after {} s; see {}", READY_BOUND.as_secs(), log.display()),
    }
    Ok(())
}

/// Stops all pods and our containerd, also when skiff does not run.
pub async fn stop_pods(dirs: &Dirs) -> anyhow::Result<()> {
    kubelet::stop_pods(&dirs.agent()).await.context("stopping the pods")
}

/// Removes rules, links, mounts and cgroups.
pub async fn clean(dirs: &Dirs) -> anyhow::Result<()> {
    let _claimed = NodeLock::claim(dirs)?;
    kubelet::clean(&dirs.agent()).await.context("cleaning up after the pods")?;
    proxy::cleanup().await.context("removing rules and links")?;
    if let Err(error) = proxy::settings::restore(&dirs.agent()) {
        say!("the kernel's settings are not all as they were: {error}");
    }
    Ok(())
}

/// How this node reaches the pods of others.
fn pods_of_others(node: &NodeConfig) -> overlay::Config {
    let flags = &node.flags;
    let config = overlay::Config::new(flags.pod_network, &node.name, node.address, &node.cluster_cidrs);
    overlay::Config { vni: flags.vxlan_vni, port: flags.vxlan_port, ..config }
}

/// `mtu` is of pods.
fn agent_config(node: &NodeConfig, access: &Access, mtu: u32) -> kubelet::Config {
    let agent_dir = node.dirs.agent();
    let mut config = kubelet::Config::new(agent_dir.clone(), node.name.clone(), pod_network(&agent_dir, mtu));
    config.hostname.clone_from(&node.host_name);
    config.node_ips = vec![node.address];
    config.cluster_dns = vec![node.cluster_dns];
    config.cluster_domain.clone_from(&node.cluster_domain);
    config.container_runtime_endpoint.clone_from(&node.flags.container_runtime_endpoint);
    config.pod_manifest_path = Some(node.flags.pod_manifest_path.clone().unwrap_or_else(|| node.dirs.manifests()));
    config.labels = node.flags.labels();
    config.taints.clone_from(&node.flags.register_with_taints);
    config.eviction_hard = node.flags.eviction_hard;
    config.version = apiserver::version::GIT_VERSION.into();
    config.address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), node.flags.kubelet_port);
    config.serving = access.serving.clone();
    config.client_ca_pem.clone_from(&access.client_ca);
    config
}

/// The plugin's programs, and who answers them: the socket stands beside their directory.
fn network_plugin(bin_dir: &Path, group: &Group) -> anyhow::Result<()> {
    let whole = std::env::current_exe().and_then(std::fs::canonicalize).context("finding our own binary")?;
    cni::install(bin_dir, PLUGIN, &whole).with_context(|| format!("network plugin in {}", bin_dir.display()))?;
    let socket = bin_dir.with_file_name("agent.sock");
    cni::serve(&socket, group).with_context(|| socket.display().to_string())
}

/// The node's part of the cluster's range is known: the runtime learns of our network plugin. Pods that run keep the MTU they were made with.
fn pod_network(agent_dir: &Path, mtu: u32) -> OnPodCidr {
    let data_dir = agent_dir.join("cni");
    Arc::new(move |cidr, conf_dir| {
        let cidr: IpNet = cidr.parse().map_err(|_| format!("pod range {cidr:?} is not a CIDR"))?;
        are_served("pod range", &[cidr]).map_err(|error| error.to_string())?;
        write_conflist(conf_dir, &NetworkConfig { mtu, ..NetworkConfig::new(cidr, &data_dir) }).map(drop).map_err(|e| e.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_nodes_do_not_serve_is_told_by_its_name() {
        let ranges = |text: &str| text.split(',').map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        assert!(are_served("--cluster-cidr", &ranges("10.244.0.0/16")).is_ok());
        let error = are_served("--cluster-cidr", &ranges("10.244.0.0/16,fd00::/48")).unwrap_err().to_string();
        assert_eq!(error, "--cluster-cidr: fd00::/48 is IPv6, which skiff's nodes do not serve yet");
    }
}
