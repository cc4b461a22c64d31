//! An object and what is applied to it -> the two together. Source: structured-merge-diff `typed/merge.go`.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    Element, GoValue, Typ,
    typ::{Form, ListForm},
};

/// Puts `config` over `live`: no field goes, and those of both have `config`'s value. Lists keep `live`'s order where `config` has no other.
///
/// # Errors
/// Something of `live` that `config` is about is not of the schema (any more), so that it would go: upstream's words. What `live` is then means nothing.
pub fn merge(typ: Typ<'_>, live: &mut Value, config: &Value) -> Result<(), String> {
    over(typ, live, config).map_err(|unfit| unfit.to_string())
}

fn over(typ: Typ<'_>, live: &mut Value, config: &Value) -> Merged<()> {
    let form = typ.form(config);
    if typ.is_open() && std::mem::discriminant(&typ.form(live)) != std::mem::discriminant(&form) && !config.is_null() {
        *live = config.clone();
        return Ok(());
    }
    match form {
        Form::Map(form) if !form.is_atomic => match (&mut *live, config) {
            (Value::Object(map), Value::Object(config)) if !map.is_empty() || !config.is_empty() => {
                for (name, value) in config {
                    match map.get_mut(name) {
                        Some(live) => {
                            let typ = form.typ(name).unwrap_or(Typ::OPEN);
                            over(typ, live, value).map_err(|unfit| unfit.below(|| Element::field(name)))?;
                        }
                        None => drop(map.insert(name.clone(), value.clone())),
                    }
                }
            }
            // Nothing is said of what is there.
            (Value::Object(map), Value::Null) if !map.is_empty() => {}
            (Value::Object(_) | Value::Null, _) => *live = config.clone(),
            (other, _) => return Err(Unfit::new(format!("expected map, got &{{{}}}", GoValue(other)))),
        },
        Form::List(form) if !form.is_atomic() => match (&mut *live, config) {
            (Value::Array(list), Value::Array(config)) if !list.is_empty() && !config.is_empty() => {
                *list = lists(&form, std::mem::take(list), config)?;
            }
            (Value::Array(list), Value::Null | Value::Array(_)) if !list.is_empty() => {}
            (Value::Array(_) | Value::Null, _) => *live = config.clone(),
            (other, _) => return Err(Unfit::new(format!("expected list, got &{{{}}}", GoValue(other)))),
        },
        _ => *live = config.clone(),
    }
    Ok(())
}

type Merged<T> = Result<T, Box<Unfit>>;

/// What is wrong with what is there, and where: the way up from it.
struct Unfit {
    way: Vec<Element>,
    why: String,
}

impl Unfit {
    fn new(why: String) -> Box<Self> {
        Box::new(Self { way: Vec::new(), why })
    }

    fn below(mut self: Box<Self>, element: impl FnOnce() -> Element) -> Box<Self> {
        self.way.push(element());
        self
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.way.iter().rev().try_for_each(|element| write!(f, "{element}"))?;
        f.write_str(if self.way.is_empty() { "" } else { ": " })?;
        f.write_str(&self.why)
    }
}

/// An item on its way into the merged list.
struct Item {
    element: Element,
    value: Value,
}

/// The items of `config` in its order, and between them those that only `live` has, where they stood.
fn lists(form: &ListForm<'_>, live: Vec<Value>, config: &[Value]) -> Merged<Vec<Value>> {
    // What is applied was validated.
    let wanted: Vec<(Element, &Value)> = config.iter().filter_map(|item| Some((form.element(item).ok()?, item))).collect();
    let by_element: BTreeMap<&Element, &Value> = wanted.iter().map(|(element, item)| (element, *item)).collect();
    let live: Vec<Item> = items(form, live)?;
    // Who is there several times is not merged with, but replaced.
    let mut there: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for Item { element, value } in &live {
        there.entry(element).and_modify(|value| *value = None).or_insert(Some(value));
    }
    let merged = |element: &Element, value: &Value| -> Merged<Value> {
        match there.get(element) {
            Some(Some(live)) => {
                let mut out = (*live).clone();
                over(form.element, &mut out, value).map_err(|unfit| unfit.below(|| element.clone()))?;
                Ok(out)
            }
            _ => Ok(value.clone()),
        }
    };
    let mut shared = wanted.iter().map(|(element, _)| element).filter(|element| there.contains_key(element));
    let mut next = shared.next();
    let mut is_done: BTreeMap<&Element, ()> = BTreeMap::new();
    let mut out = Vec::with_capacity(live.len().max(wanted.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < wanted.len() {
        if let (Some(item), Some((element, value))) = (live.get(l), wanted.get(r)) {
            if item.element == *element {
                is_done.insert(element, ());
                out.push(merged(element, value)?);
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            // One of both, but not the one whose turn it is.
            if by_element.contains_key(&item.element) && next.is_some_and(|next| *next != item.element) {
                l += 1;
                continue;
            }
        }
        if let Some(item) = live.get(l) {
            if !by_element.contains_key(&item.element) {
                out.push(item.value.clone());
                l += 1;
                continue;
            }
            if is_done.contains_key(&item.element) {
                l += 1;
            }
        }
        if let Some((element, value)) = wanted.get(r) {
            is_done.insert(element, ());
            out.push(merged(element, value)?);
            r += 1;
            if next == Some(element) {
                next = shared.next();
            }
        }
    }
    Ok(out)
}

/// Each with what tells it apart: in a list that was none of a kind before, some may have nothing.
fn items(form: &ListForm<'_>, live: Vec<Value>) -> Merged<Vec<Item>> {
    let one = |(at, value)| match form.element(&value) {
        Ok(element) => Ok(Item { element, value }),
        Err(why) => Err(Unfit::new(format!("element {at}: {why}"))),
    };
    live.into_iter().enumerate().map(one).collect()
}
