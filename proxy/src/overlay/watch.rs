//! The kernel's notifications -> whether something that the pod network needs was changed by somebody else.

use futures::FutureExt;
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, address::AddressAttribute, neighbour::NeighbourMessage},
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    kernel::{destination, is_ours, is_permanent, neighbour_parts, route},
    plan::Entries,
};

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE` of the kernel's rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40;
/// The kernel's own are cut to pages.
const BUFFER_BYTES: usize = 32 * 1024;

/// What a notification is held against.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub entries: Entries,
    pub device: Option<u32>,
    /// The interface that has the node's address.
    pub underlay: Option<u32>,
}

/// Opened before the first look, so that nothing is missed in between.
pub struct Watch(TokioSocket);

impl Watch {
    /// # Errors
    /// Where the kernel does not tell.
    pub fn open() -> std::io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Resolves when something of what is wanted was changed.
    pub async fn disturbed(&self, wanted: &Wanted) {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer).await {
                Ok(()) if !touches(&buffer, wanted) => {}
                // An overflow: what was lost may have been ours.
                _ => return,
            }
        }
    }

    /// Drops the notifications so far: what they speak of is seen by the look that follows.
    pub fn drain(&self) {
        while self.0.recv(&mut Vec::with_capacity(BUFFER_BYTES)).now_or_never().is_some() {}
    }
}

fn touches(mut bytes: &[u8], wanted: &Wanted) -> bool {
    while !bytes.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return false };
        let size = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(inner) if !concerns(&inner, wanted) => {}
            NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => return true,
            _ => {}
        }
        bytes = bytes.get(size.max(1)..).unwrap_or_default();
    }
    false
}

/// What we did ourselves is as it is wanted, and disturbs nobody.
fn concerns(message: &RouteNetlinkMessage, wanted: &Wanted) -> bool {
    let of_device = |message: &NeighbourMessage| wanted.device == Some(message.header.ifindex);
    match message {
        // Another's, too: ours may have had to wait for it to go.
        RouteNetlinkMessage::DelRoute(gone) => destination(gone).is_some_and(|range| wanted.entries.routes.contains_key(&range)),
        RouteNetlinkMessage::NewRoute(new) => match destination(new).and_then(|range| wanted.entries.routes.get(&range)) {
            Some(ours) => !is_ours(new) || route(new).is_none_or(|(_, route)| route != *ours),
            None => is_ours(new),
        },
        RouteNetlinkMessage::DelNeighbour(gone) => of_device(gone) && differs(gone, Is::Gone, &wanted.entries),
        RouteNetlinkMessage::NewNeighbour(new) => of_device(new) && differs(new, Is::There, &wanted.entries),
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            [wanted.device, wanted.underlay].contains(&Some(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            // The device's own address is set by us.
            let is_v4 = address.attributes.iter().any(|a| matches!(a, AddressAttribute::Local(ip) if ip.is_ipv4()));
            is_v4 && wanted.device != Some(address.header.index)
        }
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    There,
    Gone,
}

/// Whether an entry of the device is other than it is wanted. One that is going has no MAC any more; what the kernel notes by itself (multicast) is not
/// permanent.
fn differs(message: &NeighbourMessage, is: Is, wanted: &Entries) -> bool {
    let (mac, ip) = neighbour_parts(message);
    let as_wanted = match message.header.family {
        AddressFamily::Bridge => mac.and_then(|mac| wanted.forwarding.get(&mac)).map(|node| Some(*node) == ip),
        _ => ip.and_then(|ip| wanted.neighbours.get(&ip)).map(|held| Some(*held) == mac && is_permanent(message)),
    };
    match (as_wanted, is) {
        (Some(_), Is::Gone) => true,
        (Some(as_wanted), Is::There) => !as_wanted,
        (None, Is::Gone) => false,
        (None, Is::There) => is_permanent(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::plan::Route;
    use rtnetlink::{
        RouteMessageBuilder,
        packet_route::{link::LinkMessage, route::RouteProtocol},
    };
    use std::net::Ipv4Addr;

    fn new_route(range: &str, gateway: [u8; 4], protocol: u8) -> RouteNetlinkMessage {
        let range: ipnet::Ipv4Net = range.parse().unwrap();
        let built = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(range.network(), range.prefix_len()).gateway(gateway.into());
        let built = built.output_interface(2).pref_source([192, 0, 2, 1].into()).protocol(RouteProtocol::from(protocol));
        RouteNetlinkMessage::NewRoute(built.build())
    }

    fn del(message: RouteNetlinkMessage) -> RouteNetlinkMessage {
        let RouteNetlinkMessage::NewRoute(route) = message else { panic!("{message:?}") };
        RouteNetlinkMessage::DelRoute(route)
    }

    #[test]
    fn only_what_others_do_to_what_is_wanted_disturbs() {
        let ours = Route { gateway: [192, 0, 2, 2].into(), link: 2, source: [192, 0, 2, 1].into(), onlink: false };
        let entries = Entries { routes: [("10.244.2.0/24".parse().unwrap(), ours)].into(), ..Entries::default() };
        let wanted = Wanted { entries, device: Some(9), underlay: Some(2) };
        let link = |index| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            RouteNetlinkMessage::NewLink(link)
        };
        let cases = [
            (new_route("10.244.2.0/24", [192, 0, 2, 2], 83), false),
            (new_route("10.244.2.0/24", [192, 0, 2, 3], 83), true),
            (new_route("10.244.2.0/24", [192, 0, 2, 2], 4), true),
            (new_route("10.244.3.0/24", [192, 0, 2, 2], 83), true),
            (new_route("10.244.3.0/24", [192, 0, 2, 2], 4), false),
            (del(new_route("10.244.2.0/24", [192, 0, 2, 2], 83)), true),
            (del(new_route("10.244.3.0/24", [192, 0, 2, 2], 83)), false),
            (link(9), true),
            (link(2), true),
            (link(3), false),
        ];
        for (message, disturbs) in cases {
            assert_eq!(concerns(&message, &wanted), disturbs, "{message:?}");
            let mut framed = NetlinkMessage::from(message);
            framed.finalize();
            let mut bytes = vec![0; framed.buffer_len()];
            framed.serialize(&mut bytes);
            assert_eq!(touches(&[bytes.clone(), bytes].concat(), &wanted), disturbs);
        }
        assert!(!touches(&[1, 2, 3], &wanted) && !touches(&[0; 64], &wanted));
    }
}
