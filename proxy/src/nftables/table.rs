//! Services' service ports -> transactions: all at once, then only the elements that changed. Pure but for the sending.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use api::Key;

use super::{
    base_chains::{self, WITNESS},
    chain_rules,
    elements::{Destination, Element, PortEndpoints, WantedElements},
    expr::Verdict,
    objects::{self, TABLE},
    service_chain::ServiceChain,
    sets::{Form, Set},
    slots::Slots,
    sticky::Sticky,
};
use crate::{
    family::Family,
    late,
    model::{NodeNetwork, Protocol, ServicePort},
    netlink::{Error, LIST_ELEMENT, Socket, Verb, Writer},
};

/// A list of elements must be below 64 KiB; one takes up to 112 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// Larger transactions are worked on beside the other tasks.
const INLINE_BYTES: usize = 64 * 1024;

/// Classes without destinations that stay. For a new one the kernel looks through the map of endpoints that its rule asks, 8 ms where it
/// has 60,000; so those that are common are there from the start.
const CLASSES_KEPT: usize = 64;

/// What the kernel should hold for one family, and the way there.
pub struct Table {
    node_network: NodeNetwork,
    socket: Option<Arc<Socket>>,
    services: HashMap<Key, ServiceElements>,
    slots: Slots,
    /// The service that has a destination, by its number.
    owners: HashMap<Destination, u32>,
    /// Other services that want it, in the order they came. Empty on a sound cluster.
    waiting: HashMap<Destination, VecDeque<Key>>,
    /// Those whose sets and chains stand in the kernel.
    written: HashSet<ServiceChain>,
    /// Of these, those that have no destinations now.
    idle: HashSet<ServiceChain>,
    /// Lists of endpoints whose clients stay, by number.
    sticky: BTreeMap<u32, Sticky>,
    /// Those that were touched as they were before; `None`: not there.
    sticky_before: BTreeMap<u32, Option<Sticky>>,
    next_number: u32,
    /// Services that are as they were, because what they ask for could not be worked out.
    left: Vec<Key>,
}

/// One service: its number, its service ports by port and protocol, and what it claims.
#[derive(Default)]
struct ServiceElements {
    number: u32,
    ports: BTreeMap<(u16, Protocol), PortEndpoints>,
    own: BTreeMap<Destination, Vec<Element>>,
    shared: Vec<Element>,
    sticky: Vec<u32>,
}

impl Table {
    pub fn new(family: Family) -> Self {
        Self {
            node_network: NodeNetwork::of(family),
            socket: None,
            services: HashMap::new(),
            slots: Slots::default(),
            owners: HashMap::new(),
            waiting: HashMap::new(),
            written: HashSet::new(),
            idle: HashSet::new(),
            sticky: BTreeMap::new(),
            sticky_before: BTreeMap::new(),
            next_number: 0,
            left: Vec::new(),
        }
    }

    /// Takes changed services; the transaction that brings the kernel there, `None` if nothing differs.
    pub fn update(&mut self, changes: &[(Key, Vec<ServicePort>)]) -> Option<Vec<u8>> {
        changes.iter().for_each(|(key, service_ports)| self.take(key, service_ports));
        let changes = self.slots.take_changes();
        let (born, gone) = self.settle(changes.chains);
        let sticky = self.take_sticky_changes();
        let mut writer = Writer::batch(self.node_network.family);
        for (number, old, new) in &sticky {
            new.iter().for_each(|new| new.write(*number, old.as_ref(), &mut writer));
        }
        born.iter().for_each(|class| make_chain(class, &mut writer));
        born.iter().for_each(|class| self.write_chain(class, &mut writer));
        write_elements(Verb::DelElement, changes.gone, &mut writer);
        write_elements(Verb::NewElement, changes.come, &mut writer);
        if born.iter().chain(&gone).any(|class| class.sticky.is_none()) {
            base_chains::write_ways(self.ways().iter(), &mut writer);
        }
        gone.iter().for_each(|class| remove_class(class, &mut writer));
        for (number, old, new) in &sticky {
            old.iter().for_each(|old| old.write_gone(*number, new.as_ref(), &mut writer));
        }
        writer.finish()
    }

    /// Everything, in place of whatever stands in the kernel; `node_network` is as it is now.
    pub fn full(&mut self, node_network: NodeNetwork, changes: &[(Key, Vec<ServicePort>)]) -> Option<Vec<u8>> {
        self.node_network = node_network;
        changes.iter().for_each(|(key, service_ports)| self.take(key, service_ports));
        self.slots.take_changes();
        self.sticky_before.clear();
        self.idle = ServiceChain::common().filter(|class| !self.slots.is_used(class)).collect();
        let chains = self.ways();
        self.written = chains.iter().copied().collect();
        let mut writer = Writer::batch(self.node_network.family);
        base_chains::write(&self.node_network, &mut writer);
        self.sticky.iter().for_each(|(number, sticky)| sticky.write(*number, None, &mut writer));
        chains.iter().for_each(|class| make_chain(class, &mut writer));
        // An element takes longer with each rule that asks its map: the rules come after.
        write_elements(Verb::NewElement, self.slots.all(), &mut writer);
        chains.iter().for_each(|class| self.write_chain(class, &mut writer));
        base_chains::write_ways(chains.iter(), &mut writer);
        writer.finish()
    }

