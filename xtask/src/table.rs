//! Definitions -> lines of text that the server reads at first use: names, fields and types, no descriptions.
//!
//! A definition is a line `=name` (`=name atomic` where it is owned as a whole); then one line per field:
//! `name type [list-type[:key,key] [patch-strategy[:merge-key]]]`, `-` where one is left out.
//! `~` before the type: a zero or empty value stands for an absent one (`omitempty`, and no pointer).
//! Types: `s` string, `b` boolean, `i` int32, `l` int64, `d` double, `y` base64 bytes, `t` time, `u` time with microseconds, `q` quantity,
//! `o` int or string, `x` any JSON, `@name` another definition, `[T` a list, `{T` a map.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

pub fn render(definitions: &BTreeMap<String, Value>, wire: &str) -> String {
    let zeros = Zeros::of(wire);
    let mut out = String::new();
    for (name, definition) in definitions.iter().filter(|(name, _)| leaf(name).is_none()) {
        let atomic = if definition["x-kubernetes-map-type"] == "atomic" { " atomic" } else { "" };
        writeln!(out, "={name}{atomic}").expect("writing to memory");
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            let typ = typ(name, field, property);
            // Objects and types with a form of their own are never left out.
            let zero = typ.starts_with(['s', 'b', 'i', 'l', 'd', 'y', '[', '{']) && zeros.has(name, field);
            writeln!(out, "{field} {}{typ}{}", if zero { "~" } else { "" }, semantics(property)).expect("writing to memory");
        }
    }
    out
}

/// Fields of the wire table (`wire.rs`) that are marked with `z`, and inlined messages.
struct Zeros<'t> {
    messages: BTreeMap<&'t str, Vec<&'t str>>,
}

impl<'t> Zeros<'t> {
    fn of(wire: &'t str) -> Self {
        let mut messages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut current = "";
        for line in wire.lines() {
            match line.strip_prefix('=') {
                Some(name) => current = name,
                None => messages.entry(current).or_default().push(line),
            }
        }
        Self { messages }
    }

    fn has(&self, message: &str, field: &str) -> bool {
        self.messages.get(message).into_iter().flatten().any(|line| {
            let mut words = line.split(' ');
            match words.next().map(|word| (word, word.strip_prefix('*'))) {
                Some((_, Some(inner))) => self.has(inner, field),
                Some((name, None)) => name == field && words.nth(1).is_some_and(|marks| marks.contains('z')),
                None => false,
            }
        })
    }
}

/// Types with a JSON form of their own.
fn leaf(name: &str) -> Option<&'static str> {
    let short = name.rsplit('.').next().unwrap_or(name);
    Some(match short {
        "Quantity" => "q",
        "IntOrString" => "o",
        "Time" if name.starts_with(META) => "t",
        "MicroTime" if name.starts_with(META) => "u",
        "FieldsV1" | "RawExtension" | "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => "x",
        _ => return None,
    })
}

fn typ(owner: &str, field: &str, property: &Value) -> String {
    if let Some(to) = property["$ref"].as_str() {
        let name = to.trim_start_matches("#/definitions/");
        return leaf(name).map_or_else(|| format!("@{name}"), str::to_owned);
    }
    match (property["type"].as_str(), property["format"].as_str()) {
        (Some("string"), Some("byte")) => "y".into(),
        (Some("string"), Some("date-time")) => "t".into(),
        (Some("string"), _) => "s".into(),
        (Some("boolean"), _) => "b".into(),
        (Some("integer"), Some("int32")) => "i".into(),
        (Some("integer"), _) => "l".into(),
        (Some("number"), _) => "d".into(),
        (Some("array"), _) => format!("[{}", typ(owner, field, &property["items"])),
        (Some("object"), _) if property["additionalProperties"].is_object() => {
            format!("{{{}", typ(owner, field, &property["additionalProperties"]))
        }
        (Some("object") | None, _) => "x".into(),
        other => panic!("{owner}.{field}: no such type: {other:?}"),
    }
}

fn semantics(property: &Value) -> String {
    let list = property["x-kubernetes-list-type"].as_str().filter(|t| *t != "atomic");
    let list = list.map_or("-".into(), |t| match property["x-kubernetes-list-map-keys"].as_array() {
        Some(keys) => format!("{t}:{}", keys.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        None => t.into(),
    });
    let map = property["x-kubernetes-map-type"].as_str().map_or(list, |t| format!("{t}-map"));
    let strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or("-");
    let patch = match property["x-kubernetes-patch-merge-key"].as_str() {
        Some(key) => format!("{strategy}:{key}"),
        None => strategy.into(),
    };
    match (map.as_str(), patch.as_str()) {
        ("-", "-") => String::new(),
        (list, "-") => format!(" {list}"),
        (list, patch) => format!(" {list} {patch}"),
    }
}
