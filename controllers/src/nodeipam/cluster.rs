//! The cluster's ranges, at most one of each family -> a range of each for every node: all or none.
//!
//! Source: `pkg/controller/nodeipam/ipam/range_allocator.go` (`AllocateOrOccupyCIDR`).

use ipnet::IpNet;

use super::ranges::Ranges;

/// What nodes have of each family, in the order of `--cluster-cidr`.
#[derive(Debug)]
pub struct ClusterRanges(Vec<Ranges>);

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// One of each family.
    Ranges(Vec<IpNet>),
    /// There is none left of some family, and the node was not told yet.
    NoneLeft,
    /// It waits for one, and knows.
    Waits,
}

impl ClusterRanges {
    pub fn new(cluster: &[IpNet]) -> Self {
        Self(cluster.iter().map(|range| Ranges::new(*range)).collect())
    }

    /// The node has these now, whatever was promised to it.
    pub fn set(&mut self, node: &str, ranges: &[IpNet]) {
        for family in &mut self.0 {
            family.set(node, ranges.iter().copied().filter(|range| family.is_of_family(*range)).collect());
        }
    }

    /// The node is gone: those that wait for a range and may ask again, at most one of each family.
    pub fn remove(&mut self, node: &str) -> Vec<String> {
        self.0.iter_mut().for_each(|family| family.remove(node));
        self.0.iter_mut().filter_map(Ranges::next_waiting).collect()
    }

    /// What was promised to the node, or else free ranges, which are promised to it from now on. It takes none of one family where there is none
    /// of the other.
    pub fn promise(&mut self, node: &str) -> Promise {
        if let Some(lacking) = self.0.iter_mut().find(|family| !family.could_promise(node)) {
            return if lacking.wait(node) { Promise::NoneLeft } else { Promise::Waits };
        }
        Promise::Ranges(self.0.iter_mut().filter_map(|family| family.promise(node)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(ranges: &[&str]) -> ClusterRanges {
        ClusterRanges::new(&ranges.iter().map(|range| range.parse().unwrap()).collect::<Vec<_>>())
    }

    fn promised(ranges: &mut ClusterRanges, node: &str) -> String {
        match ranges.promise(node) {
            Promise::Ranges(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            none => format!("{none:?}"),
        }
    }

    #[test]
    fn who_finds_no_range_waits_and_is_asked_again() {
        let mut ranges = cluster(&["10.244.0.0/23"]);
        for (node, wanted) in [("a", "10.244.0.0/24"), ("b", "10.244.1.0/24"), ("f", "NoneLeft"), ("f", "Waits"), ("g", "NoneLeft")] {
            assert_eq!(promised(&mut ranges, node), wanted, "{node}");
        }
        assert!(ranges.remove("g").is_empty(), "it had nothing");
        assert_eq!(ranges.remove("b"), ["f"]);
        assert_eq!(promised(&mut ranges, "f"), "10.244.1.0/24");
    }

    #[test]
    fn a_node_has_a_range_of_each_family_or_none() {
        // Two of IPv4, and four of IPv6.
        let mut ranges = cluster(&["10.244.0.0/23", "fd00::/62"]);
        assert_eq!(promised(&mut ranges, "a"), "10.244.0.0/24 fd00::/64");
        assert_eq!(promised(&mut ranges, "b"), "10.244.1.0/24 fd00:0:0:1::/64");
        assert_eq!(promised(&mut ranges, "b"), "10.244.1.0/24 fd00:0:0:1::/64", "a promise is kept");
        assert_eq!(promised(&mut ranges, "c"), "NoneLeft");
        // What a node has by hand counts for its family alone.
        ranges.set("hand", &["fd00:0:0:2::/63".parse().unwrap()]);
        assert_eq!(ranges.remove("a"), ["c"]);
        assert_eq!(promised(&mut ranges, "c"), "10.244.0.0/24 fd00::/64", "nothing of IPv6 was held for it while it waited");
    }

    #[test]
    fn no_range_lies_idle_while_a_node_waits_for_it() {
        let mut ranges = cluster(&["10.244.0.0/23", "fd00::/64"]);
        assert_eq!(promised(&mut ranges, "a"), "10.244.0.0/24 fd00::/64");
        for node in ["b", "c"] {
            assert_eq!(promised(&mut ranges, node), "NoneLeft", "{node} lacks one of IPv6");
        }
        ranges.set("hand", &["10.244.1.0/24".parse().unwrap()]);
        assert_eq!(ranges.remove("a"), ["b"]);
        assert_eq!(promised(&mut ranges, "b"), "10.244.0.0/24 fd00::/64");
        assert_eq!(promised(&mut ranges, "d"), "NoneLeft", "it lacks one of IPv4");
        assert_eq!(ranges.remove("hand"), ["d"]);
        assert_eq!(promised(&mut ranges, "d"), "NoneLeft", "and now one of IPv6");
        assert!(ranges.remove("c").is_empty(), "who waited goes, and there is still none");
        assert_eq!(ranges.remove("b"), ["d"]);
        assert_eq!(promised(&mut ranges, "d"), "10.244.1.0/24 fd00::/64");
    }
}
