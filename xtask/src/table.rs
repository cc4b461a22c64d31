//! Definitions -> lines of text that the server reads at first use: names, fields and types, no descriptions.
//!
//! A definition is a line `=name` (`=name atomic` where it is owned as a whole); then one line per field:
//! `name type [list-type[:key[=default],key] [patch-strategy[:merge-key]]]`, `-` where one is left out.
//! `~` before the type: a zero or empty value stands for an absent one (`omitempty`, and no pointer).
//! `!` before the type: always there (an object or a time that is no pointer; a list's key, which is zero where it is left out).
//! Types: `s` string, `b` boolean, `i` int32, `l` int64, `d` double, `y` base64 bytes, `t` time, `u` time with microseconds, `q` quantity,
//! `o` int or string, `x` any JSON, `@name` another definition, `[T` a list, `{T` a map.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde_json::Value;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Objects of these names are no pointers (`default: {}` in client-go `applyconfigurations/internal/internal.go`).
const ALWAYS: &[&str] = &[
    "acceptedNames",
    "backend",
    "clientConfig",
    "conditions",
    "current",
    "daemonEndpoints",
    "deprecatedSource",
    "describedObject",
    "devices",
    "involvedObject",
    "jobTemplate",
    "kubeletEndpoint",
    "lastState",
    "limitResponse",
    "loadBalancer",
    "metadata",
    "metric",
    "names",
    "nodeInfo",
    "podAffinityTerm",
    "podSelector",
    "pool",
    "port",
    "preference",
    "priorityLevelConfiguration",
    "regarding",
    "resource",
    "resources",
    "roleRef",
    "scaleTargetRef",
    "schedulingPolicy",
    "source",
    "spec",
    "state",
    "status",
    "strategy",
    "taint",
    "target",
    "template",
    "updateStrategy",
];
/// RawExtensions that are none either, and owned as a whole (`__untyped_atomic_` there).
const RAW: &[(&str, &str)] = &[("io.k8s.api.apps.v1.ControllerRevision", "data")];
/// But these are.
const POINTERS: &[(&str, &str)] = &[
    ("io.k8s.api.autoscaling.v2.MetricSpec", "resource"),
    ("io.k8s.api.autoscaling.v2.MetricStatus", "resource"),
    ("io.k8s.api.core.v1.ContainerStatus", "resources"),
    ("io.k8s.api.core.v1.PodSpec", "resources"),
    ("io.k8s.api.core.v1.PodStatus", "resources"),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", "template"),
    ("io.k8s.api.networking.v1.IngressBackend", "resource"),
    ("io.k8s.api.networking.v1.NetworkPolicyPeer", "podSelector"),
    ("io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequest", "status"),
];
/// Pointers that are keys of lists, and have no zero value.
const POINTER_KEYS: &[&str] = &["shareID"];
/// Defaults of keys of lists: definition, field, default.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.LocalObjectReference", "name", ""),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

pub fn render(definitions: &BTreeMap<String, Value>, wire: &str) -> String {
    let (zeros, keys) = (Zeros::of(wire), keys(definitions));
    let mut out = String::new();
    for (name, definition) in definitions.iter().filter(|(name, definition)| leaf(name).is_none() && !is_apart(name, definition)) {
        let atomic = if definition["x-kubernetes-map-type"] == "atomic" { " atomic" } else { "" };
        writeln!(out, "={name}{atomic}").expect("writing to memory");
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            let typ = typ(name, field, property);
            // Objects and types with a form of their own are never left out.
            let zero = typ.starts_with(['s', 'b', 'i', 'l', 'd', 'y', '[', '{']) && zeros.has(name, field);
            let is_object = typ.starts_with('@') && ALWAYS.contains(&field.as_str()) && !POINTERS.contains(&(name.as_str(), field.as_str()))
                || RAW.contains(&(name.as_str(), field.as_str()));
            let is_key = typ.starts_with(['s', 'i', 'l']) && !zero && keys.contains(&(name.as_str(), field.as_str())) && !POINTER_KEYS.contains(&field.as_str());
            let semantics = if RAW.contains(&(name.as_str(), field.as_str())) { " atomic-map".into() } else { semantics(property) };
            let is_time = matches!(typ.as_str(), "t" | "u") && zeros.marks(name, field).is_some_and(|marks| !marks.contains(['p', 'o']));
            let mark = if zero { "~" } else if is_object || is_key || is_time { "!" } else { "" };
            writeln!(out, "{field} {mark}{typ}{}", semantics).expect("writing to memory");
        }
    }
    out
}

/// Lists of kinds and frames of watches are never read.
fn is_apart(name: &str, definition: &Value) -> bool {
    let has_list_meta = definition["properties"]["metadata"]["$ref"] == format!("#/definitions/{META}ListMeta");
    has_list_meta && definition["properties"]["items"].is_object() || name == format!("{META}WatchEvent")
}

/// Definitions and those of their fields that are keys of lists.
fn keys(definitions: &BTreeMap<String, Value>) -> BTreeSet<(&str, &str)> {
    let fields = definitions.values().flat_map(|definition| definition["properties"].as_object().into_iter().flatten());
    let keys = fields.flat_map(|(_, field)| {
        let item = item(field);
        let names = field["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(move |name| (item, name))
    });
    keys.collect()
}

/// The definition of a list's items.
fn item(field: &Value) -> &str {
    field["items"]["$ref"].as_str().unwrap_or_default().trim_start_matches("#/definitions/")
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
        self.marks(message, field).is_some_and(|marks| marks.contains('z'))
    }

    /// What the wire table says of a field; `None` where it has none of that name.
    fn marks(&self, message: &str, field: &str) -> Option<&'t str> {
        self.messages.get(message).into_iter().flatten().find_map(|line| {
            let mut words = line.split(' ');
            match words.next().map(|word| (word, word.strip_prefix('*'))) {
                Some((_, Some(inner))) => self.marks(inner, field),
                Some((name, None)) => (name == field).then(|| words.nth(1).unwrap_or_default()),
                None => None,
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
        Some(keys) => {
            let default = |key: &str| KEY_DEFAULTS.iter().find(|(of, name, _)| (*of, *name) == (item(property), key));
            let key = |key: &str| default(key).map_or(key.to_owned(), |(_, _, default)| format!("{key}={default}"));
            format!("{t}:{}", keys.iter().filter_map(Value::as_str).map(key).collect::<Vec<_>>().join(","))
        }
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
