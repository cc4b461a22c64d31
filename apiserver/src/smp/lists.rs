//! Lists of a patch -> merged by key or by value, and put in order (`$setElementOrder`).

use std::collections::HashSet;

use serde_json::Value;

use super::{
    ELEMENT_ORDER, Merge, Object, PATCH, cleaned,
    errors::{self, Refusal},
    places::{Keyed, Places, identity, no_key, not_a_map},
};
use crate::schema::{Semantics, Type};

type List = Vec<Value>;

impl Merge<'_> {
    /// `typ` is the list's type.
    pub(super) fn list(&self, original: List, patch: List, typ: Type, semantics: Option<&Semantics>) -> Result<List, Refusal> {
        match semantics.filter(|s| s.merges) {
            None => Ok(patch),
            Some(_) if original.is_empty() && patch.is_empty() => Ok(original),
            Some(semantics) => self.merged(original, patch, typ, semantics.merge_key.as_deref()),
        }
    }

    fn merged(&self, original: List, patch: List, typ: Type, key: Option<&str>) -> Result<List, Refusal> {
        if elements(&original, &patch)? == Elements::Scalars {
            let (ours, rest) = split(union(&original, &patch), &Places::of(&patch, None))?;
            return Ok(in_order(ours, rest, &Places::of(&patch, None), &Places::of(&original, None)));
        }
        let key = key.ok_or_else(|| Refusal::KeyUndeclared(self.name(typ)))?;
        let (original, patch) = directives(original, patch, key)?;
        let order = patch.clone();
        let before = original.clone();
        let merged = self.by_key(original, patch, typ, key)?;
        let order = Places::of(&order, Some(key));
        let (ours, rest) = split(merged, &order)?;
        Ok(in_order(ours, rest, &order, &Places::of(&before, Some(key))))
    }

    fn by_key(&self, mut original: List, patch: List, typ: Type, key: &str) -> Result<List, Refusal> {
        let element = match typ {
            Type::List(at) => self.table.element(at),
            _ => Type::Any,
        };
        let mut places = Keyed::of(&original, key);
        for item in patch {
            let Value::Object(item) = item else { return Err(not_a_map(&item)) };
            let wanted = item.get(key).ok_or_else(|| no_key(&item, key))?;
            let there = places.find(&original, key, wanted);
            match there.and_then(|at| original.get_mut(at)).and_then(Value::as_object_mut) {
                Some(current) => self.map(current, item, element)?,
                None => {
                    let Some(item) = cleaned(Value::Object(item)) else { continue };
                    if let Some(id) = item.get(key) {
                        places.add(original.len(), id);
                    }
                    original.push(item);
                }
            }
        }
        Ok(original)
    }

    /// Carries out `$setElementOrder/<field>` together with the field itself, which leaves the patch.
    pub(super) fn ordered_lists(&self, original: &mut Object, patch: &mut Object, typ: Type) -> Result<(), Refusal> {
        if !patch.keys().any(|key| key.starts_with(ELEMENT_ORDER)) {
            return Ok(());
        }
        let (directives, rest) = std::mem::take(patch).into_iter().partition::<Vec<_>, _>(|(key, _)| key.starts_with(ELEMENT_ORDER));
        *patch = rest.into_iter().collect();
        let mut done = HashSet::new();
        for (directive, order) in &directives {
            let Value::Array(order) = order else { return Err(Refusal::Type("[]interface {}", errors::kind(order))) };
            let field = directive.strip_prefix(ELEMENT_ORDER).and_then(|rest| rest.strip_prefix('/')).ok_or(Refusal::ElementOrder)?;
            let (list_type, semantics) = self.below(typ, field)?;
            let current = taken(original.get(field))?;
            let change = taken(patch.get(field))?;
            let key = semantics.and_then(|s| s.merge_key.as_deref());
            agrees(change.as_deref().unwrap_or_default(), order, key)?;
            let merged = match (current.clone(), change) {
                (None, None) => continue,
                (Some(current), None) => current,
                (None, Some(change)) => change.into_iter().filter_map(cleaned).collect(),
                (Some(current), Some(change)) => self.list(current, change, list_type, semantics)?,
            };
            let (order, before) = (Places::of(order, key), current.unwrap_or_default());
            let (ours, rest) = split(merged, &order)?;
            original.insert(field.to_owned(), Value::Array(in_order(ours, rest, &order, &Places::of(&before, key))));
            done.insert(field);
        }
        patch.retain(|key, _| !done.contains(key.as_str()));
        Ok(())
    }

    fn name(&self, typ: Type) -> String {
        let element = match typ {
            Type::List(at) => self.table.element(at),
            other => other,
        };
        match element {
            Type::Object(at) => self.table.definition(at).short().to_owned(),
            _ => String::new(),
        }
    }
}

