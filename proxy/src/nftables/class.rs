//! What a destination's packets get -> the rules for all destinations of that kind.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    elements::{ENDPOINTS, MEMBERS, NODE_PORT_IDS, SERVICE_IDS, word},
    expr::{Field, LOCAL, Reg, Step, Verdict},
    frame::{AFFINITY, REJECT},
};

/// What packets to a destination have in common. Equal ones share a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    pub door: Door,
    pub masquerade: Masquerade,
    /// Endpoints of the list Cluster for pods and this node itself, where others get the list Local; else 0.
    pub insiders: u32,
    pub list: List,
    /// Endpoints of the list.
    pub count: u32,
    /// Seconds for which a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    pub left: Left,
}

/// How a destination is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    Address,
    NodePort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    Never,
    /// Who is not of the cluster's network.
    Outsiders,
    Always,
}

/// Which of a portal's two lists of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    Cluster,
    Local,
}

/// What becomes of packets that no endpoint was found for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Left {
    Pass,
    Reject,
    Drop,
}

/// The bit of the mark that says: masquerade this.
pub const MARK: u32 = 0x4000;
const ALL: u32 = u32::MAX;

// The destination stands in the first registers, (service, number or client) and what is found after them.
const DESTINATION: Reg = Reg(0);
const ID: Reg = Reg(4);
const AFTER_ID: Reg = Reg(5);
const FOUND: Reg = Reg(8);
const AFTER_FOUND: Reg = Reg(9);
const SPARE: Reg = Reg(12);

impl Class {
    /// Its chain in the hooks that change destinations; none where there is nothing to choose from.
    pub fn rules(&self, cluster_cidr: Option<Ipv4Net>) -> Vec<Vec<Step>> {
        let mut rules = self.masquerading(cluster_cidr);
        if self.insiders > 0 {
            let local = vec![Step::Load(Field::SourceKind, SPARE), Step::Is(SPARE, LOCAL)];
            if let Some(cidr) = cluster_cidr {
                rules.extend(self.pick(&within(cidr), List::Cluster, self.insiders));
            }
            rules.push([local.clone(), mark()].concat());
            rules.extend(self.pick(&local, List::Cluster, self.insiders));
        }
        if self.count > 0 {
            rules.extend(self.pick(&[], self.list, self.count));
        }
        rules
    }

    /// What the filters say, of packets that still have this destination.
    pub fn refusal(&self) -> Option<Verdict> {
        match self.left {
            Left::Pass => None,
            Left::Reject => Some(Verdict::Goto(REJECT.to_owned())),
            Left::Drop => Some(Verdict::Drop),
        }
    }

    fn masquerading(&self, cluster_cidr: Option<Ipv4Net>) -> Vec<Vec<Step>> {
        match (self.masquerade, cluster_cidr) {
            (Masquerade::Always, _) => vec![mark()],
            (Masquerade::Outsiders, Some(cidr)) => vec![[outside(cidr), mark()].concat()],
            (Masquerade::Outsiders, None) | (Masquerade::Never, _) => Vec::new(),
        }
    }

    fn pick(&self, when: &[Step], list: List, count: u32) -> Vec<Vec<Step>> {
        let rule = |steps: &[Step]| [when, &self.id(list, ID), steps].concat();
        let draw = [Step::Draw { to: AFTER_ID, count, first: 0 }, Step::Lookup(ENDPOINTS, ID, FOUND)];
        let fresh = rule(&[&draw[..], &[Step::Dnat(FOUND)]].concat());
        let Some(seconds) = self.affinity_seconds else { return vec![fresh] };
        let client = Step::Load(Field::Source, AFTER_ID);
        // An endpoint that is gone is no member, though clients may still be remembered for it.
        let found = [client.clone(), Step::Lookup(AFFINITY, ID, AFTER_ID), Step::Among(MEMBERS, ID)];
        let again = [Step::Load(Field::Source, AFTER_FOUND), remember(FOUND, AFTER_ID, seconds), Step::Dnat(AFTER_ID)];
        let back = rule(&[&found[..], &self.id(list, FOUND), &again].concat());
        let new = [client.clone(), Step::Forget { map: AFFINITY, key: ID }];
        let keep = [client, remember(ID, FOUND, seconds), Step::Dnat(FOUND)];
        // The last one is for a map that is full.
        vec![back, rule(&[&new[..], &draw, &keep].concat()), fresh]
    }

    /// The number of the destination's list of endpoints.
    fn id(&self, list: List, to: Reg) -> Vec<Step> {
        let ids = if self.door == Door::Address { SERVICE_IDS } else { NODE_PORT_IDS };
        let mut steps = destination(self.door);
        steps.push(Step::Lookup(ids, DESTINATION, to));
        if list == List::Local {
            steps.push(Step::Bits(to, ALL, 1));
        }
        steps
    }
}

/// Loads what maps of destinations are asked with.
pub fn destination(door: Door) -> Vec<Step> {
    match door {
        Door::Address => {
            vec![Step::Load(Field::Destination, Reg(0)), Step::Load(Field::Protocol, Reg(1)), Step::Load(Field::Port, Reg(2))]
        }
        Door::NodePort => vec![Step::Load(Field::Protocol, Reg(0)), Step::Load(Field::Port, Reg(1))],
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

fn mark() -> Vec<Step> {
    vec![Step::Load(Field::Mark, SPARE), Step::Bits(SPARE, !MARK, MARK), Step::SetMark(SPARE)]
}

fn remember(key: Reg, value: Reg, seconds: u32) -> Step {
    Step::Remember { map: AFFINITY, key, value, seconds }
}
