//! What stands in the table without any service: sets, chains at the kernel's hooks, and what they do. Source: upstream `pkg/proxy/nftables/proxier.go`.

use super::{
    class::{Door, MARK, destination, outside, towards, within},
    elements::{
        CLUSTER_IPS, ENDPOINTS, FIREWALL_SOURCES, FIREWALLED, HAIRPIN, MEMBERS, NODE_PORT_IDS, NODE_PORTS, SERVICE_IDS, SERVICES, Set,
    },
    expr::{CT_DNAT, CT_INVALID, CT_KNOWN, CT_NEW, Field, LOCAL, Reg, Step, Verdict},
    wire::{LIST_ELEMENT, Verb, Writer},
};
use crate::model::Site;

/// Upstream's name: who takes a node over from it replaces its table.
pub const TABLE: &str = "kube-proxy";
pub const AFFINITY: &str = "affinity";
pub const CLASSES: &str = "classes";
pub const REFUSALS: &str = "refusals";
pub const REJECT: &str = "reject-chain";
/// Where it is looked whether rules are still there.
pub const WITNESS: &str = "nat-prerouting";

const SERVICE_CHAIN: &str = "services";
const ENDPOINTS_CHECK: &str = "service-endpoints-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const FIREWALL_CHECK: &str = "firewall-check";
/// Clients that are remembered at a time, over all services.
const AFFINITY_MAX: u32 = 262_144;

/// Types of fields, as `nft` numbers and names them; each takes one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    Protocol,
    Port,
    Number,
}

use Kind::{Address, Number, Port, Protocol};

enum Value {
    None,
    Words(&'static [Kind]),
    Verdict,
}

pub struct SetSpec {
    pub name: &'static str,
    key: &'static [Kind],
    value: Value,
    flags: u32,
}

const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
const CONCAT: u32 = 0x80;

const PLACE: &[Kind] = &[Address, Port];
const NUMBER: &[Kind] = &[Number];

/// The sets that services' elements are in, by [`Set`].
const SETS: [SetSpec; 10] = [
    set(CLUSTER_IPS, &[Address]),
    map(SERVICES, &[Address, Protocol, Port], NUMBER),
    map(SERVICE_IDS, &[Address, Protocol, Port], NUMBER),
    map(NODE_PORTS, &[Protocol, Port], NUMBER),
    map(NODE_PORT_IDS, &[Protocol, Port], NUMBER),
    map(ENDPOINTS, &[Number, Number], PLACE),
    set(MEMBERS, &[Number, Address, Port]),
    set(HAIRPIN, &[Address, Address]),
    map(FIREWALLED, &[Address, Protocol, Port], NUMBER),
    SetSpec { name: FIREWALL_SOURCES, key: &[Number, Address], value: Value::None, flags: INTERVAL | CONCAT },
];

const OTHER_SETS: [SetSpec; 3] = [
    SetSpec { name: AFFINITY, key: &[Number, Address], value: Value::Words(PLACE), flags: TIMEOUT | EVAL },
    SetSpec { name: CLASSES, key: NUMBER, value: Value::Verdict, flags: 0 },
    SetSpec { name: REFUSALS, key: NUMBER, value: Value::Verdict, flags: 0 },
];

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

impl Set {
    pub fn spec(self) -> &'static SetSpec {
        let [cluster_ips, services, service_ids, node_ports, node_port_ids, endpoints, members, hairpin, firewalled, sources] = &SETS;
        match self {
            Set::ClusterIps => cluster_ips,
            Set::Services => services,
            Set::ServiceIds => service_ids,
            Set::NodePorts => node_ports,
            Set::NodePortIds => node_port_ids,
            Set::Endpoints => endpoints,
            Set::Members => members,
            Set::Hairpin => hairpin,
            Set::Firewalled => firewalled,
            Set::FirewallSources => sources,
        }
    }
}

impl SetSpec {
    pub fn key_words(&self) -> usize {
        self.key.len()
    }

