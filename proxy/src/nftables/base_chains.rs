//! What stands in the table without any service: chains at the kernel's hooks, and what they do. Source: upstream `pkg/proxy/nftables/proxier.go`.

use super::{
    chain_rules::{MARK, destination, mark, outside, towards, within},
    expr::{CT_DNAT, CT_INVALID, CT_KNOWN, CT_NEW, Field, LOCAL, Reg, Step, Verdict},
    objects::{TABLE, chain, empty, rule},
    service_chain::{DestinationMatch, ServiceChain},
    sets::{Refusal, Set},
};
use crate::{
    family::Family,
    model::NodeNetwork,
    netlink::{Verb, Writer},
};

/// Where it is looked whether rules are still there.
pub const WITNESS: &str = "nat-prerouting";

const SERVICE_CHAIN: &str = "services";
const ENDPOINTS_CHECK: &str = "service-endpoints-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const FIREWALL_CHECK: &str = "firewall-check";
const BOTH_MATCHES: [DestinationMatch; 2] = [DestinationMatch::Address, DestinationMatch::NodePort];

/// A chain at a hook of the kernel.
struct Base {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const BASES: [Base; 8] = [
    base("filter-prerouting-pre-dnat", "filter", 0, -110),
    base("filter-output-pre-dnat", "filter", 3, -110),
    base("filter-input", "filter", 1, 0),
    base("filter-forward", "filter", 2, 0),
    base("filter-output", "filter", 3, 0),
    base(WITNESS, "nat", 0, -100),
    base("nat-output", "nat", 3, -100),
    base("nat-postrouting", "nat", 4, 100),
];

/// The table anew, in place of what may be there under its name.
pub fn write(node_network: &NodeNetwork, w: &mut Writer) {
    let table = |w: &mut Writer| w.text(1, TABLE);
    w.change(Verb::NewTable, table);
    w.change(Verb::DelTable, table);
    w.change(Verb::NewTable, table);
    Set::standing().for_each(|set| set.write(w));
    let by_match = BOTH_MATCHES.map(by_class);
    for name in [SERVICE_CHAIN, ENDPOINTS_CHECK, CLUSTER_IPS_CHECK, FIREWALL_CHECK].into_iter().chain(by_match) {
        chain(name, w);
    }
    BASES.iter().for_each(|base| base.write(w));
    for (chain, steps) in rules(node_network) {
        rule(chain, &steps, w);
    }
}

/// The base chains that find the chain of a service's destination, anew: what stands in front is found sooner. These
/// rules ask no map but a small one: for each that does, the kernel looks through all of the map's elements.
pub fn write_ways<'a>(chains: impl Iterator<Item = &'a ServiceChain> + Clone, w: &mut Writer) {
    for matched_by in BOTH_MATCHES {
        let chain = by_class(matched_by);
        empty(chain, w);
        rule(chain, &[&destination(matched_by)[..], &[Step::Branch(Set::Sticky(matched_by).name(), Reg(0))]].concat(), w);
        for class in chains.clone().filter(|class| class.matched_by == matched_by && class.sticky.is_none()) {
            rule(chain, &[among(Set::ServiceChain(*class), matched_by), vec![Step::End(Verdict::Goto(class.name()))]].concat(), w);
        }
    }
}

impl Base {
    fn write(&self, w: &mut Writer) {
        w.change(Verb::NewChain, |w| {
            w.text(1, TABLE);
            w.text(3, self.name);
            w.nested(4, |w| {
                w.number(1, self.hook);
                w.attr(2, &self.priority.to_be_bytes());
            });
            w.number(5, 1);
            w.text(7, self.kind);
        });
    }
}

