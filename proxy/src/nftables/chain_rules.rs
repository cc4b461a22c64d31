//! What a destination's packets get -> the rules for all destinations of that kind.

use ipnet::IpNet;

use super::{
    expr::{Field, LOCAL, Reg, Step, Verdict},
    registers::word,
    service_chain::{DestinationMatch, List, ServiceChain},
    sets::Set,
    sticky,
};

/// The bit of the mark that says: masquerade this.
pub const MARK: u32 = 0x4000;
const SPARE: Reg = Reg(12);

/// Its chain.
pub fn rules(class: &ServiceChain, cluster_cidr: Option<IpNet>) -> Vec<Vec<Step>> {
    let mut rules = Vec::new();
    let load = if class.sticky.is_some() { Vec::new() } else { destination(class.matched_by) };
    if class.insiders > 0 {
        let cluster = [load.clone(), pick(class, List::Cluster, class.insiders)].concat();
        let local = vec![Step::Load(Field::SourceKind, SPARE), Step::Is(SPARE, LOCAL)];
        rules.extend(cluster_cidr.map(|cidr| [within(cidr), cluster.clone()].concat()));
        rules.push([local.clone(), mark()].concat());
        rules.push([local, cluster].concat());
    }
    if class.count > 0 {
        rules.push([load, pick(class, class.list, class.count)].concat());
    }
    rules
}

fn pick(class: &ServiceChain, list: List, count: u32) -> Vec<Step> {
    if let Some(id) = class.sticky {
        return vec![Step::End(Verdict::Goto(sticky::chain(id.get(), list)))];
    }
    let (found, place) = (Reg(0), if class.matched_by == DestinationMatch::Address { Reg(3) } else { Reg(2) });
    let draw = Step::Draw { to: place, count, first: list.first_place() };
    vec![draw, Step::Lookup(Set::Endpoints(class.matched_by).name(), found, found), Step::Dnat(found)]
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

pub fn within(net: IpNet) -> Vec<Step> {
    net_test(Field::Source, net, Step::Is)
}

pub fn outside(net: IpNet) -> Vec<Step> {
    net_test(Field::Source, net, Step::IsNot)
}

pub fn towards(net: IpNet) -> Vec<Step> {
    net_test(Field::Destination, net, Step::Is)
}

fn net_test(field: Field, net: IpNet, test: impl Fn(Reg, u32) -> Step) -> Vec<Step> {
    vec![Step::Load(field, SPARE), Step::Bits(SPARE, word(net.netmask()), 0), test(SPARE, word(net.network()))]
}

/// Has a packet masqueraded when it leaves.
pub fn mark() -> Vec<Step> {
    vec![Step::Load(Field::Mark, SPARE), Step::Bits(SPARE, !MARK, MARK), Step::SetMark(SPARE)]
}
