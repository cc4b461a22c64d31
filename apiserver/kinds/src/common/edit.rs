//! A `Value` -> the same with fields filled in: what defaults and prepare hooks do.

use serde_json::{Map, Value};

pub type Object = Map<String, Value>;

/// The object under `name`, if there is one.
pub fn child<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    object.get_mut(name).filter(|v| v.is_object())
}

/// The object under `name`, made if absent or null. `None` only where `object` itself is no object or something else stands there.
pub fn make_child<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let slot = object.as_object_mut()?.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}

/// Sets `name` where it is absent or null.
pub fn default_to(object: &mut Value, name: &str, value: impl Into<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// Sets `name` where it is absent, null or an empty string (a Go string without pointer).
pub fn default_text(object: &mut Value, name: &str, value: &str) {
    let Some(map) = object.as_object_mut() else { return };
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() || slot.as_str() == Some("") {
        *slot = value.into();
    }
}

/// Sets `name` where it is absent, null or 0 (a Go number without pointer).
pub fn default_number(object: &mut Value, name: &str, value: i64) {
    let Some(map) = object.as_object_mut() else { return };
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() || slot.as_i64() == Some(0) {
        *slot = value.into();
    }
}

/// The elements of the list under `name`.
pub fn each<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value.into());
    }
}

/// Removes `name`, keeping the order of what stays.
pub fn remove(object: &mut Value, name: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(name);
    }
}

/// Gives `name` in `object` the value it has in `from`, or removes it.
pub fn carry(object: &mut Value, from: &Value, name: &str) {
    carry_as(object, name, from.get(name));
}

/// Gives `name` in `object` this value, or removes it.
pub fn carry_as(object: &mut Value, name: &str, value: Option<&Value>) {
    match value {
        Some(value) => set(object, name, value.clone()),
        None => remove(object, name),
    }
}

/// `ResetObjectMetaForStatus`: who writes a status changes no metadata.
pub fn keep_metadata(new: &mut Value, old: &Value) {
    if let (Some(metadata), Some(before)) = (child(new, "metadata"), old.get("metadata")) {
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            carry(metadata, before, field);
        }
    }
}
