//! A value in v1's words -> as upstream's internal types print it, where a refusal shows it (`encoding/json` of structs without tags: Go's names in Go's
//! order, nothing left out). The table (`internal.txt`) is written by xtask of upstream's `pkg/apis/*/types.go`.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Map, Value};

use crate::common::Read;

/// Fields that are shown at most; what is not reached is shown as it was sent. A pod of 3 MiB has millions.
const SHOWN_FIELDS_MAX: usize = 1 << 17;

static TYPES: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| read(include_str!("internal.txt")));

struct Field {
    name: &'static str,
    place: Place,
    omits: bool,
    typ: Type,
}

/// Where v1 has it: under a name, in the object around, in the same object, or in one of its own.
enum Place {
    Named(&'static str),
    Outside(&'static str),
    Here,
    Within(&'static str),
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Number,
    Bool,
    Quantity,
    /// A pointer, or a list, of what prints as it stands: null where absent.
    Plain,
    Map,
    Struct(&'static str),
    /// A pointer to one.
    Maybe(&'static str),
    List(&'static str),
    MapOf(&'static str),
}

/// A struct by the name of its type: `core.PodSpec`.
pub fn shown(typ: &'static str, value: Option<&Value>) -> Value {
    Printer { left: SHOWN_FIELDS_MAX }.object(typ, value, None)
}

/// A pointer to one.
pub fn shown_or_null(typ: &'static str, value: Option<&Value>) -> Value {
    value.map_or(Value::Null, |value| shown(typ, Some(value)))
}

/// A list of them.
pub fn shown_each(typ: &'static str, list: &[Value]) -> Value {
    let mut printer = Printer { left: SHOWN_FIELDS_MAX };
    list.iter().map(|item| printer.object(typ, Some(item), None)).collect()
}

struct Printer {
    left: usize,
}

impl Printer {
    fn object(&mut self, typ: &str, value: Option<&Value>, around: Option<&Value>) -> Value {
        if let Some(value) = value.filter(|_| self.left == 0) {
            return value.clone();
        }
        let mut out = Map::new();
        self.fill(typ, value, around, &mut out);
        Value::Object(out)
    }

    fn fill(&mut self, typ: &str, value: Option<&Value>, around: Option<&Value>, out: &mut Map<String, Value>) {
        for field in TYPES.get(typ).into_iter().flatten() {
            self.left = self.left.saturating_sub(1);
            let from = match field.place {
                Place::Named(name) => value.at(name),
                Place::Outside(name) => around.at(name),
                Place::Here => value,
                Place::Within(name) => value.at(name),
            };
            match (&field.place, field.typ) {
                (Place::Here | Place::Within(_), Type::Struct(inner)) => self.fill(inner, from, around, out),
                _ if field.omits && from.is_none_or(is_zero) => {}
                _ => drop(out.insert(field.name.to_owned(), self.value(field.typ, from, value))),
            }
        }
    }

    fn value(&mut self, typ: Type, value: Option<&Value>, around: Option<&Value>) -> Value {
        match (typ, value) {
            (_, Some(value)) if self.left == 0 => value.clone(),
            (Type::Text, None) => "".into(),
            (Type::Number, None) => 0.into(),
            (Type::Bool, None) => false.into(),
            (Type::Quantity, None) => "0".into(),
            // A pod always has one: the conversion puts into it what stands beside it in v1.
            (Type::Maybe(name @ "core.PodSecurityContext"), value) => self.object(name, value, around),
            (Type::Struct(name), value) | (Type::Maybe(name), value @ Some(_)) => self.object(name, value, around),
            (Type::List(name), Some(Value::Array(list))) => {
                list.iter().map(|item| self.value(Type::Struct(name), Some(item), around)).collect()
            }
            (Type::MapOf(name), Some(Value::Object(map))) => {
                let shown = map.iter().map(|(key, item)| (key.clone(), self.value(Type::Struct(name), Some(item), around)));
                let mut out: Map<_, _> = shown.collect();
                out.sort_keys();
                Value::Object(out)
            }
            (Type::Map, Some(map)) => {
                let mut map = map.clone();
                map.sort_all_objects();
                map
            }
            (_, None) => Value::Null,
            (_, Some(value)) => value.clone(),
        }
    }
}

/// What `omitempty` leaves out; a pointer that is there is not.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Lines of the table: see `xtask/src/internal.rs`.
fn read(text: &'static str) -> HashMap<&'static str, Vec<Field>> {
    let mut types: HashMap<&str, Vec<Field>> = HashMap::new();
    let mut current = "";
    for line in text.lines() {
        match line.strip_prefix('=') {
            Some(name) => {
                current = name;
                types.entry(name).or_default();
            }
            None => types.entry(current).or_default().extend(field(line)),
        }
    }
    types
}

fn field(line: &'static str) -> Option<Field> {
    let (name, rest) = line.split_once(' ')?;
    if let Some(within) = name.strip_prefix('+') {
        let place = if within.is_empty() { Place::Here } else { Place::Within(within) };
        return Some(Field { name: "", place, omits: false, typ: typ(rest)? });
    }
    let (place, rest) = rest.split_once(' ')?;
    let place = place.strip_prefix('^').map_or(Place::Named(place), Place::Outside);
    Some(Field { name, place, omits: rest.starts_with('~'), typ: typ(rest.trim_start_matches('~'))? })
}

fn typ(text: &'static str) -> Option<Type> {
    Some(match (text.get(..1)?, text.get(1..)?) {
        ("s", _) => Type::Text,
        ("n", _) => Type::Number,
        ("b", _) => Type::Bool,
        ("q", _) => Type::Quantity,
        ("?", _) => Type::Plain,
        ("m", _) => Type::Map,
        ("@", name) => Type::Struct(name),
        ("*", name) => Type::Maybe(name),
        ("[", name) => Type::List(name),
        ("{", name) => Type::MapOf(name),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_whole() {
        let lines = include_str!("internal.txt").lines().filter(|line| !line.starts_with('=')).count();
        assert_eq!(TYPES.values().map(Vec::len).sum::<usize>(), lines);
        for (name, field) in TYPES.iter().flat_map(|(name, fields)| fields.iter().map(move |field| (name, field))) {
            if let Type::Struct(inner) | Type::Maybe(inner) | Type::List(inner) | Type::MapOf(inner) = field.typ {
                assert!(TYPES.contains_key(inner), "{name}.{}: {inner}", field.name);
            }
        }
    }

    #[test]
    fn values_print_as_internal_types_do() {
        let cases = [
            ("rbac.RoleRef", json!({"name": "r", "kind": "Role"}), r#"{"APIGroup":"","Kind":"Role","Name":"r"}"#),
            ("core.Toleration", json!({"key": "a"}), r#"{"Key":"a","Operator":"","Value":"","Effect":"","TolerationSeconds":null}"#),
            // Inlined in both; inlined there alone.
            ("core.EnvFromSource", json!({"prefix": "p"}), r#"{"Prefix":"p","ConfigMapRef":null,"SecretRef":null}"#),
            ("core.SecretEnvSource", json!({"name": "s"}), r#"{"Name":"s","Optional":null}"#),
            // Maps have their keys in order, and types with tags leave out what is empty.
            ("core.VolumeResourceRequirements", json!({"limits": {"b": "1", "a": "2"}}), r#"{"Limits":{"a":"2","b":"1"},"Requests":null}"#),
            (
                "core.PodAffinityTerm",
                json!({"labelSelector": {"matchLabels": {}}, "topologyKey": "z"}),
                r#"{"LabelSelector":{},"Namespaces":null,"TopologyKey":"z","NamespaceSelector":null,"MatchLabelKeys":null,"MismatchLabelKeys":null}"#,
            ),
        ];
        for (typ, value, wanted) in cases {
            assert_eq!(shown(typ, Some(&value)).to_string(), wanted);
        }
        let template = shown("core.PodTemplateSpec", Some(&json!({"metadata": {"labels": {"b": "c"}}, "spec": {}})));
        assert!(template.to_string().starts_with(r#"{"labels":{"b":"c"},"Spec":{"Volumes":null,"#), "{template}");
    }

    #[test]
    fn what_stands_beside_the_security_context_is_shown_within() {
        let spec = shown("core.PodSpec", Some(&json!({"hostNetwork": true, "hostUsers": false, "containers": [{"name": "c"}]})));
        let context = &spec["SecurityContext"];
        assert_eq!((&context["HostNetwork"], &context["HostUsers"], &context["HostPID"]), (&json!(true), &json!(false), &json!(false)));
        assert_eq!(spec["Containers"][0]["SecurityContext"], Value::Null);
        let keys: Vec<&String> = spec.as_object().unwrap().keys().collect();
        assert_eq!(keys[..3], ["Volumes", "InitContainers", "Containers"]);
    }

    #[test]
    fn no_more_is_shown_than_is_let() {
        let containers: Vec<Value> = (0..100_000).map(|n| json!({"name": n.to_string()})).collect();
        let spec = shown("core.PodSpec", Some(&json!({"containers": containers})));
        let shown = spec["Containers"].as_array().unwrap();
        assert_eq!(shown.len(), 100_000);
        assert!(shown[0].get("Name").is_some() && shown[99_999].get("Image").is_none());
    }
}
