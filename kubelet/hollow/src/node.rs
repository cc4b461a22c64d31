//! What is kept of one hollow node: some two hundred bytes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{
    plan::{Millis, Planned},
    seen::Ready,
};

/// Pods get their addresses within the first 256 of the node's range: the kubelet's own limit is 110 pods.
const ADDRESSES: u32 = 256;
/// The network itself and its gateway.
const RESERVED: u32 = 2;
/// Nodes' own addresses: the range for benchmarks (RFC 2544).
const NODES: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const NODES_MAX: u32 = 1 << 17;
/// Pods' addresses where the nodes get no ranges: shared address space (RFC 6598).
const PODS: u32 = u32::from_be_bytes([100, 64, 0, 0]);
const PODS_MAX: u32 = 1 << 22;

#[derive(Debug, Default)]
pub struct Node {
    pub uid: u128,
    /// The `resourceVersion` of its Lease; 0 while that is not known.
    pub lease_rev: u64,
    pub lease_due: Millis,
    /// Until then it writes nothing.
    pub silent_until: Millis,
    /// When it came into its state.
    pub since: Millis,
    /// When it was registered, or first seen.
    pub up_at: Millis,
    pub planned: Option<Planned>,
    pub cidr: Option<IpNet>,
    /// One bit for each address of a pod.
    taken: [u64; 4],
    next_address: u8,
    pub visit: u32,
    /// Counts the listings of its pods.
    pub pods_epoch: u32,
    pub state: State,
    pub ready: Ready,
    /// A status is queued or on its way.
    pub reporting: bool,
    pub beating: bool,
    /// It was in the last listing of nodes, or came after it.
    pub is_listed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not registered, as far as we know.
    #[default]
    New,
    /// Its registration is on its way.
    Registering,
    Up,
    /// Somebody deleted it: it stays away, as a machine that was switched off.
    Away,
}

impl Node {
    pub fn acts(&self, now: Millis) -> bool {
        self.state == State::Up && now >= self.silent_until
    }

    /// A free address for a pod, which is then taken; `None` where all are.
    pub fn take_address(&mut self, number: u32) -> Option<IpAddr> {
        let size = self.size();
        let first = if size > RESERVED + 1 { RESERVED } else { 0 };
        let span = size.saturating_sub(first + u32::from(size > RESERVED + 1)).max(1);
        let free = (0..span).map(|i| first + (u32::from(self.next_address) + i) % span).find(|at| !self.is_taken(*at))?;
        self.set(free, true);
        // The next pod gets the next address: one that was just freed rests.
        self.next_address = u8::try_from((free - first + 1) % span).unwrap_or(0);
        Some(self.address(number, free))
    }

    /// An address that a pod has.
    pub fn note(&mut self, number: u32, ip: IpAddr, taken: bool) {
        if let Some(at) = self.place(number, ip) {
            self.set(at, taken);
        }
    }

    fn is_taken(&self, at: u32) -> bool {
        self.taken.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, at: u32, taken: bool) {
        let Some(word) = self.taken.get_mut((at / 64) as usize) else { return };
        let bit = 1 << (at % 64);
        if taken {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    fn size(&self) -> u32 {
        let bits = self.cidr.map_or(8, |c| c.max_prefix_len() - c.prefix_len());
        1u32.checked_shl(u32::from(bits)).unwrap_or(ADDRESSES).min(ADDRESSES)
    }

    fn address(&self, number: u32, at: u32) -> IpAddr {
        match self.cidr.map(|c| c.network()) {
            Some(IpAddr::V4(base)) => Ipv4Addr::from(u32::from(base).wrapping_add(at)).into(),
            Some(IpAddr::V6(base)) => std::net::Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(at))).into(),
            None => Ipv4Addr::from(PODS + (number * ADDRESSES % PODS_MAX) + at).into(),
        }
    }

    fn place(&self, number: u32, ip: IpAddr) -> Option<u32> {
        let offset = match (self.address(number, 0), ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => u32::from(ip).checked_sub(u32::from(base)),
            (IpAddr::V6(base), IpAddr::V6(ip)) => u128::from(ip).checked_sub(u128::from(base)).and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        offset.filter(|at| *at < ADDRESSES)
    }
}

/// The node's own address.
pub fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(NODES + number % NODES_MAX).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_node_costs_some_two_hundred_bytes() {
        assert!(size_of::<Node>() <= 208, "{} bytes", size_of::<Node>());
    }

    #[test]
    fn addresses_are_of_the_node_and_given_once() {
        for (cidr, number, first, many) in [
            (Some("10.1.2.0/24"), 0, "10.1.2.2", 253),
            (Some("10.1.0.0/16"), 0, "10.1.0.2", 253),
            (Some("10.1.2.16/28"), 0, "10.1.2.18", 13),
            (Some("fd00:1::/64"), 0, "fd00:1::2", 253),
            (None, 3, "100.64.3.2", 253),
        ] {
            let mut node = Node { cidr: cidr.map(|c| c.parse().unwrap()), ..Node::default() };
            let all: Vec<IpAddr> = std::iter::from_fn(|| node.take_address(number)).collect();
            assert_eq!(all[0].to_string(), first);
            assert_eq!(all.len(), many, "{cidr:?}");
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), many);
            assert!(all.iter().all(|ip| node.cidr.is_none_or(|c| c.contains(ip))));
            node.note(number, all[5], false);
            assert_eq!(node.take_address(number), Some(all[5]));
        }
    }

    #[test]
    fn an_address_that_is_in_use_is_passed_over_and_a_freed_one_rests() {
        let mut node = Node { cidr: Some("10.1.2.0/24".parse().unwrap()), ..Node::default() };
        node.note(0, "10.1.2.2".parse().unwrap(), true);
        let ip = node.take_address(0).unwrap();
        assert_eq!(ip.to_string(), "10.1.2.3");
        node.note(0, ip, false);
        assert_eq!(node.take_address(0).unwrap().to_string(), "10.1.2.4");
    }
}
