//! Claims of nodes -> those that packets may be sent to. Pure; an event costs what it touches.
//!
//! An address in a Node's status is the word of that node: one that was taken over must not draw other nodes' packets, services' or this node's own to
//! itself, nor keep packets from another. What it says is where packets for **its own** pods go, and nothing else: where two say the same address, both
//! are believed, and who lied has lost his own pods' packets alone. Ranges are the server's word; who came first keeps what two have.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::Ipv4Addr,
};

use api::steps;
use ipnet::Ipv4Net;

use super::facts::{Claim, Rank};

/// Another node, as packets for its pods find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: Ipv4Addr,
    pub range: Ipv4Net,
}

/// What is known of this node and of its cluster, which claims are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub name: String,
    /// All addresses of this machine.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// What is reached from it without a router.
    pub subnets: Vec<Ipv4Net>,
    /// Where the cluster's pods' addresses come from. Empty: others give them out.
    pub cluster_cidrs: Vec<Ipv4Net>,
    pub service_cidrs: Vec<Ipv4Net>,
}

/// Why no packet goes to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it has no InternalIP of IPv4 yet")]
    NoAddress,
    #[error("it has no podCIDR of IPv4 yet")]
    NoRange,
    #[error("this node has no podCIDR yet")]
    NotReady,
    #[error("its InternalIP {0} is no address of a node")]
    NoNode(Ipv4Addr),
    #[error("its InternalIP {0} is one of this machine's addresses (does every machine have it, as with VirtualBox's NAT? See --node-ip)")]
    Ours(Ipv4Addr),
    #[error("its InternalIP {0} is within {1}, where pods and services have their addresses")]
    Virtual(Ipv4Addr, Ipv4Net),
    #[error("its podCIDR {0} is not a part of the cluster's ranges")]
    Foreign(Ipv4Net),
    #[error("its podCIDR {0} is not of pods alone: {1} of this machine is in it")]
    Taken(Ipv4Net, Ipv4Net),
    #[error("its podCIDR {0} overlaps that of node {1}")]
    Overlaps(Ipv4Net, String),
}

/// All claims, and who made them.
#[derive(Debug, Default)]
pub struct Peers {
    own: Own,
    claims: BTreeMap<String, Claim>,
    by_address: BTreeMap<Ipv4Addr, BTreeSet<Rank>>,
    by_range: BTreeMap<Ipv4Net, BTreeSet<Rank>>,
}

impl Refusal {
    /// It will pass by itself.
    pub fn is_for_now(&self) -> bool {
        matches!(self, Refusal::NoAddress | Refusal::NoRange | Refusal::NotReady)
    }
}

impl Peers {
    /// All others must be judged again where it says so.
    pub fn set_own(&mut self, own: Own) -> bool {
        let differs = self.own != own;
        self.own = own;
        differs
    }

    pub fn own(&self) -> &Own {
        &self.own
    }

    /// This node's range.
    pub fn own_range(&self) -> Option<Ipv4Net> {
        self.claims.get(&self.own.name).and_then(|claim| claim.range)
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.claims.keys()
    }

    /// Takes what a node says now, nothing where it is gone. Those whose standing may have changed by it: it itself, and those that want the same.
    pub fn set(&mut self, name: &str, claim: Option<Claim>) -> BTreeSet<String> {
        let mut touched: BTreeSet<String> = [name.to_owned()].into();
        let old = match &claim {
            Some(new) => self.claims.insert(name.to_owned(), new.clone()),
            None => self.claims.remove(name),
        };
        for claim in [old.as_ref(), claim.as_ref()].into_iter().flatten() {
            touched.extend(claim.range.iter().flat_map(|range| self.overlapping(*range)).map(|(_, rank)| rank.name.clone()));
        }
        if let Some(old) = old {
            old.address.iter().for_each(|ip| forget(self.by_address.entry(*ip), &old.rank));
            old.range.iter().for_each(|range| forget(self.by_range.entry(*range), &old.rank));
        }
        if let Some(new) = claim {
            if let Some(ip) = new.address {
                self.by_address.entry(ip).or_default().insert(new.rank.clone());
            }
            if let Some(range) = new.range {
                self.by_range.entry(range).or_default().insert(new.rank.clone());
            }
        }
        steps::took(touched.len());
        touched
    }

