//! Services' portals -> transactions: all at once, then only the elements that changed. Pure but for the sending.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::Key;

use super::{
    class::Class,
    elements::{Element, Line, Set, Words, elements},
    expr::Verdict,
    frame::{self, CLASSES, REFUSALS, SetSpec, TABLE, WITNESS},
    socket::{Error, Socket},
    wire::{LIST_ELEMENT, Verb, Writer},
};
use crate::model::{Portal, Protocol, Site};

/// A list of elements must be below 64 KiB; one takes up to 64 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// Larger transactions are worked on beside the other tasks.
const INLINE_BYTES: usize = 64 * 1024;

/// What the kernel should hold, and the way there.
#[derive(Default)]
pub struct Table {
    site: Site,
    socket: Option<Arc<Socket>>,
    services: HashMap<Key, Held>,
    slots: HashMap<(Set, Words), Slot>,
    /// What other services want of a slot that one has taken. Empty but for moments.
    rivals: HashMap<(Set, Words), Vec<[u32; 2]>>,
    classes: Classes,
    next_id: u32,
}

/// One service: its portals by port and protocol, and what of the slots it has claimed.
#[derive(Default)]
struct Held {
    lines: BTreeMap<(u16, Protocol), Line>,
    elements: Vec<Element>,
}

/// One element, and how many claim it as it is.
#[derive(Clone, Copy)]
struct Slot {
    data: [u32; 2],
    claims: u32,
}

/// Numbers of classes. Their chains stay until everything is written anew.
#[derive(Default)]
struct Classes {
    numbers: HashMap<Class, u32>,
    fresh: Vec<(Class, u32)>,
    next: u32,
}

/// Slots as they were before they were touched; `None`: empty.
type Before = HashMap<(Set, Words), Option<[u32; 2]>>;

impl Table {
    /// Takes changed services; the transaction that brings the kernel there, `None` if nothing differs.
    pub fn update(&mut self, changes: &[(Key, Vec<Portal>)]) -> Option<Vec<u8>> {
        let mut before = Before::new();
        changes.iter().for_each(|(key, portals)| self.take(key, portals, &mut before));
        let mut writer = Writer::batch();
        std::mem::take(&mut self.classes.fresh).iter().for_each(|(class, number)| self.write_class(class, *number, &mut writer));
        self.write_changes(before, &mut writer);
        writer.finish()
    }

    /// Everything, in place of whatever stands in the kernel; `site` is as it is now.
    pub fn full(&mut self, site: Site, changes: &[(Key, Vec<Portal>)]) -> Option<Vec<u8>> {
        self.site = site;
        let mut before = Before::new();
        changes.iter().for_each(|(key, portals)| self.take(key, portals, &mut before));
        self.forget_classes();
        let mut writer = Writer::batch();
        frame::write(&self.site, &mut writer);
        let mut classes: Vec<(&Class, &u32)> = self.classes.numbers.iter().collect();
        classes.sort_unstable_by_key(|(_, number)| **number);
        classes.into_iter().for_each(|(class, number)| self.write_class(class, *number, &mut writer));
        let all = self.slots.iter().map(|((set, key), slot)| Element { set: *set, key: *key, data: slot.data });
        write_elements(Verb::NewElement, all.collect(), &mut writer);
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

    /// Whether our table still has rules: it has none after somebody's `nft flush ruleset`.
    pub fn is_whole(&mut self) -> bool {
        let question = Writer::dump(Verb::GetRule, |w| {
            w.text(1, TABLE);
            w.text(2, WITNESS);
        });
        self.socket().and_then(|socket| socket.count(&question)).is_ok_and(|rules| rules > 0)
    }

    /// What the kernel holds of a set, as it says it; empty where there is no such set.
    #[cfg(test)]
    pub fn listing(set: &str) -> Vec<u8> {
        let question = Writer::dump(Verb::GetElement, |w| {
            w.text(1, TABLE);
            w.text(2, set);
        });
        Socket::open().unwrap().listing(&question).unwrap_or_default()
    }

    /// Takes the table away, if it is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove() -> Result<(), Error> {
        let mut writer = Writer::batch();
        frame::removal(&mut writer);
        writer.finish().map_or(Ok(()), |transaction| Socket::open()?.commit(&transaction))
    }

    fn socket(&mut self) -> Result<Arc<Socket>, Error> {
        if self.socket.is_none() {
            self.socket = Some(Arc::new(Socket::open()?));
        }
        self.socket.clone().ok_or(Error::Silent)
    }

