//! The node's half of `skiff up`: node agent, service proxy and DNS, assembled.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api::task::Group;
use kubelet::OnPodCidr;
use proxy::{
    Family,
    cni::{self, NetworkConfig, write_conflist},
};

use crate::{
    address::default_address,
    dirs::Dirs,
    flags::UpFlags,
    instance::NodeLock,
    progress::Progress,
    server::{Control, cluster_dns, host_name, kinds_config},
};

/// What the runtime calls as its network plugins: `src/cni_shim.rs`.
pub const PLUGIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugin"));
const DNS_PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long the node may take to become Ready.
const READY_BOUND: Duration = Duration::from_secs(120);

/// Resolves once the node is Ready and DNS answers. The node is ours as long as what is returned is held.
pub async fn start(flags: &UpFlags, control: &Control, progress: &Progress) -> anyhow::Result<NodeLock> {
    let claimed = NodeLock::claim(&control.dirs)?;
    let node = flags.agent.node_name.clone().unwrap_or_else(host_name);
    let address = flags.agent.node_ip.or_else(default_address).unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let kinds = kinds_config(&flags.server)?;
    let IpAddr::V4(dns) = cluster_dns(&kinds) else { bail!("--service-cluster-ip-range: the node's proxy knows IPv4 only") };

    let config = config(flags, control, &node, address, dns)?;
    network_plugin(&config.layout().cni_bin_dir, &control.group)?;
    let client = control.client(&format!("system:node:{node}"), &["system:nodes"]);
    let caches = client::Caches::new(client.clone(), control.group.clone());
    let agent = Box::pin(kubelet::run(config, client, caches, control.group.clone())).await?;
    progress.step("container runtime");

    let rules = proxy::Config {
        mode: flags.agent.proxy_mode,
        node_name: node.clone(),
        families: Family::SERVED.to_vec(),
        cluster_cidrs: vec![flags.server.cluster_cidr],
        answered_here: vec![IpAddr::V4(dns)],
    };
    Box::pin(proxy::run(rules, control.caches.clone(), control.group.clone())).await?;
    progress.step(&format!("services ({})", flags.agent.proxy_mode));
    let names =
        proxy::dns::Config { domain: kinds.cluster_domain, address: IpAddr::V4(dns), port: DNS_PORT, resolv_conf: RESOLV_CONF.into() };
    Box::pin(proxy::dns::run(names, control.caches.clone(), control.group.clone())).await?;
    progress.step(&format!("DNS ({dns})"));

    match tokio::time::timeout(READY_BOUND, agent.ready()).await {
        Ok(true) => progress.step(&format!("node {node} is Ready")),
        Ok(false) => bail!("the node agent ended before the node was Ready; see {}", control.dirs.log().display()),
        Err(_) => bail!("node {node} is not Ready after {} s; see {}", READY_BOUND.as_secs(), control.dirs.log().display()),
    }
    Ok(claimed)
}

/// Stops all pods and our containerd, also when skiff does not run.
pub async fn stop_pods(dirs: &Dirs) -> anyhow::Result<()> {
    kubelet::stop_pods(&dirs.agent()).await.context("stopping the pods")
}

/// Removes rules, links, mounts and cgroups.
pub async fn clean(dirs: &Dirs) -> anyhow::Result<()> {
    let _claimed = NodeLock::claim(dirs)?;
    kubelet::clean(&dirs.agent()).await.context("cleaning up after the pods")?;
    proxy::cleanup().await.context("removing rules and links")
}

fn config(flags: &UpFlags, control: &Control, node: &str, address: IpAddr, dns: Ipv4Addr) -> anyhow::Result<kubelet::Config> {
    let agent_dir = control.dirs.agent();
    let mut config = kubelet::Config::new(agent_dir.clone(), node.to_owned(), pod_network(&agent_dir));
    config.hostname = host_name();
    config.node_ips = vec![address];
    config.cluster_dns = vec![IpAddr::V4(dns)];
    config.cluster_domain.clone_from(&flags.server.cluster_domain);
    config.container_runtime_endpoint.clone_from(&flags.agent.container_runtime_endpoint);
    config.pod_manifest_path = Some(flags.agent.pod_manifest_path.clone().unwrap_or_else(|| control.dirs.manifests()));
    config.eviction_hard = flags.agent.eviction_hard;
    config.version = apiserver::version::GIT_VERSION.into();
    config.address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), flags.agent.kubelet_port);
    config.serving = serving(control, node, address);
    config.client_ca_pem = control.certs.ca().to_owned();
    Ok(config)
}

/// This process has the authority itself: it issues whatever its node needs.
fn serving(control: &Control, node: &str, address: IpAddr) -> kubelet::Issuer {
    let (certs, node) = (control.certs.clone(), node.to_owned());
    Arc::new(move || {
        let issued = certs.issue_node(&node, &[address, IpAddr::from([127, 0, 0, 1])]).map_err(|e| e.to_string());
        Box::pin(std::future::ready(issued.map(|pair| kubelet::Issued { chain_pem: pair.certificate, key_pem: pair.key })))
    })
}

/// The plugin's programs, and who answers them: the socket stands beside their directory.
fn network_plugin(bin_dir: &Path, group: &Group) -> anyhow::Result<()> {
    let whole = std::env::current_exe().and_then(std::fs::canonicalize).context("finding our own binary")?;
    cni::install(bin_dir, PLUGIN, &whole).with_context(|| format!("network plugin in {}", bin_dir.display()))?;
    let socket = bin_dir.with_file_name("agent.sock");
    cni::serve(&socket, group).with_context(|| socket.display().to_string())
}

/// The node's part of the cluster's range is known: the runtime learns of our network plugin.
fn pod_network(agent_dir: &Path) -> OnPodCidr {
    let data_dir = agent_dir.join("cni");
    Arc::new(move |cidr, conf_dir| {
        let cidr: ipnet::IpNet = cidr.parse().map_err(|_| format!("pod range {cidr:?} is not a CIDR"))?;
        let family = Family::of_net(cidr);
        if !family.is_served() {
            return Err(format!("pod range {cidr}: {family} pod networks are not supported"));
        }
        write_conflist(conf_dir, &NetworkConfig::new(cidr, &data_dir)).map(drop).map_err(|e| e.to_string())
    })
}
