//! What can be had on some nodes alone -> found by the labels of a node, without asking each thing about each node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter::once,
};

use api::k8s::{api::core::v1::PersistentVolume, apimachinery::pkg::apis::meta::v1::LabelSelector};

/// A label that a node must have.
pub type Pin<'a> = Option<(&'a str, &'a str)>;

/// In order, by a label that their nodes must have; those of which no such label is known are everybody's to ask about.
#[derive(Debug)]
pub struct Shelf<T> {
    anywhere: BTreeSet<T>,
    pinned: HashMap<String, HashMap<String, BTreeSet<T>>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { anywhere: BTreeSet::new(), pinned: HashMap::new() }
    }
}

impl<T: Ord> Shelf<T> {
    pub fn insert(&mut self, pin: Pin<'_>, item: T) {
        let set = match pin {
            Some((key, value)) => self.pinned.entry(key.to_owned()).or_default().entry(value.to_owned()).or_default(),
            None => &mut self.anywhere,
        };
        set.insert(item);
    }

    pub fn remove(&mut self, pin: Pin<'_>, item: &T) {
        let Some((key, value)) = pin else {
            self.anywhere.remove(item);
            return;
        };
        let Some(of_key) = self.pinned.get_mut(key) else { return };
        if let Some(set) = of_key.get_mut(value) {
            set.remove(item);
            if set.is_empty() {
                of_key.remove(value);
            }
        }
        if of_key.is_empty() {
            self.pinned.remove(key);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.pinned.is_empty()
    }

    /// All that a node of these labels could have; what else is asked of it is to be looked at.
    pub fn of<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a BTreeSet<T>> {
        let pinned = self.pinned.iter().filter_map(|(key, values)| values.get(labels.get(key)?));
        once(&self.anywhere).chain(pinned)
    }
}

/// A label without which a node does not reach the volume.
pub fn pin_of_volume(volume: &PersistentVolume) -> Pin<'_> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    // One of several terms is enough.
    let [term] = required.node_selector_terms.as_slice() else { return None };
    let asked = term.match_expressions.iter().flatten();
    asked.filter(|one| one.operator == "In").find_map(|one| Some((one.key.as_str(), only(one.values.as_deref())?)))
}

/// A label without which a node is not selected.
pub fn pin_of_selector(selector: &LabelSelector) -> Pin<'_> {
    let label = selector.match_labels.iter().flatten().next().map(|(key, value)| (key.as_str(), value.as_str()));
    let asked = selector.match_expressions.iter().flatten().filter(|one| one.operator == "In");
    label.or_else(|| asked.into_iter().find_map(|one| Some((one.key.as_str(), only(one.values.as_deref())?))))
}

fn only(values: Option<&[String]>) -> Option<&str> {
    match values {
        Some([one]) => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_label_is_one_that_all_nodes_of_a_volume_have() {
        let volume = |terms: Value| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})).unwrap()
        };
        let one = |operator: &str, values: Value| json!({"key": "host", "operator": operator, "values": values});
        let rows = [
            (json!([{"matchExpressions": [one("In", json!(["a"]))]}]), Some(("host", "a"))),
            (json!([{"matchExpressions": [one("Exists", Value::Null), one("In", json!(["a"]))]}]), Some(("host", "a"))),
            (json!([{"matchExpressions": [one("In", json!(["a", "b"]))]}]), None),
            (json!([{"matchExpressions": [one("NotIn", json!(["a"]))]}]), None),
            (json!([{"matchExpressions": [one("In", json!(["a"]))]}, {"matchExpressions": [one("In", json!(["b"]))]}]), None),
            (json!([{}]), None),
        ];
        for (terms, pin) in rows {
            assert_eq!(pin_of_volume(&volume(terms.clone())), pin, "{terms}");
        }
        let selector = |said: Value| -> LabelSelector { serde_json::from_value(said).unwrap() };
        for (said, pin) in [
            (json!({"matchLabels": {"zone": "z"}}), Some(("zone", "z"))),
            (json!({"matchExpressions": [one("In", json!(["a"]))]}), Some(("host", "a"))),
            (json!({"matchExpressions": [one("In", json!(["a", "b"]))]}), None),
            (json!({}), None),
        ] {
            assert_eq!(pin_of_selector(&selector(said.clone())), pin, "{said}");
        }
    }

    #[test]
    fn a_node_sees_its_own_and_what_is_everybodys() {
        let mut shelf = Shelf::default();
        shelf.insert(None, 1);
        shelf.insert(Some(("host", "a")), 2);
        shelf.insert(Some(("host", "b")), 3);
        shelf.insert(Some(("zone", "z")), 4);
        let seen = |shelf: &Shelf<i32>, labels: Value| {
            let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
            shelf.of(&labels).flatten().copied().collect::<BTreeSet<_>>()
        };
        assert_eq!(seen(&shelf, json!({"host": "a", "zone": "z"})), [1, 2, 4].into());
        assert_eq!(seen(&shelf, json!({})), [1].into());
        for (pin, item) in [(None, 1), (Some(("host", "a")), 2), (Some(("host", "b")), 3), (Some(("zone", "z")), 4)] {
            assert!(!shelf.is_empty());
            shelf.remove(pin, &item);
        }
        assert!(shelf.is_empty());
    }
}