    /// Words of a map's value; 0 for a set.
    pub fn value_words(&self) -> usize {
        if let Value::Words(kinds) = self.value { kinds.len() } else { 0 }
    }

    pub fn is_interval(&self) -> bool {
        self.flags & INTERVAL != 0
    }

    fn write(&self, id: u32, w: &mut Writer) {
        let flags = self.flags | if matches!(self.value, Value::None) { 0 } else { MAP };
        w.change(Verb::NewSet, |w| {
            w.text(1, TABLE);
            w.text(2, self.name);
            w.number(3, flags);
            w.number(4, concat(self.key));
            w.number(5, bytes(self.key));
            match self.value {
                Value::None => {}
                Value::Words(kinds) => {
                    w.number(6, concat(kinds));
                    w.number(7, bytes(kinds));
                }
                Value::Verdict => w.number(6, 0xffff_ff00),
            }
            w.nested(9, |w| self.describe(w));
            w.number(10, id);
        });
    }

    fn describe(&self, w: &mut Writer) {
        if self.flags & EVAL != 0 {
            w.number(1, AFFINITY_MAX);
        }
        if self.is_interval() {
            w.nested(2, |w| self.key.iter().for_each(|kind| w.nested(LIST_ELEMENT, |w| w.number(1, kind.number_and_size().1))));
        }
    }
}

impl Kind {
    fn number_and_size(self) -> (u32, u32) {
        match self {
            Kind::Address => (7, 4),
            Kind::Protocol => (12, 1),
            Kind::Port => (13, 2),
            Kind::Number => (19, 4),
        }
    }
}

/// The table anew, in place of what may be there under its name.
pub fn write(site: &Site, w: &mut Writer) {
    let table = |w: &mut Writer| w.text(1, TABLE);
    w.change(Verb::NewTable, table);
    w.change(Verb::DelTable, table);
    w.change(Verb::NewTable, table);
    SETS.iter().chain(&OTHER_SETS).zip(1..).for_each(|(set, id)| set.write(id, w));
    for name in [SERVICE_CHAIN, ENDPOINTS_CHECK, CLUSTER_IPS_CHECK, FIREWALL_CHECK, REJECT] {
        chain(name, w);
    }
    BASES.iter().for_each(|base| base.write(w));
    for (chain, steps) in rules(site) {
        rule(chain, &steps, w);
    }
}

/// What takes the table away, if it is there.
pub fn removal(w: &mut Writer) {
    w.change(Verb::NewTable, |w| w.text(1, TABLE));
    w.change(Verb::DelTable, |w| w.text(1, TABLE));
}

pub fn chain(name: &str, w: &mut Writer) {
    w.change(Verb::NewChain, |w| {
        w.text(1, TABLE);
        w.text(3, name);
    });
}

