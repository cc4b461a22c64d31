//! Metadata of all objects that own or are owned -> who depends on whom.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use api::{Key, task::Group};
use client::kube;
use futures::StreamExt;
use kube::{
    Api,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;

use crate::catalog::{Collection, collections};

/// Collections that neither own nor are owned by rule (upstream: `DefaultIgnoredResources`).
const IGNORED: [&str; 1] = ["events"];

/// Uids of owners that are gone for good (upstream's `absentOwnerCache`).
const GONE_MAX: usize = 500;

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

/// Objects by uid, with the edges between them.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<String, BTreeSet<Arc<str>>>,
    collections: Vec<Arc<Collection>>,
    /// The newest last.
    gone: (HashSet<Arc<str>>, VecDeque<Arc<str>>),
}

impl Node {
    /// The object's URL.
    pub fn path(&self) -> String {
        format!("{}/{}", self.collection.path(Some(&self.key.namespace)), self.key.name)
    }

    /// Whether nothing is changed that garbage is about.
    fn is_same(&self, other: &Self) -> bool {
        let Self { uid, collection, key, revision: _, owners, finalizers, deleting } = self;
        let there = (&other.uid, &other.collection, &other.key, &other.owners, &other.finalizers, other.deleting);
        (uid, collection, key, owners, finalizers, *deleting) == there
    }

    /// Whether there is nothing to do about it, as long as nobody refers to it.
    fn stands_alone(&self) -> bool {
        self.owners.is_empty() && !self.deleting
    }
}

