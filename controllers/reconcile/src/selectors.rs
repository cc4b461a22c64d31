//! Label selectors of many owners -> those that match an object's labels, without asking each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    Key,
    selector::{Labels, Op},
    steps,
};
use client::{Cache, Object};
use parking_lot::RwLock;

use crate::own_key;

pub type Map = BTreeMap<String, String>;

/// By namespace. A selector stands under one pair of label and value that it asks for: an object's labels lead to it.
#[derive(Default)]
pub struct Selectors {
    spaces: HashMap<String, Space>,
}

#[derive(Default)]
struct Space {
    by_name: HashMap<String, Labels>,
    /// By label, by its value: the owners that ask for the pair.
    anchored: HashMap<String, HashMap<String, BTreeSet<String>>>,
    /// Those that ask for no pair (`a in (b, c)`, `!d`, nothing at all): few, and asked each time.
    loose: BTreeSet<String>,
}

impl Selectors {
    /// The owner selects so from now on (`None`: nothing).
    pub fn set(&mut self, owner: &Key, selector: Option<Labels>) {
        let space = self.spaces.entry(owner.namespace.clone()).or_default();
        if let Some(old) = space.by_name.remove(&owner.name) {
            space.forget(&owner.name, &old);
        }
        if let Some(selector) = selector {
            space.note(&owner.name, &selector);
            space.by_name.insert(owner.name.clone(), selector);
        }
        if space.by_name.is_empty() {
            self.spaces.remove(&owner.namespace);
        }
    }

    pub fn get(&self, owner: &Key) -> Option<&Labels> {
        self.spaces.get(&owner.namespace)?.by_name.get(&owner.name)
    }

    /// The names of those whose selector matches. Costs O(labels), and what is found.
    pub fn matching<'a>(&'a self, namespace: &str, labels: &'a Map) -> impl Iterator<Item = &'a str> {
        self.spaces.get(namespace).into_iter().flat_map(move |space| {
            let anchored = labels.iter().filter_map(|(label, value)| space.anchored.get(label)?.get(value)).flatten();
            let all = anchored.chain(&space.loose);
            steps::counted(all).filter(|name| space.by_name.get(*name).is_some_and(|s| s.matches(Some(labels)))).map(String::as_str)
        })
    }
}

/// The pair that every match has, if the selector asks for one.
pub fn anchor(selector: &Labels) -> Option<(&String, &String)> {
    selector.0.iter().find_map(|r| match (r.op, r.values.as_slice()) {
        (Op::In, [value]) => Some((&r.key, value)),
        _ => None,
    })
}

/// The selectors of a collection, kept.
pub fn follow<K: Object>(owners: &Cache<K>, selector: fn(&K) -> Option<Labels>) -> Arc<RwLock<Selectors>> {
    let kept: Arc<RwLock<Selectors>> = Arc::default();
    let following = kept.clone();
    owners.on_change(move |old, new| {
        let Some(key) = old.or(new).map(|owner| own_key(&**owner)) else { return };
        let selector = new.and_then(|owner| selector(owner));
        if following.read().get(&key) != selector.as_ref() {
            following.write().set(&key, selector);
        }
    });
    kept
}

impl Space {
    fn note(&mut self, name: &str, selector: &Labels) {
        let names = match anchor(selector) {
            Some((label, value)) => self.anchored.entry(label.clone()).or_default().entry(value.clone()).or_default(),
            None => &mut self.loose,
        };
        names.insert(name.to_owned());
    }

    fn forget(&mut self, name: &str, selector: &Labels) {
        let Some((label, value)) = anchor(selector) else {
            self.loose.remove(name);
            return;
        };
        let Some(values) = self.anchored.get_mut(label) else { return };
        if let Some(names) = values.get_mut(value) {
            names.remove(name);
            if names.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.anchored.remove(label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Map {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn labels_lead_to_all_selectors_that_match_and_to_no_others() {
        let mut selectors = Selectors::default();
        let all = ["app=web", "app=db", "app=web,tier=front", "tier in (front,back)", "!app", ""];
        for text in all {
            selectors.set(&Key::new("d", text), Some(Labels::parse(text).unwrap()));
        }
        selectors.set(&Key::new("other", "app=web"), Some(Labels::parse("app=web").unwrap()));
        for text in ["app=web", "app=web,tier=front", "tier=back", "x=y", ""] {
            let labels = labels(text);
            let mut found: Vec<&str> = selectors.matching("d", &labels).collect();
            let mut want: Vec<&str> = all.into_iter().filter(|s| Labels::parse(s).unwrap().matches(Some(&labels))).collect();
            found.sort_unstable();
            want.sort_unstable();
            assert_eq!(found, want, "{text}");
        }
        all.iter().for_each(|text| selectors.set(&Key::new("d", text), None));
        assert_eq!(selectors.spaces.keys().collect::<Vec<_>>(), ["other"], "nothing is left behind");
        selectors.set(&Key::new("other", "app=web"), Some(Labels::parse("b=c").unwrap()));
        assert_eq!(selectors.matching("other", &labels("app=web")).count(), 0);
        let space = &selectors.spaces["other"];
        assert_eq!((space.anchored.len(), space.loose.len()), (1, 0));
    }
}
