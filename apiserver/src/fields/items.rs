//! A value -> the set of its fields and items. Source: structured-merge-diff `typed/tofieldset.go`, `fieldpath/set.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Element, Set, Typ,
    typ::{Form, ListForm, MapForm, NOTHING, NULL},
};
use crate::schema::{Field, Type};

/// How an object's JSON is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As Go reads it into a struct: what a zero value stands for is absent, and what is no pointer is always there.
    Typed,
    /// As it stands: custom resources, and what is applied.
    Raw,
}

impl Mode {
    /// The field's value in `map`, as this mode sees it.
    pub(super) fn get<'v>(self, form: &MapForm<'_>, map: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
        match (self, form.definition.and_then(|definition| definition.field(name))) {
            (Self::Typed, Some(field)) => typed(field, map.get(name)),
            _ => map.get(name),
        }
    }

    /// Names of fields that are there although nothing is said of them.
    pub(super) fn always<'t>(self, form: &MapForm<'t>) -> impl Iterator<Item = &'t Field> {
        let fields = form.definition.filter(|_| self == Self::Typed).map_or(&[][..], |definition| &definition.fields);
        fields.iter().filter(|field| is_struct(field) || is_bare(field))
    }

    pub(super) fn is_empty(self, form: &MapForm<'_>, map: &Map<String, Value>) -> bool {
        map.keys().all(|name| self.get(form, map, name).is_none()) && self.always(form).next().is_none()
    }
}

/// An object that is no pointer.
fn is_struct(field: &Field) -> bool {
    field.is_always && matches!(field.typ, Type::Object(_) | Type::Any)
}

/// What Go writes as null where there is nothing: a list or map without `omitempty`, a time that is no pointer.
fn is_bare(field: &Field) -> bool {
    match field.typ {
        Type::List(_) | Type::Map(_) => !field.absent_if_zero,
        Type::Time | Type::MicroTime => field.is_always,
        _ => false,
    }
}

fn typed<'v>(field: &Field, value: Option<&'v Value>) -> Option<&'v Value> {
    match value.filter(|value| !value.is_null()) {
        Some(value) => (!field.is_absent(value)).then_some(value),
        None if is_struct(field) => Some(&NOTHING),
        None if is_bare(field) => Some(&NULL),
        None => None,
    }
}

/// The leaves and items of a value; what is owned as a whole is a leaf. Items that cannot be told apart are left out.
pub fn set_of(typ: Typ<'_>, value: &Value, mode: Mode) -> Set {
    let mut set = Set::default();
    gather(typ, value, mode, &mut set);
    set.is_member = false;
    set
}

fn gather(typ: Typ<'_>, value: &Value, mode: Mode, out: &mut Set) {
    match typ.form(value) {
        Form::Scalar(_) => out.is_member = true,
        Form::List(form) if form.is_atomic() => out.is_member = true,
        Form::List(form) => items(&form, value, mode, out),
        Form::Map(form) if form.is_atomic => out.is_member = true,
        Form::Map(form) => fields(&form, value, mode, out),
    }
}

fn items(form: &ListForm<'_>, value: &Value, mode: Mode, out: &mut Set) {
    let Value::Array(list) = value else { return };
    let mut found: BTreeMap<Element, Option<&Value>> = BTreeMap::new();
    for item in list {
        if let Ok(element) = form.element(item) {
            found.entry(element).and_modify(|item| *item = None).or_insert(Some(item));
        }
    }
    for (element, item) in found {
        let mut below = Set::default();
        if let Some(item) = item {
            gather(form.element, item, mode, &mut below);
        }
        below.is_member = true;
        out.put(&element, below);
    }
}

fn fields(form: &MapForm<'_>, value: &Value, mode: Mode, out: &mut Set) {
    let Value::Object(map) = value else { return };
    let own = map.keys().map(String::as_str);
    let always = mode.always(form).map(|field| field.name.as_ref()).filter(|name| !map.contains_key(*name));
    for name in own.chain(always) {
        let Some(value) = mode.get(form, map, name) else { continue };
        let typ = form.typ(name).unwrap_or(Typ::OPEN);
        let mut below = Set::default();
        gather(typ, value, mode, &mut below);
        below.is_member |= !form.has_field(name) || is_nothing(typ, value, mode);
        out.put(&Element::field(name), below);
    }
    out.sort();
}

fn is_nothing(typ: Typ<'_>, value: &Value, mode: Mode) -> bool {
    match (value, typ.form(value)) {
        (Value::Null, _) => true,
        (Value::Object(map), Form::Map(form)) => mode.is_empty(&form, map),
        (Value::Object(map), _) => map.is_empty(),
        _ => false,
    }
}

/// With the named fields that have something of theirs in it, which a set does not have otherwise (`EnsureNamedFieldsAreMembers`).
#[must_use]
pub fn ensure_named(typ: Option<Typ<'_>>, set: &Set) -> Set {
    let form = typ.map(|typ| typ.form(&NULL));
    let child = |(element, set): &(Element, Set)| {
        let (is_named, typ) = match (&form, element) {
            (Some(Form::Map(form)), Element::Field(name)) => (form.has_field(name), form.typ(name)),
            (Some(Form::List(form)), Element::Key(_)) => (false, Some(form.element)),
            _ => (false, None),
        };
        let mut below = ensure_named(typ, set);
        below.is_member |= is_named && !set.children.is_empty();
        (element.clone(), below)
    };
    Set { is_member: set.is_member, children: set.children.iter().map(child).collect() }
}
