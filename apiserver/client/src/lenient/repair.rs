//! A tree that a type cannot be read from -> one that it can: what is missing is null, and what is wrong becomes null, with a fault told.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Seen,
    go::{Fault, Go, Step, What},
};

/// Faults of one object that are looked for one by one, each at the cost of reading it once more; after them whole parts are left out.
const REPAIRS_MAX: usize = 16;

/// `None` where not even its metadata makes an object of this type.
pub fn decode<K: DeserializeOwned>(mut tree: Value) -> Option<Seen<K>> {
    let mut first = None;
    for _ in 0..REPAIRS_MAX {
        match K::deserialize(Go(&tree)) {
            Ok(object) => return Some(Seen { object, fault: first }),
            Err(fault) => {
                let told = mend(&mut tree, &fault)?;
                first = first.or_else(|| told.then(|| fault.to_string()));
            }
        }
    }
    let fault = first.unwrap_or_else(|| "too many faults".into());
    ["status", "spec", "metadata"].iter().find_map(|part| {
        cut(&mut tree, part);
        let object = K::deserialize(Go(&tree)).ok()?;
        Some(Seen { object, fault: Some(fault.clone()) })
    })
}

/// Whether it is a fault that is to be told; `None` where nothing can be done about it.
fn mend(tree: &mut Value, fault: &Fault) -> Option<bool> {
    match &fault.what {
        What::Missing(field) => fill(tree, &fault.path, field).map(|()| false),
        What::Other(_) => prune(tree, &fault.path).map(|()| true),
    }
}

/// Puts null where the field is missing: in the object itself, and in its neighbours of the same list, which lack it likely too.
fn fill(tree: &mut Value, path: &[Step], field: &str) -> Option<()> {
    let put = |value: &mut Value| {
        if value.is_null() {
            *value = json!({});
        }
        if let Value::Object(map) = value {
            map.entry(field).or_insert(Value::Null);
        }
    };
    match path.split_first() {
        Some((Step::Index(_), list)) => find(tree, list)?.as_array_mut()?.iter_mut().for_each(put),
        _ => put(find(tree, path)?),
    }
    Some(())
}

/// Nulls the innermost part of the path that is not null yet.
fn prune(tree: &mut Value, mut path: &[Step]) -> Option<()> {
    while !path.is_empty() {
        let found = find(tree, path)?;
        if !found.is_null() {
            *found = Value::Null;
            return Some(());
        }
        path = path.split_first()?.1;
    }
    None
}

/// Innermost step first.
fn find<'a>(tree: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().rev().try_fold(tree, |at, step| match step {
        Step::Key(key) => at.get_mut(key.as_str()),
        Step::Index(index) => at.get_mut(*index),
    })
}

/// Leaves out a part; of the metadata what says which object it is stays.
fn cut(tree: &mut Value, part: &str) {
    let Some(slot) = tree.get_mut(part) else { return };
    let mut kept = Value::Null;
    if part == "metadata" {
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            if let Some(text) = slot.get(field).filter(|v| v.is_string()) {
                kept[field] = text.clone();
            }
        }
    }
    *slot = kept;
}
