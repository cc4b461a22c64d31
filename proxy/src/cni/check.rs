//! An attachment -> is it still as ADD made it; the plugin -> could it ADD now.

use std::net::IpAddr;

use api::task::Group;
use serde_json::Value;

use super::{
    attach,
    ipam::Range,
    leases::LockedLeases,
    link::Net,
    spec::{Fault, Request},
};

/// CHECK.
///
/// # Errors
/// Code 7 without `prevResult`, 100 where something is no longer as it was made.
pub async fn check(request: &Request, group: &Group) -> Result<(), Fault> {
    let range = Range::of(&request.conf.ipam)?;
    let wanted = previous_address(request.conf.prev_result.as_ref())?;
    let held = LockedLeases::open(&request.conf)?.leases.of(&request.owner);
    if held != Some(wanted) {
        return Err(changed(format!("{wanted} is not leased to this container (its lease: {held:?})")));
    }
    let net = Net::here(group)?;
    let bridge = net.link(request.conf.bridge()).await?.ok_or_else(|| changed(format!("bridge {} is gone", request.conf.bridge())))?;
    let host = attach::host_name(&request.owner);
    match net.link(&host).await? {
        Some(link) if link.up && link.controller == Some(bridge.index) => {}
        Some(_) => return Err(changed(format!("{host} is not up or not in the bridge"))),
        None => return Err(changed(format!("{host} is gone"))),
    }
    let netns = request.netns.as_deref().ok_or_else(|| Fault::new(4, "required env variables [CNI_NETNS] missing", ""))?;
    let (inside, _) = Net::within(netns, group)?;
    inside_is_whole(&inside, &request.owner.ifname, wanted, range).await
}

/// STATUS: whether an ADD could succeed.
///
/// # Errors
/// Code 50 where it could not.
pub fn status(request: &Request) -> Result<(), Fault> {
    let range = Range::of(&request.conf.ipam)?;
    let held = LockedLeases::open(&request.conf)?;
    if held.leases.has_free(range) {
        return Ok(());
    }
    Err(Fault::new(50, format!("no IP addresses available in {}", range.subnet), ""))
}

async fn inside_is_whole(inside: &Net, ifname: &str, wanted: IpAddr, range: Range) -> Result<(), Fault> {
    let link = inside.link(ifname).await?.ok_or_else(|| changed(format!("{ifname} is gone")))?;
    if !link.up || !inside.addresses(Some(link.index)).await?.iter().any(|a| a.addr() == wanted) {
        return Err(changed(format!("{ifname} is not up or has lost {wanted}")));
    }
    if !inside.has_default_route(range.gateway).await? {
        return Err(changed(format!("the default route via {} is gone", range.gateway)));
    }
    Ok(())
}

fn previous_address(previous: Option<&Value>) -> Result<IpAddr, Fault> {
    let address = previous.and_then(|p| p.pointer("/ips/0/address")).and_then(Value::as_str);
    let net = address.and_then(|a| a.parse::<ipnet::IpNet>().ok());
    net.map(|n| n.addr()).ok_or_else(|| Fault::config("prevResult with an address is required for CHECK"))
}

fn changed(details: String) -> Fault {
    Fault::new(100, "the network of the container is not as it was made", details)
}
