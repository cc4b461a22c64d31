//! Nodes -> pods that reach each other across them: routes where two nodes share an L2, VXLAN where not, chosen for each pair.
//!
//! Source: flannel's back ends `host-gw` and `vxlan` (with `DirectRouting`), whose port and device names are kept. What a node needs to know of another
//! stands in its Node: nothing is annotated.

mod driver;
mod facts;
mod firewall;
mod kernel;
mod mtu;
#[cfg(test)]
mod packet_tests;
mod path;
mod peers;
mod plan;
mod problems;
mod watch;

use std::net::IpAddr;

use api::{k8s::api::networking::v1::ServiceCIDR, task::Group};
use client::Caches;
use ipnet::IpNet;

use crate::{Error, netlink, nftables::Guard};
use driver::{Driver, Inbox};
use facts::NodeFacts;
use kernel::Kernel;
pub use kernel::VxlanSeen;
pub use mtu::{pod_mtu, pod_mtu_here};
pub use problems::{Seen, problems, see};

/// VXLAN devices are named after their VNI, as flannel's are.
pub const LINK_PREFIX: &str = "skiff.";
/// Linux's own port of VXLAN, which flannel keeps to; IANA's (4789) is what Docker Swarm uses.
pub const PORT: u16 = 8472;
pub const VNI: u32 = 1;

/// How pods reach those of other nodes (`--pod-network`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNetwork {
    /// By a route to nodes on our own subnet, by VXLAN to others.
    #[default]
    Auto,
    /// By routes alone: nodes beyond a router are not reached.
    Route,
    /// By VXLAN alone.
    Vxlan,
}

/// What a node must know to reach the pods of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub mode: PodNetwork,
    pub node_name: String,
    /// This node's InternalIP.
    pub node_ip: IpAddr,
    /// Where the cluster's pods' addresses come from; empty where others give them out.
    pub cluster_cidrs: Vec<IpNet>,
    pub vni: u32,
    /// UDP, of VXLAN.
    pub port: u16,
}

impl std::str::FromStr for PodNetwork {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(PodNetwork::Auto),
            "route" => Ok(PodNetwork::Route),
            "vxlan" => Ok(PodNetwork::Vxlan),
            _ => Err(format!("unknown pod network {word:?}: auto, route or vxlan")),
        }
    }
}

impl std::fmt::Display for PodNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PodNetwork::Auto => "auto",
            PodNetwork::Route => "route",
            PodNetwork::Vxlan => "vxlan",
        })
    }
}

impl Config {
    /// With flannel's port and VNI.
    pub fn new(mode: PodNetwork, node_name: &str, node_ip: IpAddr, cluster_cidrs: &[IpNet]) -> Self {
        Self { mode, node_name: node_name.into(), node_ip, cluster_cidrs: cluster_cidrs.to_vec(), vni: VNI, port: PORT }
    }
}

/// Keeps the ways to other nodes' pods, from caches that are read as [`crate::USER`], until `group` stops. The ways stay then, and stay as they are for as
/// long as no server is in sight.
///
/// # Errors
/// Where the kernel does not open its netlink.
pub async fn run(config: Config, caches: &Caches, group: &Group) -> Result<(), Error> {
    let IpAddr::V4(node_ip) = config.node_ip else {
        tracing::warn!(node_ip = %config.node_ip, "pods of other nodes are not reached: this node's address is of IPv6");
        return Ok(());
    };
    let inbox = Inbox::default();
    let driver = Driver::new(&config, node_ip, inbox.clone(), group)?;
    let (nodes, services) = (caches.of::<NodeFacts>(), caches.of::<ServiceCIDR>());
    let of_nodes = inbox.clone();
    nodes.on_change(move |old, new| of_nodes.node(old.map(|n| &**n), new.map(|n| &**n)));
    services.on_change(move |old, new| inbox.service_cidr(old.map(|s| &**s), new.map(|s| &**s)));
    group.spawn_loop("pod network", async move {
        // Before the first list, nobody is known: what an earlier run has made is not to be taken for left over.
        nodes.synced().await;
        driver.keep_on().await;
    });
    Ok(())
}

/// Removes all that this module makes on a node: routes, the VXLAN device, and the table that guards its port.
///
/// # Errors
/// The first failure; what could be removed is.
pub async fn cleanup(group: &Group) -> Result<(), Error> {
    let kernel = Kernel::open(group)?;
    let mut outcome = Ok(());
    for device in kernel.vxlans().await?.into_iter().filter(|device| device.name.starts_with(LINK_PREFIX)) {
        outcome = outcome.and(kernel.delete_device(&device.name).await);
    }
    for change in kernel.read(None).await?.steps_to(&plan::Entries::default()) {
        outcome = outcome.and(kernel.apply(&change, None).await.map(drop));
    }
    outcome?;
    match Guard::remove() {
        Err(netlink::Error::Io(error)) => {
            tracing::debug!(%error, "kernel does not support nf_tables");
            Ok(())
        }
        other => Ok(other?),
    }
}
