//! Node labels -> domains: small numbers per topology key, so that counting per domain compares no strings.

use std::collections::{BTreeMap, HashMap};

use api::steps;

use crate::{column::Column, node::Slot};

/// A topology key that somebody asked about.
pub type TopologyId = usize;

/// One value of a topology key; 0 is none.
pub type Domain = usize;
pub const NO_DOMAIN: Domain = 0;

/// The label that has one value per node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node whose domain of one topology key is another now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub topology: TopologyId,
    pub slot: Slot,
    pub from: Domain,
    pub to: Domain,
}

/// All keys in use. Keys stay: there are few.
#[derive(Debug, Default)]
pub struct Topologies {
    by_key: HashMap<String, TopologyId>,
    all: Vec<Topology>,
}

#[derive(Debug, Default)]
struct Topology {
    key: String,
    of: Column<Domain>,
    values: HashMap<String, Domain>,
    /// The value of each domain.
    names: HashMap<Domain, String>,
    /// How many nodes are in each domain.
    nodes: Column<usize>,
    /// How many nodes have the key.
    labelled: usize,
    free: Vec<Domain>,
    last: Domain,
}

impl Topologies {
    /// `nodes` are those that exist: a key that is new is looked up on each of them, once.
    pub fn intern<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (Slot, &'a BTreeMap<String, String>)>) -> TopologyId {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        let mut topology = Topology { key: key.to_owned(), ..Topology::default() };
        for (slot, labels) in nodes {
            topology.put(slot, labels.get(key));
        }
        self.all.push(topology);
        let id = self.all.len() - 1;
        self.by_key.insert(key.to_owned(), id);
        id
    }

    pub fn find(&self, key: &str) -> Option<TopologyId> {
        self.by_key.get(key).copied()
    }

    /// The node has these labels now (`None`: it is gone).
    pub fn update(&mut self, slot: Slot, labels: Option<&BTreeMap<String, String>>) -> Vec<Move> {
        let mut moves = Vec::new();
        for (id, topology) in self.all.iter_mut().enumerate() {
            let from = topology.of.get(slot);
            topology.put(slot, labels.and_then(|l| l.get(&topology.key)));
            let to = topology.of.get(slot);
            if from != to {
                moves.push(Move { topology: id, slot, from, to });
            }
        }
        moves
    }

    /// How many nodes have the key.
    pub fn labelled(&self, id: TopologyId) -> usize {
        self.all.get(id).map_or(0, |t| t.labelled)
    }

    /// The domains that have nodes.
    pub fn domains(&self, id: TopologyId) -> impl Iterator<Item = Domain> + '_ {
        steps::counted(self.all.get(id).into_iter().flat_map(|t| t.values.values().copied()))
    }

    pub fn size(&self, id: TopologyId) -> usize {
        self.all.get(id).map_or(0, |t| t.values.len())
    }

    pub fn domain(&self, id: TopologyId, slot: Slot) -> Domain {
        self.all.get(id).map_or(NO_DOMAIN, |t| t.of.get(slot))
    }
}

impl Topology {
    fn put(&mut self, slot: Slot, value: Option<&String>) {
        let old = self.of.get(slot);
        let new = match value {
            None => NO_DOMAIN,
            Some(value) => self.domain_of(value),
        };
        if old == new {
            return;
        }
        *self.of.slot(slot) = new;
        *self.nodes.slot(new) += 1;
        self.labelled += usize::from(new != NO_DOMAIN);
        self.labelled -= usize::from(old != NO_DOMAIN);
        if old != NO_DOMAIN {
            *self.nodes.slot(old) -= 1;
            if self.nodes.get(old) == 0 {
                if let Some(name) = self.names.remove(&old) {
                    self.values.remove(&name);
                }
                self.free.push(old);
            }
        }
    }

    fn domain_of(&mut self, value: &str) -> Domain {
        if let Some(domain) = self.values.get(value) {
            return *domain;
        }
        let domain = self.free.pop().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        self.values.insert(value.to_owned(), domain);
        self.names.insert(domain, value.to_owned());
        domain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("zone".to_owned(), name.to_owned())])
    }

    #[test]
    fn domains_follow_labels_and_are_used_again() {
        let (mut topologies, a, b) = (Topologies::default(), zone("a"), zone("b"));
        let id = topologies.intern("zone", [(0, &a), (1, &b), (2, &a)].into_iter());
        assert_eq!(topologies.domain(id, 0), topologies.domain(id, 2));
        assert_ne!(topologies.domain(id, 0), topologies.domain(id, 1));
        let was = topologies.domain(id, 1);
        topologies.update(1, None);
        assert_eq!(topologies.domain(id, 1), NO_DOMAIN);
        topologies.update(3, Some(&zone("c")));
        assert_eq!(topologies.domain(id, 3), was, "the number of an empty domain is free");
    }
}
