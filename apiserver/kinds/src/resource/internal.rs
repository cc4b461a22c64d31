//! A value in v1's words -> as upstream's internal types print it, where a refusal shows it. Source: `pkg/apis/resource/types.go`.

use serde_json::{Map, Value};

use crate::common::Read;

/// A type of upstream's: its fields in order, as (name there, name in v1, type).
type Fields = &'static [(&'static str, &'static str, Type)];

#[derive(Clone, Copy)]
enum Type {
    Text,
    Number,
    /// A pointer, a map or a list of what prints as it stands: null where absent.
    Plain,
    /// JSON that is passed on.
    Raw,
    Struct(Fields),
    /// A pointer to one.
    Maybe(Fields),
    List(Fields),
}
use Type::{List, Maybe, Number, Plain, Raw, Struct, Text};

const CLAIM_SPEC: Fields = &[("Devices", "devices", Struct(DEVICES))];
const TEMPLATE_SPEC: Fields = &[("Spec", "spec", Struct(CLAIM_SPEC))];
const DEVICES: Fields =
    &[("Requests", "requests", List(REQUEST)), ("Constraints", "constraints", List(CONSTRAINT)), ("Config", "config", List(CONFIG))];
const REQUEST: Fields =
    &[("Name", "name", Text), ("Exactly", "exactly", Maybe(EXACTLY)), ("FirstAvailable", "firstAvailable", List(ALTERNATIVE))];
const EXACTLY: Fields = &[
    ("DeviceClassName", "deviceClassName", Text),
    ("Selectors", "selectors", List(SELECTOR)),
    ("AllocationMode", "allocationMode", Text),
    ("Count", "count", Number),
    ("AdminAccess", "adminAccess", Plain),
    ("Tolerations", "tolerations", List(TOLERATION)),
    ("Capacity", "capacity", Maybe(CAPACITY)),
];
const ALTERNATIVE: Fields = &[
    ("Name", "name", Text),
    ("DeviceClassName", "deviceClassName", Text),
    ("Selectors", "selectors", List(SELECTOR)),
    ("AllocationMode", "allocationMode", Text),
    ("Count", "count", Number),
    ("Tolerations", "tolerations", List(TOLERATION)),
    ("Capacity", "capacity", Maybe(CAPACITY)),
];
const SELECTOR: Fields = &[("CEL", "cel", Maybe(&[("Expression", "expression", Text)]))];
const TOLERATION: Fields = &[
    ("Key", "key", Text),
    ("Operator", "operator", Text),
    ("Value", "value", Text),
    ("Effect", "effect", Text),
    ("TolerationSeconds", "tolerationSeconds", Plain),
];
const CAPACITY: Fields = &[("Requests", "requests", Plain)];
const CONSTRAINT: Fields =
    &[("Requests", "requests", Plain), ("MatchAttribute", "matchAttribute", Plain), ("DistinctAttribute", "distinctAttribute", Plain)];
const CONFIG: Fields = &[("Requests", "requests", Plain), ("Opaque", "opaque", Maybe(OPAQUE))];
const OPAQUE: Fields = &[("Driver", "driver", Text), ("Parameters", "parameters", Raw)];
const ALLOCATION: Fields = &[
    ("Devices", "devices", Struct(&[("Results", "results", List(RESULT)), ("Config", "config", List(ALLOCATED_CONFIG))])),
    ("NodeSelector", "nodeSelector", Maybe(&[("NodeSelectorTerms", "nodeSelectorTerms", List(NODE_TERM))])),
    ("AllocationTimestamp", "allocationTimestamp", Plain),
];
const RESULT: Fields = &[
    ("Request", "request", Text),
    ("Driver", "driver", Text),
    ("Pool", "pool", Text),
    ("Device", "device", Text),
    ("AdminAccess", "adminAccess", Plain),
    ("Tolerations", "tolerations", List(TOLERATION)),
    ("BindingConditions", "bindingConditions", Plain),
    ("BindingFailureConditions", "bindingFailureConditions", Plain),
    ("ShareID", "shareID", Plain),
    ("ConsumedCapacity", "consumedCapacity", Plain),
];
const ALLOCATED_CONFIG: Fields = &[("Source", "source", Text), ("Requests", "requests", Plain), ("Opaque", "opaque", Maybe(OPAQUE))];
const NODE_TERM: Fields = &[("MatchExpressions", "matchExpressions", List(REQUIREMENT)), ("MatchFields", "matchFields", List(REQUIREMENT))];
const REQUIREMENT: Fields = &[("Key", "key", Text), ("Operator", "operator", Text), ("Values", "values", Plain)];
const ATTRIBUTE: Fields = &[
    ("IntValue", "int", Plain),
    ("BoolValue", "bool", Plain),
    ("StringValue", "string", Plain),
    ("VersionValue", "version", Plain),
    ("IntValues", "ints", Plain),
    ("BoolValues", "bools", Plain),
    ("StringValues", "strings", Plain),
    ("VersionValues", "versions", Plain),
];

/// Of a ResourceClaim.
pub fn claim_spec(spec: Option<&Value>) -> Value {
    printed(CLAIM_SPEC, spec)
}

/// Of a ResourceClaimTemplate, whose metadata Go embeds: it prints as it stands, in front.
pub fn template_spec(spec: Option<&Value>) -> Value {
    let mut out = spec.object("metadata").cloned().unwrap_or_default();
    if let Value::Object(rest) = printed(TEMPLATE_SPEC, spec) {
        out.extend(rest);
    }
    Value::Object(out)
}

pub fn allocation(allocation: &Value) -> Value {
    printed(ALLOCATION, Some(allocation))
}

pub fn attribute(attribute: &Value) -> Value {
    printed(ATTRIBUTE, Some(attribute))
}

/// A list of node selector terms.
pub fn node_terms(terms: &Value) -> Value {
    as_type(List(NODE_TERM), Some(terms))
}

fn printed(fields: Fields, value: Option<&Value>) -> Value {
    let one = |(name, field, typ): &(&str, &str, Type)| ((*name).to_owned(), as_type(*typ, value.at(field)));
    Value::Object(fields.iter().map(one).collect::<Map<_, _>>())
}

fn as_type(typ: Type, value: Option<&Value>) -> Value {
    match (typ, value) {
        (Text, None) => "".into(),
        (Number, None) => 0.into(),
        (Struct(fields), value) | (Maybe(fields), value @ Some(_)) => printed(fields, value),
        (List(fields), Some(Value::Array(list))) => list.iter().map(|item| printed(fields, Some(item))).collect(),
        (Plain | Raw | Maybe(_) | List(_), None) => Value::Null,
        (_, Some(value)) => value.clone(),
    }
}
