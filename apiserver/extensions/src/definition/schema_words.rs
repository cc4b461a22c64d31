//! A schema as a client wrote it -> the words that JSONSchemaProps has, where the table of built-in types does not look: within `items` and
//! `additionalProperties`, which are schemas or something else.

use serde_json::{Map, Value};

const WORDS: [&str; 43] = [
    "id",
    "$schema",
    "$ref",
    "description",
    "type",
    "format",
    "title",
    "default",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "enum",
    "maxProperties",
    "minProperties",
    "required",
    "items",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "properties",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
    "externalDocs",
    "example",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
];
/// Go numbers, flags, texts and lists that are left out where they are zero.
const LEFT_OUT: [&str; 14] = [
    "description",
    "type",
    "format",
    "title",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "pattern",
    "uniqueItems",
    "nullable",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "required",
    "properties",
    "enum",
];

/// Drops what no schema has, in all that is below.
pub fn tidy(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.retain(|name, value| {
        let is_word = WORDS.contains(&name.as_str()) || name == "x-kubernetes-validations";
        is_word && !value.is_null() && !(LEFT_OUT.contains(&name.as_str()) && is_zero(value))
    });
    for name in ["items", "additionalProperties", "not"] {
        map.get_mut(name).into_iter().for_each(tidy);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().for_each(tidy);
    }
    for name in ["properties", "definitions", "patternProperties"] {
        map.get_mut(name).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut).for_each(tidy);
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Number(_) => false,
    }
}
