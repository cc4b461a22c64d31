//! A set that was made under an older schema -> the same under this one: what is owned as a whole now is one leaf.
//!
//! Source: structured-merge-diff `typed/reconcile_schema.go`. What came apart since stays as it is: it always was apart, then.

use serde_json::Value;

use super::{
    Element, Set, Typ,
    typ::{Form, NULL},
};

/// Whether [`reconcile`] would change the set that stands in canonical `fields`.
pub fn is_outdated(typ: Typ<'_>, fields: &Value) -> bool {
    let Some(map) = fields.as_object() else { return false };
    let mut below = map.iter().filter(|(key, _)| *key != ".");
    match typ.form(&NULL) {
        Form::Scalar(_) => false,
        Form::List(form) if form.is_atomic() => below.next().is_some(),
        Form::List(form) => below.any(|(_, fields)| is_outdated(form.element, fields)),
        Form::Map(form) if form.is_deduced() => false,
        Form::Map(form) if form.is_atomic => below.next().is_some(),
        Form::Map(form) => below.any(|(key, fields)| {
            let typ = key.strip_prefix("f:").and_then(|name| form.typ(name));
            typ.is_some_and(|typ| is_outdated(typ, fields))
        }),
    }
}

pub fn reconcile(typ: Typ<'_>, set: &mut Set) {
    let is_one = match typ.form(&NULL) {
        Form::Scalar(_) => false,
        Form::List(form) if form.is_atomic() => true,
        Form::List(form) => {
            set.children.iter_mut().for_each(|(_, set)| reconcile(form.element, set));
            false
        }
        Form::Map(form) if form.is_deduced() => false,
        Form::Map(form) if form.is_atomic => true,
        Form::Map(form) => {
            for (element, set) in &mut set.children {
                if let Element::Field(name) = element
                    && let Some(typ) = form.typ(name)
                {
                    reconcile(typ, set);
                }
            }
            false
        }
    };
    if is_one && !set.children.is_empty() {
        *set = Set { is_member: true, children: Vec::new() };
    }
}
