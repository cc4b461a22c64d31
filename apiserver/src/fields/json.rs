//! FieldsV1 <-> a set; and questions that its JSON answers without being read. Source: structured-merge-diff `fieldpath/serialize.go`.

use serde_json::{Map, Value};

use super::{Element, Set};
use crate::parse::DEPTH_MAX;

const SELF: &str = ".";

impl Set {
    /// Reads FieldsV1. What a later version may know is left out.
    ///
    /// # Errors
    /// What is no FieldsV1, or too deep.
    pub fn from_fields(fields: &Value) -> Result<Self, String> {
        let mut set = read(fields, DEPTH_MAX)?;
        set.is_member = false;
        Ok(set)
    }

    /// As FieldsV1, in canonical order.
    pub fn to_fields(&self) -> Value {
        let mut out = Map::with_capacity(self.children.len());
        for (element, set) in &self.children {
            let mut below = set.to_fields();
            if let Some(map) = below.as_object_mut().filter(|map| set.is_member && !map.is_empty()) {
                map.shift_insert(0, SELF.into(), Value::Object(Map::new()));
            }
            out.insert(element.text(), below);
        }
        Value::Object(out)
    }

    /// Whether a path of this is in canonical `fields`. Costs what the smaller has.
    pub fn meets(&self, fields: &Value) -> bool {
        let Some(map) = fields.as_object() else { return false };
        let is_met = |set: &Self, below: &Value| set.is_member && is_member(below) || !set.children.is_empty() && set.meets(below);
        if map.len() < self.children.len() {
            return map.iter().any(|(key, below)| {
                api::steps::took(1);
                let element = Element::parse(key).ok().flatten();
                element.and_then(|element| self.below(&element)).is_some_and(|set| is_met(set, below))
            });
        }
        self.children.iter().any(|(element, set)| {
            api::steps::took(1);
            map.get(&element.text()).is_some_and(|below| is_met(set, below))
        })
    }

    /// Whether all paths of this are in canonical `fields`.
    pub fn is_within(&self, fields: &Value) -> bool {
        let Some(map) = fields.as_object() else { return self.is_empty() };
        self.children.iter().all(|(element, set)| {
            map.get(&element.text()).is_some_and(|below| (!set.is_member || is_member(below)) && set.is_within(below))
        })
    }
}

fn is_member(below: &Value) -> bool {
    below.as_object().is_none_or(|map| map.is_empty() || map.contains_key(SELF))
}

fn read(fields: &Value, depth: usize) -> Result<Set, String> {
    let mut set = Set::default();
    let below = depth.checked_sub(1).ok_or("exceeded max depth")?;
    match fields {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                if key == SELF {
                    set.is_member = true;
                } else if let Some(element) = Element::parse(key)? {
                    set.put(&element, read(value, below)?);
                }
            }
        }
        _ => return Err("ReadMapCB: expect { or n".into()),
    }
    set.sort();
    set.is_member |= set.children.is_empty();
    Ok(set)
}
