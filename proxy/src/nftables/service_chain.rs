//! What a destination's packets get -> the rules for all destinations of that kind.

use std::{net::Ipv4Addr, num::NonZeroU32};

use ipnet::Ipv4Net;

use super::{
    elements::word,
    expr::{Field, LOCAL, Reg, Step, Verdict},
    sets::Set,
    sticky,
};

/// What packets to a destination have in common. Equal ones share a set and a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceChain {
    pub matched_by: DestinationMatch,
    /// Endpoints of the list Cluster for pods and this node itself, where others get the list Local; else 0.
    pub insiders: u32,
    pub list: List,
    /// Endpoints of the list.
    pub count: u32,
    /// The service port whose clients stay with their endpoints: it has chains of its own, and counts are 0 or 1.
    pub sticky: Option<NonZeroU32>,
}

/// How a destination is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationMatch {
    Address,
    NodePort,
}

/// Which of a service port's two lists of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    Cluster,
    Local,
}

/// The bit of the mark that says: masquerade this.
pub const MARK: u32 = 0x4000;
/// The places of a destination's list Local begin here, far above those of the list Cluster.
const LOCAL_PLACES: u32 = 1_000_000;
const COMMON_SIZES: u32 = 8;
const SPARE: Reg = Reg(12);

impl ServiceChain {
    /// Its set and its chain, as `nft` shows them.
    pub fn name(&self) -> String {
        let matched_by = if self.matched_by == DestinationMatch::Address { "ip" } else { "nodeport" };
        let list = if self.list == List::Cluster { "cluster" } else { "local" };
        let insiders = if self.insiders > 0 { format!("-or-cluster-{}", self.insiders) } else { String::new() };
        let sticky = self.sticky.map(|id| format!("-sticky-{id}")).unwrap_or_default();
        format!("{matched_by}-{list}-{}{insiders}{sticky}", self.count)
    }

    /// The lists that it chooses from.
    pub fn lists(&self) -> impl Iterator<Item = List> {
        let chosen = (self.count > 0).then_some(self.list);
        let of_insiders = (self.insiders > 0).then_some(List::Cluster);
        chosen.into_iter().chain(of_insiders)
    }

    /// Sizes that services mostly have, of both doors.
    pub fn common() -> impl Iterator<Item = ServiceChain> {
        let of = |count| {
            [DestinationMatch::Address, DestinationMatch::NodePort].map(|matched_by| ServiceChain {
                matched_by,
                insiders: 0,
                list: List::Cluster,
                count,
                sticky: None,
            })
        };
        (1..=COMMON_SIZES).flat_map(of)
    }

    pub fn is_common(&self) -> bool {
        Self::common().any(|class| class == *self)
    }

    /// Its chain.
    pub fn rules(&self, cluster_cidr: Option<Ipv4Net>) -> Vec<Vec<Step>> {
        let mut rules = Vec::new();
        let load = if self.sticky.is_some() { Vec::new() } else { destination(self.matched_by) };
        if self.insiders > 0 {
            let cluster = [load.clone(), self.pick(List::Cluster, self.insiders)].concat();
            let local = vec![Step::Load(Field::SourceKind, SPARE), Step::Is(SPARE, LOCAL)];
            rules.extend(cluster_cidr.map(|cidr| [within(cidr), cluster.clone()].concat()));
            rules.push([local.clone(), mark()].concat());
            rules.push([local, cluster].concat());
        }
        if self.count > 0 {
            rules.push([load, self.pick(self.list, self.count)].concat());
        }
        rules
    }

    fn pick(&self, list: List, count: u32) -> Vec<Step> {
        if let Some(id) = self.sticky {
            return vec![Step::End(Verdict::Goto(sticky::chain(id.get(), list)))];
        }
        let (found, place) = (Reg(0), if self.matched_by == DestinationMatch::Address { Reg(3) } else { Reg(2) });
        let draw = Step::Draw { to: place, count, first: list.first_place() };
        vec![draw, Step::Lookup(Set::Endpoints(self.matched_by).name(), found, found), Step::Dnat(found)]
    }
}

impl List {
    /// Where its places begin among those of a destination.
    pub fn first_place(self) -> u32 {
        if self == List::Local { LOCAL_PLACES } else { 0 }
    }
}

/// Loads what sets of destinations are asked with, from the first register on.
pub fn destination(matched_by: DestinationMatch) -> Vec<Step> {
    match matched_by {
        DestinationMatch::Address => {
            vec![Step::Load(Field::Destination, Reg(0)), Step::Load(Field::Protocol, Reg(1)), Step::Load(Field::Port, Reg(2))]
        }
        DestinationMatch::NodePort => vec![Step::Load(Field::Protocol, Reg(0)), Step::Load(Field::Port, Reg(1))],
    }
}

pub fn within(net: Ipv4Net) -> Vec<Step> {
    net_test(Field::Source, net, Step::Is)
}

pub fn outside(net: Ipv4Net) -> Vec<Step> {
    net_test(Field::Source, net, Step::IsNot)
}

pub fn towards(net: Ipv4Net) -> Vec<Step> {
    net_test(Field::Destination, net, Step::Is)
}

fn net_test(field: Field, net: Ipv4Net, test: impl Fn(Reg, u32) -> Step) -> Vec<Step> {
    let address = |ip: Ipv4Addr| word(ip);
    vec![Step::Load(field, SPARE), Step::Bits(SPARE, address(net.netmask()), 0), test(SPARE, address(net.network()))]
}

/// Has a packet masqueraded when it leaves.
pub fn mark() -> Vec<Step> {
    vec![Step::Load(Field::Mark, SPARE), Step::Bits(SPARE, !MARK, MARK), Step::SetMark(SPARE)]
}
