//! Elements that services need -> each of them once, and what of that changed.

use std::collections::{HashMap, HashSet};

use super::{elements::Element, registers::Words, service_chain::ServiceChain, sets::Set};

type At = (Set, Words);
type Data = [u32; 2];

/// What the kernel should hold of elements. Who needs an element at the same place needs the same one.
#[derive(Default)]
pub struct Slots {
    slots: HashMap<At, Slot>,
    /// Slots as they were before they were touched; `None`: empty.
    before: HashMap<At, Option<Data>>,
    /// How many destinations a class has.
    used: HashMap<ServiceChain, usize>,
    touched: HashSet<ServiceChain>,
}

#[derive(Clone, Copy)]
struct Slot {
    data: Data,
    claims: u32,
}

/// What happened since the last time.
#[derive(Default)]
pub struct Changes {
    pub gone: Vec<Element>,
    pub come: Vec<Element>,
    /// Classes whose number of destinations changed.
    pub chains: HashSet<ServiceChain>,
}

impl Slots {
    pub fn claim(&mut self, element: &Element) {
        let at = self.touch(element);
        let slot = self.slots.entry(at).or_insert(Slot { data: element.data, claims: 0 });
        slot.claims += 1;
        if let (Set::ServiceChain(class), 1) = (element.set, slot.claims) {
            *self.used.entry(class).or_default() += 1;
            self.touched.insert(class);
        }
    }

    pub fn release(&mut self, element: &Element) {
        let at = self.touch(element);
        let Some(slot) = self.slots.get_mut(&at) else { return };
        slot.claims -= 1;
        if slot.claims > 0 {
            return;
        }
        self.slots.remove(&at);
        if let Set::ServiceChain(class) = element.set {
            let left = self.used.remove(&class).unwrap_or(1) - 1;
            if left > 0 {
                self.used.insert(class, left);
            }
            self.touched.insert(class);
        }
    }

    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes { chains: std::mem::take(&mut self.touched), ..Changes::default() };
        for (at, old) in std::mem::take(&mut self.before) {
            let new = self.slots.get(&at).map(|slot| slot.data);
            if old == new {
                continue;
            }
            let element = |data| Element { set: at.0, key: at.1, data };
            changes.gone.extend(old.map(element));
            changes.come.extend(new.map(element));
        }
        changes
    }

    pub fn all(&self) -> Vec<Element> {
        self.slots.iter().map(|((set, key), slot)| Element { set: *set, key: *key, data: slot.data }).collect()
    }

    pub fn is_used(&self, class: &ServiceChain) -> bool {
        self.used.contains_key(class)
    }

    /// All that have destinations, those with most of them first.
    pub fn chains(&self) -> Vec<ServiceChain> {
        let mut all: Vec<(&ServiceChain, &usize)> = self.used.iter().collect();
        all.sort_unstable_by_key(|(class, uses)| (std::cmp::Reverse(**uses), **class));
        all.into_iter().map(|(class, _)| *class).collect()
    }

    fn touch(&mut self, element: &Element) -> At {
        let at = (element.set, element.key);
        self.before.entry(at).or_insert_with(|| self.slots.get(&at).map(|slot| slot.data));
        at
    }
}