    fn take(&mut self, key: &Key, portals: &[Portal], before: &mut Before) {
        let old = self.services.remove(key).unwrap_or_default();
        let mut new = Held::default();
        for portal in portals {
            let of = (portal.port, portal.protocol);
            let was = old.lines.get(&of);
            let id = was.map_or_else(|| self.fresh_id(), |line| line.id);
            let line = Line::next(was, id, portal);
            new.elements.extend(elements(portal, &line, &self.site, |class| self.classes.number(class)));
            new.lines.insert(of, line);
        }
        old.elements.iter().for_each(|element| self.release(element, before));
        new.elements.iter().for_each(|element| self.claim(element, before));
        if !new.lines.is_empty() {
            self.services.insert(key.clone(), new);
        }
    }

    /// Never used again: clients may be remembered under it.
    fn fresh_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(2);
        self.next_id
    }

    fn claim(&mut self, element: &Element, before: &mut Before) {
        let at = (element.set, element.key);
        before.entry(at).or_insert_with(|| self.slots.get(&at).map(|slot| slot.data));
        match self.slots.get_mut(&at) {
            None => drop(self.slots.insert(at, Slot { data: element.data, claims: 1 })),
            Some(slot) if slot.data == element.data => slot.claims += 1,
            Some(_) => self.rivals.entry(at).or_default().push(element.data),
        }
    }

    fn release(&mut self, element: &Element, before: &mut Before) {
        let at = (element.set, element.key);
        before.entry(at).or_insert_with(|| self.slots.get(&at).map(|slot| slot.data));
        match self.slots.get_mut(&at) {
            Some(slot) if slot.data == element.data && slot.claims > 1 => slot.claims -= 1,
            Some(slot) if slot.data == element.data => self.vacate(at),
            _ => self.withdraw(at, element.data),
        }
    }

    /// The slot goes to the next who wants it.
    fn vacate(&mut self, at: (Set, Words)) {
        self.slots.remove(&at);
        let Some(waiting) = self.rivals.remove(&at) else { return };
        for data in waiting {
            self.claim(&Element { set: at.0, key: at.1, data }, &mut Before::new());
        }
    }

    fn withdraw(&mut self, at: (Set, Words), data: [u32; 2]) {
        let Some(waiting) = self.rivals.get_mut(&at) else { return };
        if let Some(place) = waiting.iter().position(|d| *d == data) {
            waiting.swap_remove(place);
        }
        if waiting.is_empty() {
            self.rivals.remove(&at);
        }
    }

    fn write_changes(&self, before: Before, writer: &mut Writer) {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for ((set, key), old) in before {
            let new = self.slots.get(&(set, key)).map(|slot| slot.data);
            if old == new {
                continue;
            }
            gone.extend(old.map(|data| Element { set, key, data }));
            come.extend(new.map(|data| Element { set, key, data }));
        }
        write_elements(Verb::DelElement, gone, writer);
        write_elements(Verb::NewElement, come, writer);
    }

    fn write_class(&self, class: &Class, number: u32, writer: &mut Writer) {
        let rules = class.rules(self.site.cluster_cidr);
        if !rules.is_empty() {
            let name = format!("class-{number}");
            frame::chain(&name, writer);
            rules.iter().for_each(|steps| frame::rule(&name, steps, writer));
            write_verdict(CLASSES, number, &Verdict::Goto(name), writer);
        }
        if let Some(verdict) = class.refusal() {
            write_verdict(REFUSALS, number, &verdict, writer);
        }
    }

    /// Those that no destination has any more.
    fn forget_classes(&mut self) {
        let doors = self.slots.iter().filter(|((set, _), _)| matches!(set, Set::Services | Set::NodePorts));
        let used: std::collections::HashSet<u32> = doors.map(|(_, slot)| slot.data[0]).collect();
        let waiting: std::collections::HashSet<u32> = self.rivals.values().flatten().map(|data| data[0]).collect();
        self.classes.numbers.retain(|_, number| used.contains(number) || waiting.contains(number));
        self.classes.fresh.clear();
    }
}

impl Classes {
    fn number(&mut self, class: Class) -> u32 {
        if let Some(number) = self.numbers.get(&class) {
            return *number;
        }
        self.next += 1;
        self.numbers.insert(class, self.next);
        self.fresh.push((class, self.next));
        self.next
    }
}

