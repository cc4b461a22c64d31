//! A function's name and its arguments -> its value. Sources: cel-spec `doc/langdef.md`, cel-go `stdlib`, apiserver `pkg/cel/library`.

use std::{cmp::Ordering, rc::Rc};

use super::{
    authorization,
    compare::{equal, order},
    strings,
    value::{Evaluated, Failure, Meter, Text, V},
    weight::weight,
    words,
};

/// Names that stand before a dot without being values.
pub fn is_space(name: &str) -> bool {
    matches!(name, "optional" | "sets" | "strings" | "lists" | "format" | "ip" | "cidr" | "math" | "base64" | "jsonpatch")
}

pub fn type_of_name(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 10] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    TYPES.into_iter().find(|typ| *typ == name)
}

/// Arguments of a method begin with its target.
pub fn call<'v>(run: &mut Meter, name: &str, arguments: Vec<V<'v>>) -> Evaluated<'v> {
    let found = match name {
        "_==_" | "_!=_" => {
            let [a, b] = two(&arguments)?;
            run.spend(weight(a, run.left).min(weight(b, run.left)))?;
            Some(Ok(V::Bool(equal(a, b) == (name == "_==_"))))
        }
        "_<_" | "_<=_" | "_>_" | "_>=_" => Some(compared(run, name, &arguments)),
        "_+_" | "_-_" | "_*_" | "_/_" | "_%_" | "-_" => Some(arithmetic(run, name, &arguments)),
        "!_" => match arguments.as_slice() {
            [V::Bool(value)] => Some(Ok(V::Bool(!value))),
            _ => None,
        },
        "@in" => Some(contains(run, &arguments)),
        "_[_]" | "_[?_]" => Some(indexed(run, name, &arguments)),
        "size" => match arguments.first() {
            Some(value) => size(run, value)?.map(Ok),
            None => None,
        },
        "type" => arguments.first().map(|value| Ok(V::Type(value.type_name()))),
        "dyn" => arguments.first().cloned().map(Ok),
        "int" | "uint" | "double" | "string" | "bytes" | "bool" | "duration" | "timestamp" => Some(converted(run, name, &arguments)),
        _ => None,
    };
    if let Some(found) = found {
        return found;
    }
    let found = match optional(name, &arguments) {
        Some(found) => Some(found),
        None => match lists(run, name, &arguments)? {
            Some(found) => Some(Ok(found)),
            None => match authorization::call(run, name, &arguments)? {
                Some(found) => Some(Ok(found)),
                None => strings::call(run, name, &arguments)?.or(words::call(run, name, &arguments)?).map(Ok),
            },
        },
    };
    found.unwrap_or_else(Failure::no_overload)
}

fn two<'a, 'v>(arguments: &'a [V<'v>]) -> Result<[&'a V<'v>; 2], Failure> {
    match arguments {
        [a, b] => Ok([a, b]),
        _ => Failure::no_overload(),
    }
}

