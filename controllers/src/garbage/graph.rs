//! Metadata of all objects that own or are owned -> who depends on whom.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use api::{Key, names::split_api_version, steps};

use crate::catalog::{Collection, Served};

/// Owners that are gone for good (upstream's `absentOwnerCache`).
const ABSENT_MAX: usize = 500;
pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// One object, as far as garbage is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Shared with all that stands under it.
    pub uid: Arc<str>,
    pub collection: Arc<Collection>,
    pub key: Key,
    pub revision: Box<str>,
    /// Shared with a sibling that has the same.
    pub owners: Arc<[Owner]>,
    pub finalizers: Vec<String>,
    pub deleting: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owner {
    pub uid: Box<str>,
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub blocks: bool,
    /// As it stands in the dependent: JSON, for a parsed one is five times as large.
    pub reference: Box<str>,
}

/// An owner as a reference names it, and where it was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub namespace: Box<str>,
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

/// What the graph knows of an owner, without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// It was not seen.
    Unseen,
    /// An object of this uid is there, but goes by another name or kind than the reference says.
    Elsewhere,
    /// ... in another namespace.
    Foreign,
}

/// Objects by uid, with the edges between them.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<String, BTreeSet<Arc<str>>>,
    /// All that is served, in all versions.
    served: Vec<Arc<Collection>>,
    /// Collections whose first list is not in.
    unlisted: HashSet<Arc<Collection>>,
    absent: Absent,
}

/// The newest last.
#[derive(Default)]
struct Absent(HashSet<Arc<Place>>, VecDeque<Arc<Place>>);

impl Node {
    /// The object's URL.
    pub fn path(&self) -> String {
        self.collection.object(&self.key.namespace, &self.key.name)
    }

    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Being deleted, and something is to be done about it.
    pub fn is_leaving(&self) -> bool {
        self.deleting && (self.has(ORPHAN) || self.has(FOREGROUND))
    }

    /// Whether nothing is changed that garbage is about.
    fn is_same(&self, other: &Self) -> bool {
        let Self { uid, collection, key, revision: _, owners, finalizers, deleting } = self;
        let there = (&other.uid, &other.collection, &other.key, &other.owners, &other.finalizers, other.deleting);
        (uid, collection, key, owners, finalizers, *deleting) == there
    }

    /// Where this object is, as those below it should say.
    fn place(&self) -> Place {
        Place {
            namespace: self.key.namespace.as_str().into(),
            api_version: self.collection.api_version().into(),
            kind: self.collection.kind.as_str().into(),
            name: self.key.name.as_str().into(),
            uid: (*self.uid).into(),
        }
    }

    fn is(&self, owner: &Owner) -> bool {
        let Collection { group, version, kind, .. } = &*self.collection;
        *owner.name == *self.key.name && *owner.kind == **kind && split_api_version(&owner.api_version) == Some((group, version))
    }
}

