//! The sets and maps: what each is keyed by and holds, and how `nft` shows it. Numbers: the kernel's `nf_tables.h`, nft's `datatype.h`.

use std::borrow::Cow;

use super::{
    objects::TABLE,
    service_chain::{DestinationMatch, ServiceChain},
};
use crate::netlink::{LIST_ELEMENT, Verb, Writer};

/// The sets and maps whose elements services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    ClusterIps,
    /// All destinations that have an endpoint here.
    Services(DestinationMatch),
    /// Those of one class. Classes whose clients stay share [`Set::Sticky`].
    ServiceChain(ServiceChain),
    /// Destination -> the chain of its class. Elements are of [`Set::ServiceChain`].
    Sticky(DestinationMatch),
    /// Destination and place -> endpoint.
    Endpoints(DestinationMatch),
    Refused(DestinationMatch, Refusal),
    /// What is sent there is masqueraded.
    Masqueraded(DestinationMatch),
    /// The same for who is not of the cluster's network.
    MasqueradedOutsiders,
    Hairpin,
    Firewalled,
    FirewallSources,
}

/// What becomes of packets to a destination without endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Nothing anywhere: say so.
    Reject,
    /// Nothing here: another node might be asked.
    Drop,
}

/// Types of fields, as `nft` numbers and names them; each takes one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Address,
    Protocol,
    Port,
    Number,
}

use Kind::{Address, Number, Port, Protocol};

/// What a set looks like.
pub struct Form {
    key: &'static [Kind],
    value: Value,
    flags: u32,
}

#[derive(Clone, Copy)]
enum Value {
    None,
    Words(&'static [Kind]),
    Verdict,
}

const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
const CONCAT: u32 = 0x80;
/// Clients that are remembered at a time for one endpoint.
const CLIENTS_MAX: u32 = 262_144;
/// `NFT_DATA_VERDICT`
const VERDICT_TYPE: u32 = 0xffff_ff00;
const BOTH_MATCHES: [DestinationMatch; 2] = [DestinationMatch::Address, DestinationMatch::NodePort];

impl Set {
    /// Those that are there without any service.
    pub fn standing() -> impl Iterator<Item = Set> {
        let by_match = |matched_by| {
            let refused = [Set::Refused(matched_by, Refusal::Reject), Set::Refused(matched_by, Refusal::Drop)];
            [Set::Services(matched_by), Set::Sticky(matched_by), Set::Endpoints(matched_by), Set::Masqueraded(matched_by)]
                .into_iter()
                .chain(refused)
        };
        [Set::ClusterIps, Set::MasqueradedOutsiders, Set::Hairpin, Set::Firewalled, Set::FirewallSources]
            .into_iter()
            .chain(BOTH_MATCHES.into_iter().flat_map(by_match))
    }

    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Set::ServiceChain(class) if class.sticky.is_none() => return Cow::Owned(class.name()),
            Set::ServiceChain(ServiceChain { matched_by, .. }) => return Set::Sticky(matched_by).name(),
            Set::ClusterIps => "cluster-ips",
            Set::Services(DestinationMatch::Address) => "service-ips",
            Set::Services(DestinationMatch::NodePort) => "service-nodeports",
            Set::Sticky(DestinationMatch::Address) => "sticky-ips",
            Set::Sticky(DestinationMatch::NodePort) => "sticky-nodeports",
            Set::Endpoints(DestinationMatch::Address) => "service-endpoints",
            Set::Endpoints(DestinationMatch::NodePort) => "nodeport-endpoints",
            Set::Refused(DestinationMatch::Address, Refusal::Reject) => "rejected-ips",
            Set::Refused(DestinationMatch::Address, Refusal::Drop) => "dropped-ips",
            Set::Refused(DestinationMatch::NodePort, Refusal::Reject) => "rejected-nodeports",
            Set::Refused(DestinationMatch::NodePort, Refusal::Drop) => "dropped-nodeports",
            Set::Masqueraded(DestinationMatch::Address) => "masq-ips",
            Set::Masqueraded(DestinationMatch::NodePort) => "masq-nodeports",
            Set::MasqueradedOutsiders => "masq-outsiders-ips",
            Set::Hairpin => "hairpin-connections",
            Set::Firewalled => "firewall-ips",
            Set::FirewallSources => "firewall-sources",
        })
    }

    pub fn form(self) -> Form {
        let set = |key| Form { key, value: Value::None, flags: 0 };
        let map = |key, value| Form { key, value, flags: 0 };
        let place = Value::Words(&[Address, Port]);
        match self {
            Set::ClusterIps => set(&[Address]),
            Set::ServiceChain(class) if class.sticky.is_some() => Set::Sticky(class.matched_by).form(),
            Set::Services(matched_by)
            | Set::Refused(matched_by, _)
            | Set::Masqueraded(matched_by)
            | Set::ServiceChain(ServiceChain { matched_by, .. }) => set(destination(matched_by)),
            Set::Sticky(matched_by) => map(destination(matched_by), Value::Verdict),
            Set::Endpoints(DestinationMatch::Address) => map(&[Address, Protocol, Port, Number], place),
            Set::Endpoints(DestinationMatch::NodePort) => map(&[Protocol, Port, Number], place),
            Set::Hairpin => set(&[Address, Address]),
            Set::Firewalled | Set::MasqueradedOutsiders => set(destination(DestinationMatch::Address)),
            Set::FirewallSources => Form { key: &[Address, Protocol, Port, Address], value: Value::None, flags: INTERVAL | CONCAT },
        }
    }

    /// Makes it.
    pub fn write(self, w: &mut Writer) {
        self.form().write(&self.name(), w);
    }
}