fn compared<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Evaluated<'v> {
    let [a, b] = two(arguments)?;
    run.spend(weight(a, run.left).min(weight(b, run.left)))?;
    let is_nan = |value: &V<'_>| matches!(value, V::Double(value) if value.is_nan());
    let Some(order) = order(a, b) else {
        return if is_nan(a) || is_nan(b) { Ok(V::Bool(false)) } else { Failure::no_overload() };
    };
    Ok(V::Bool(match name {
        "_<_" => order == Ordering::Less,
        "_<=_" => order != Ordering::Greater,
        "_>_" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

fn arithmetic<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Evaluated<'v> {
    let overflow = |found: Option<V<'v>>, typ: &str| found.ok_or_else(|| Failure::Error(format!("{typ} overflow")));
    let zero = if name == "_%_" { "modulus by zero" } else { "division by zero" };
    match (name, arguments) {
        ("-_", [V::Int(a)]) => overflow(a.checked_neg().map(V::Int), "integer"),
        ("-_", [V::Double(a)]) => Ok(V::Double(-a)),
        ("_/_" | "_%_", [V::Int(_), V::Int(0)] | [V::Uint(_), V::Uint(0)]) => Failure::of(zero),
        (_, [V::Int(a), V::Int(b)]) => overflow(whole(name, *a, *b, INTS).map(V::Int), "integer"),
        (_, [V::Uint(a), V::Uint(b)]) => overflow(whole(name, *a, *b, UINTS).map(V::Uint), "unsigned integer"),
        ("_+_", [V::Double(a), V::Double(b)]) => Ok(V::Double(a + b)),
        ("_-_", [V::Double(a), V::Double(b)]) => Ok(V::Double(a - b)),
        ("_*_", [V::Double(a), V::Double(b)]) => Ok(V::Double(a * b)),
        ("_/_", [V::Double(a), V::Double(b)]) => Ok(V::Double(a / b)),
        ("_+_", [V::Text(a), V::Text(b)]) => {
            run.spend((a.len() + b.len()) / 10)?;
            Ok(V::text([&**a, &**b].concat()))
        }
        ("_+_", [V::Bytes(a), V::Bytes(b)]) => {
            run.spend((a.len() + b.len()) / 10)?;
            Ok(V::Bytes([&**a, &**b].concat().into()))
        }
        ("_+_", [a, b]) if a.is_list() && b.is_list() => {
            run.spend(a.length().unwrap_or(0) + b.length().unwrap_or(0))?;
            Ok(V::list(a.elements().chain(b.elements()).collect()))
        }
        ("_+_", [V::Duration(a), V::Duration(b)]) => overflow(a.checked_add(*b).map(V::Duration), "duration"),
        ("_-_", [V::Duration(a), V::Duration(b)]) => overflow(a.checked_sub(*b).map(V::Duration), "duration"),
        ("_+_", [V::Timestamp(at), V::Duration(span)] | [V::Duration(span), V::Timestamp(at)]) => {
            overflow(at.checked_add(jiff::SignedDuration::from_nanos(*span)).ok().map(V::Timestamp), "timestamp")
        }
        ("_-_", [V::Timestamp(at), V::Duration(span)]) => {
            overflow(at.checked_sub(jiff::SignedDuration::from_nanos(*span)).ok().map(V::Timestamp), "timestamp")
        }
        ("_-_", [V::Timestamp(a), V::Timestamp(b)]) => {
            overflow(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok().map(V::Duration), "duration")
        }
        _ => Failure::no_overload(),
    }
}

/// `+ - * / %` of whole numbers; `None` beyond what the type holds.
type Whole<N> = [fn(N, N) -> Option<N>; 5];

const INTS: Whole<i64> = [i64::checked_add, i64::checked_sub, i64::checked_mul, i64::checked_div, i64::checked_rem];
const UINTS: Whole<u64> = [u64::checked_add, u64::checked_sub, u64::checked_mul, u64::checked_div, u64::checked_rem];

fn whole<N>(name: &str, a: N, b: N, [add, subtract, multiply, divide, rest]: Whole<N>) -> Option<N> {
    let operation = match name {
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        _ => rest,
    };
    operation(a, b)
}

fn contains<'v>(run: &mut Meter, arguments: &[V<'v>]) -> Evaluated<'v> {
    let [value, held] = two(arguments)?;
    match held {
        V::Map(_) | V::Fields(..) => Ok(V::Bool(run.entry(held, value)?.is_some())),
        _ if held.is_list() => {
            let each = weight(value, run.left);
            for element in held.elements() {
                run.spend(each)?;
                if equal(&element, value) {
                    return Ok(V::Bool(true));
                }
            }
            Ok(V::Bool(false))
        }
        _ => Failure::no_overload(),
    }
}