impl Owner {
    pub fn at(&self, namespace: &str) -> Place {
        Place {
            namespace: namespace.into(),
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        steps::counted(self.dependents.get(uid).into_iter().flatten()).filter_map(|d| self.nodes.get(d).cloned()).collect()
    }

    /// What is known of an owner that an object in `namespace` names.
    pub fn known(&self, owner: &Owner, namespace: &str) -> Known {
        match self.nodes.get(&*owner.uid) {
            None => Known::Unseen,
            Some(node) if !node.key.namespace.is_empty() && node.key.namespace != namespace => Known::Foreign,
            Some(node) if !node.is(owner) => Known::Elsewhere,
            Some(node) if node.deleting && node.has(FOREGROUND) => Known::Waiting,
            Some(_) => Known::Solid,
        }
    }

    /// Whether an object has its turn: it leaves, or one of its owners may be no more.
    pub fn is_in_doubt(&self, node: &Node) -> bool {
        let doubtful = |owner: &Owner| self.known(owner, &node.key.namespace) != Known::Solid;
        if node.deleting { node.is_leaving() } else { node.owners.iter().any(doubtful) }
    }

    /// The collection that an owner is in; `None` for a kind that is not served.
    pub fn collection(&self, owner: &Owner) -> Option<Arc<Collection>> {
        let of = split_api_version(&owner.api_version)?;
        self.served.iter().find(|c| c.kind == *owner.kind && (&*c.group, &*c.version) == of).cloned()
    }

    pub fn serve(&mut self, served: &[Served]) {
        self.served = served.iter().map(|s| Arc::new(s.collection.clone())).collect();
    }

    /// Its objects are not known until it is listed.
    pub fn expect(&mut self, collection: Arc<Collection>) {
        self.unlisted.insert(collection);
    }

    pub fn listed(&mut self, collection: &Collection) {
        self.unlisted.remove(collection);
    }

    /// Whether all that there is has been seen once.
    pub fn is_whole(&self) -> bool {
        !self.served.is_empty() && self.unlisted.is_empty()
    }

    /// Those whose list is not waited for any more.
    pub fn give_up_waiting(&mut self) -> Vec<String> {
        self.unlisted.drain().map(|c| c.plural.clone()).collect()
    }

    /// Whether nothing is there: it was looked for, or it was seen to go. It will not come back.
    pub fn is_absent(&self, place: &Place) -> bool {
        self.absent.0.contains(place)
    }

    pub fn note_absent(&mut self, place: Place) {
        let Absent(set, order) = &mut self.absent;
        let place = Arc::new(place);
        if set.insert(place.clone()) {
            order.push_back(place);
        }
        if order.len() > ABSENT_MAX
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
    }

    /// Takes in an object; the uids whose turn it is now.
    pub fn put(&mut self, mut node: Node) -> Vec<Arc<str>> {
        let uid = node.uid.clone();
        if let Some(sibling) = self.sibling(&node) {
            node.owners = sibling.owners.clone();
        }
        let old = self.nodes.get(&uid);
        if old.is_some_and(|old| old.is_same(&node)) {
            self.nodes.insert(uid, node);
            return Vec::new();
        }
        let is_new = old.is_none();
        let was: Vec<Arc<str>> = old.iter().flat_map(|n| &*n.owners).map(|o| (*o.uid).into()).collect();
        let began_to_go = node.deleting && !old.is_some_and(|n| n.deleting);
        for owner in &was {
            self.forget_edge(owner, &uid);
        }
        for owner in steps::counted(node.owners.iter()) {
            self.dependents.entry(owner.uid.to_string()).or_default().insert(uid.clone());
        }
        let mut turn: Vec<Arc<str>> = self.is_in_doubt(&node).then(|| uid.clone()).into_iter().collect();
        self.nodes.insert(uid.clone(), node);
        // An owner in its last rites counts its dependents again.
        turn.extend(was.into_iter().filter(|owner| self.nodes.get(owner).is_some_and(Node::is_leaving)));
        // Dependents of one that begins to go have their turn, and so have those that were judged before it was seen and call it otherwise.
        if began_to_go || is_new {
            let below = steps::counted(self.dependents.get(&*uid).into_iter().flatten());
            turn.extend(below.filter(|d| self.nodes.get(*d).is_some_and(|d| self.is_in_doubt(d))).cloned());
        }
        turn
    }

    /// Some other object with the same owners.
    fn sibling(&self, node: &Node) -> Option<&Node> {
        let first = self.dependents.get(&*node.owners.first()?.uid)?.first()?;
        self.nodes.get(first).filter(|sibling| sibling.owners == node.owners)
    }

    /// An object is no more; the uids whose turn it is now. None of those that name it has to ask where it was `seen` to go.
    pub fn remove(&mut self, uid: &str, seen: bool) -> Vec<Arc<str>> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        for owner in steps::counted(node.owners.iter()) {
            self.forget_edge(&owner.uid, uid);
        }
        let owners = node.owners.iter().filter_map(|o| self.nodes.get(&*o.uid)).filter(|owner| owner.is_leaving());
        let mut turn: Vec<Arc<str>> = owners.map(|owner| owner.uid.clone()).collect();
        if let Some(dependents) = self.dependents.get(uid) {
            turn.extend(steps::counted(dependents.iter()).cloned());
            if seen {
                self.note_absent(node.place());
            }
        }
        turn
    }

