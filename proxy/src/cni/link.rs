//! Links, addresses and routes of one network namespace, over rtnetlink.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use api::task::Group;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute},
    },
};

use crate::family::Family;

const EEXIST: i32 = -17;
const ENODEV: i32 = -19;

/// A namespace's netlink.
#[derive(Clone)]
pub struct Net {
    handle: Handle,
}

/// What we want to know of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub mac: Vec<u8>,
    pub controller: Option<u32>,
    pub up: bool,
}

/// Why netlink would not.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    what: String,
    why: String,
}

/// One end of a pair that is to be made: its name, link-layer address and MTU in bytes (0: the kernel's default).
pub struct End<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
    pub mtu: u32,
}

impl Net {
    /// Of the namespace that this thread is in.
    pub fn here(group: &Group) -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| failed("open netlink", &e))?;
        group.spawn(connection);
        Ok(Self { handle })
    }

    /// Of the namespace at `path` (and the open namespace): a socket stays in the namespace it was made in, so the thread is back before
    /// anything else runs on it.
    pub fn within(path: &Path, group: &Group) -> Result<(Self, File), Error> {
        let open = |path: &Path| File::open(path).map_err(|e| failed(&format!("open {}", path.display()), &e));
        let (target, home) = (open(path)?, open(Path::new("/proc/thread-self/ns/net"))?);
        setns(target.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter the network namespace", &e))?;
        let made = Self::here(group);
        setns(home.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| failed("leave the network namespace", &e))?;
        Ok((made?, target))
    }

    /// For what only one module needs.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.map(|m| Link::from_message(&m))),
            Err(e) if code(&e) == Some(ENODEV) => Ok(None),
            Err(e) => Err(failed(&format!("look for link {name}"), &e)),
        }
    }

    pub async fn must_link(&self, name: &str) -> Result<Link, Error> {
        self.link(name).await?.ok_or_else(|| Error { what: format!("look for link {name}"), why: "it does not exist".into() })
    }

    /// True if it was there.
    pub async fn delete_link(&self, name: &str) -> Result<bool, Error> {
        let Some(link) = self.link(name).await? else { return Ok(false) };
        self.delete(link.index, name).await
    }

    async fn delete(&self, index: u32, name: &str) -> Result<bool, Error> {
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(true),
            // Gone in between: deleting the other end, or the namespace, takes it along.
            Err(e) if code(&e) == Some(ENODEV) => Ok(false),
            Err(e) => Err(failed(&format!("delete link {name}"), &e)),
        }
    }

    /// The bridge, made if it was not there.
    pub async fn ensure_bridge(&self, end: &End<'_>) -> Result<Link, Error> {
        let link = match self.link(end.name).await? {
            Some(link) => link,
            None => {
                self.add(with_mtu(LinkBridge::new(end.name).address(end.mac.to_vec()), end.mtu).up().build(), end.name).await?;
                self.must_link(end.name).await?
            }
        };
        if !link.up {
            self.up(link.index).await?;
        }
        Ok(link)
    }

    /// A pair: one end here, up and in the bridge with hairpin on, the other end in the namespace `peer_ns`.
    pub async fn add_pair(&self, host: &End<'_>, peer: &End<'_>, peer_ns: &File, bridge: u32) -> Result<(), Error> {
        let inner = LinkMessageBuilder::<LinkUnspec>::new().name(peer.name).address(peer.mac.to_vec()).setns_by_fd(peer_ns.as_raw_fd());
        let inner = InfoData::Veth(InfoVeth::Peer(with_mtu(inner, peer.mtu).build()));
        let outer = LinkVeth::new(host.name, peer.name).address(host.mac.to_vec()).set_info_data(inner).controller(bridge);
        let message = with_mtu(outer, host.mtu).up().build();
        self.handle.link().add(message).execute().await.map_err(|e| failed(&format!("add link {}", host.name), &e))?;
        let link = self.must_link(host.name).await?;
        let port = LinkBridgePort::new(link.index).hairpin(true).build();
        self.handle.link().set_port(port).execute().await.map_err(|e| failed("turn hairpin on", &e))
    }

    pub async fn up(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(|e| failed("set a link up", &e))
    }

    /// Fine if it is there already.
    pub async fn ensure_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        match self.handle.address().add(index, address.addr(), address.prefix_len()).execute().await {
            Err(e) if code(&e) != Some(EEXIST) => Err(failed(&format!("add address {address}"), &e)),
            _ => Ok(()),
        }
    }

    /// The link's one address of that family: others, of an earlier configuration, are removed.
    pub async fn ensure_only_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        self.ensure_address(index, address).await?;
        for message in self.address_messages(Some(index)).await? {
            if ip_of(&message).is_some_and(|there| Family::of_net(there) == Family::of_net(address) && there != address) {
                self.handle.address().del(message).execute().await.map_err(|e| failed("remove an address", &e))?;
            }
        }
        Ok(())
    }

    pub async fn ensure_default_route(&self, gateway: IpAddr) -> Result<(), Error> {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        match self.handle.route().add(route).execute().await {
            Err(e) if code(&e) != Some(EEXIST) => Err(failed(&format!("add the default route via {gateway}"), &e)),
            _ => Ok(()),
        }
    }

    /// The addresses of one link, or of all, of both families.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<IpNet>, Error> {
        Ok(self.address_messages(index).await?.iter().filter_map(ip_of).collect())
    }

    /// All of them, with the index of the link.
    pub async fn addresses_by_link(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        let all = self.address_messages(None).await?;
        Ok(all.iter().filter_map(|message| Some((message.header.index, ip_of(message)?))).collect())
    }

    async fn address_messages(&self, index: Option<u32>) -> Result<Vec<AddressMessage>, Error> {
        let request = self.handle.address().get();
        let request = if let Some(index) = index { request.set_link_index_filter(index) } else { request };
        request.execute().try_collect().await.map_err(|e| failed("list addresses", &e))
    }

    /// Deletes the bridge and what hangs on it.
    pub async fn delete_bridge(&self, name: &str) -> Result<(), Error> {
        let Some(bridge) = self.link(name).await? else { return Ok(()) };
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.map_err(|e| failed("list links", &e))?;
        for link in links.iter().map(Link::from_message).filter(|link| link.controller == Some(bridge.index)) {
            self.delete(link.index, name).await?;
        }
        self.delete(bridge.index, name).await.map(drop)
    }

    pub async fn has_default_route(&self, via: IpAddr) -> Result<bool, Error> {
        let (ours, all) = match via {
            IpAddr::V4(via) => (RouteAddress::Inet(via), RouteMessageBuilder::<Ipv4Addr>::new().build()),
            IpAddr::V6(via) => (RouteAddress::Inet6(via), RouteMessageBuilder::<Ipv6Addr>::new().build()),
        };
        let ours = RouteAttribute::Gateway(ours);
        let mut routes = Box::pin(self.handle.route().get(all).execute());
        while let Some(route) = routes.next().await {
            let route = route.map_err(|e| failed("list routes", &e))?;
            if route.header.destination_prefix_length == 0 && route.attributes.contains(&ours) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn add(&self, message: LinkMessage, name: &str) -> Result<(), Error> {
        match self.handle.link().add(message).execute().await {
            Err(e) if code(&e) != Some(EEXIST) => Err(failed(&format!("add link {name}"), &e)),
            _ => Ok(()),
        }
    }
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, mac: Vec::new(), controller: None, up: message.header.flags.contains(LinkFlags::Up) };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                _ => {}
            }
        }
        link
    }

    /// `0a:58:0a:f4:00:02`
    pub fn mac_text(&self) -> String {
        mac_text(&self.mac)
    }
}

/// The link-layer address of an address, by its last four bytes: an address that is given again is then in nobody's neighbour table under a wrong one.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => u32::try_from(u128::from(address) & u128::from(u32::MAX)).unwrap_or_default().to_be_bytes(),
    };
    [0x0a, 0x58, a, b, c, d]
}

pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn with_mtu<T: std::fmt::Debug + Default>(builder: LinkMessageBuilder<T>, mtu: u32) -> LinkMessageBuilder<T> {
    if mtu == 0 { builder } else { builder.mtu(mtu) }
}

/// Where the other end of a link has an address as well, `Local` is ours; IPv6 leaves it out where there is none.
fn ip_of(message: &AddressMessage) -> Option<IpNet> {
    let find = |of: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(of);
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = local.or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// Of the kernel: the number of an error, negative.
pub fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code()),
        _ => None,
    }
}

pub fn failed(what: &str, why: &dyn std::fmt::Display) -> Error {
    Error { what: what.into(), why: why.to_string() }
}
