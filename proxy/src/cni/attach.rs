//! A request -> the sandbox attached to the bridge, or detached from it.

use std::{net::IpAddr, path::Path};

use api::task::Group;
use ipnet::IpNet;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    hostport,
    ipam::Range,
    leases::LockedLeases,
    link::{self, End, Net, mac_of, mac_text},
    spec::{AddResult, Command, Fault, Owner, PortMapping, Request},
};
use crate::{family::Family, sysctl};

/// ADD: takes an address, makes the pair, fills the sandbox. What was made is undone if a step fails.
pub async fn add(request: &Request, group: &Group) -> Result<Value, Fault> {
    let range = Range::of(&request.conf.ipam)?;
    let ports = hostport::checked(&request.conf.runtime_config.port_mappings, range.family())?;
    let address = lease(request, range, &ports).await?;
    match attach(request, range, address, group).await {
        Ok(made) => Ok(made.result(&request.conf.cni_version)),
        Err(fault) => {
            // The first failure is the one to tell.
            let _ = del(request, group).await;
            Err(fault)
        }
    }
}

/// DEL: gives everything back. Fine if it is gone already.
pub async fn del(request: &Request, group: &Group) -> Result<(), Fault> {
    let net = Net::here(group)?;
    release(request, &net, &request.owner).await
}

/// GC: gives back what belongs to none of the attachments that the runtime knows.
pub async fn collect(request: &Request, group: &Group) -> Result<(), Fault> {
    let Some(valid) = &request.conf.valid_attachments else {
        return Err(Fault::config("cni.dev/valid-attachments is missing"));
    };
    let held: Vec<Owner> = LockedLeases::open(&request.conf)?.leases.leases.values().map(|l| l.owner.clone()).collect();
    let net = Net::here(group)?;
    for owner in held.iter().filter(|o| !valid.contains(o)) {
        release(request, &net, owner).await?;
    }
    Ok(())
}

/// The `loopback` plugin: sets `lo` up, which is all that upstream's does too.
pub async fn loopback(request: &Request, group: &Group) -> Result<Option<Value>, Fault> {
    let Some(netns) = &request.netns else { return Ok(None) };
    if !matches!(request.command, Command::Add | Command::Check) {
        return Ok(None);
    }
    let (inside, _) = Net::within(netns, group)?;
    let lo = inside.must_link("lo").await?;
    inside.up(lo.index).await?;
    if request.command == Command::Check {
        return Ok(None);
    }
    if let Some(previous) = &request.conf.prev_result {
        return Ok(Some(previous.clone()));
    }
    let version = &request.conf.cni_version;
    let mut ip = json!({"interface": 0, "address": "127.0.0.1/8"});
    if version.starts_with("0.") {
        ip["version"] = "4".into();
    }
    let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns});
    Ok(Some(json!({"cniVersion": version, "interfaces": [interface], "ips": [ip], "dns": {}})))
}

/// The host end's name: found again without a record.
pub fn host_name(owner: &Owner) -> String {
    format!("veth{}", api::hex(&digest(owner)[..4]))
}

async fn lease(request: &Request, range: Range, ports: &[PortMapping]) -> Result<IpAddr, Fault> {
    let mut held = LockedLeases::open(&request.conf)?;
    let address = held.leases.take(range, &request.owner, ports)?;
    held.save()?;
    if !ports.is_empty() {
        hostport::sync(&held.leases, range.subnet).await?;
        hostport::forget_flows(ports, range.family()).await;
    }
    Ok(address)
}

async fn attach(request: &Request, range: Range, address: IpAddr, group: &Group) -> Result<AddResult, Fault> {
    let netns = request.netns.as_deref().ok_or_else(|| Fault::new(4, "required env variables [CNI_NETNS] missing", ""))?;
    let (net, (inside, ns)) = (Net::here(group)?, Net::within(netns, group)?);
    let bridge_name = request.conf.bridge();
    let bridge = net.ensure_bridge(&End { name: bridge_name, mac: mac_of(range.gateway), mtu: request.conf.mtu }).await?;
    net.ensure_address(bridge.index, in_range(range.gateway, range)).await?;
    forward(bridge_name, range.family(), !request.conf.runtime_config.port_mappings.is_empty())?;
    let name = host_name(&request.owner);
    // Left by an ADD that was killed.
    net.delete_link(&name).await?;
    let host = End { name: &name, mac: host_mac(&request.owner), mtu: request.conf.mtu };
    let peer = End { name: &request.owner.ifname, mac: mac_of(address), mtu: request.conf.mtu };
    net.add_pair(&host, &peer, &ns, bridge.index).await?;
    fill(&inside, peer.name, in_range(address, range), range.gateway).await?;
    Ok(AddResult {
        bridge: (bridge_name.into(), bridge.mac_text()),
        host: (name.clone(), mac_text(&host.mac)),
        sandbox: (peer.name.into(), mac_text(&peer.mac)),
        netns: netns.display().to_string(),
        address: in_range(address, range),
        gateway: range.gateway,
    })
}

async fn fill(inside: &Net, ifname: &str, address: IpNet, gateway: IpAddr) -> Result<(), link::Error> {
    let lo = inside.must_link("lo").await?;
    inside.up(lo.index).await?;
    let link = inside.must_link(ifname).await?;
    inside.ensure_address(link.index, address).await?;
    inside.up(link.index).await?;
    inside.ensure_default_route(gateway).await
}

fn forward(bridge: &str, family: Family, has_ports: bool) -> Result<(), Fault> {
    let name = match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    };
    sysctl::set(Path::new(name), "1").map_err(|e| Fault::io("turn IP forwarding on", &e))?;
    if has_ports && family == Family::V4 {
        // For 127.0.0.1:hostPort.
        let name = format!("net/ipv4/conf/{bridge}/route_localnet");
        sysctl::set(Path::new(&name), "1").map_err(|e| Fault::io("let the bridge route local addresses", &e))?;
    }
    Ok(())
}

async fn release(request: &Request, net: &Net, owner: &Owner) -> Result<(), Fault> {
    net.delete_link(&host_name(owner)).await?;
    let mut held = LockedLeases::open(&request.conf)?;
    let Some(lease) = held.leases.free(owner) else { return Ok(()) };
    held.save()?;
    if lease.ports.is_empty() {
        return Ok(());
    }
    let range = Range::of(&request.conf.ipam)?;
    hostport::sync(&held.leases, range.subnet).await?;
    hostport::forget_flows(&lease.ports, range.family()).await;
    Ok(())
}

fn in_range(address: IpAddr, range: Range) -> IpNet {
    IpNet::new_assert(address, range.subnet.prefix_len())
}

fn host_mac(owner: &Owner) -> [u8; 6] {
    let d = digest(owner);
    // Locally administered, unicast.
    [0x0a, d[0], d[1], d[2], d[3], d[4]]
}

fn digest(owner: &Owner) -> [u8; 32] {
    Sha256::digest(format!("{}\n{}", owner.container, owner.ifname)).into()
}

impl From<link::Error> for Fault {
    fn from(error: link::Error) -> Self {
        Fault::io("set the network up", &error)
    }
}