    fn forget_edge(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Arc<Collection> {
        let (version, plural, kind) = ("v1".into(), "configmaps".into(), "ConfigMap".into());
        Arc::new(Collection { version, plural, kind, namespaced: true, ..Collection::default() })
    }

    fn owner(uid: &str) -> Owner {
        Owner { uid: uid.into(), api_version: "v1".into(), kind: "ConfigMap".into(), name: uid.into(), ..Owner::default() }
    }

    fn node(namespace: &str, uid: &str, owners: &[Owner]) -> Node {
        Node { uid: uid.into(), collection: maps(), key: Key::new(namespace, uid), owners: owners.into(), ..Node::default() }
    }

    fn names(turn: &[Arc<str>]) -> Vec<&str> {
        turn.iter().map(|uid| &**uid).collect()
    }

    #[test]
    fn an_owner_is_who_has_all_that_the_reference_says() {
        let mut graph = Graph::default();
        graph.put(node("a", "o", &[]));
        let of = |change: &dyn Fn(&mut Owner)| {
            let mut owner = owner("o");
            change(&mut owner);
            owner
        };
        let known = |graph: &Graph, owner: &Owner, namespace: &str| graph.known(owner, namespace);
        assert_eq!(known(&graph, &owner("o"), "a"), Known::Solid);
        assert_eq!(known(&graph, &owner("o"), "b"), Known::Foreign);
        assert_eq!(known(&graph, &owner("x"), "a"), Known::Unseen);
        for wrong in
            [&|o: &mut Owner| o.name = "y".into(), &|o: &mut Owner| o.kind = "Secret".into(), &|o: &mut Owner| o.api_version = "v2".into()]
                as [&dyn Fn(&mut Owner); 3]
        {
            assert_eq!(known(&graph, &of(wrong), "a"), Known::Elsewhere);
        }
        let mut cluster = node("", "c", &[]);
        cluster.finalizers = vec![FOREGROUND.into()];
        graph.put(cluster.clone());
        assert_eq!(known(&graph, &owner("c"), "b"), Known::Solid, "cluster-scoped owners own in every namespace");
        graph.put(Node { deleting: true, ..cluster });
        assert_eq!(known(&graph, &owner("c"), "b"), Known::Waiting);
    }

    #[test]
    fn whose_owners_stand_has_no_turn() {
        let mut graph = Graph::default();
        assert!(graph.put(node("a", "o", &[])).is_empty());
        assert!(graph.put(node("a", "d", &[owner("o")])).is_empty());
        assert_eq!(names(&graph.put(node("a", "e", &[owner("o"), owner("p")]))), ["e"], "one was not seen");
        assert!(graph.put(node("a", "p", &[])).is_empty(), "and is what the reference says");
        assert_eq!(names(&graph.put(node("b", "f", &[owner("q")]))), ["f"]);
        assert_eq!(names(&graph.put(node("a", "q", &[]))), ["f"], "seen, but elsewhere");
        assert_eq!(names(&graph.remove("o", true)), ["d", "e"]);
        assert!(graph.is_absent(&owner("o").at("a")) && !graph.is_absent(&owner("o").at("b")), "absent there, and nowhere else");
    }

    #[test]
    fn owners_that_leave_count_their_dependents_again() {
        let mut graph = Graph::default();
        let leaving = Node { deleting: true, finalizers: vec![FOREGROUND.into()], ..node("a", "o", &[]) };
        graph.put(node("a", "o", &[]));
        graph.put(node("a", "d", &[owner("o")]));
        assert_eq!(names(&graph.put(leaving)), ["o", "d"]);
        assert_eq!(names(&graph.put(node("a", "d", &[]))), ["o"]);
        graph.put(node("a", "e", &[owner("o")]));
        assert_eq!(names(&graph.remove("e", false)), ["o"]);
        graph.remove("o", false);
        assert!(!graph.is_absent(&owner("o").at("a")), "missed in a list is not seen to go");
    }

    #[test]
    fn the_graph_is_whole_once_all_is_listed() {
        let mut graph = Graph::default();
        assert!(!graph.is_whole(), "nothing is known");
        graph.serve(&[Served { collection: (*maps()).clone(), preferred: true, stale: false }]);
        graph.expect(maps());
        assert!(!graph.is_whole());
        graph.listed(&maps());
        assert!(graph.is_whole());
    }

    #[test]
    fn what_is_absent_is_bounded() {
        let mut graph = Graph::default();
        (0..2 * ABSENT_MAX).for_each(|n| graph.note_absent(owner(&n.to_string()).at("a")));
        assert_eq!((graph.absent.0.len(), graph.absent.1.len()), (ABSENT_MAX, ABSENT_MAX));
    }
}
