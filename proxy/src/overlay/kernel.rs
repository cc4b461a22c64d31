//! Entries of the pod network <-> the kernel, over rtnetlink: routes under a protocol number of our own, and one VXLAN device.

use std::net::{IpAddr, Ipv4Addr};

use api::task::Group;
use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{
    Handle, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};

use super::plan::{Change, Entries, Mac, Route};
use crate::cni::link::{self, Net};

/// Whose a route is (`proto` of `ip route`): those of others are never touched. The kernel's rtnetlink.h names none of this number.
pub const PROTOCOL: u8 = 83;

const EEXIST: i32 = -17;
/// `ESRCH` of a route, `ENOENT` of an entry, `ENODEV` of a link: it is gone already.
const GONE: [i32; 3] = [-3, -2, -19];

/// The VXLAN device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub vni: u32,
    pub port: u16,
    /// Where its packets leave from: this node's address, if this machine has it.
    pub local: Option<Ipv4Addr>,
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// The address of the device itself.
    pub address: Ipv4Addr,
}

/// The kernel's network in the namespace of the thread that made it.
pub struct Kernel {
    net: Net,
    handle: Handle,
}

/// One interface and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    pub addresses: Vec<Ipv4Net>,
}

/// A VXLAN device, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanSeen {
    pub name: String,
    pub vni: u32,
    pub port: u16,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Yes,
    /// Another program has a route of its own to that range.
    Foreign,
}

impl Kernel {
    /// # Errors
    /// Where netlink cannot be opened.
    pub fn open(group: &Group) -> Result<Self, link::Error> {
        let net = Net::here(group)?;
        let handle = net.handle().clone();
        Ok(Self { net, handle })
    }

    /// Those that have an address of IPv4, or the index of which is asked for.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, link::Error> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.map_err(|e| failed("list links", &e))?;
        let mut all: Vec<Interface> = links.iter().map(interface).collect();
        for (index, address) in self.net.addresses_by_link().await? {
            if let (IpNet::V4(address), Some(of)) = (address, all.iter_mut().find(|of| of.index == index)) {
                of.addresses.push(address);
            }
        }
        all.retain(|of| !of.addresses.is_empty());
        Ok(all)
    }

    /// Ours: routes of our protocol, and all entries of the device.
    pub async fn read(&self, device: Option<u32>) -> Result<Entries, link::Error> {
        let mut entries = Entries::default();
        let question = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> =
            self.handle.route().get(question).execute().try_collect().await.map_err(|e| failed("list routes", &e))?;
        entries.routes.extend(routes.iter().filter(|message| is_ours(message)).filter_map(route));
        let Some(device) = device else { return Ok(entries) };
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let listed = self.handle.neighbours().get().set_address_family(family).execute();
            let all: Vec<NeighbourMessage> = listed.try_collect().await.map_err(|e| failed("list neighbours", &e))?;
            for message in all.iter().filter(|message| message.header.ifindex == device && is_permanent(message)) {
                match neighbour(message) {
                    Some((mac, ip)) if message.header.family == AddressFamily::Bridge => drop(entries.forwarding.insert(mac, ip)),
                    Some((mac, ip)) => drop(entries.neighbours.insert(ip, mac)),
                    None => {}
                }
            }
        }
        Ok(entries)
    }

    pub async fn apply(&self, change: &Change, device: Option<u32>) -> Result<Done, link::Error> {
        let index = device.unwrap_or_default();
        let neighbours = self.handle.neighbours();
        let outcome = match change {
            Change::DeleteRoute(range, route) => self.handle.route().del(message(*range, route)).execute().await,
            Change::DeleteNeighbour(ip, mac) => {
                let mut request = neighbours.add(index, (*ip).into()).link_layer_address(mac);
                neighbours.del(request.message_mut().clone()).execute().await
            }
            Change::DeleteForwarding(mac, node) => {
                let mut request = neighbours.add_bridge(index, mac).destination((*node).into()).flags(NeighbourFlags::Own);
                neighbours.del(request.message_mut().clone()).execute().await
            }
            Change::SetForwarding(mac, node) => {
                let request = neighbours.add_bridge(index, mac).destination((*node).into()).flags(NeighbourFlags::Own);
                request.state(NeighbourState::Permanent).replace().execute().await
            }
            Change::SetNeighbour(ip, mac) => neighbours.add(index, (*ip).into()).link_layer_address(mac).replace().execute().await,
            Change::SetRoute(range, route, replaces) => {
                let request = self.handle.route().add(message(*range, route));
                let outcome = if *replaces { request.replace().execute().await } else { request.execute().await };
                if !*replaces && matches!(&outcome, Err(error) if link::code(error) == Some(EEXIST)) {
                    return Ok(Done::Foreign);
                }
                outcome
            }
        };
        let deletes = matches!(change, Change::DeleteRoute(..) | Change::DeleteNeighbour(..) | Change::DeleteForwarding(..));
        match outcome {
            Err(error) if deletes && link::code(&error).is_some_and(|code| GONE.contains(&code)) => Ok(Done::Yes),
            Err(error) => Err(failed(&format!("{change:?}"), &error)),
            Ok(()) => Ok(Done::Yes),
        }
    }

    /// The device's index; made anew where it is not as it should be, so that what runs through one that is goes on.
    pub async fn ensure_device(&self, wanted: &Device) -> Result<u32, link::Error> {
        if let Some(found) = self.find(&wanted.name).await? {
            if is_as(&found, wanted) {
                return self.finish(found.header.index, wanted).await;
            }
            self.net.delete_link(&wanted.name).await?;
        }
        let made = LinkVxlan::new(&wanted.name, wanted.vni).port(wanted.port).learning(false);
        let made = if let Some(local) = wanted.local { made.local(local) } else { made };
        let made = made.address(wanted.mac.to_vec()).mtu(wanted.mtu).build();
        self.handle.link().add(made).execute().await.map_err(|e| failed(&format!("add link {}", wanted.name), &e))?;
        let link = self.net.must_link(&wanted.name).await?;
        self.finish(link.index, wanted).await
    }

    async fn finish(&self, index: u32, wanted: &Device) -> Result<u32, link::Error> {
        self.net.ensure_only_address(index, IpNet::from(IpAddr::from(wanted.address))).await?;
        self.net.up(index).await?;
        Ok(index)
    }

    pub async fn delete_device(&self, name: &str) -> Result<(), link::Error> {
        match self.find(name).await? {
            Some(found) if vxlan(&found).is_some() => self.net.delete_link(name).await.map(drop),
            _ => Ok(()),
        }
    }

    /// All VXLAN devices.
    pub async fn vxlans(&self) -> Result<Vec<VxlanSeen>, link::Error> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.map_err(|e| failed("list links", &e))?;
        Ok(links.iter().filter_map(|link| Some(VxlanSeen::of(interface(link).name, vxlan(link)?))).collect())
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, link::Error> {
        if self.net.link(name).await?.is_none() {
            return Ok(None);
        }
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        found.try_next().await.map_err(|e| failed(&format!("look for link {name}"), &e))
    }
}

