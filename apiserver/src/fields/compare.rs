//! An object before and after a write -> which fields came, changed and went. Source: structured-merge-diff `typed/compare.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Element, Mode, Set, Typ,
    element::order,
    typ::{Form, ListForm, MapForm},
};

/// One of the two objects that are compared.
#[derive(Clone, Copy)]
pub struct Side<'v> {
    pub value: &'v Value,
    pub mode: Mode,
}

/// No field is in more than one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        [&self.added, &self.modified, &self.removed].iter().all(|set| !set.has_any())
    }

    /// Without what is in `fields` and below.
    #[must_use]
    pub fn without(self, fields: &Set) -> Self {
        if fields.is_empty() {
            return self;
        }
        Self { added: self.added.without(fields), modified: self.modified.without(fields), removed: self.removed.without(fields) }
    }

    fn put(&mut self, element: &Element, below: Self) {
        self.added.put(element, below.added);
        self.modified.put(element, below.modified);
        self.removed.put(element, below.removed);
    }

    fn sort(&mut self) {
        self.added.sort();
        self.modified.sort();
        self.removed.sort();
    }
}

/// Which fields differ between two objects, but for those that nobody owns: kind, version, and what the system keeps of the metadata.
///
/// # Errors
/// Items of a list that cannot be told apart: upstream's words.
pub fn compare(typ: Typ<'_>, old: Side<'_>, new: Side<'_>) -> Result<Comparison, String> {
    let mut out = Comparison::default();
    let walk = Walk { old: old.mode, new: new.mode };
    walk.node(Level::Root, typ, Some(old.value), Some(new.value), &mut out)?;
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Metadata,
    Below,
}

impl Level {
    /// `None` for what nobody owns (`stripmeta.go`).
    fn below(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Root, "apiVersion" | "kind") => None,
            (Self::Root, "metadata") => Some(Self::Metadata),
            (
                Self::Metadata,
                "name" | "namespace" | "creationTimestamp" | "selfLink" | "uid" | "clusterName" | "generation" | "managedFields"
                | "resourceVersion",
            ) => None,
            _ => Some(Self::Below),
        }
    }
}

type Optional<'v> = Option<&'v Value>;

struct Walk {
    old: Mode,
    new: Mode,
}

impl Walk {
    fn node(&self, level: Level, typ: Typ<'_>, old: Optional<'_>, new: Optional<'_>, out: &mut Comparison) -> Result<(), String> {
        match (old.map(|value| typ.form(value)), new.map(|value| typ.form(value))) {
            (None, None) => Ok(()),
            (Some(form), None) | (None, Some(form)) => self.by(level, form, old, new, out),
            (Some(before), Some(after)) => {
                if typ.is_open() && std::mem::discriminant(&before) != std::mem::discriminant(&after) {
                    self.by(level, before, old, new, out)?;
                }
                self.by(level, after, old, new, out)
            }
        }
    }

    fn by(&self, level: Level, form: Form<'_>, old: Optional<'_>, new: Optional<'_>, out: &mut Comparison) -> Result<(), String> {
        match form {
            Form::Scalar(_) => {
                leaf(old, new, out);
                return Ok(());
            }
            Form::List(form) => {
                let (before, after) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
                let is_empty = |list: Option<&Vec<Value>>| list.is_none_or(Vec::is_empty);
                if form.is_atomic() || is_empty(before) && is_empty(after) {
                    leaf(old, new, out);
                    return Ok(());
                }
                self.items(&form, before, after, out)?;
            }
            Form::Map(form) => {
                let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                let is_empty = |map: Option<&Map<_, _>>, mode: Mode| map.is_none_or(|map| mode.is_empty(&form, map));
                if form.is_atomic || is_empty(before, self.old) && is_empty(after, self.new) {
                    leaf(old, new, out);
                    return Ok(());
                }
                self.fields(level, &form, before, after, out)?;
            }
        }
        if level == Level::Below {
            out.added.is_member |= old.is_none();
            out.removed.is_member |= new.is_none();
        }
        Ok(())
    }

    fn fields(
        &self,
        level: Level,
        form: &MapForm<'_>,
        old: Option<&Map<String, Value>>,
        new: Option<&Map<String, Value>>,
        out: &mut Comparison,
    ) -> Result<(), String> {
        let mut child = |name: &str| {
            let Some(below) = level.below(name) else { return Ok(()) };
            let before = old.and_then(|map| self.old.get(form, map, name));
            let after = new.and_then(|map| self.new.get(form, map, name));
            if before.is_none() && after.is_none() {
                return Ok(());
            }
            let mut inner = Comparison::default();
            self.node(below, form.typ(name).unwrap_or(Typ::OPEN), before, after, &mut inner)?;
            if !inner.is_same() {
                out.put(&Element::field(name), inner);
            }
            Ok::<_, String>(())
        };
        for name in old.into_iter().flat_map(Map::keys) {
            child(name)?;
        }
        for name in new.into_iter().flat_map(Map::keys).filter(|name| old.is_none_or(|map| !map.contains_key(*name))) {
            child(name)?;
        }
        // What is there on both sides without a word is the same on both.
        if old.is_some() != new.is_some() {
            let (map, mode) = if old.is_some() { (old, self.old) } else { (new, self.new) };
            for field in mode.always(form).filter(|field| map.is_none_or(|map| !map.contains_key(field.name.as_ref()))) {
                child(&field.name)?;
            }
        }
        out.sort();
        Ok(())
    }

    fn items(&self, form: &ListForm<'_>, old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, out: &mut Comparison) -> Result<(), String> {
        if old.is_some() && old == new && self.old == self.new {
            return Ok(());
        }
        let mut found: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
        for (side, list) in [old, new].into_iter().enumerate() {
            for (at, item) in list.into_iter().flatten().enumerate() {
                let element = form.element(item).map_err(|why| format!("element {at}: {why}"))?;
                found.entry(element).or_default()[side].push(item);
            }
        }
        for (element, [before, after]) in &found {
            let mut inner = Comparison::default();
            let mut below = |old: Optional<'_>, new: Optional<'_>| self.node(Level::Below, form.element, old, new, &mut inner);
            match (before.as_slice(), after.as_slice()) {
                ([] | [_], [] | [_]) => below(before.first().copied(), after.first().copied())?,
                ([_, _, ..], [_, _, ..]) => inner.modified.is_member = before != after,
                // Items that are there several times are owned together, by one mark.
                ([_, _, ..], _) => {
                    if let Some(after) = after.first() {
                        below(None, Some(after))?;
                    }
                    inner.removed.is_member = true;
                }
                _ => {
                    if let Some(before) = before.first() {
                        below(Some(before), None)?;
                    }
                    inner.added.is_member = true;
                }
            }
            out.put(element, inner);
        }
        Ok(())
    }
}

fn leaf(old: Optional<'_>, new: Optional<'_>, out: &mut Comparison) {
    match (old, new) {
        (None, _) => out.added.is_member = true,
        (_, None) => out.removed.is_member = true,
        (Some(old), Some(new)) => out.modified.is_member |= !is_equal(old, new),
    }
}

/// `value.Equals`: numbers by their worth.
pub(super) fn is_equal(one: &Value, two: &Value) -> bool {
    one == two || order(one, two).is_eq()
}