    /// Sends a transaction to the namespace that the first one was sent from.
    ///
    /// # Errors
    /// Where it was not taken; then none of it was.
    pub async fn commit(&mut self, transaction: Vec<u8>) -> Result<(), Error> {
        let socket = self.socket()?;
        if transaction.len() <= INLINE_BYTES {
            return socket.commit(&transaction);
        }
        let work = tokio::task::spawn_blocking(move || socket.commit(&transaction));
        work.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
    }

    /// Whether our table still has rules: an admin's `nft flush ruleset` removes them.
    pub fn is_whole(&mut self) -> bool {
        let question = Writer::dump(self.node_network.family, Verb::GetRule, |w| {
            w.text(1, TABLE);
            w.text(2, WITNESS);
        });
        let mut rules = 0;
        let listed = self.socket().and_then(|socket| socket.list(&question, |_| rules += 1));
        listed.is_ok() && rules > 0
    }

    /// What the kernel holds of a set, as it says it; empty where there is no such set.
    #[cfg(test)]
    pub fn listing(set: &str) -> Vec<u8> {
        let question = Writer::dump(Family::V4, Verb::GetElement, |w| {
            w.text(1, TABLE);
            w.text(2, set);
        });
        let mut all = Vec::new();
        let _ = Socket::open().unwrap().list(&question, |message| all.extend(message));
        all
    }