fn rules(node_network: &NodeNetwork) -> Vec<(&'static str, Vec<Step>)> {
    let jump = |to: &str| Step::End(Verdict::Jump(to.to_owned()));
    let new = |to: &str| [ct_state(CT_NEW), vec![jump(to)]].concat();
    let mut rules = vec![
        ("filter-prerouting-pre-dnat", new(FIREWALL_CHECK)),
        ("filter-output-pre-dnat", new(FIREWALL_CHECK)),
        ("filter-input", new(ENDPOINTS_CHECK)),
        // An answer that conntrack cannot place would get a reset from who does not know of the connection.
        ("filter-forward", [ct_state(CT_INVALID), vec![Step::End(Verdict::Drop)]].concat()),
        ("filter-forward", new(ENDPOINTS_CHECK)),
        ("filter-forward", new(CLUSTER_IPS_CHECK)),
        ("filter-output", new(ENDPOINTS_CHECK)),
        ("filter-output", new(CLUSTER_IPS_CHECK)),
        (WITNESS, vec![jump(SERVICE_CHAIN)]),
        ("nat-output", vec![jump(SERVICE_CHAIN)]),
        (FIREWALL_CHECK, firewall()),
        (CLUSTER_IPS_CHECK, vec![Step::Load(Field::Destination, Reg(0)), Step::Among(Set::ClusterIps.name(), Reg(0)), Step::Reject]),
    ];
    if node_network.family == Family::V4 {
        rules.insert(0, ("filter-input", localnet()));
    }
    if let Some(cidr) = node_network.cluster_cidr {
        rules.push((SERVICE_CHAIN, at(Set::MasqueradedOutsiders, DestinationMatch::Address, &[outside(cidr), mark()].concat())));
    }
    for matched_by in BOTH_MATCHES {
        let onward = Step::End(Verdict::Goto(by_class(matched_by).to_owned()));
        rules.push((SERVICE_CHAIN, at(Set::Masqueraded(matched_by), matched_by, &mark())));
        rules.push((SERVICE_CHAIN, at(Set::Services(matched_by), matched_by, &[onward])));
        rules.push((ENDPOINTS_CHECK, at(Set::Refused(matched_by, Refusal::Reject), matched_by, &[Step::Reject])));
        rules.push((ENDPOINTS_CHECK, at(Set::Refused(matched_by, Refusal::Drop), matched_by, &[Step::End(Verdict::Drop)])));
    }
    rules.extend(postrouting(node_network).into_iter().map(|steps| ("nat-postrouting", steps)));
    rules
}

/// The chain that finds a destination's class.
fn by_class(matched_by: DestinationMatch) -> &'static str {
    if matched_by == DestinationMatch::Address { "service-ips-by-class" } else { "service-nodeports-by-class" }
}

fn among(set: Set, matched_by: DestinationMatch) -> Vec<Step> {
    [destination(matched_by), vec![Step::Among(set.name(), Reg(0))]].concat()
}

/// What is done with packets to a destination of a set.
fn at(set: Set, matched_by: DestinationMatch, then: &[Step]) -> Vec<Step> {
    let here = [Step::Load(Field::DestinationKind, Reg(0)), Step::Is(Reg(0), LOCAL)];
    let here: &[Step] = if matched_by == DestinationMatch::NodePort { &here } else { &[] };
    [&among(set, matched_by), here, then].concat()
}

fn firewall() -> Vec<Step> {
    let mut steps = among(Set::Firewalled, DestinationMatch::Address);
    steps.extend(destination(DestinationMatch::Address));
    steps.extend([Step::Load(Field::Source, Reg(3)), Step::NotAmong(Set::FirewallSources.name(), Reg(0)), Step::End(Verdict::Drop)]);
    steps
}

/// NodePorts on localhost need `route_localnet`, which would let neighbours in to services that listen on localhost. IPv6 has neither.
fn localnet() -> Vec<Step> {
    let loopback = Family::V4.loopback();
    let unknown = [Step::Load(Field::CtState, Reg(0)), Step::Bits(Reg(0), CT_KNOWN, 0), Step::Is(Reg(0), 0)];
    let straight = [Step::Load(Field::CtStatus, Reg(0)), Step::Bits(Reg(0), CT_DNAT, 0), Step::Is(Reg(0), 0)];
    [&towards(loopback)[..], &outside(loopback), &unknown, &straight, &[Step::End(Verdict::Drop)]].concat()
}

fn postrouting(node_network: &NodeNetwork) -> Vec<Vec<Step>> {
    let (mark, both) = (Reg(0), Reg(4));
    let marked = [Step::Load(Field::Mark, mark), Step::Bits(mark, MARK, 0), Step::Is(mark, MARK)];
    // A packet may pass here twice.
    let unmark = [Step::Load(Field::Mark, mark), Step::Bits(mark, !MARK, 0), Step::SetMark(mark), Step::Masquerade];
    let translated = [Step::Load(Field::CtStatus, mark), Step::Bits(mark, CT_DNAT, 0), Step::IsNot(mark, 0)];
    // A pod that reaches itself through its service must see another source, or it would answer itself.
    let itself =
        [Step::Load(Field::Source, both), Step::Load(Field::Destination, Reg(5)), Step::Among(Set::Hairpin.name(), both), Step::Masquerade];
    let mut rules = vec![[marked.as_slice(), &unmark].concat(), [translated.as_slice(), &itself].concat()];
    if let Some(cidr) = node_network.cluster_cidr {
        for net in [cidr, node_network.family.multicast()] {
            rules.push([towards(net), vec![Step::End(Verdict::Return)]].concat());
        }
        rules.push([within(cidr), vec![Step::Masquerade]].concat());
    }
    rules
}

fn ct_state(bits: u32) -> Vec<Step> {
    vec![Step::Load(Field::CtState, Reg(0)), Step::Bits(Reg(0), bits, 0), Step::IsNot(Reg(0), 0)]
}

const fn base(name: &'static str, kind: &'static str, hook: u32, priority: i32) -> Base {
    Base { name, kind, hook, priority }
}