type WakeUid = Arc<dyn Fn(&str) + Send + Sync>;

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d).cloned()).collect()
    }

    /// The URL of an owner; `None` for a kind that is not served.
    pub fn path(&self, owner: &Owner, namespace: &str) -> Option<String> {
        let served = self.collections.iter().find(|c| c.kind == *owner.kind && c.api_version() == *owner.api_version)?;
        Some(format!("{}/{}", served.path(Some(namespace)), owner.name))
    }

    /// Whether an object of this uid was there, or was looked for, and is no more: it will not come back.
    pub fn is_gone(&self, uid: &str) -> bool {
        self.gone.0.contains(uid)
    }

    pub fn note_gone(&mut self, uid: &str) {
        let (set, order) = &mut self.gone;
        let uid: Arc<str> = uid.into();
        if set.insert(uid.clone()) {
            order.push_back(uid);
        }
        if order.len() > GONE_MAX
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
    }

    /// Takes in an object; the uids whose turn it is now.
    fn put(&mut self, mut node: Node) -> Vec<Arc<str>> {
        let uid = node.uid.clone();
        if let Some(sibling) = self.sibling(&node) {
            node.owners = sibling.owners.clone();
        }
        let old = self.nodes.get(&uid);
        if old.is_some_and(|old| old.is_same(&node)) || (old.is_none() && node.stands_alone() && !self.dependents.contains_key(&*uid)) {
            self.nodes.insert(uid, node);
            return Vec::new();
        }
        let mut turn = vec![uid.clone()];
        let was: Vec<Arc<str>> = old.iter().flat_map(|n| &*n.owners).map(|o| (*o.uid).into()).collect();
        let began_to_go = node.deleting && !old.is_some_and(|n| n.deleting);
        for owner in &was {
            self.forget_edge(owner, &uid);
        }
        for owner in &*node.owners {
            self.dependents.entry(owner.uid.to_string()).or_default().insert(uid.clone());
        }
        // An owner in its last rites counts its dependents again; dependents of one that begins to go have their turn.
        turn.extend(was);
        if began_to_go {
            turn.extend(self.dependents.get(&*uid).into_iter().flatten().cloned());
        }
        self.nodes.insert(uid, node);
        turn
    }

    /// Some other object with the same owners.
    fn sibling(&self, node: &Node) -> Option<&Node> {
        let first = self.dependents.get(&*node.owners.first()?.uid)?.first()?;
        self.nodes.get(first).filter(|sibling| sibling.owners == node.owners)
    }

    fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        for owner in &*node.owners {
            self.forget_edge(&owner.uid, uid);
        }
        let mut turn: Vec<Arc<str>> = node.owners.iter().map(|o| (*o.uid).into()).collect();
        if let Some(dependents) = self.dependents.get(uid) {
            turn.extend(dependents.iter().cloned());
            // None of them needs to ask the server.
            self.note_gone(uid);
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

/// Watches every collection that can be deleted from, and calls `wake` with the uid of each object whose turn has come.
pub fn follow(client: kube::Client, graph: Arc<Mutex<Graph>>, wake: WakeUid, group: &Group) {
    let inner = group.clone();
    group.spawn(async move {
        let all = match collections(&client).await {
            Ok(all) => all.into_iter().map(Arc::new).collect::<Vec<_>>(),
            Err(error) => return tracing::error!(%error, "garbage collector: discovery failed"),
        };
        graph.lock().collections.clone_from(&all);
        let watched = all.into_iter().filter(|c| c.can("delete") && c.can("watch") && c.can("list"));
        for collection in watched.filter(|c| !IGNORED.contains(&c.plural.as_str())) {
            inner.spawn(Box::pin(watch(client.clone(), collection, graph.clone(), wake.clone())));
        }
    });
}

async fn watch(client: kube::Client, collection: Arc<Collection>, graph: Arc<Mutex<Graph>>, wake: WakeUid) {
    let resource = ApiResource {
        group: collection.group.clone(),
        version: collection.version.clone(),
        api_version: collection.api_version(),
        kind: collection.kind.clone(),
        plural: collection.plural.clone(),
    };
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let mut events = Box::pin(watcher::watcher(api, watcher::Config::default().streaming_lists()).default_backoff());
    // What is there of this collection, to find what a new list no longer has.
    let (mut known, mut listed): (HashSet<Arc<str>>, HashSet<Arc<str>>) = Default::default();
    while let Some(event) = events.next().await {
        let turn = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => take(&graph, &collection, object, &mut listed),
            Ok(Event::Apply(object)) => take(&graph, &collection, object, &mut known),
            Ok(Event::Delete(object)) => {
                let uid = object.metadata.uid.unwrap_or_default();
                known.remove(&*uid);
                graph.lock().remove(&uid)
            }
            Ok(Event::InitDone) => {
                let old = std::mem::replace(&mut known, std::mem::take(&mut listed));
                old.difference(&known).flat_map(|uid| graph.lock().remove(uid)).collect()
            }
            Err(error) => {
                tracing::warn!(resource = collection.plural, %error, "watch failed; trying again");
                continue;
            }
        };
        turn.iter().for_each(|uid| wake(uid));
    }
}

fn take(
    graph: &Mutex<Graph>,
    collection: &Arc<Collection>,
    object: PartialObjectMeta<DynamicObject>,
    known: &mut HashSet<Arc<str>>,
) -> Vec<Arc<str>> {
    let node = node(collection, object);
    known.insert(node.uid.clone());
    graph.lock().put(node)
}

fn node(collection: &Arc<Collection>, object: PartialObjectMeta<DynamicObject>) -> Node {
    let metadata = object.metadata;
    let key = Key { namespace: metadata.namespace.unwrap_or_default(), name: metadata.name.unwrap_or_default() };
    let owners = metadata.owner_references.into_iter().flatten().map(|reference| Owner {
        reference: serde_json::to_string(&reference).unwrap_or_default().into(),
        blocks: reference.block_owner_deletion == Some(true),
        uid: reference.uid.into(),
        api_version: reference.api_version.into(),
        kind: reference.kind.into(),
        name: reference.name.into(),
    });
    Node {
        uid: metadata.uid.unwrap_or_default().into(),
        collection: collection.clone(),
        key,
        revision: metadata.resource_version.unwrap_or_default().into(),
        owners: owners.collect(),
        finalizers: metadata.finalizers.unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
    }
}