impl VxlanSeen {
    fn of(name: String, told: &[InfoVxlan]) -> Self {
        let mut seen = Self { name, vni: 0, port: 0 };
        for info in told {
            match info {
                InfoVxlan::Id(vni) => seen.vni = *vni,
                InfoVxlan::Port(port) => seen.port = *port,
                _ => {}
            }
        }
        seen
    }
}

pub fn is_ours(message: &RouteMessage) -> bool {
    u8::from(message.header.protocol) == PROTOCOL && message.header.table == RouteHeader::RT_TABLE_MAIN
}

/// A route's range and what we need of it; `None` of other tables, other families, and those without a gateway.
pub fn route(message: &RouteMessage) -> Option<(Ipv4Net, Route)> {
    let range = destination(message)?;
    let four = |address: &RouteAddress| if let RouteAddress::Inet(ip) = address { Some(*ip) } else { None };
    let (mut gateway, mut link, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(ip) => gateway = four(ip),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::PrefSource(ip) => source = four(ip),
            _ => {}
        }
    }
    let onlink = message.header.flags.contains(rtnetlink::packet_route::route::RouteFlags::Onlink);
    Some((range, Route { gateway: gateway?, link: link?, source: source.unwrap_or(Ipv4Addr::UNSPECIFIED), onlink }))
}

/// Of a route of IPv4 in the main table.
pub fn destination(message: &RouteMessage) -> Option<Ipv4Net> {
    if message.header.address_family != AddressFamily::Inet || message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let to =
        message.attributes.iter().find_map(|a| if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = a { Some(*ip) } else { None });
    Ipv4Net::new(to?, message.header.destination_prefix_length).ok()
}

pub fn is_permanent(message: &NeighbourMessage) -> bool {
    u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0
}

/// MAC and address of an entry, whose address has no family where it is one of a device's forwarding.
fn neighbour(message: &NeighbourMessage) -> Option<(Mac, Ipv4Addr)> {
    let (mac, ip) = neighbour_parts(message);
    Some((mac?, ip?))
}

/// The same where one may be missing.
pub fn neighbour_parts(message: &NeighbourMessage) -> (Option<Mac>, Option<Ipv4Addr>) {
    let (mut mac, mut ip) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => ip = Some(*found),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                ip = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
            }
            _ => {}
        }
    }
    (mac, ip)
}

fn message(range: Ipv4Net, route: &Route) -> RouteMessage {
    let made = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .gateway(route.gateway)
        .output_interface(route.link)
        .pref_source(route.source)
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(RouteScope::Universe)
        .kind(RouteType::Unicast);
    if route.onlink { made.onlink().build() } else { made.build() }
}

fn interface(message: &LinkMessage) -> Interface {
    let mut of = Interface { index: message.header.index, ..Interface::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => of.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => of.mtu = *mtu,
            _ => {}
        }
    }
    of
}

/// What a VXLAN device is told; `None` for a link of another kind.
fn vxlan(message: &LinkMessage) -> Option<&[InfoVxlan]> {
    let infos = message.attributes.iter().find_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None })?;
    infos.iter().find_map(|info| if let LinkInfo::Data(InfoData::Vxlan(told)) = info { Some(told.as_slice()) } else { None })
}

fn is_as(found: &LinkMessage, wanted: &Device) -> bool {
    let Some(told) = vxlan(found) else { return false };
    let needed = [InfoVxlan::Id(wanted.vni), InfoVxlan::Port(wanted.port), InfoVxlan::Learning(false)];
    let local = told.iter().find_map(|info| if let InfoVxlan::Local(ip) = info { Some(*ip) } else { None });
    let attributes = [LinkAttribute::Address(wanted.mac.to_vec()), LinkAttribute::Mtu(wanted.mtu)];
    local == wanted.local
        && needed.iter().all(|info| told.contains(info))
        && attributes.iter().all(|attribute| found.attributes.contains(attribute))
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> link::Error {
    link::failed(what, why)
}