fn indexed<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Evaluated<'v> {
    let [held, key] = two(arguments)?;
    let (inner, is_optional) = match held {
        V::Optional(None) => return Ok(V::Optional(None)),
        V::Optional(Some(value)) => ((**value).clone(), true),
        other => (other.clone(), name == "_[?_]"),
    };
    let found = match &inner {
        list if list.is_list() => {
            let at = match key {
                V::Int(at) => usize::try_from(*at).ok(),
                V::Uint(at) => usize::try_from(*at).ok(),
                V::Double(at) if at.fract() == 0.0 && *at >= 0.0 && *at < 1e15 => Some(*at as usize),
                V::Double(_) => None,
                _ => return Failure::no_overload(),
            };
            at.and_then(|at| list.element(at)).ok_or_else(|| format!("index out of bounds: {}", strings::shown(key)))
        }
        V::Map(_) | V::Fields(..) if key.is_key() => run.entry(&inner, key)?.ok_or_else(|| format!("no such key: {}", strings::shown(key))),
        _ => return Failure::no_overload(),
    };
    match found {
        Ok(value) if is_optional => Ok(V::some(value)),
        Ok(value) => Ok(value),
        Err(_) if is_optional => Ok(V::Optional(None)),
        Err(why) => Failure::of(why),
    }
}

fn size<'v>(run: &mut Meter, value: &V<'v>) -> Result<Option<V<'v>>, Failure> {
    let length = match value {
        V::Text(text) => {
            run.spend(text.len() / 10)?;
            Some(text.chars().count())
        }
        V::Bytes(bytes) => Some(bytes.len()),
        other => other.length(),
    };
    Ok(length.map(|length| V::Int(length as i64)))
}

fn converted<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Evaluated<'v> {
    let [value] = arguments else { return Failure::no_overload() };
    run.spend(weight(value, run.left))?;
    let error = |why: &str| Failure::of::<V<'v>>(why.to_owned());
    match (name, value) {
        ("int", V::Int(_)) | ("uint", V::Uint(_)) | ("double", V::Double(_)) | ("string", V::Text(_)) | ("bytes", V::Bytes(_)) => {
            Ok(value.clone())
        }
        ("bool", V::Bool(_)) | ("duration", V::Duration(_)) | ("timestamp", V::Timestamp(_)) => Ok(value.clone()),
        ("int", V::Uint(value)) => i64::try_from(*value).map_or_else(|_| error("integer overflow"), |value| Ok(V::Int(value))),
        ("int", V::Double(value)) if value.abs() < 9.2e18 => Ok(V::Int(*value as i64)),
        ("int", V::Double(_)) => error("integer overflow"),
        ("int", V::Text(text)) => text.parse().map_or_else(|_| unlike(name), |value| Ok(V::Int(value))),
        ("int", V::Timestamp(at)) => Ok(V::Int(at.as_second())),
        ("int", V::Duration(span)) => Ok(V::Int(*span)),
        ("uint", V::Int(value)) => u64::try_from(*value).map_or_else(|_| error("unsigned integer overflow"), |value| Ok(V::Uint(value))),
        ("uint", V::Double(value)) if (0.0..1.8e19).contains(value) => Ok(V::Uint(*value as u64)),
        ("uint", V::Double(_)) => error("unsigned integer overflow"),
        ("uint", V::Text(text)) => text.parse().map_or_else(|_| unlike(name), |value| Ok(V::Uint(value))),
        ("double", V::Int(value)) => Ok(V::Double(*value as f64)),
        ("double", V::Uint(value)) => Ok(V::Double(*value as f64)),
        ("double", V::Text(text)) => text.parse().map_or_else(|_| unlike(name), |value| Ok(V::Double(value))),
        ("bool", V::Text(text)) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(V::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(V::Bool(false)),
            _ => unlike(name),
        },
        ("bytes", V::Text(text)) => Ok(V::Bytes(text.as_bytes().into())),
        ("string", V::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(V::text(text)),
            Err(_) => error("invalid UTF-8 in bytes, cannot convert to string"),
        },
        (
            "string",
            V::Int(_)
            | V::Uint(_)
            | V::Double(_)
            | V::Bool(_)
            | V::Timestamp(_)
            | V::Duration(_)
            | V::Ip(_)
            | V::Cidr(..)
            | V::Quantity(_)
            | V::Semver(_),
        ) => Ok(V::text(strings::shown(value))),
        ("duration", V::Text(text)) => match crate::schema::formats::go_duration(text) {
            Some(nanos) => Ok(V::Duration(nanos)),
            None => unlike("google.protobuf.Duration"),
        },
        ("timestamp", V::Text(text)) => match api::time::parse(text) {
            Some(at) => Ok(V::Timestamp(at)),
            None => unlike("google.protobuf.Timestamp"),
        },
        ("timestamp", V::Int(seconds)) => match api::time::Timestamp::from_second(*seconds) {
            Ok(at) => Ok(V::Timestamp(at)),
            Err(_) => error("timestamp overflow"),
        },
        _ => Failure::no_overload(),
    }
}

