//! A service port whose clients stay with their endpoints -> a chain, and a set of clients for each endpoint. Source: as in upstream's proxier.

use std::borrow::Cow;

use super::{
    expr::{Field, Reg, Step},
    objects,
    registers::{port_word, protocol, word},
    service_chain::List,
    sets,
};
use crate::{
    model::{Endpoint, Protocol, ServicePort},
    netlink::{Verb, Writer},
};

/// One list of endpoints of such a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    protocol: Protocol,
    seconds: u32,
    endpoints: Vec<Endpoint>,
}

/// The chain of a list.
pub fn chain(id: u32, list: List) -> String {
    name(id + u32::from(list == List::Local))
}

fn name(number: u32) -> String {
    format!("sticky-{number}")
}

fn clients(number: u32, endpoint: Endpoint) -> String {
    format!("sticky-{number}-{}-{}", endpoint.ip, endpoint.port)
}

impl Sticky {
    /// `None` where clients need not stay, or have nowhere to.
    pub fn of(service_port: &ServicePort, endpoints: &[Endpoint]) -> Option<Self> {
        let seconds = service_port.affinity_seconds.filter(|_| !endpoints.is_empty())?;
        Some(Self { protocol: service_port.protocol, seconds, endpoints: endpoints.to_vec() })
    }

    /// All of it, in place of `old` under the same number. What is no longer there goes by [`Sticky::write_gone`].
    pub fn write(&self, number: u32, old: Option<&Self>, w: &mut Writer) {
        let fresh = self.endpoints.iter().filter(|e| !old.is_some_and(|old| old.endpoints.contains(e)));
        fresh.for_each(|endpoint| sets::write_clients(&clients(number, *endpoint), w));
        let name = name(number);
        if old.is_none() {
            objects::chain(&name, w);
        } else {
            objects::empty(&name, w);
        }
        self.rules(number).iter().for_each(|steps| objects::rule(&name, steps, w));
    }

    /// Removes what `new` has no more; after whatever leads there.
    pub fn write_gone(&self, number: u32, new: Option<&Self>, w: &mut Writer) {
        if new.is_none() {
            objects::remove(Verb::DelChain, &name(number), w);
        }
        let gone = self.endpoints.iter().filter(|e| !new.is_some_and(|new| new.endpoints.contains(e)));
        gone.for_each(|endpoint| objects::remove(Verb::DelSet, &clients(number, *endpoint), w));
    }

    /// Whoever is known goes back; others draw.
    fn rules(&self, number: u32) -> Vec<Vec<Step>> {
        let (scratch, client) = (Reg(0), Reg(0));
        let known = |e: &Endpoint| vec![Step::Load(Field::Source, client), Step::Among(Cow::Owned(clients(number, *e)), client)];
        let draw = |count: u32| vec![Step::Draw { to: scratch, count, first: 0 }, Step::Is(scratch, 0)];
        let keep = |e: &Endpoint| {
            vec![Step::Load(Field::Source, client), Step::Remember { set: clients(number, *e), key: client, seconds: self.seconds }]
        };
        let mut rules: Vec<Vec<Step>> = Vec::new();
        rules.extend(self.endpoints.iter().map(|e| [known(e), keep(e), self.lead(*e)].concat()));
        for (left, endpoint) in (1..).zip(self.endpoints.iter().rev()).collect::<Vec<_>>().into_iter().rev() {
            rules.push([draw(left), keep(endpoint), self.lead(*endpoint)].concat());
        }
        // Where no more clients can be remembered.
        rules.extend(self.endpoints.last().map(|e| self.lead(*e)));
        rules
    }

    fn lead(&self, endpoint: Endpoint) -> Vec<Step> {
        let (tested, to, port) = (Reg(4), Reg(0), Reg(1));
        let [number, ..] = protocol(self.protocol).to_ne_bytes();
        let put = [Step::Put(to, word(endpoint.ip), 4), Step::Put(port, port_word(endpoint.port), 2)];
        [&[Step::Load(Field::Protocol, tested), Step::IsByte(tested, number)][..], &put, &[Step::Dnat(to)]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{family::Family, testing::addr};

    fn sticky(endpoints: &[&str]) -> Sticky {
        let endpoints = endpoints.iter().map(|e| addr(e)).collect();
        Sticky { protocol: Protocol::Tcp, seconds: 60, endpoints }
    }

    fn draws(sticky: &Sticky) -> Vec<u32> {
        let count = |step: &Step| if let Step::Draw { count, .. } = step { Some(*count) } else { None };
        sticky.rules(2).iter().flatten().filter_map(count).collect()
    }

    #[test]
    fn each_endpoint_is_drawn_as_often_as_the_others() {
        let three = sticky(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!((draws(&three), three.rules(2).len()), (vec![3, 2, 1], 7));
    }

    #[test]
    fn only_what_differs_is_made_and_removed() {
        let (one, two) = (sticky(&["10.0.0.1:1"]), sticky(&["10.0.0.1:1", "10.0.0.2:1"]));
        let size = |work: &dyn Fn(&mut Writer)| {
            let mut w = Writer::batch(Family::V4);
            work(&mut w);
            w.finish().map_or(0, |bytes| bytes.len())
        };
        assert_eq!(size(&|w| two.write_gone(2, Some(&two), w)), 0);
        assert!(size(&|w| two.write_gone(2, Some(&one), w)) < size(&|w| two.write_gone(2, None, w)));
        assert!(size(&|w| two.write(2, Some(&one), w)) < size(&|w| two.write(2, None, w)));
    }
}
