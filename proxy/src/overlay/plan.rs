//! Other nodes, and how this machine's network is -> the routes, forwarding entries and neighbours that the kernel should have. Pure.
//!
//! Source: flannel's `pkg/backend/hostgw` and `pkg/backend/vxlan`: a route where two nodes share an L2; else a route into the VXLAN device by way of the
//! other range's first address, a neighbour with that address, and an entry that leads to the node that has its MAC.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{PodNetwork, peers::Peer};
use crate::cni::link::mac_of;

pub type Mac = [u8; 6];

/// The interface that has this node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its index.
    pub link: u32,
    /// This node's address.
    pub address: Ipv4Addr,
    /// What is reached there without a router; of one address where there is none.
    pub subnet: Ipv4Net,
    /// Whether the interface really has the address: it may be translated on the way.
    pub is_ours: bool,
}

/// How packets come to the pods of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub range: Ipv4Net,
    pub node: Ipv4Addr,
    pub by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Route,
    Vxlan,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub gateway: Ipv4Addr,
    /// Index of the link it leads out of.
    pub link: u32,
    /// What leaves from this machine itself has this address.
    pub source: Ipv4Addr,
    /// The gateway is there although no subnet says so.
    pub onlink: bool,
}

/// What the kernel has, or should have, for the pod network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Of the VXLAN device: which node has a MAC.
    pub forwarding: BTreeMap<Mac, Ipv4Addr>,
    /// Of the VXLAN device.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
}

/// One step from what there is to what there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    DeleteRoute(Ipv4Net, Route),
    DeleteNeighbour(Ipv4Addr, Mac),
    DeleteForwarding(Mac, Ipv4Addr),
    SetForwarding(Mac, Ipv4Addr),
    SetNeighbour(Ipv4Addr, Mac),
    /// `true`: in place of ours that is there.
    SetRoute(Ipv4Net, Route, bool),
}

/// `None` where the way that was asked for does not lead there.
pub fn way(peer: &Peer, mode: PodNetwork, underlay: &Underlay) -> Option<Way> {
    let near = underlay.subnet.contains(&peer.address) && is_host(peer.address, underlay.subnet);
    let by = match mode {
        PodNetwork::Vxlan => By::Vxlan,
        _ if near => By::Route,
        PodNetwork::Auto => By::Vxlan,
        PodNetwork::Route => return None,
    };
    Some(Way { range: peer.range, node: peer.address, by })
}

/// The MAC of a node's VXLAN device, by its range: no two nodes have the same, and nobody needs to say it.
pub fn vtep_mac(range: Ipv4Net) -> Mac {
    mac_of(range.network().into())
}

/// The address of a node's VXLAN device: the range's first, which no pod gets.
pub fn vtep_address(range: Ipv4Net) -> Ipv4Addr {
    range.network()
}

impl Entries {
    /// What one way needs. `device` is the VXLAN device's index: a way by VXLAN is left out where there is none.
    pub fn of(way: &Way, underlay: &Underlay, own_range: Ipv4Net, device: Option<u32>) -> Self {
        let mut entries = Self::default();
        match (way.by, device) {
            (By::Route, _) => {
                let route = Route { gateway: way.node, link: underlay.link, source: underlay.address, onlink: false };
                entries.routes.insert(way.range, route);
            }
            (By::Vxlan, Some(link)) => {
                let (address, mac) = (vtep_address(way.range), vtep_mac(way.range));
                let route = Route { gateway: address, link, source: vtep_address(own_range), onlink: true };
                entries.routes.insert(way.range, route);
                entries.neighbours.insert(address, mac);
                entries.forwarding.insert(mac, way.node);
            }
            (By::Vxlan, None) => {}
        }
        entries
    }

    pub fn extend(&mut self, other: Self) {
        self.routes.extend(other.routes);
        self.forwarding.extend(other.forwarding);
        self.neighbours.extend(other.neighbours);
    }

    /// Those of some ways in place of what they were before.
    pub fn replace(&mut self, before: &Self, now: Self) {
        for range in before.routes.keys() {
            self.routes.remove(range);
        }
        for mac in before.forwarding.keys() {
            self.forwarding.remove(mac);
        }
        for ip in before.neighbours.keys() {
            self.neighbours.remove(ip);
        }
        self.extend(now);
    }

