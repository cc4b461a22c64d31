//! A schema -> whether it is structural: what it says of a field's form stands outside of `allOf`, `anyOf`, `oneOf` and `not`.
//!
//! Source: `pkg/apiserver/schema/{validation,complete}.go`.

use std::time::Instant;

use api::field_errors::{FieldError, FieldErrors};
use kinds::common::{Path, Read};
use serde_json::{Map, Value, json};

use super::COMPILE_MAX;
use crate::schema::pattern::Pattern;

/// `ValidateStructural`: sorted.
pub fn structural(schema: &Value, path: Path<'_>) -> Vec<FieldError> {
    let mut found = Found { causes: FieldErrors::default(), started: Instant::now() };
    found.node(schema, Level::Root, path);
    found.complete(schema, schema, path, path);
    let mut causes = found.causes.0;
    causes.sort_by_cached_key(FieldError::text);
    causes
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

struct Found {
    causes: FieldErrors,
    started: Instant,
}

impl Found {
    fn node(&mut self, schema: &Value, level: Level, path: Path<'_>) {
        if self.causes.is_full() {
            return;
        }
        match schema.at("items") {
            None if schema.text("type") == "array" => self.causes.required(path.field("items"), "must be specified"),
            None => {}
            Some(items) => self.node(items, Level::Item, path.field("items")),
        }
        for (name, property) in schema.object("properties").into_iter().flatten() {
            let at = path.field("properties");
            self.node(property, Level::Field, at.key(name));
        }
        if let Some(additional) = schema.at("additionalProperties") {
            let at = path.field("additionalProperties");
            if level == Level::Root {
                self.causes.forbidden(at, "must not be used at the root");
            }
            if additional.is_object() {
                self.node(additional, Level::Field, at);
            }
        }
        let is = |name: &str| schema.is_true(name);
        let (preserve, embedded, mixed) =
            (is("x-kubernetes-preserve-unknown-fields"), is("x-kubernetes-embedded-resource"), is("x-kubernetes-int-or-string"));
        for (name, set) in [("x-kubernetes-preserve-unknown-fields", preserve), ("x-kubernetes-embedded-resource", embedded)] {
            if mixed && set {
                self.causes.invalid(path.field(name), true, "must be false if x-kubernetes-int-or-string is true");
            }
        }
        self.values(schema, path, is_int_or_string(schema), schema.list("allOf").first().is_some_and(is_int_or_string));
        self.typ(schema, level, path);
        self.meta(schema, level, path);
        if embedded && !preserve && schema.object("properties").is_none_or(Map::is_empty) {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.causes.required(path.field("properties"), why);
        }
    }

    fn typ(&mut self, schema: &Value, level: Level, path: Path<'_>) {
        let (typ, embedded) = (schema.text("type"), schema.is_true("x-kubernetes-embedded-resource"));
        let is_free = schema.is_true("x-kubernetes-int-or-string") || schema.is_true("x-kubernetes-preserve-unknown-fields");
        let at = path.field("type");
        const EMBEDDED: &str = "must be object if x-kubernetes-embedded-resource is true";
        match typ {
            "" if embedded => self.causes.required(at, EMBEDDED),
            other if embedded && other != "object" => self.causes.invalid(at, other, EMBEDDED),
            "" if !is_free => {
                let why = match level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    Level::Field => "must not be empty for specified object fields",
                };
                self.causes.required(at, why);
            }
            _ => {}
        }
        if embedded && schema.at("additionalProperties").is_some() {
            self.causes.forbidden(path.field("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set");
        }
        if level == Level::Root && !typ.is_empty() && typ != "object" {
            self.causes.invalid(at, typ, "must be object at the root");
        }
    }

    fn meta(&mut self, schema: &Value, level: Level, path: Path<'_>) {
        let is_resource = level == Level::Root || schema.is_true("x-kubernetes-embedded-resource");
        let (properties, place) = (schema.at("properties"), path.field("properties"));
        for name in ["kind", "apiVersion"] {
            if let Some(typ) = properties.at(name).map(|property| property.text("type")).filter(|typ| is_resource && *typ != "string") {
                let at = place.key(name);
                self.causes.invalid(at.field("type"), typ, "must be string");
            }
        }
        let Some(metadata) = properties.at("metadata") else { return };
        let at = place.key("metadata");
        if is_resource && metadata.text("type") != "object" {
            self.causes.invalid(at.field("type"), metadata.text("type"), "must be object");
        }
        if level == Level::Root {
            let said = |(name, value): (&String, &Value)| match name.as_str() {
                "type" | "description" | "title" | "default" => name == "description" || name == "title",
                "properties" => value.as_object().is_some_and(|map| map.keys().any(|key| !matches!(key.as_str(), "name" | "generateName"))),
                _ => true,
            };
            // A description is of the generic part, which is compared as well.
            if metadata.as_object().is_some_and(|map| map.iter().any(said)) {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.causes.forbidden(at, why);
            }
        }
    }

    /// `validateValueValidation`
    fn values(&mut self, schema: &Value, path: Path<'_>, skip_any: bool, skip_first_all: bool) {
        if !skip_any {
            for (index, nested) in schema.list("anyOf").iter().enumerate() {
                let at = path.field("anyOf");
                self.nested(nested, at.index(index), false);
            }
        }
        for (index, nested) in schema.list("allOf").iter().enumerate() {
            let at = path.field("allOf");
            self.nested(nested, at.index(index), skip_first_all && index == 0);
        }
        for (index, nested) in schema.list("oneOf").iter().enumerate() {
            let at = path.field("oneOf");
            self.nested(nested, at.index(index), false);
        }
        if let Some(not) = schema.at("not") {
            self.nested(not, path.field("not"), false);
        }
        let pattern = schema.text("pattern");
        if !pattern.is_empty() {
            let compiled =
                if self.started.elapsed() > COMPILE_MAX { Err("too many of them".to_owned()) } else { Pattern::new(pattern).map(drop) };
            if let Err(why) = compiled {
                let why = format!("must be a valid regular expression, but isn't: {why}");
                self.causes.invalid(path.field("pattern"), pattern, &why);
            }
        }
    }

    /// `validateNestedValueValidation`
    fn nested(&mut self, schema: &Value, path: Path<'_>, skip_any: bool) {
        if self.causes.is_full() {
            return;
        }
        self.values(schema, path, skip_any, false);
        if let Some(items) = schema.at("items") {
            self.nested(items, path.field("items"), false);
        }
        for (name, property) in schema.object("properties").into_iter().flatten() {
            let at = path.field("properties");
            self.nested(property, at.key(name), false);
        }
        const FORBIDDEN: [(&str, &str); 12] = [
            ("type", "must be empty to be structural"),
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
            ("x-kubernetes-embedded-resource", "must be false to be structural"),
            ("x-kubernetes-int-or-string", "must be false to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
        ];
        for (name, why) in FORBIDDEN {
            let is_set = schema.at(name).is_some_and(|value| !matches!(value, Value::Bool(false)) && value != "" && *value != json!([]));
            if is_set {
                self.causes.forbidden(path.field(name), why);
            }
        }
        if !schema.list("x-kubernetes-validations").is_empty() {
            self.causes.forbidden(path.field("x-kubernetes-validations"), "must be empty to be structural");
        }
        if schema.at("properties").at("metadata").is_some() {
            let at = path.field("properties");
            self.causes.forbidden(at.key("metadata"), "must not be specified in a nested context");
        }
    }

    /// What value validations speak of is there. `values` is one of them or the schema itself.
    fn complete(&mut self, values: &Value, schema: &Value, at: Path<'_>, from: Path<'_>) {
        for list in ["allOf", "anyOf", "oneOf"] {
            for (index, nested) in values.list(list).iter().enumerate() {
                let place = from.field(list);
                self.complete_nested(nested, Some(schema), at, place.index(index));
            }
        }
        if let Some(not) = values.at("not") {
            self.complete_nested(not, Some(schema), at, from.field("not"));
        }
    }

    fn complete_nested(&mut self, values: &Value, schema: Option<&Value>, at: Path<'_>, from: Path<'_>) {
        let Some(schema) = schema else { return self.causes.required(at, &format!("because it is defined in {from}")) };
        if self.causes.is_full() {
            return;
        }
        self.complete(values, schema, at, from);
        if let Some(items) = values.at("items") {
            self.complete_nested(items, schema.at("items"), at.field("items"), from.field("items"));
        }
        for (name, property) in values.object("properties").into_iter().flatten() {
            let (at, from) = (at.field("properties"), from.field("properties"));
            self.complete_nested(property, schema.at("properties").at(name), at.key(name), from.key(name));
        }
    }
}

/// The one form in which types may stand in `anyOf`.
fn is_int_or_string(schema: &Value) -> bool {
    schema.at("anyOf") == Some(&json!([{"type": "integer"}, {"type": "string"}]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(schema: Value) -> Vec<String> {
        structural(&schema, Path::new("s")).iter().map(FieldError::text).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let of = |property: Value| texts(json!({"type": "object", "properties": {"x": property}}));
        assert_eq!(texts(json!({})), ["s.type: Required value: must not be empty at the root"]);
        assert_eq!(of(json!({})), ["s.properties[x].type: Required value: must not be empty for specified object fields"]);
        assert_eq!(of(json!({"type": "array"})), ["s.properties[x].items: Required value: must be specified"]);
        assert!(of(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})).is_empty());
        let told = of(json!({"type": "object", "anyOf": [{"type": "string", "properties": {"y": {"minLength": 1}}}]}));
        assert_eq!(told, ["s.properties[x].anyOf[0].type: Forbidden: must be empty to be structural"]);
        let top = texts(json!({"type": "object", "anyOf": [{"required": ["y"], "properties": {"y": {"minLength": 1}}}]}));
        assert_eq!(top, ["s.properties[y]: Required value: because it is defined in s.anyOf[0].properties[y]"]);
        assert!(
            of(json!({"type": "string", "pattern": "["}))[0]
                .contains("must be a valid regular expression, but isn't: error parsing regexp")
        );
    }
}
