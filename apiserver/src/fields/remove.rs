//! An object without the fields and items of a set. Source: structured-merge-diff `typed/remove.go`.

use serde_json::Value;

use super::{
    Element, Set, Typ,
    typ::{Form, ListForm, MapForm},
};

/// Takes the members of `set` away, of whatever is not owned as a whole. What thereby becomes empty stays, empty.
pub fn remove(typ: Typ<'_>, value: &mut Value, set: &Set) {
    if set.is_empty() {
        return;
    }
    match typ.form(value) {
        Form::Map(form) => fields(&form, value, set),
        Form::List(form) => items(&form, value, set),
        Form::Scalar(_) => {}
    }
}

fn fields(form: &MapForm<'_>, value: &mut Value, set: &Set) {
    let Value::Object(map) = value else { return };
    if form.is_atomic {
        map.clear();
        return;
    }
    for (element, below) in &set.children {
        let Element::Field(name) = element else { continue };
        if below.is_member {
            map.shift_remove(name);
        } else if let Some(value) = map.get_mut(name) {
            remove(form.typ(name).unwrap_or(Typ::OPEN), value, below);
        }
    }
}

fn items(form: &ListForm<'_>, value: &mut Value, set: &Set) {
    let Value::Array(list) = value else { return };
    if form.is_atomic() {
        list.clear();
        return;
    }
    list.retain_mut(|item| {
        let Some(below) = form.element(item).ok().and_then(|element| set.below(&element)) else { return true };
        if !below.is_member {
            remove(form.element, item, below);
        }
        !below.is_member
    });
}