    /// Where packets for its pods go. `None` for this node itself, and for who is gone.
    pub fn judge(&self, name: &str) -> Option<Result<Peer, Refusal>> {
        let claim = self.claims.get(name).filter(|_| name != self.own.name)?;
        Some(self.judged(claim))
    }

    fn judged(&self, claim: &Claim) -> Result<Peer, Refusal> {
        let address = claim.address.ok_or(Refusal::NoAddress)?;
        let range = claim.range.ok_or(Refusal::NoRange)?;
        let own_range = self.own_range().ok_or(Refusal::NotReady)?;
        if !is_unicast(address) {
            return Err(Refusal::NoNode(address));
        }
        if self.own.addresses.contains(&address) {
            return Err(Refusal::Ours(address));
        }
        if let Some(net) = self.own.cluster_cidrs.iter().chain(&self.own.service_cidrs).find(|net| net.contains(&address)) {
            return Err(Refusal::Virtual(address, *net));
        }
        if !self.is_of_cluster(range) {
            return Err(Refusal::Foreign(range));
        }
        if overlap(range, own_range) {
            return Err(Refusal::Overlaps(range, self.own.name.clone()));
        }
        if let Some(taken) = self.taken(range) {
            return Err(Refusal::Taken(range, taken));
        }
        // Who has no right to its range keeps it from nobody.
        let holds = |held: Ipv4Net| self.is_of_cluster(held) && !overlap(held, own_range);
        let earlier = self.overlapping(range).filter(|(held, rank)| **rank < claim.rank && holds(**held));
        if let Some(first) = earlier.map(|(_, rank)| rank).min() {
            return Err(Refusal::Overlaps(range, first.name.clone()));
        }
        Ok(Peer { address, range })
    }

    /// Others that say the same address: one of them is wrong.
    pub fn sharing(&self, name: &str) -> impl Iterator<Item = &str> {
        let address = self.claims.get(name).and_then(|claim| claim.address);
        let all = address.and_then(|address| self.by_address.get(&address)).into_iter().flatten();
        all.map(|rank| rank.name.as_str()).filter(move |other| *other != name)
    }

    /// Who says that address.
    pub fn at(&self, address: Ipv4Addr) -> impl Iterator<Item = &str> {
        self.by_address.get(&address).into_iter().flatten().map(|rank| rank.name.as_str())
    }

    /// Who has a range that shares addresses with this one. Costs those, and one look for each length of a prefix.
    fn overlapping(&self, range: Ipv4Net) -> impl Iterator<Item = (&Ipv4Net, &Rank)> {
        let around = (0..range.prefix_len()).filter_map(move |len| Ipv4Net::new(range.network(), len).ok()).map(|net| net.trunc());
        // Those that begin where it begins are both: each is named once.
        let around = around.filter(move |net| net.network() < range.network()).filter_map(|net| self.by_range.get_key_value(&net));
        let (first, last) = (Ipv4Net::new_assert(range.network(), 0), Ipv4Net::new_assert(range.broadcast(), 32));
        around.chain(self.by_range.range(first..=last)).flat_map(|(held, ranks)| ranks.iter().map(move |rank| (held, rank)))
    }

    /// What of this machine's network would go there: an address of its own, or, where no range of the cluster vouches for it, a part of a subnet.
    fn taken(&self, range: Ipv4Net) -> Option<Ipv4Net> {
        let own = self.own.addresses.range(range.network()..=range.broadcast()).next().map(|ip| Ipv4Net::from(*ip));
        let vouched = !self.own.cluster_cidrs.is_empty();
        own.or_else(|| self.own.subnets.iter().copied().find(|net| !vouched && overlap(*net, range)))
    }

    fn is_of_cluster(&self, range: Ipv4Net) -> bool {
        let all = &self.own.cluster_cidrs;
        (all.is_empty() || all.iter().any(|whole| whole.contains(&range))) && range.prefix_len() > 0
    }
}