impl Form {
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

    fn write(&self, name: &str, w: &mut Writer) {
        let flags = self.flags | if matches!(self.value, Value::None) { 0 } else { MAP };
        let id = w.place();
        w.change(Verb::NewSet, |w| {
            w.text(1, TABLE);
            w.text(2, name);
            w.number(3, flags);
            w.number(4, concat(self.key));
            w.number(5, bytes(self.key));
            match self.value {
                Value::None => {}
                Value::Words(kinds) => {
                    w.number(6, concat(kinds));
                    w.number(7, bytes(kinds));
                }
                Value::Verdict => w.number(6, VERDICT_TYPE),
            }
            w.nested(9, |w| self.describe(w));
            w.number(10, id);
            if let (true, Value::Words(value)) = (self.key.contains(&Number), self.value) {
                w.attr(13, &[entry(0, &[0; 4]), entry(1, &[0; 4]), entry(3, &type_of(self.key)), entry(4, &type_of(value))].concat());
            }
        });
    }

    fn describe(&self, w: &mut Writer) {
        if self.flags & EVAL != 0 {
            w.number(1, CLIENTS_MAX);
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
            // A mark, for who does not read below.
            Kind::Number => (19, 4),
        }
    }

    /// The expression that yields it (`enum expr_types`), with what that is made of.
    fn expression(self) -> Vec<u8> {
        let (kind, parts): (u8, &[u8]) = match self {
            // ip daddr, meta l4proto, th dport, numgen random mod 1
            Kind::Address => (7, &[12, 12]),
            Kind::Protocol => (9, &[16]),
            Kind::Port => (7, &[11, 2]),
            Kind::Number => (23, &[1, 1, 0]),
        };
        let parts: Vec<u8> = (0..).zip(parts).flat_map(|(at, part)| entry(at, &number(*part))).collect();
        [entry(0, &number(kind)), entry(1, &parts)].concat()
    }
}

/// Makes a set that packets write clients into.
pub fn write_clients(name: &str, w: &mut Writer) {
    Form { key: &[Address], value: Value::None, flags: TIMEOUT | EVAL }.write(name, w);
}

fn destination(matched_by: DestinationMatch) -> &'static [Kind] {
    match matched_by {
        DestinationMatch::Address => &[Address, Protocol, Port],
        DestinationMatch::NodePort => &[Protocol, Port],
    }
}

/// A concatenation of expressions, as `typeof` writes them.
fn type_of(kinds: &[Kind]) -> Vec<u8> {
    let parts: Vec<u8> = (0..).zip(kinds).flat_map(|(at, kind)| entry(at, &kind.expression())).collect();
    [entry(0, &number(13)), entry(1, &parts)].concat()
}

/// One entry of what `nft` notes beside a set, which the kernel keeps and does not read: type, length, value; in this machine's order.
fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let size = u8::try_from(value.len()).expect("the expressions of four fields are shorter than 256 bytes");
    [&[kind, size], value].concat()
}

fn number(value: u8) -> [u8; 4] {
    u32::from(value).to_ne_bytes()
}

fn concat(kinds: &[Kind]) -> u32 {
    kinds.iter().fold(0, |all, kind| all << 6 | kind.number_and_size().0)
}

fn bytes(kinds: &[Kind]) -> u32 {
    u32::try_from(kinds.len() * 4).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_noted_as_nft_does() {
        // What nft 1.0.6 wrote for `typeof ip daddr . th dport`.
        let bytes = type_of(&[Address, Port]);
        let noted = [
            0x00, 0x04, 0x0d, 0, 0, 0, 0x01, 0x2c, 0x00, 0x14, 0x00, 0x04, 0x07, 0, 0, 0, 0x01, 0x0c, 0x00, 0x04, 0x0c, 0, 0, 0, 0x01,
            0x04, 0x0c, 0, 0, 0, 0x01, 0x14, 0x00, 0x04, 0x07, 0, 0, 0, 0x01, 0x0c, 0x00, 0x04, 0x0b, 0, 0, 0, 0x01, 0x04, 0x02, 0, 0, 0,
        ];
        assert_eq!(bytes, noted);
    }

    #[test]
    fn every_standing_set_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Set::standing().map(Set::name).collect();
        assert_eq!((names.len(), names.is_empty()), (Set::standing().count(), false));
    }
}
