//! The elements of a list -> the place of each, found in one step: patches are as long as their sender likes.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::errors::{self, Refusal};

/// Where each element stands first. What makes it the same as another is its merge key, or itself where there is none.
pub(super) struct Places<'v> {
    key: Option<&'v str>,
    first: HashMap<&'v Value, usize>,
}

/// Of elements that change while they are looked for: each merge key with the places that have it, the first one last.
pub(super) struct Keyed(HashMap<Value, Vec<usize>>);

impl<'v> Places<'v> {
    /// Elements without an identity have no place.
    pub fn of(list: &'v [Value], key: Option<&'v str>) -> Self {
        let mut first = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            if let Some(id) = key.map_or(Some(item), |key| item.get(key)) {
                first.entry(id).or_insert(at);
            }
        }
        Self { key, first }
    }

    pub fn of_item(&self, item: &Value) -> Result<Option<usize>, Refusal> {
        Ok(self.first.get(identity(item, self.key)?).copied())
    }
}

impl Keyed {
    pub fn of(list: &[Value], key: &str) -> Self {
        let mut places: HashMap<Value, Vec<usize>> = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate().rev() {
            if let Some(id) = item.get(key) {
                places.entry(id.clone()).or_default().push(at);
            }
        }
        Self(places)
    }

    /// The first element that has `wanted` for its key. A merge may have taken its key from an element: that one is forgotten.
    pub fn find(&mut self, list: &[Value], key: &str, wanted: &Value) -> Option<usize> {
        let places = self.0.get_mut(wanted)?;
        while let Some(at) = places.last() {
            if list.get(*at).and_then(|item| item.get(key)) == Some(wanted) {
                return Some(*at);
            }
            places.pop();
        }
        None
    }

    /// The element at `at` is new; none that is known has this key.
    pub fn add(&mut self, at: usize, id: &Value) {
        self.0.entry(id.clone()).or_default().push(at);
    }
}

/// What makes an element the same as another: the value of its merge key, or itself.
pub(super) fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value, Refusal> {
    match (key, item) {
        (None, item) => Ok(item),
        (Some(key), Value::Object(map)) => map.get(key).ok_or_else(|| no_key(map, key)),
        (Some(_), item) => Err(not_a_map(item)),
    }
}

pub(super) fn no_key(map: &Map<String, Value>, key: &str) -> Refusal {
    Refusal::NoMergeKey(errors::go_map(map), key.to_owned())
}

pub(super) fn not_a_map(item: &Value) -> Refusal {
    Refusal::Type("map[string]interface {}", errors::kind(item))
}