/// A text that is no value of the type (cel-go `common/types/string.go`).
fn unlike<'v>(typ: &str) -> Evaluated<'v> {
    Failure::of(format!("type conversion error from 'string' to '{typ}'"))
}

fn optional<'v>(name: &str, arguments: &[V<'v>]) -> Option<Evaluated<'v>> {
    let is_zero = |value: &V<'_>| match value {
        V::Null => true,
        V::Bool(value) => !value,
        V::Int(value) => *value == 0,
        V::Uint(value) => *value == 0,
        V::Double(value) => *value == 0.0,
        V::Text(text) => text.is_empty(),
        V::Bytes(bytes) => bytes.is_empty(),
        V::Duration(value) => *value == 0,
        other => other.length() == Some(0),
    };
    Some(Ok(match (name, arguments) {
        ("optional.of", [value]) => V::some(value.clone()),
        ("optional.none", []) => V::Optional(None),
        ("optional.ofNonZeroValue", [value]) => {
            if is_zero(value) {
                V::Optional(None)
            } else {
                V::some(value.clone())
            }
        }
        ("hasValue", [V::Optional(value)]) => V::Bool(value.is_some()),
        ("value", [V::Optional(Some(value))]) => (**value).clone(),
        ("value", [V::Optional(None)]) => return Some(Failure::of("optional.none() dereference")),
        ("first" | "last", [list]) if list.is_list() => {
            let at = if name == "first" { Some(0) } else { list.length().and_then(|length| length.checked_sub(1)) };
            V::Optional(at.and_then(|at| list.element(at)).map(Rc::new))
        }
        _ => return None,
    }))
}

fn lists<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Result<Option<V<'v>>, Failure> {
    if let ("lists.range", [V::Int(count)]) = (name, arguments) {
        let count = usize::try_from(*count).unwrap_or(0);
        run.spend(count)?;
        return Ok(Some(V::list((0..count).map(|at| V::Int(at as i64)).collect())));
    }
    let Some((list, rest)) = arguments.split_first().filter(|(list, _)| list.is_list()) else { return Ok(None) };
    run.spend(list.length().unwrap_or(0))?;
    Ok(match (name, rest) {
        ("isSorted" | "sum" | "min" | "max", []) => Some(summary(run, name, list)?),
        ("indexOf" | "lastIndexOf", [value]) => {
            run.spend(weight(value, run.left).saturating_mul(list.length().unwrap_or(0)))?;
            Some(position(name, list, value))
        }
        ("reverse" | "sort" | "distinct", []) => Some(V::list(arranged(run, name, list)?)),
        ("slice", [V::Int(start), V::Int(end)]) => Some(slice(list, *start, *end)?),
        ("flatten", []) => Some(V::list(flattened(run, list, 1)?)),
        ("flatten", [V::Int(depth)]) => Some(V::list(flattened(run, list, (*depth).clamp(0, 64))?)),
        ("sets.contains" | "sets.intersects" | "sets.equivalent", [other]) if other.is_list() => Some(sets(run, name, list, other)?),
        ("join", []) => Some(joined(run, list, "")?),
        ("join", [V::Text(separator)]) => Some(joined(run, list, separator)?),
        _ => None,
    })
}