    /// Takes the table away, if it is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove(family: Family) -> Result<(), Error> {
        let mut writer = Writer::batch(family);
        objects::removal(&mut writer);
        writer.finish().map_or(Ok(()), |transaction| Socket::open()?.commit(&transaction))
    }

    fn socket(&mut self) -> Result<Arc<Socket>, Error> {
        if self.socket.is_none() {
            self.socket = Some(Arc::new(Socket::open()?));
        }
        self.socket.clone().ok_or(Error::Silent)
    }

    /// Those that were left as they are since the last call.
    pub fn take_left(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.left)
    }

    fn take(&mut self, key: &Key, service_ports: &[ServicePort]) {
        let mut old = self.services.remove(key).unwrap_or_default();
        let Some((ports, needs)) = late::one(key, || self.needs(&mut old, service_ports)) else {
            self.left.push(key.clone());
            if !old.ports.is_empty() {
                self.services.insert(key.clone(), old);
            }
            return;
        };
        for (to, elements) in old.own.iter().filter(|(to, _)| !needs.own.contains_key(to)) {
            self.leave(key, old.number, to, elements);
        }
        for (to, elements) in &needs.own {
            self.enter(key, old.number, to, old.own.get(to).map_or(&[], Vec::as_slice), elements);
        }
        old.shared.iter().for_each(|element| self.slots.release(element));
        needs.shared.iter().for_each(|element| self.slots.claim(element));
        let sticky = needs.sticky.keys().copied().collect();
        self.take_sticky(&old.sticky, needs.sticky);
        if !ports.is_empty() {
            self.services.insert(key.clone(), ServiceElements { number: old.number, ports, own: needs.own, shared: needs.shared, sticky });
        }
    }

    /// Numbers are given where there are none yet.
    fn needs(
        &mut self,
        old: &mut ServiceElements,
        service_ports: &[ServicePort],
    ) -> (BTreeMap<(u16, Protocol), PortEndpoints>, WantedElements) {
        let (mut ports, mut needs) = (BTreeMap::new(), WantedElements::default());
        if old.number == 0 {
            old.number = self.fresh_number();
        }
        for service_port in service_ports {
            let of = (service_port.port, service_port.protocol);
            let was = old.ports.get(&of);
            let id = was.map_or_else(|| self.fresh_number(), |ports| ports.id);
            let port_endpoints = PortEndpoints::next(was, id, service_port);
            needs.add(service_port, &port_endpoints, &self.node_network);
            ports.insert(of, port_endpoints);
        }
        (ports, needs)
    }

    /// Never used again: clients may be remembered under it.
    fn fresh_number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(2).max(2);
        self.next_number
    }

    /// The service wants a destination; who has it keeps it.
    fn enter(&mut self, key: &Key, number: u32, to: &Destination, old: &[Element], new: &[Element]) {
        let owner = *self.owners.entry(*to).or_insert(number);
        if owner == number {
            old.iter().for_each(|element| self.slots.release(element));
            new.iter().for_each(|element| self.slots.claim(element));
            return;
        }
        let waiting = self.waiting.entry(*to).or_default();
        if !waiting.contains(key) {
            waiting.push_back(key.clone());
        }
    }

    /// The destination goes to the next who wants it.
    fn leave(&mut self, key: &Key, number: u32, to: &Destination, elements: &[Element]) {
        if self.owners.get(to) != Some(&number) {
            return self.edit_waiting(to, |waiting| waiting.retain(|other| other != key));
        }
        elements.iter().for_each(|element| self.slots.release(element));
        self.owners.remove(to);
        let mut next = None;
        self.edit_waiting(to, |waiting| next = waiting.pop_front());
        if let Some(held) = next.and_then(|next| self.services.get(&next)) {
            self.owners.insert(*to, held.number);
            held.own.get(to).into_iter().flatten().for_each(|element| self.slots.claim(element));
        }
    }

    fn edit_waiting(&mut self, to: &Destination, edit: impl FnOnce(&mut VecDeque<Key>)) {
        let Some(waiting) = self.waiting.get_mut(to) else { return };
        edit(waiting);
        if waiting.is_empty() {
            self.waiting.remove(to);
        }
    }

    fn take_sticky(&mut self, old: &[u32], new: BTreeMap<u32, Sticky>) {
        for number in old.iter().chain(new.keys()) {
            self.sticky_before.entry(*number).or_insert_with(|| self.sticky.get(number).cloned());
        }
        old.iter().for_each(|number| drop(self.sticky.remove(number)));
        self.sticky.extend(new);
    }

    /// Number, before, now.
    fn take_sticky_changes(&mut self) -> Vec<(u32, Option<Sticky>, Option<Sticky>)> {
        let touched = std::mem::take(&mut self.sticky_before).into_iter();
        let all = touched.map(|(number, old)| (number, old, self.sticky.get(&number).cloned()));
        all.filter(|(_, old, new)| old != new).collect()
    }

    /// Of chains that were touched: those that must be written, and those that must go.
    fn settle(&mut self, touched: HashSet<ServiceChain>) -> (Vec<ServiceChain>, Vec<ServiceChain>) {
        let (used, mut gone): (Vec<ServiceChain>, Vec<ServiceChain>) = touched.into_iter().partition(|class| self.slots.is_used(class));
        for class in &used {
            self.idle.remove(class);
        }
        let born = used.into_iter().filter(|class| self.written.insert(*class)).collect();
        gone.retain(|class| self.written.contains(class));
        self.idle.extend(gone.iter().filter(|class| class.sticky.is_none()));
        gone.retain(|class| class.sticky.is_some());
        if self.idle.len() > CLASSES_KEPT {
            let (common, rare): (HashSet<ServiceChain>, HashSet<ServiceChain>) = self.idle.drain().partition(ServiceChain::is_common);
            self.idle = common;
            gone.extend(rare);
        }
        for class in &gone {
            self.written.remove(class);
        }
        (born, gone)
    }

    /// Those in use, and behind them those that are kept.
    fn ways(&self) -> Vec<ServiceChain> {
        let mut all = self.slots.chains();
        all.extend(&self.idle);
        all
    }

    fn write_chain(&self, class: &ServiceChain, writer: &mut Writer) {
        let name = class.name();
        chain_rules::rules(class, self.node_network.cluster_cidr).iter().for_each(|steps| objects::rule(&name, steps, writer));
    }
}

fn make_chain(class: &ServiceChain, writer: &mut Writer) {
    if class.sticky.is_none() {
        Set::ServiceChain(*class).write(writer);
    }
    objects::chain(&class.name(), writer);
}

fn remove_class(class: &ServiceChain, writer: &mut Writer) {
    objects::remove(Verb::DelChain, &class.name(), writer);
    if class.sticky.is_none() {
        objects::remove(Verb::DelSet, &class.name(), writer);
    }
}

fn write_elements(verb: Verb, mut all: Vec<Element>, writer: &mut Writer) {
    all.sort_unstable();
    for of_set in all.chunk_by(|a, b| a.set == b.set) {
        let Some(set) = of_set.first().map(|e| e.set) else { continue };
        let (name, form) = (set.name(), set.form());
        for part in of_set.chunks(ELEMENTS_PER_MESSAGE) {
            writer.change(verb, |w| {
                w.text(1, TABLE);
                w.text(2, &name);
                w.nested(3, |w| part.iter().for_each(|element| write_element(verb, &form, element, w)));
            });
        }
    }
}

