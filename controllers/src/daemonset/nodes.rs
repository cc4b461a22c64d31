//! Nodes and DaemonSets as they change -> which nodes each of them wants: worked out once for each pair, and kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{
    Key,
    k8s::api::{
        apps::v1::DaemonSet,
        core::v1::{Affinity, Node, PodSpec, Taint, Toleration},
    },
    steps,
};
use client::{
    Cache,
    pods::node_affinity::{NamedLabels, required_matches},
};
use parking_lot::Mutex;
use reconcile::own_key;
use serde_json::Value;

use super::pods::tolerations;
use crate::revisions;

/// What a `DaemonSet` wants of a node. `NodeShouldRunDaemonPod`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// A pod is to be there.
    pub run: bool,
    /// One that is there may stay.
    pub stay: bool,
}

/// Every node there is, by name.
pub type Nodes = BTreeMap<Arc<str>, Fit>;

/// A node's event costs O(DaemonSets), and only where its labels or taints changed; a `DaemonSet`'s O(nodes), and only where what it asks for did.
#[derive(Clone, Default)]
pub struct Fits {
    kept: Arc<Mutex<HashMap<Key, Kept>>>,
}

/// A `DaemonSet`, and what is worked out of it.
#[derive(Clone)]
pub struct Kept {
    pub set: Arc<DaemonSet>,
    pub nodes: Arc<Nodes>,
    /// What its current revision keeps.
    pub data: Arc<Value>,
    asked: Arc<Asked>,
}

/// What its pods ask of a node.
#[derive(Debug, PartialEq)]
pub struct Asked {
    node: Option<String>,
    selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Vec<Toleration>,
}

impl Fits {
    /// From now on; `woken` hears of a `DaemonSet` that wants something else of a node now.
    pub fn follow(&self, sets: &Cache<DaemonSet>, nodes: &Cache<Node>, woken: impl Fn(Key) + Send + Sync + 'static) {
        let kept = self.kept.clone();
        // Nodes first: of one that goes before the sets are known, nothing is left.
        nodes.on_change(move |old, new| {
            let Some(node) = new.or(old) else { return };
            if old.zip(new).is_some_and(|(old, new)| asks_the_same(old, new)) {
                return;
            }
            let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
            for (key, of) in kept.lock().iter_mut() {
                steps::took(1);
                if of.take(&name, new.map(|node| of.asked.of(node))) {
                    woken(key.clone());
                }
            }
        });
        let (kept, nodes) = (self.kept.clone(), nodes.clone());
        sets.on_change(move |old, new| {
            let Some(set) = new.or(old) else { return };
            let mut kept = kept.lock();
            match new {
                None => drop(kept.remove(&own_key(&**set))),
                Some(set) => {
                    let key = own_key(&**set);
                    let fresh = Kept::of(set, kept.get(&key), &nodes);
                    kept.insert(key, fresh);
                }
            }
        });
    }

    /// The `DaemonSet` as it is known here, with all that belongs to it.
    pub fn get(&self, key: &Key) -> Option<Kept> {
        self.kept.lock().get(key).cloned()
    }
}

impl Kept {
    pub fn of(set: &Arc<DaemonSet>, before: Option<&Self>, nodes: &Cache<Node>) -> Self {
        let asked = Asked::by(set);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let same_template = before.filter(|before| template(&before.set) == template(set));
        let data = match same_template {
            Some(before) => before.data.clone(),
            None => Arc::new(revisions::data_of(&template(set).unwrap_or_default())),
        };
        if let Some(before) = before.filter(|before| *before.asked == asked) {
            return Self { set: set.clone(), data, ..before.clone() };
        }
        let all = nodes.list();
        let fits = steps::counted(all.iter()).map(|node| (node.metadata.name.as_deref().unwrap_or_default().into(), asked.of(node)));
        Self { set: set.clone(), nodes: Arc::new(fits.collect()), data, asked: Arc::new(asked) }
    }

    /// Whether that is news.
    fn take(&mut self, node: &Arc<str>, fit: Option<Fit>) -> bool {
        if self.nodes.get(node).copied() == fit {
            return false;
        }
        // A run that looks at them has its own.
        let nodes = Arc::make_mut(&mut self.nodes);
        let before = match fit {
            Some(fit) => nodes.insert(node.clone(), fit),
            None => nodes.remove(node),
        };
        before.unwrap_or_default() != fit.unwrap_or_default() || fit.is_none()
    }
}

impl Asked {
    pub fn by(set: &DaemonSet) -> Self {
        let none = PodSpec::default();
        let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).unwrap_or(&none);
        Self {
            node: spec.node_name.clone().filter(|name| !name.is_empty()),
            selector: spec.node_selector.clone(),
            affinity: spec.affinity.clone(),
            tolerations: tolerations(spec),
        }
    }

    pub fn of(&self, node: &Node) -> Fit {
        let (name, none) = (node.metadata.name.as_deref().unwrap_or_default(), BTreeMap::new());
        let named = NamedLabels { name, labels: node.metadata.labels.as_ref().unwrap_or(&none) };
        let affinity = self.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        if self.node.as_ref().is_some_and(|wanted| wanted != name) || !required_matches(self.selector.as_ref(), affinity, named) {
            return Fit::default();
        }
        let keeps_out = |effects: &[&str]| {
            let looked_at = |taint: &Taint| effects.contains(&taint.effect.as_str());
            podspec::untolerated(taints(node), &self.tolerations, looked_at).is_some()
        };
        Fit { run: !keeps_out(&["NoSchedule", "NoExecute"]), stay: !keeps_out(&["NoExecute"]) }
    }
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// `shouldIgnoreNodeUpdate`
fn asks_the_same(old: &Node, new: &Node) -> bool {
    old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
}
