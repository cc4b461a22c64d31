//! Current object, strategic merge patch -> new object, by the kind's merge keys.
//!
//! Source: apimachinery `pkg/util/strategicpatch/patch.go` (as the server calls it: deletions carried out, unmatched nulls dropped).

mod errors;
mod lists;
mod places;

use std::collections::HashSet;

use api::Status;
use serde_json::{Map, Value};

use crate::schema::{Semantics, Structure, Table, Type};
use errors::Refusal;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// Applies `patch` to `current`, which is of no use after an error. Fails with 400 for malformed directives, 422 for lists of lists, 500 for elements without their merge key
/// (as upstream does).
pub fn apply(schema: &Structure, current: &mut Value, patch: Value) -> Result<(), Status> {
    let (Value::Object(object), Value::Object(patch)) = (current, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let merge = Merge { table: schema.table() };
    merge.map(object, patch, schema.typ()).map_err(|refusal| refusal.status())
}

/// A patch as error messages show it.
pub fn shown(patch: &Value) -> String {
    errors::go(patch)
}

struct Merge<'a> {
    table: &'a Table,
}

type Object = Map<String, Value>;
/// Fields that are to leave an object.
type Gone = HashSet<String>;

impl<'a> Merge<'a> {
    fn map(&self, original: &mut Object, mut patch: Object, typ: Type) -> Result<(), Refusal> {
        if let Some(directive) = patch.shift_remove(PATCH) {
            return whole(original, patch, &directive);
        }
        retain_keys(original, &mut patch)?;
        self.ordered_lists(original, &mut patch, typ)?;
        // Taken out at the end, all at once: each removal moves what stands behind it.
        let mut gone = Gone::new();
        for (key, value) in patch {
            match key.strip_prefix(DELETE_FROM) {
                Some(rest) => {
                    let field = rest.strip_prefix('/').ok_or(Refusal::PrimitiveList)?;
                    delete_from(original, field, value, &mut gone)?;
                }
                None => self.field(original, key, value, typ, &mut gone)?,
            }
        }
        if !gone.is_empty() {
            original.retain(|key, _| !gone.contains(key));
        }
        Ok(())
    }

    fn field(&self, original: &mut Object, key: String, patch: Value, typ: Type, gone: &mut Gone) -> Result<(), Refusal> {
        if patch.is_null() {
            gone.insert(key);
            return Ok(());
        }
        let was_gone = gone.remove(&key);
        match (original.get_mut(&key).filter(|_| !was_gone), patch) {
            (Some(Value::Object(current)), Value::Object(patch)) => {
                let (below, semantics) = self.below(typ, &key)?;
                match semantics.is_some_and(|s| s.replaces) {
                    true => *current = patch,
                    false => self.map(current, patch, below)?,
                }
            }
            (Some(Value::Array(current)), Value::Array(patch)) => {
                let (below, semantics) = self.below(typ, &key)?;
                *current = self.list(std::mem::take(current), patch, below, semantics)?;
            }
            (_, patch) => match cleaned(patch) {
                Some(value) => drop(original.insert(key, value)),
                None => drop(gone.insert(key)),
            },
        }
        Ok(())
    }

    /// The type and merge semantics of a field.
    fn below(&self, typ: Type, key: &str) -> Result<(Type, Option<&'a Semantics>), Refusal> {
        match typ {
            Type::Object(at) => {
                let definition = self.table.definition(at);
                match definition.field(key) {
                    Some(field) => Ok((field.typ, field.semantics.as_deref())),
                    None if definition.open => Ok((Type::Any, None)),
                    None => Err(Refusal::UnknownField(definition.short().to_owned(), key.to_owned())),
                }
            }
            Type::Map(at) => Ok((self.table.element(at), None)),
            _ => Ok((Type::Any, None)),
        }
    }
}

/// `$patch` on an object: take the patch instead, or nothing.
fn whole(original: &mut Object, mut patch: Object, directive: &Value) -> Result<(), Refusal> {
    match directive.as_str() {
        Some("replace") => *original = patch,
        Some("delete") => original.clear(),
        _ => {
            patch.insert(PATCH.into(), directive.clone());
            return Err(Refusal::PatchType(errors::go_text(directive), errors::go(&Value::Object(patch))));
        }
    }
    Ok(())
}

/// `$retainKeys`: what it does not name goes.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Refusal> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or(Refusal::RetainKeys)?;
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| keys.contains(key);
    let directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !named(key)) {
        return Err(Refusal::RetainKeys);
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$deleteFromPrimitiveList/<field>`.
fn delete_from(original: &mut Object, field: &str, items: Value, gone: &mut Gone) -> Result<(), Refusal> {
    match (original.get_mut(field).filter(|_| !gone.contains(field)), items) {
        (Some(Value::Array(list)), Value::Array(items)) => {
            if list.iter().chain(&items).any(Value::is_array) {
                return Err(Refusal::ListOfLists);
            }
            let items: HashSet<&Value> = items.iter().collect();
            list.retain(|item| !items.contains(item));
        }
        (Some(_), Value::Null) => drop(gone.insert(field.to_owned())),
        _ => {}
    }
    Ok(())
}

/// What a patch adds, without nulls and directives. `None` if it is itself a directive.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            Some(Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).filter_map(|(k, v)| cleaned(v).map(|v| (k, v))).collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(cleaned).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests;