fn write_element(verb: Verb, form: &Form, element: &Element, w: &mut Writer) {
    let words = |words: &[u32], count: usize| words.iter().take(count).flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    w.nested(LIST_ELEMENT, |w| {
        w.nested(1, |w| w.attr(1, &words(&element.key, form.key_words())));
        if form.is_interval() {
            let [a, b, c, _] = element.key;
            w.nested(10, |w| w.attr(1, &words(&[a, b, c, element.data[0]], form.key_words())));
        }
        if verb != Verb::NewElement {
            return;
        }
        match element.set {
            Set::ServiceChain(class) if class.sticky.is_some() => w.nested(2, |w| Verdict::Goto(class.name()).write(w)),
            _ if form.value_words() > 0 => w.nested(2, |w| w.attr(1, &words(&element.data, form.value_words()))),
            _ => {}
        }
    });
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Node, service_ports},
        testing::{service, slice},
    };
    use serde_json::json;

    fn change(name: &str, ip: &str, endpoints: &[String]) -> (Key, Vec<ServicePort>) {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let service = service(&format!("d/{name}"), json!({"clusterIP": ip, "ports": [{"port": 80}]}));
        let slices = [slice(&format!("d/{name}"), "", "TCP", 8080, &endpoints)];
        (Key::new("d", name), service_ports(&service, slices.iter(), &Node::default(), Family::V4))
    }

    fn pods(numbers: std::ops::Range<u8>) -> Vec<String> {
        numbers.map(|n| format!("10.77.0.{n}@n1")).collect()
    }

    fn is_empty(table: &Table) -> bool {
        table.slots.all().is_empty()
            && table.owners.is_empty()
            && table.waiting.is_empty()
            && table.services.is_empty()
            && table.written == table.idle
    }

    #[test]
    fn one_endpoint_is_a_few_elements_among_many() {
        let mut table = Table::new(Family::V4);
        let many: Vec<_> = (3..200).map(|n| change(&format!("s{n}"), &format!("10.96.0.{n}"), &pods(1..2 + n % 3))).collect();
        let all = [vec![change("a", "10.96.0.1", &pods(1..50)), change("b", "10.96.0.2", &pods(1..50))], many].concat();
        let first = table.full(NodeNetwork::of(Family::V4), &all).unwrap();
        assert_eq!(table.update(&[change("a", "10.96.0.1", &pods(1..50))]), None);
        let more = table.update(&[change("a", "10.96.0.1", &pods(1..51))]).unwrap();
        // The class of 50 is new, so the way to all chains is written.
        assert!(more.len() < 16_000 && more.len() < first.len() / 4, "{} {}", more.len(), first.len());
        assert_eq!((table.written.len(), table.idle.len()), (18, 13));
        let less = table.update(&[change("a", "10.96.0.1", &pods(2..50)), change("b", "10.96.0.2", &pods(2..50))]).unwrap();
        assert!(less.len() < 16_000, "{}", less.len());
        assert_eq!((table.written.len(), table.idle.len()), (19, 15));
        let back = table.update(&[change("b", "10.96.0.2", &pods(1..50))]).unwrap();
        assert!(back.len() < 1000 && table.idle.len() == 14, "{}", back.len());
        table.update(&[change("b", "10.96.0.2", &pods(2..50))]);
        let other = table.update(&[change("a", "10.96.0.1", &pods(3..51)), change("b", "10.96.0.2", &pods(2..50))]).unwrap();
        // Same chains: one place gets another endpoint.
        assert!(other.len() < 600, "{}", other.len());
        for count in 60..120 {
            table.update(&[change("a", "10.96.0.1", &pods(1..count))]);
        }
        assert!(table.written.len() < CLASSES_KEPT + 8, "{}", table.written.len());
        table.update(&all.into_iter().map(|(key, _)| (key, Vec::new())).collect::<Vec<_>>());
        assert!(is_empty(&table));
    }

    #[test]
    fn an_address_passes_from_one_service_to_the_next() {
        let mut table = Table::new(Family::V4);
        let endpoints = |table: &Table| {
            let all = table.slots.all().into_iter().filter(|e| matches!(e.set, Set::Endpoints(_)));
            all.map(|e| e.data[0].to_ne_bytes()[3]).collect::<std::collections::BTreeSet<u8>>()
        };
        table.update(&[
            change("a", "10.96.0.1", &pods(1..2)),
            change("b", "10.96.0.1", &pods(2..5)),
            change("c", "10.96.0.1", &pods(5..6)),
        ]);
        assert_eq!(endpoints(&table), [1].into());
        table.update(&[change("a", "10.96.0.1", &pods(7..9))]);
        assert_eq!(endpoints(&table), [7, 8].into());
        table.update(&[(Key::new("d", "c"), Vec::new()), (Key::new("d", "a"), Vec::new())]);
        assert_eq!((endpoints(&table), table.waiting.len()), ([2, 3, 4].into(), 0));
        table.update(&[(Key::new("d", "b"), Vec::new())]);
        assert!(is_empty(&table));
    }
}
