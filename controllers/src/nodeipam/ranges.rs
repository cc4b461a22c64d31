//! One range of the cluster -> a range for each node, found without a look at those of the others.
//!
//! Source: `pkg/controller/nodeipam/ipam/cidrset/cidr_set.go`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use api::runs::Runs;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `--node-cidr-mask-size`: upstream's defaults.
const MASK_V4: u8 = 24;
const MASK_V6: u8 = 64;
/// A range of a node that takes the place of more than so many is kept apart: nobody counts the places one by one.
const PLACES_MAX: u64 = 256;

/// The cluster's range, cut into places of one size each; every call costs O(log nodes).
#[derive(Debug)]
pub struct Ranges {
    cluster: IpNet,
    prefix: u8,
    size: u64,
    taken: Runs,
    /// Where the search begins: a range that was given back rests until all others were given.
    next: u64,
    by_node: HashMap<String, Vec<IpNet>>,
    /// How many ranges of nodes lie at a place: what users write by hand may overlap.
    held: BTreeMap<u64, u32>,
    /// Ranges of nodes over many places, by hand as well. Few: each is looked at when another range goes.
    wide: Vec<(u64, u64)>,
    /// Nodes that there was no range for.
    waiting: BTreeSet<String>,
}

impl Ranges {
    pub fn new(cluster: IpNet) -> Self {
        let wanted = if cluster.addr().is_ipv4() { MASK_V4 } else { MASK_V6 };
        let prefix = wanted.max(cluster.prefix_len());
        let size = 1u64.checked_shl(u32::from(prefix - cluster.prefix_len())).unwrap_or(u64::MAX);
        Self {
            cluster: cluster.trunc(),
            prefix,
            size,
            taken: Runs::default(),
            next: 0,
            by_node: HashMap::new(),
            held: BTreeMap::new(),
            wide: Vec::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// The node has these now, whatever was promised to it.
    pub fn set(&mut self, node: &str, ranges: Vec<IpNet>) {
        if self.by_node.get(node) == Some(&ranges) {
            return;
        }
        self.give_up(node);
        self.waiting.remove(node);
        ranges.iter().for_each(|range| self.hold(*range));
        self.by_node.insert(node.to_owned(), ranges);
    }

    /// The node is gone, or has nothing of us any more.
    pub fn remove(&mut self, node: &str) {
        self.waiting.remove(node);
        self.give_up(node);
    }

    /// The node has a promise, or there is a range for it.
    pub fn could_promise(&self, node: &str) -> bool {
        self.promised(node).is_some() || self.free().is_some()
    }

    /// What was promised to the node, or else a free range, which is promised to it from now on. `None` where there is none left.
    pub fn promise(&mut self, node: &str) -> Option<IpNet> {
        if let Some(promised) = self.promised(node) {
            return Some(promised);
        }
        let found = self.free()?;
        self.next = (found + 1) % self.size;
        let range = self.at(found);
        self.set(node, vec![range]);
        Some(range)
    }

    /// Notes that the node waits for a range; whether that is new.
    pub fn wait(&mut self, node: &str) -> bool {
        self.waiting.insert(node.to_owned())
    }

    /// One that waits no more, if there is a range for it.
    pub fn next_waiting(&mut self) -> Option<String> {
        self.free().and_then(|_| self.waiting.pop_first())
    }

    pub fn is_of_family(&self, range: IpNet) -> bool {
        self.cluster.addr().is_ipv4() == range.addr().is_ipv4()
    }

    fn promised(&self, node: &str) -> Option<IpNet> {
        self.by_node.get(node)?.first().copied()
    }

    /// The next place that is nobody's.
    fn free(&self) -> Option<u64> {
        [self.next, 0].into_iter().map(|from| self.taken.next_free(from)).find(|at| *at < self.size)
    }

    fn give_up(&mut self, node: &str) {
        let had = self.by_node.remove(node).unwrap_or_default();
        had.iter().for_each(|range| self.release(*range));
    }

    fn hold(&mut self, range: IpNet) {
        let Some((from, to)) = self.places(range) else { return };
        self.taken.take(from, to);
        if to - from > PLACES_MAX {
            return self.wide.push((from, to));
        }
        (from..to).for_each(|at| *self.held.entry(at).or_default() += 1);
    }

    fn release(&mut self, range: IpNet) {
        let Some((from, to)) = self.places(range) else { return };
        if to - from > PLACES_MAX {
            if let Some(at) = self.wide.iter().position(|wide| *wide == (from, to)) {
                self.wide.swap_remove(at);
            }
        } else {
            for at in from..to {
                let left = self.held.get(&at).map_or(0, |count| count - 1);
                if left == 0 {
                    self.held.remove(&at)
                } else {
                    self.held.insert(at, left)
                };
            }
        }
        self.taken.free(from, to);
        // Others may lie there as well.
        self.held.range(from..to).for_each(|(at, _)| self.taken.take(*at, at + 1));
        self.wide.iter().for_each(|(low, high)| self.taken.take((*low).max(from), (*high).min(to)));
    }

    /// The places that the range covers, wholly or in part.
    fn places(&self, range: IpNet) -> Option<(u64, u64)> {
        if range.contains(&self.cluster) {
            return Some((0, self.size));
        }
        if !self.cluster.contains(&range) {
            return None;
        }
        let (base, bits) = offset(self.cluster);
        let from = u64::try_from((offset(range).0 - base) >> (bits - self.prefix)).ok()?;
        let places = 1u64.checked_shl(u32::from(self.prefix.saturating_sub(range.prefix_len()))).unwrap_or(u64::MAX);
        Some((from, from.saturating_add(places)))
    }

    fn at(&self, place: u64) -> IpNet {
        let (base, bits) = offset(self.cluster);
        let address = base + (u128::from(place) << (bits - self.prefix));
        match self.cluster {
            // Both were cut from the cluster's range: they are no longer than it is.
            IpNet::V4(cluster) => {
                Ipv4Net::new(u32::try_from(address).unwrap_or_default().into(), self.prefix).map_or(cluster.into(), IpNet::V4)
            }
            IpNet::V6(cluster) => Ipv6Net::new(address.into(), self.prefix).map_or(cluster.into(), IpNet::V6),
        }
    }
}

/// The first address as a number, and how many bits addresses have.
fn offset(range: IpNet) -> (u128, u8) {
    match range.network() {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (ip.into(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn promised(ranges: &mut Ranges, node: &str) -> Option<String> {
        ranges.promise(node).map(|range| range.to_string())
    }

    #[test]
    fn ranges_are_handed_out_once_and_rest_when_they_come_back() {
        let mut ranges = Ranges::new(net("10.244.0.0/22"));
        let all: Vec<_> = ["a", "b", "c"].iter().filter_map(|node| promised(&mut ranges, node)).collect();
        assert_eq!(all, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        assert_eq!(promised(&mut ranges, "b").as_deref(), Some("10.244.1.0/24"), "a promise is kept");
        ranges.remove("a");
        assert_eq!(promised(&mut ranges, "d").as_deref(), Some("10.244.3.0/24"), "what came back rests");
        assert_eq!(promised(&mut ranges, "e").as_deref(), Some("10.244.0.0/24"));
        assert!(ranges.promise("f").is_none() && !ranges.could_promise("f") && ranges.could_promise("e"));
        ranges.remove("b");
        assert_eq!(promised(&mut ranges, "f").as_deref(), Some("10.244.1.0/24"));
        assert_eq!(promised(&mut Ranges::new(net("10.0.0.0/28")), "a").as_deref(), Some("10.0.0.0/28"));
        assert_eq!(promised(&mut Ranges::new(net("fd00::/48")), "a").as_deref(), Some("fd00::/64"));
        assert_eq!(promised(&mut Ranges::new(net("::/0")), "a").as_deref(), Some("::/64"));
    }

    #[test]
    fn what_nodes_have_by_hand_is_not_given_to_others() {
        let mut ranges = Ranges::new(net("10.0.0.0/8"));
        ranges.set("half", vec![net("10.0.0.0/9")]);
        ranges.set("small", vec![net("10.128.0.128/25")]);
        ranges.set("within", vec![net("10.1.0.0/24")]);
        ranges.set("foreign", vec![net("192.168.0.0/16"), net("fd00::/64")]);
        assert_eq!(promised(&mut ranges, "a").as_deref(), Some("10.128.1.0/24"));
        ranges.set("all", vec![net("0.0.0.0/0")]);
        assert_eq!(promised(&mut ranges, "b"), None);
        ranges.remove("all");
        ranges.remove("half");
        ranges.next = ranges.places(net("10.1.0.0/24")).unwrap().0;
        assert_eq!(promised(&mut ranges, "c").as_deref(), Some("10.1.1.0/24"), "the one within stays");
        ranges.set("twin", vec![net("10.128.1.0/24")]);
        ranges.remove("a");
        ranges.next = ranges.places(net("10.128.0.0/24")).unwrap().0;
        assert_eq!(promised(&mut ranges, "d").as_deref(), Some("10.128.2.0/24"), "a twin holds it still");
    }
}