    /// The steps from this to `wanted`: what goes first, then what a route needs before the route.
    pub fn steps_to(&self, wanted: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = self.routes.iter().filter(|(range, _)| !wanted.routes.contains_key(*range));
        changes.extend(gone.map(|(range, route)| Change::DeleteRoute(*range, route.clone())));
        let gone = self.neighbours.iter().filter(|(ip, _)| !wanted.neighbours.contains_key(*ip));
        changes.extend(gone.map(|(ip, mac)| Change::DeleteNeighbour(*ip, *mac)));
        let gone = self.forwarding.iter().filter(|(mac, _)| !wanted.forwarding.contains_key(*mac));
        changes.extend(gone.map(|(mac, node)| Change::DeleteForwarding(*mac, *node)));
        let new = wanted.forwarding.iter().filter(|(mac, node)| self.forwarding.get(*mac) != Some(*node));
        changes.extend(new.map(|(mac, node)| Change::SetForwarding(*mac, *node)));
        let new = wanted.neighbours.iter().filter(|(ip, mac)| self.neighbours.get(*ip) != Some(*mac));
        changes.extend(new.map(|(ip, mac)| Change::SetNeighbour(*ip, *mac)));
        let new = wanted.routes.iter().filter(|(range, route)| self.routes.get(*range) != Some(*route));
        changes.extend(new.map(|(range, route)| Change::SetRoute(*range, route.clone(), self.routes.contains_key(range))));
        changes
    }
}

fn is_host(address: Ipv4Addr, subnet: Ipv4Net) -> bool {
    subnet.prefix_len() >= 31 || (address != subnet.network() && address != subnet.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay() -> Underlay {
        Underlay { link: 2, address: [192, 0, 2, 1].into(), subnet: "192.0.2.0/24".parse().unwrap(), is_ours: true }
    }

    fn peer(address: [u8; 4]) -> Peer {
        Peer { address: address.into(), range: "10.244.2.0/24".parse().unwrap() }
    }

    #[test]
    fn the_way_is_chosen_by_pair() {
        let cases = [
            ([192, 0, 2, 7], PodNetwork::Auto, Some(By::Route)),
            ([192, 0, 3, 7], PodNetwork::Auto, Some(By::Vxlan)),
            ([192, 0, 2, 255], PodNetwork::Auto, Some(By::Vxlan)),
            ([192, 0, 2, 0], PodNetwork::Route, None),
            ([192, 0, 2, 7], PodNetwork::Vxlan, Some(By::Vxlan)),
            ([192, 0, 2, 7], PodNetwork::Route, Some(By::Route)),
            ([192, 0, 3, 7], PodNetwork::Route, None),
        ];
        for (address, mode, by) in cases {
            assert_eq!(way(&peer(address), mode, &underlay()).map(|way| way.by), by, "{address:?} {mode:?}");
        }
        // Without a subnet (a provider's /32), nobody is near.
        let alone = Underlay { subnet: "192.0.2.1/32".parse().unwrap(), ..underlay() };
        assert_eq!(way(&peer([192, 0, 2, 7]), PodNetwork::Auto, &alone).map(|way| way.by), Some(By::Vxlan));
    }

    fn entries(address: [u8; 4], mode: PodNetwork, device: Option<u32>) -> Entries {
        Entries::of(&way(&peer(address), mode, &underlay()).unwrap(), &underlay(), "10.244.1.0/24".parse().unwrap(), device)
    }

    #[test]
    fn a_way_by_vxlan_needs_three_entries_and_a_device() {
        let mac = [0x0a, 0x58, 10, 244, 2, 0];
        let (first, node): (Ipv4Addr, Ipv4Addr) = ([10, 244, 2, 0].into(), [192, 0, 3, 7].into());
        let all = entries([192, 0, 3, 7], PodNetwork::Auto, Some(9));
        let route = Route { gateway: first, link: 9, source: [10, 244, 1, 0].into(), onlink: true };
        let range: Ipv4Net = "10.244.2.0/24".parse().unwrap();
        let wanted = [Change::SetForwarding(mac, node), Change::SetNeighbour(first, mac), Change::SetRoute(range, route.clone(), false)];
        assert_eq!(Entries::default().steps_to(&all), wanted);
        assert_eq!(all.steps_to(&all), []);
        let gone = [Change::DeleteRoute(range, route), Change::DeleteNeighbour(first, mac), Change::DeleteForwarding(mac, node)];
        assert_eq!(all.steps_to(&Entries::default()), gone);
        assert_eq!(entries([192, 0, 3, 7], PodNetwork::Auto, None), Entries::default());
    }

    #[test]
    fn a_node_that_moves_leaves_no_stale_neighbour() {
        let (far, farther) = (entries([192, 0, 3, 7], PodNetwork::Auto, Some(9)), entries([192, 0, 3, 8], PodNetwork::Auto, Some(9)));
        assert_eq!(far.steps_to(&farther), [Change::SetForwarding([0x0a, 0x58, 10, 244, 2, 0], [192, 0, 3, 8].into())]);
        let near = entries([192, 0, 2, 7], PodNetwork::Auto, Some(9));
        let changes = far.steps_to(&near);
        assert!(
            matches!(changes[..], [Change::DeleteNeighbour(..), Change::DeleteForwarding(..), Change::SetRoute(.., true)]),
            "{changes:?}"
        );
    }
}