#[derive(PartialEq)]
enum Elements {
    Scalars,
    Maps,
}

/// What both lists hold; they must hold the same.
fn elements(original: &[Value], patch: &[Value]) -> Result<Elements, Refusal> {
    let mut all = original.iter().chain(patch);
    let Some(first) = all.next() else { return Ok(Elements::Scalars) };
    if original.iter().chain(patch).any(Value::is_array) {
        return Err(Refusal::ListOfLists);
    }
    match all.find(|other| errors::kind(other) != errors::kind(first)) {
        Some(_) => Err(Refusal::Mixed(shown(original), shown(patch))),
        None if first.is_object() => Ok(Elements::Maps),
        None => Ok(Elements::Scalars),
    }
}

/// Carries out `$patch` on elements: what they delete leaves `original`, and after a `replace` nothing of it is left.
fn directives(mut original: List, patch: List, key: &str) -> Result<(List, List), Refusal> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut gone: HashSet<Value> = HashSet::new();
    let mut replace = false;
    for item in patch {
        let map = item.as_object().ok_or_else(|| not_a_map(&item))?;
        match map.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("delete") => {
                gone.insert(map.get(key).ok_or_else(|| no_key(map, key))?.clone());
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Refusal::MergeOfList),
            Some(other) => return Err(Refusal::PatchType(other.to_owned(), errors::go(&item))),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|item| item.get(key).is_none_or(|id| !gone.contains(id)));
    }
    Ok((original, plain))
}

/// The elements of the patch must come in the order that `$setElementOrder` says.
fn agrees(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Refusal> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        let wanted = identity(item, key)?;
        loop {
            let next = rest.next().ok_or_else(|| mismatch(patch, order))?;
            if identity(next, key)? == wanted {
                break;
            }
        }
    }
    Ok(())
}

fn mismatch(patch: &[Value], order: &[Value]) -> Refusal {
    Refusal::OrderMismatch(shown(patch), shown(order))
}

fn shown(list: &[Value]) -> String {
    errors::go_list(list)
}

/// Elements that `by` has too, and the others.
fn split(list: List, by: &Places<'_>) -> Result<(List, List), Refusal> {
    let mut ours = Vec::new();
    let mut rest = Vec::new();
    for item in list {
        if by.of_item(&item)?.is_some() { ours.push(item) } else { rest.push(item) }
    }
    Ok((ours, rest))
}

/// `ours` by `order`, `rest` by `before`, and both woven together by `before`.
fn in_order(mut ours: List, mut rest: List, order: &Places<'_>, before: &Places<'_>) -> List {
    let place = |places: &Places<'_>, item: &Value| places.of_item(item).ok().flatten();
    ours.sort_by_cached_key(|item| place(order, item).unwrap_or(usize::MAX));
    rest.sort_by_cached_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + rest.len());
    let mut rest = rest.into_iter().map(|item| (place(before, &item), item)).peekable();
    for item in ours {
        let at = place(before, &item);
        while let Some((_, first)) = rest.next_if(|(other, _)| other.zip(at).is_some_and(|(other, at)| other < at)) {
            out.push(first);
        }
        out.push(item);
    }
    out.extend(rest.map(|(_, item)| item));
    out
}

/// All of both, each once.
fn union(original: &[Value], patch: &[Value]) -> List {
    let mut seen = HashSet::with_capacity(original.len() + patch.len());
    original.iter().chain(patch).filter(|item| seen.insert(*item)).cloned().collect()
}

fn taken(value: Option<&Value>) -> Result<Option<List>, Refusal> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.clone())),
        Some(other) => Err(Refusal::Type("[]interface {}", errors::kind(other))),
    }
}