fn forget<K: Ord>(entry: Entry<'_, K, BTreeSet<Rank>>, rank: &Rank) {
    if let Entry::Occupied(mut held) = entry {
        held.get_mut().remove(rank);
        if held.get().is_empty() {
            held.remove();
        }
    }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn is_unicast(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    !(first == 0 || ip.is_loopback() || ip.is_link_local() || first >= 224)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        Own {
            name: "n1".into(),
            addresses: [[192, 0, 2, 1].into(), [172, 17, 0, 1].into(), [10, 244, 9, 1].into()].into(),
            subnets: vec!["192.0.2.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        }
    }

    /// `name`, second of its creation, address, range; `-` for none.
    fn claim(words: &str) -> Claim {
        let words: Vec<&str> = words.split_whitespace().collect();
        let facts = serde_json::json!({
            "metadata": {"name": words[0], "creationTimestamp": format!("2026-11-29T17:00:0{}Z", words[1])},
            "status": {"addresses": [{"type": "InternalIP", "address": words[2]}]}, "spec": {"podCIDRs": [words[3]]},
        });
        serde_json::from_value::<super::super::facts::NodeFacts>(facts).unwrap().claim()
    }

    fn peers(all: &[&str]) -> Peers {
        let mut peers = Peers::default();
        peers.set_own(own());
        for words in all {
            let claim = claim(words);
            peers.set(&claim.rank.name.clone(), Some(claim));
        }
        peers
    }

    const OURS: &str = "n1 1 192.0.2.1 10.244.1.0/24";

    fn said(peers: &Peers, name: &str) -> String {
        match peers.judge(name) {
            None => "nobody".into(),
            Some(Ok(peer)) => format!("{} via {}", peer.range, peer.address),
            Some(Err(refusal)) => refusal.to_string(),
        }
    }

    #[test]
    fn the_word_of_a_node_does_not_draw_what_is_not_its_own() {
        let cases = [
            ("192.0.2.2 10.244.2.0/24", "10.244.2.0/24 via 192.0.2.2"),
            ("- 10.244.2.0/24", "no InternalIP of IPv4 yet"),
            ("192.0.2.2 -", "no podCIDR of IPv4 yet"),
            ("192.0.2.2 0.0.0.0/0", "not a part of the cluster's ranges"),
            ("192.0.2.2 10.0.0.0/8", "not a part of the cluster's ranges"),
            ("192.0.2.2 10.96.0.0/24", "not a part of the cluster's ranges"),
            ("192.0.2.2 10.244.0.0/16", "overlaps that of node n1"),
            ("192.0.2.2 10.244.1.128/25", "overlaps that of node n1"),
            ("192.0.2.2 10.244.9.0/24", "10.244.9.1/32 of this machine is in it"),
            ("192.0.2.1 10.244.2.0/24", "one of this machine's addresses"),
            ("172.17.0.1 10.244.2.0/24", "one of this machine's addresses"),
            ("10.96.0.1 10.244.2.0/24", "within 10.96.0.0/12"),
            ("10.244.1.7 10.244.2.0/24", "within 10.244.0.0/16"),
            ("127.0.0.1 10.244.2.0/24", "no address of a node"),
            ("0.0.0.0 10.244.2.0/24", "no address of a node"),
            ("169.254.1.1 10.244.2.0/24", "no address of a node"),
            ("224.0.0.1 10.244.2.0/24", "no address of a node"),
            ("255.255.255.255 10.244.2.0/24", "no address of a node"),
        ];
        for (words, wanted) in cases {
            let peers = peers(&[OURS, &format!("n2 2 {words}")]);
            assert!(said(&peers, "n2").contains(wanted), "{words}: {}", said(&peers, "n2"));
            assert_eq!(said(&peers, "n1"), "nobody");
        }
        assert!(said(&peers(&["n2 2 192.0.2.2 10.244.2.0/24"]), "n2").contains("this node has no podCIDR yet"));
        // A claim to what is not given out, or to ours, is nobody else's loss.
        for held in ["0.0.0.0/0", "10.244.0.0/16"] {
            let peers = peers(&[OURS, &format!("n0 0 192.0.2.9 {held}"), "n2 2 192.0.2.2 10.244.2.0/24"]);
            assert_eq!(said(&peers, "n2"), "10.244.2.0/24 via 192.0.2.2");
        }
        let mut open = peers(&[OURS, "n2 2 192.0.2.2 0.0.0.0/0", "n3 2 192.0.2.3 10.9.0.0/24", "n4 2 192.0.2.4 192.0.2.128/25"]);
        assert!(open.set_own(Own { cluster_cidrs: Vec::new(), ..own() }));
        assert!(said(&open, "n4").contains("192.0.2.0/24 of this machine is in it"));
        assert!(said(&open, "n2").contains("not a part") && said(&open, "n3").contains("via 192.0.2.3"));
    }

    #[test]
    fn who_came_first_keeps_what_two_claim_until_it_goes() {
        let mut peers = peers(&[OURS, "n3 3 192.0.2.3 10.244.3.0/24", "n5 5 192.0.2.5 10.244.3.128/25", "n6 6 192.0.2.6 10.244.2.0/23"]);
        assert!(said(&peers, "n5").contains("overlaps that of node n3") && said(&peers, "n6").contains("overlaps that of node n3"));
        assert_eq!(said(&peers, "n3"), "10.244.3.0/24 via 192.0.2.3");
        let touched: Vec<String> = peers.set("n3", None).into_iter().collect();
        assert_eq!(touched, ["n3", "n5", "n6"]);
        assert_eq!(said(&peers, "n5"), "10.244.3.128/25 via 192.0.2.5");
        assert!(said(&peers, "n6").contains("overlaps that of node n5"));
        // Back under its name, younger now.
        let back = claim("n3 7 192.0.2.3 10.244.7.0/24");
        assert_eq!(peers.set("n3", Some(back)).len(), 1);
        assert_eq!(said(&peers, "n3"), "10.244.7.0/24 via 192.0.2.3");
        for name in ["n1", "n3", "n5", "n6"] {
            peers.set(name, None);
        }
        assert!(peers.by_address.is_empty() && peers.by_range.is_empty() && peers.claims.is_empty());
    }

    #[test]
    fn who_says_anothers_address_takes_no_packet_from_it() {
        // Older, younger, and of the same moment: who came first has no say here.
        for (hostile, theirs) in [("n0 0", "n2 2"), ("n9 9", "n2 2"), ("n0 2", "n2 2"), ("n9 2", "n2 2")] {
            let (hostile, theirs) = (format!("{hostile} 192.0.2.2 10.244.7.0/24"), format!("{theirs} 192.0.2.2 10.244.2.0/24"));
            for order in [[OURS, &hostile, &theirs], [OURS, &theirs, &hostile]] {
                let mut peers = peers(&order);
                assert_eq!(said(&peers, "n2"), "10.244.2.0/24 via 192.0.2.2", "{order:?}");
                let liar = hostile.split(' ').next().unwrap();
                assert_eq!(peers.sharing("n2").collect::<Vec<_>>(), [liar], "whoever looks after nodes is told");
                assert_eq!(peers.at([192, 0, 2, 2].into()).count(), 2);
                peers.set(liar, None);
                assert_eq!((peers.sharing("n2").count(), said(&peers, "n2").as_str()), (0, "10.244.2.0/24 via 192.0.2.2"));
            }
        }
    }

    #[test]
    fn an_event_costs_the_same_among_many_nodes() {
        let costs = [10u8, 100, 250].map(|count| {
            let all: Vec<String> = (2..count).map(|n| format!("m{n} 2 192.0.3.{n} 10.244.{n}.0/24")).collect();
            let mut peers = peers(&[&[OURS], &all.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
            steps::of(|| peers.set("m5", Some(claim("m5 2 192.0.3.255 10.244.5.0/24")))).1
        });
        steps::must_not_grow("a node with another address", &costs);
    }
}