pub fn rule(chain: &str, steps: &[Step], w: &mut Writer) {
    w.change(Verb::NewRule, |w| {
        w.text(1, TABLE);
        w.text(2, chain);
        w.nested(4, |w| steps.iter().for_each(|step| step.write(w)));
    });
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

fn rules(site: &Site) -> Vec<(&'static str, Vec<Step>)> {
    let jump = |to: &str| Step::End(Verdict::Jump(to.to_owned()));
    let new = |to: &str| [ct_state(CT_NEW), vec![jump(to)]].concat();
    let mut rules = vec![
        ("filter-prerouting-pre-dnat", new(FIREWALL_CHECK)),
        ("filter-output-pre-dnat", new(FIREWALL_CHECK)),
        ("filter-input", localnet()),
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
        (CLUSTER_IPS_CHECK, vec![Step::Load(Field::Destination, Reg(0)), Step::Among(CLUSTER_IPS, Reg(0)), Step::Reject]),
        (REJECT, vec![Step::Reject]),
    ];
    for (chain, verdicts) in [(SERVICE_CHAIN, CLASSES), (ENDPOINTS_CHECK, REFUSALS)] {
        rules.extend(dispatch(verdicts).map(|steps| (chain, steps)));
    }
    rules.extend(postrouting(site).into_iter().map(|steps| ("nat-postrouting", steps)));
    rules
}

/// A packet's destination to its class, and on to what this hook does with the class.
fn dispatch(verdicts: &'static str) -> [Vec<Step>; 2] {
    let by = |door, classes| [&destination(door)[..], &[Step::Lookup(classes, Reg(0), Reg(4)), Step::Branch(verdicts, Reg(4))]].concat();
    let here = vec![Step::Load(Field::DestinationKind, Reg(0)), Step::Is(Reg(0), LOCAL)];
    [by(Door::Address, SERVICES), [here, by(Door::NodePort, NODE_PORTS)].concat()]
}

fn firewall() -> Vec<Step> {
    let mut steps = destination(Door::Address);
    steps.push(Step::Lookup(FIREWALLED, Reg(0), Reg(4)));
    steps.extend([Step::Load(Field::Source, Reg(5)), Step::NotAmong(FIREWALL_SOURCES, Reg(4)), Step::End(Verdict::Drop)]);
    steps
}

/// NodePorts on localhost need `route_localnet`, which would let neighbours in to services that listen on localhost.
fn localnet() -> Vec<Step> {
    let loopback = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    let unknown = [Step::Load(Field::CtState, Reg(0)), Step::Bits(Reg(0), CT_KNOWN, 0), Step::Is(Reg(0), 0)];
    let straight = [Step::Load(Field::CtStatus, Reg(0)), Step::Bits(Reg(0), CT_DNAT, 0), Step::Is(Reg(0), 0)];
    [&towards(loopback)[..], &outside(loopback), &unknown, &straight, &[Step::End(Verdict::Drop)]].concat()
}

fn postrouting(site: &Site) -> Vec<Vec<Step>> {
    let (mark, both) = (Reg(0), Reg(4));
    let marked = [Step::Load(Field::Mark, mark), Step::Bits(mark, MARK, 0), Step::Is(mark, MARK)];
    // A packet may pass here twice.
    let unmark = [Step::Load(Field::Mark, mark), Step::Bits(mark, !MARK, 0), Step::SetMark(mark), Step::Masquerade];
    let translated = [Step::Load(Field::CtStatus, mark), Step::Bits(mark, CT_DNAT, 0), Step::IsNot(mark, 0)];
    // A pod that reaches itself through its service must see another source, or it would answer itself.
    let itself = [Step::Load(Field::Source, both), Step::Load(Field::Destination, Reg(5)), Step::Among(HAIRPIN, both), Step::Masquerade];
    let mut rules = vec![[marked.as_slice(), &unmark].concat(), [translated.as_slice(), &itself].concat()];
    if let Some(cidr) = site.cluster_cidr {
        let multicast = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4);
        for net in [cidr, multicast] {
            rules.push([towards(net), vec![Step::End(Verdict::Return)]].concat());
        }
        rules.push([within(cidr), vec![Step::Masquerade]].concat());
    }
    rules
}

fn ct_state(bits: u32) -> Vec<Step> {
    vec![Step::Load(Field::CtState, Reg(0)), Step::Bits(Reg(0), bits, 0), Step::IsNot(Reg(0), 0)]
}

fn concat(kinds: &[Kind]) -> u32 {
    kinds.iter().fold(0, |all, kind| all << 6 | kind.number_and_size().0)
}

fn bytes(kinds: &[Kind]) -> u32 {
    u32::try_from(kinds.len() * 4).unwrap_or(0)
}

const fn set(name: &'static str, key: &'static [Kind]) -> SetSpec {
    SetSpec { name, key, value: Value::None, flags: 0 }
}

const fn map(name: &'static str, key: &'static [Kind], value: &'static [Kind]) -> SetSpec {
    SetSpec { name, key, value: Value::Words(value), flags: 0 }
}

const fn base(name: &'static str, kind: &'static str, hook: u32, priority: i32) -> Base {
    Base { name, kind, hook, priority }
}