/// Where a value stands in a list; -1 for nowhere.
fn position<'v>(name: &str, list: &V<'v>, value: &V<'v>) -> V<'v> {
    let all: Vec<V<'v>> = list.elements().collect();
    let is_it = |element: &V<'v>| equal(element, value);
    let found = if name == "indexOf" { all.iter().position(is_it) } else { all.iter().rposition(is_it) };
    V::Int(found.map_or(-1, |at| at as i64))
}

/// A list -> one value that tells of all its elements.
fn summary<'v>(run: &mut Meter, name: &str, list: &V<'v>) -> Evaluated<'v> {
    match name {
        "isSorted" => {
            let all: Vec<V<'v>> = list.elements().collect();
            Ok(V::Bool(all.windows(2).all(|pair| order(&pair[0], &pair[1]) != Some(Ordering::Greater))))
        }
        "sum" => {
            let mut total: Option<V<'v>> = None;
            for element in list.elements() {
                total = Some(match total {
                    None => element,
                    Some(total) => arithmetic(run, "_+_", &[total, element])?,
                });
            }
            Ok(total.unwrap_or(V::Int(0)))
        }
        _ => {
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let best = list.elements().reduce(|best, element| if order(&element, &best) == Some(wanted) { element } else { best });
            best.map_or_else(|| Failure::of(format!("{name} called on empty list")), Ok)
        }
    }
}

/// A list -> its elements in another order, or each of them once.
fn arranged<'v>(run: &mut Meter, name: &str, list: &V<'v>) -> Result<Vec<V<'v>>, Failure> {
    let mut all: Vec<V<'v>> = list.elements().collect();
    match name {
        "reverse" => all.reverse(),
        "sort" => all.sort_by(|a, b| order(a, b).unwrap_or(Ordering::Equal)),
        _ => {
            let mut out: Vec<V<'v>> = Vec::new();
            for element in all {
                run.spend(out.len().saturating_mul(weight(&element, run.left)))?;
                if !out.iter().any(|other| equal(other, &element)) {
                    out.push(element);
                }
            }
            return Ok(out);
        }
    }
    Ok(all)
}

fn slice<'v>(list: &V<'v>, start: i64, end: i64) -> Evaluated<'v> {
    let length = list.length().unwrap_or(0) as i64;
    if start < 0 || start > end || end > length {
        return Failure::of(format!("cannot slice({start}, {end}), list is length {length}"));
    }
    Ok(V::list((start..end).filter_map(|at| list.element(at as usize)).collect()))
}

fn sets<'v>(run: &mut Meter, name: &str, list: &V<'v>, other: &V<'v>) -> Evaluated<'v> {
    let (a, b): (Vec<V<'v>>, Vec<V<'v>>) = (list.elements().collect(), other.elements().collect());
    let each = |all: &[V<'v>], left: u64| all.iter().map(|one| weight(one, left)).fold(0, usize::saturating_add);
    run.spend(each(&a, run.left).min(each(&b, run.left)).saturating_mul(a.len().max(b.len())))?;
    let has = |all: &[V<'v>], one: &V<'v>| all.iter().any(|other| equal(other, one));
    Ok(V::Bool(match name {
        "sets.contains" => b.iter().all(|one| has(&a, one)),
        "sets.intersects" => b.iter().any(|one| has(&a, one)),
        _ => b.iter().all(|one| has(&a, one)) && a.iter().all(|one| has(&b, one)),
    }))
}

fn flattened<'v>(run: &mut Meter, list: &V<'v>, depth: i64) -> Result<Vec<V<'v>>, Failure> {
    let mut out = Vec::new();
    for element in list.elements() {
        run.spend(1)?;
        if element.is_list() && depth > 0 {
            out.extend(flattened(run, &element, depth - 1)?);
        } else {
            out.push(element);
        }
    }
    Ok(out)
}

fn joined<'v>(run: &mut Meter, list: &V<'v>, separator: &str) -> Evaluated<'v> {
    let mut out = String::new();
    for (at, element) in list.elements().enumerate() {
        let V::Text(text) = element else { return Failure::no_overload() };
        run.spend((text.len() + separator.len()) / 10)?;
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(&text);
    }
    Ok(V::Text(Text::Shared(out.into())))
}
