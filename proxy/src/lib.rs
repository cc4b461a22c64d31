//! Services and names -> packets that arrive: the pod network, the service proxy, the cluster's DNS.

use std::{net::IpAddr, path::Path, sync::Arc};

use api::{
    k8s::api::{
        core::v1::{Node as NodeObject, Service},
        discovery::v1::EndpointSlice,
    },
    task::Group,
};
use client::Caches;
use ipnet::IpNet;
use parking_lot::RwLock;
use proxier::Proxier;
use service_tracker::ServiceTracker;

mod backend;
pub mod bench;
pub mod cni;
mod conntrack;
pub mod dns;
#[doc(hidden)]
pub mod dry;
mod family;
mod iptables;
mod late;
mod model;
mod netlink;
mod nftables;
pub mod overlay;
#[cfg(test)]
mod packet_tests;
mod proxier;
mod service_tracker;
pub mod settings;
mod sysctl;
#[cfg(test)]
mod testing;

pub use family::Family;

/// Who the service proxy is to the API server; its role is upstream's `system:node-proxier`.
pub const USER: &str = "system:kube-proxy";

/// How packets are led (`--proxy-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Iptables,
    Nftables,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "iptables" => Ok(Mode::Iptables),
            "nftables" => Ok(Mode::Nftables),
            _ => Err(format!("unknown proxy mode {word:?}: iptables or nftables")),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Mode::Iptables { "iptables" } else { "nftables" })
    }
}

/// What the service proxy of a node must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub mode: Mode,
    pub node_name: String,
    /// Those whose services are served, each by a proxier of its own.
    pub families: Vec<Family>,
    /// Where pods' addresses come from, at most one of each family: what leaves it is masqueraded. None leaves that to others.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service addresses that this node answers itself: the cluster DNS address, where [`dns::run`] serves it.
    pub answered_here: Vec<IpAddr>,
    /// UDP, where other nodes' packets for pods arrive ([`overlay::PORT`]): let in through the node's firewall. Who may send there is [`overlay::run`]'s to say.
    pub vxlan_port: Option<u16>,
}

/// Why the proxy, the DNS server or the clean-up could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program}: {why}")]
    Program { program: &'static str, why: String },
    #[error("kernel setting {name}: {why}")]
    Sysctl { name: &'static str, why: std::io::Error },
    #[error(transparent)]
    Netfilter(#[from] netlink::Error),
    #[error(transparent)]
    Link(#[from] cni::link::Error),
    #[error("{0} services are not served yet")]
    NotServed(Family),
    #[error(transparent)]
    Panicked(#[from] api::faults::Panic),
    #[error("serve DNS on {address}: {why}")]
    Bind { address: std::net::SocketAddr, why: std::io::Error },
}

/// Programs this node's packet rules, from caches that are read as [`USER`]: returns when the first ones are in, and goes on in `group` until it stops. The rules stay then.
///
/// # Errors
/// Where the kernel's settings or rules cannot be written, and [`Error::NotServed`].
pub async fn run(config: Config, caches: Caches, group: Group) -> Result<(), Error> {
    for family in config.families.clone() {
        run_family(family, &config, &caches, &group).await?;
    }
    Ok(())
}

async fn run_family(family: Family, config: &Config, caches: &Caches, group: &Group) -> Result<(), Error> {
    let (name, answered_here) = (config.node_name.clone(), config.answered_here.clone());
    let node = Arc::new(RwLock::new(model::Node { name, zone: String::new(), answered_here, vxlan_port: config.vxlan_port }));
    let tracker = ServiceTracker::follow(caches);
    let mut proxier = Proxier::new(config.mode, family, tracker.clone(), node.clone(), &config.cluster_cidrs, group.clone())?;
    prepare_kernel(family).await?;
    follow_node(caches, &node, &tracker);
    caches.of::<Service>().synced().await;
    caches.of::<EndpointSlice>().synced().await;
    proxier.once().await?;
    group.spawn_loop("service proxy", Box::pin(proxier.keep_on()));
    Ok(())
}

/// Removes all that this crate makes on a node: rules, the bridge with the pods' links on it, the DNS address, and the ways to other nodes' pods. Leases and files lie in directories of the caller's.
///
/// # Errors
/// The first failure; what could be removed is.
pub async fn cleanup() -> Result<(), Error> {
    let mut rules = Ok(());
    for family in Family::SERVED {
        rules = rules.and(remove_rules(*family).await).and(remove_table(*family));
    }
    let group = Group::new();
    let links = remove_links(&group).await;
    group.stop();
    rules.and(links)
}

async fn remove_rules(family: Family) -> Result<(), Error> {
    let scripts = iptables::exec::save(family).await?.removal();
    iptables::exec::restore_all(family, scripts).await?;
    iptables::unused::remove(family).await;
    Ok(())
}

/// A kernel without nf_tables has no table of ours.
fn remove_table(family: Family) -> Result<(), Error> {
    match nftables::Table::remove(family) {
        Err(netlink::Error::Io(error)) => {
            tracing::debug!(%error, "kernel does not support nf_tables");
            Ok(())
        }
        other => Ok(other?),
    }
}

async fn remove_links(group: &Group) -> Result<(), Error> {
    let net = cni::link::Net::here(group)?;
    for name in [cni::BRIDGE, dns::LINK] {
        net.delete_bridge(name).await?;
    }
    overlay::cleanup(group).await
}

/// Packets must pass through the node, through its bridge's rules, and from localhost to NodePorts.
async fn prepare_kernel(family: Family) -> Result<(), Error> {
    // NodePorts on localhost are IPv4's alone.
    let (names, bridge): (&[&str], _) = match family {
        Family::V4 => (&["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"], "net/bridge/bridge-nf-call-iptables"),
        Family::V6 => (&["net/ipv6/conf/all/forwarding"], "net/bridge/bridge-nf-call-ip6tables"),
    };
    for name in names {
        sysctl::set(Path::new(name), "1").map_err(|why| Error::Sysctl { name, why })?;
    }
    if !Path::new("/proc/sys").join(bridge).exists() {
        // It may be built in, or on its way: the setting itself tells.
        let _ = iptables::exec::run("modprobe", &["br_netfilter"], "").await;
    }
    if let Err(error) = sysctl::set(Path::new(bridge), "1") {
        tracing::warn!(%error, "kernel has no br_netfilter; a pod cannot reach another pod on the same node through a service");
    }
    Ok(())
}

/// The node's zone decides which hints are followed.
fn follow_node(caches: &Caches, node: &Arc<RwLock<model::Node>>, tracker: &ServiceTracker) {
    let name = node.read().name.clone();
    let (node, tracker) = (node.clone(), tracker.clone());
    caches.filtered::<NodeObject>(&format!("metadata.name={name}")).on_change(move |_, new| {
        let labels = new.and_then(|n| n.metadata.labels.as_ref());
        let zone = labels.and_then(|l| l.get("topology.kubernetes.io/zone")).cloned().unwrap_or_default();
        if node.read().zone == zone {
            return;
        }
        node.write().zone = zone;
        tracker.mark_changed(tracker.keys());
    });
}