fn write_verdict(map: &str, class: u32, verdict: &Verdict, writer: &mut Writer) {
    write_list(Verb::NewElement, map, writer, |w| {
        w.nested(LIST_ELEMENT, |w| {
            w.nested(1, |w| w.attr(1, &class.to_ne_bytes()));
            w.nested(2, |w| verdict.write(w));
        });
    });
}

fn write_elements(verb: Verb, mut all: Vec<Element>, writer: &mut Writer) {
    all.sort_unstable();
    for of_set in all.chunk_by(|a, b| a.set == b.set) {
        let Some(spec) = of_set.first().map(|e| e.set.spec()) else { continue };
        for part in of_set.chunks(ELEMENTS_PER_MESSAGE) {
            write_list(verb, spec.name, writer, |w| part.iter().for_each(|element| write_element(verb, spec, element, w)));
        }
    }
}

fn write_list(verb: Verb, set: &str, writer: &mut Writer, body: impl FnOnce(&mut Writer)) {
    writer.change(verb, |w| {
        w.text(1, TABLE);
        w.text(2, set);
        w.nested(3, body);
    });
}

fn write_element(verb: Verb, spec: &SetSpec, element: &Element, w: &mut Writer) {
    let words = |words: &[u32], count: usize| words.iter().take(count).flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    w.nested(LIST_ELEMENT, |w| {
        w.nested(1, |w| w.attr(1, &words(&element.key, spec.key_words())));
        if spec.is_interval() {
            let [first, _, ..] = element.key;
            w.nested(10, |w| w.attr(1, &words(&[first, element.data[0]], spec.key_words())));
        }
        if verb == Verb::NewElement && spec.value_words() > 0 {
            w.nested(2, |w| w.attr(1, &words(&element.data, spec.value_words())));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Node, portals},
        testing::{service, slice},
    };
    use serde_json::json;

    fn change(name: &str, ip: &str, endpoints: &[String]) -> (Key, Vec<Portal>) {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let service = service(&format!("d/{name}"), json!({"clusterIP": ip, "ports": [{"port": 80}]}));
        let slices = [slice(&format!("d/{name}"), "", "TCP", 8080, &endpoints)];
        (Key::new("d", name), portals(&service, slices.iter(), &Node::default()))
    }

    fn pods(numbers: std::ops::Range<u8>) -> Vec<String> {
        numbers.map(|n| format!("10.77.0.{n}@n1")).collect()
    }

    #[test]
    fn one_endpoint_is_a_few_elements_among_many() {
        let mut table = Table::default();
        let first = table.full(Site::default(), &[change("a", "10.96.0.1", &pods(1..50)), change("b", "10.96.0.2", &pods(1..3))]).unwrap();
        assert_eq!(table.update(&[change("a", "10.96.0.1", &pods(1..50))]), None);
        let more = table.update(&[change("a", "10.96.0.1", &pods(1..51))]).unwrap();
        // The class of 50 is new.
        assert!(more.len() < first.len() / 3, "{} {}", more.len(), first.len());
        let less = table.update(&[change("a", "10.96.0.1", &pods(2..51))]).unwrap();
        let (gone, come) = (2 * 20 + 24 + 20 + 20 + 16, 20 + 24);
        assert!(less.len() < 40 + 8 * (gone + come), "{}", less.len());
        assert!(table.update(&[(Key::new("d", "a"), Vec::new())]).is_some());
        assert_eq!(table.services.len(), 1);
    }

    #[test]
    fn an_address_passes_from_one_service_to_the_next() {
        let mut table = Table::default();
        let slot = |table: &Table| {
            let ids: Vec<u32> = table.slots.iter().filter(|((set, _), _)| *set == Set::ServiceIds).map(|(_, s)| s.data[0]).collect();
            assert!(ids.len() <= 1);
            ids.first().copied()
        };
        table.update(&[change("a", "10.96.0.1", &pods(1..2))]);
        let of_a = slot(&table);
        table.update(&[change("b", "10.96.0.1", &pods(2..3))]);
        assert_eq!(slot(&table), of_a);
        table.update(&[(Key::new("d", "a"), Vec::new())]);
        assert!(slot(&table).is_some() && slot(&table) != of_a);
        table.update(&[(Key::new("d", "b"), Vec::new())]);
        assert!(table.slots.is_empty() && table.rivals.is_empty() && table.services.is_empty());
    }
}
