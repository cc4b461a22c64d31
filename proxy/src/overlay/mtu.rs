//! The interface that has the node's address -> how long a pod's packets may be.
//!
//! A pod keeps the MTU that it was made with. One of before, that may send longer packets than VXLAN takes, is told so by its node whenever it does (ICMP,
//! fragmentation needed), and goes by that: nothing is lost but a round trip.

use std::net::{IpAddr, Ipv4Addr};

use api::task::Group;

use super::{LINK_PREFIX, PodNetwork, kernel::Interface, kernel::Kernel};

/// IPv4 (20), UDP (8), VXLAN (8), Ethernet (14); IPv6 takes 20 more.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;
/// Of a packet; a loopback says one more.
pub const LONGEST: u32 = 65_535;
/// Every IPv4 host takes these (RFC 791); below it a number is a mistake.
const SHORTEST: u32 = 576;

/// In bytes. A pod may talk to any node, and one packet too long to a node beyond a router is one too many: but where only routes are used, there is room
/// for VXLAN's headers.
pub fn pod_mtu(mode: PodNetwork, link_mtu: u32, node_ip: IpAddr) -> u32 {
    let overhead = match (mode, node_ip) {
        (PodNetwork::Route, _) => 0,
        (_, IpAddr::V4(_)) => OVERHEAD_V4,
        (_, IpAddr::V6(_)) => OVERHEAD_V6,
    };
    link_mtu.min(LONGEST).saturating_sub(overhead).max(SHORTEST)
}

/// [`pod_mtu`] of the interface that has the node's address; 0, which leaves the kernel's default, where it cannot be seen.
pub async fn pod_mtu_here(mode: PodNetwork, node_ip: IpAddr, group: &Group) -> u32 {
    let ip = match node_ip {
        // Nobody else reaches a node whose address is a loopback's: its packets go nowhere.
        IpAddr::V4(ip) if !ip.is_loopback() => ip,
        _ => return 0,
    };
    let seen = async { Kernel::open(group)?.interfaces().await };
    match seen.await {
        Ok(all) => underlay(&all, ip).map_or(0, |link| pod_mtu(mode, link.mtu, node_ip)),
        Err(error) => {
            tracing::warn!(%error, "the interfaces cannot be seen; pods have the kernel's default MTU");
            0
        }
    }
}

/// The interface that has the address; where none has (it is translated on the way), that with the shortest packets.
pub fn underlay(all: &[Interface], node_ip: Ipv4Addr) -> Option<&Interface> {
    let has = |link: &&Interface| link.addresses.iter().any(|net| net.addr() == node_ip);
    let others = || all.iter().filter(|link| !is_own(link)).min_by_key(|link| link.mtu);
    all.iter().find(has).or_else(others)
}

/// Made by us, or a loopback.
pub fn is_own(link: &Interface) -> bool {
    let ours = link.name == crate::cni::BRIDGE || link.name == crate::dns::LINK || link.name.starts_with(LINK_PREFIX);
    ours || link.addresses.iter().all(|net| net.addr().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_vxlan_have_room() {
        let (four, six) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse().unwrap());
        let cases = [
            (PodNetwork::Auto, 1500, four, 1450),
            (PodNetwork::Vxlan, 1500, four, 1450),
            (PodNetwork::Vxlan, 1500, six, 1430),
            (PodNetwork::Route, 1500, four, 1500),
            (PodNetwork::Auto, 9000, four, 8950),
            (PodNetwork::Auto, 65_536, four, 65_485),
            (PodNetwork::Auto, 100, four, 576),
        ];
        for (mode, link, ip, wanted) in cases {
            assert_eq!(pod_mtu(mode, link, ip), wanted, "{mode} {link} {ip}");
        }
    }

    #[test]
    fn the_underlay_has_the_nodes_address() {
        let link =
            |index, name: &str, mtu, address: &str| Interface { index, name: name.into(), mtu, addresses: vec![address.parse().unwrap()] };
        let all = [
            link(1, "lo", 65_536, "127.0.0.1/8"),
            link(2, "eth0", 1500, "10.0.2.15/24"),
            link(3, "eth1", 9000, "192.168.56.11/24"),
            link(4, "skiff0", 1450, "10.244.1.1/24"),
        ];
        let of = |ip: [u8; 4]| underlay(&all, ip.into()).map(|link| link.name.as_str());
        assert_eq!((of([192, 168, 56, 11]), of([203, 0, 113, 7]), of([127, 0, 0, 1])), (Some("eth1"), Some("eth0"), Some("lo")));
        assert_eq!(underlay(&all[..1], [203, 0, 113, 7].into()), None);
    }
}
