//! `openAPIV3Schema` of a version -> what is wrong with it. Source: `ValidateCustomResourceDefinitionOpenAPISchema` and its kin.

use std::time::Instant;

use api::field_errors::FieldErrors;
use cel::{Resource, estimate};
use kinds::common::{Path, Read, not_supported};
use serde_json::{Map, Value, json};

use super::{COMPILE_MAX, defaults, field_path, structural::structural};
use crate::{
    rules,
    schema::{Additional, ListType, Node},
};

/// What a rule may cost as it is estimated, wherever it is run (`StaticEstimatedCostLimit`), and all rules of a version (`StaticEstimatedCRDCostLimit`).
const RULE_COST_MAX: u64 = 10_000_000;
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// Of the dearest rules.
const DEAR_TOLD_MAX: usize = 4;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Words that may stand at the root beside a status subresource, and what Go calls them.
const ROOT_WORDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// `validateCustomResourceDefinitionValidation`. One that is as it `was` has passed already.
pub fn schema(schema: &Value, was: Option<&Value>, has_status: bool, path: Path<'_>, causes: &mut FieldErrors) {
    if was == Some(schema) {
        return;
    }
    let before = causes.0.len();
    if has_status {
        root_words(schema, path, causes);
    }
    if schema.is_true("nullable") {
        causes.forbidden(path.field("nullable"), "nullable cannot be true at the root");
    }
    let found = structural(schema, path);
    if found.is_empty() {
        defaults::valid(schema, &Node::of(schema), path, causes);
    }
    for cause in found {
        causes.push(cause.reason, cause.field, cause.message);
    }
    let walk = Walk { is_root: true, ..Walk::default() };
    walk.node(schema, path, causes);
    // Of a schema that is wrong rules would only say what is wrong with it.
    if causes.0.len() == before {
        let node = Node::of(schema);
        if rules::has_rules(&node) {
            let mut costs = Costs::new();
            compiled(schema, &node, Resource::Yes, (None, Some(1)), path, causes, &mut costs);
            costs.tell(path, causes);
        }
    }
}

/// A rule as upstream's internal type prints it (`ValidationRule`).
fn shown(rule: &Value) -> Value {
    json!({
        "Rule": rule.text("rule"),
        "Message": rule.text("message"),
        "MessageExpression": rule.text("messageExpression"),
        "Reason": rule.at("reason"),
        "FieldPath": rule.text("fieldPath"),
        "OptionalOldSelf": rule.at("optionalOldSelf"),
    })
}

/// The rules of a level and of those below. `list` is one whose elements cannot be told again after a change; `times` is how often the level may be
/// there, where that is said.
fn compiled(
    schema: &Value,
    node: &Node,
    resource: Resource,
    (list, times): (Option<&str>, Option<u64>),
    path: Path<'_>,
    causes: &mut FieldErrors,
    costs: &mut Costs,
) {
    let place = path.field("x-kubernetes-validations");
    if node.more().rules.is_empty() || costs.begun.elapsed() > COMPILE_MAX {
        if !node.more().rules.is_empty() {
            causes.forbidden(place, "the rules of the schema take too long to compile");
        }
    } else {
        for (index, (found, rule)) in rules::compile(node, resource).into_iter().zip(schema.list("x-kubernetes-validations")).enumerate() {
            let at = place.index(index);
            let times = times.unwrap_or_else(|| estimate::cardinality(node));
            costs.rule(found.cost.saturating_mul(times), at, causes);
            if let Some(why) = &found.error {
                causes.invalid(at.field("rule"), shown(rule), why);
            }
            if let Some(why) = &found.message_error {
                causes.invalid(at.field("messageExpression"), shown(rule), why);
            }
            costs.message(found.message_cost, at, causes);
            if let Some(list) = list.filter(|_| found.uses_old) {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                causes.invalid(at.field("rule"), rule.text("rule"), &why);
            } else if !found.uses_old && found.error.is_none() && rule.at("optionalOldSelf").is_some() {
                causes.invalid(
                    at.field("optionalOldSelf"),
                    rule.is_true("optionalOldSelf"),
                    "may not be set if oldSelf is not used in rule",
                );
            }
        }
    }
    if causes.is_full() {
        return;
    }
    let own = path.to_string();
    if let (Some(inner), Some(items)) = (schema.at("items"), &node.items) {
        let list = if node.list_type == ListType::Map { list } else { list.or(Some(&own)) };
        let times = product(times, node.limits().max_items);
        compiled(inner, items, Resource::No, (list, times), path.field("items"), causes, costs);
    }
    if let (Some(inner), Additional::Of(held)) = (schema.at("additionalProperties"), &node.additional) {
        let times = product(times, node.limits().max_properties);
        compiled(inner, held, Resource::No, (list, times), path.field("additionalProperties"), causes, costs);
    }
    for (name, inner) in node.properties.iter() {
        let at = path.field("properties");
        if let Some(schema) = schema.at("properties").at(name) {
            compiled(schema, inner, Resource::No, (list, times), at.key(name), causes, costs);
        }
    }
}

fn product(times: Option<u64>, most: Option<i64>) -> Option<u64> {
    Some(times?.saturating_mul(u64::try_from(most?).unwrap_or(0)))
}

/// What the rules of a schema cost at most (`TotalCost`).
struct Costs {
    begun: Instant,
    total: u64,
    /// The dearest, with where they stand.
    dear: Vec<(u64, String)>,
}

impl Costs {
    fn new() -> Self {
        Self { begun: Instant::now(), total: 0, dear: Vec::new() }
    }

    fn rule(&mut self, cost: u64, at: Path<'_>, causes: &mut FieldErrors) {
        if cost > RULE_COST_MAX {
            causes.forbidden(at.field("rule"), &exceeds("estimated rule cost", cost, RULE_COST_MAX));
        }
        self.add(cost, at.field("rule"));
    }

    fn message(&mut self, cost: u64, at: Path<'_>, causes: &mut FieldErrors) {
        if cost > RULE_COST_MAX {
            causes.forbidden(at.field("messageExpression"), &exceeds("estimated messageExpression cost", cost, RULE_COST_MAX));
        }
        self.add(cost, at.field("messageExpression"));
    }

    fn add(&mut self, cost: u64, at: Path<'_>) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_COST_MAX / 100 {
            self.dear.push((cost, at.to_string()));
            self.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dear.truncate(DEAR_TOLD_MAX);
        }
    }

    fn tell(&self, path: Path<'_>, causes: &mut FieldErrors) {
        if self.total <= SCHEMA_COST_MAX {
            return;
        }
        for (_, at) in &self.dear {
            causes.forbidden(at.as_str(), "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        causes.forbidden(path, &exceeds(what, self.total, SCHEMA_COST_MAX));
    }
}

/// `getCostErrorMessage`
fn exceeds(what: &str, cost: u64, most: u64) -> String {
    let factor = cost as f64 / most as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    let hint = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    format!("{what} exceeds budget by factor of {factor} {hint}")
}

fn root_words(schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for name in schema.as_object().into_iter().flat_map(Map::keys) {
        if name == "type" && schema.text("type") != "object" {
            let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            return causes.invalid(path.field("type"), schema.text("type"), why);
        }
        if ROOT_WORDS.iter().all(|(word, _)| word != name) {
            let words = ROOT_WORDS.map(|(_, word)| word).join(" ");
            let why = format!("only [{words}] fields are allowed at the root of the schema if the status subresource is enabled");
            return causes.invalid(path, schema.clone(), &why);
        }
    }
}

/// What holds where the walk stands.
#[derive(Clone, Default)]
struct Walk {
    is_root: bool,
    /// Why there may be no defaults.
    no_defaults: Option<String>,
    in_meta: bool,
}

impl Walk {
    fn inner(&self) -> Self {
        Self { is_root: false, ..self.clone() }
    }

    fn node(&self, schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
        if causes.is_full() {
            return;
        }
        self.words(schema, path, causes);
        if schema.is_true("uniqueItems") {
            causes.forbidden(path.field("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
        }
        let properties = schema.object("properties");
        if let Some(additional) = schema.at("additionalProperties") {
            let at = path.field("additionalProperties");
            if properties.is_some_and(|properties| !properties.is_empty()) && *additional != true {
                causes.forbidden(at, "additionalProperties and properties are mutual exclusive");
            }
            if additional.is_object() {
                let mut walk = self.inner();
                if self.in_meta {
                    walk.no_defaults = Some("inside additionalProperties applying to object metadata".to_owned());
                }
                walk.node(additional, at, causes);
            }
        }
        for (name, property) in properties.into_iter().flatten() {
            let mut walk = self.inner();
            if (self.is_root || schema.is_true("x-kubernetes-embedded-resource"))
                && matches!(name.as_str(), "metadata" | "kind" | "apiVersion")
            {
                walk.in_meta = true;
                if self.is_root {
                    walk.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            let at = path.field("properties");
            walk.node(property, at.key(name), causes);
        }
        let inner = self.inner();
        if let Some(not) = schema.at("not") {
            inner.node(not, path.field("not"), causes);
        }
        for list in ["allOf", "oneOf", "anyOf"] {
            for (index, nested) in schema.list(list).iter().enumerate() {
                let at = path.field(list);
                inner.node(nested, at.index(index), causes);
            }
        }
        if let Some(items) = schema.at("items").filter(|items| items.is_object()) {
            inner.node(items, path.field("items"), causes);
        }
        extensions(schema, path, causes);
        rules(schema, path, causes);
    }

    /// `specStandardValidatorV3.validate`
    fn words(&self, schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
        let typ = schema.text("type");
        if !typ.is_empty() && !TYPES.contains(&typ) {
            not_supported(typ, &TYPES, path.field("type"), causes);
        }
        if let Some(why) = self.no_defaults.as_ref().filter(|_| schema.at("default").is_some()) {
            causes.forbidden(path.field("default"), &format!("must not be set {why}"));
        }
        for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            if schema.at(name).is_some() {
                causes.forbidden(path.field(name), &format!("{name} is not supported"));
            }
        }
        if typ == "null" {
            causes.forbidden(path.field("type"), "type cannot be set to null, use nullable as an alternative");
        }
        if schema.at("items").is_some_and(Value::is_array) {
            causes.forbidden(path.field("items"), "items must be a schema object and not an array");
        }
        if self.in_meta && schema.is_true("x-kubernetes-embedded-resource") {
            causes.forbidden(path.field("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
        }
    }
}

fn extensions(schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if schema.flag("x-kubernetes-preserve-unknown-fields") == Some(false) {
        causes.invalid(path.field("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    let text = |name: &str| schema.at(name).and_then(Value::as_str);
    if let Some(map_type) = text("x-kubernetes-map-type") {
        of_type(schema, "object", "must be object if x-kubernetes-map-type is specified", path, causes);
        if !matches!(map_type, "atomic" | "granular") {
            not_supported(map_type, &["atomic", "granular"], path.field("x-kubernetes-map-type"), causes);
        }
    }
    let list_type = text("x-kubernetes-list-type");
    let at = path.field("x-kubernetes-list-type");
    if let Some(list_type) = list_type {
        of_type(schema, "array", "must be array if x-kubernetes-list-type is specified", path, causes);
        if schema.text("type") == "array" && list_type == "set" {
            set_items(schema, path, causes);
        }
        if !matches!(list_type, "atomic" | "set" | "map") {
            not_supported(list_type, &["atomic", "set", "map"], at, causes);
        }
    }
    if !schema.list("x-kubernetes-list-map-keys").is_empty() {
        const MAP: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => causes.required(at, MAP),
            Some("map") => {}
            Some(other) => causes.invalid(at, other, MAP),
        }
    }
    if list_type == Some("map") {
        map_items(schema, path, causes);
    }
    if matches!(list_type, Some("set" | "map")) {
        keys(schema, list_type.unwrap_or_default(), path, causes);
    }
}

fn of_type(schema: &Value, typ: &str, why: &str, path: Path<'_>, causes: &mut FieldErrors) {
    match schema.text("type") {
        "" => causes.required(path.field("type"), why),
        other if other != typ => causes.invalid(path.field("type"), other, why),
        _ => {}
    }
}

fn set_items(schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (items, at) = (schema.at("items"), path.field("items"));
    const ATOMIC: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = items.at("x-kubernetes-list-type");
    match items.text("type") {
        "array" if list_type.is_some_and(|list_type| list_type != "atomic") => {
            causes.invalid(at.field("x-kubernetes-list-type"), list_type.cloned().unwrap_or_default(), ATOMIC);
        }
        "object" if items.text("x-kubernetes-map-type") != "atomic" => {
            causes.invalid(at.field("x-kubernetes-map-type"), list_type.cloned().unwrap_or_default(), ATOMIC);
        }
        _ => {}
    }
}

fn map_items(schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let keys = schema.list("x-kubernetes-list-map-keys");
    let at = path.field("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        causes.required(at, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = schema.at("items") else {
        return causes.required(path.field("items"), "must have a schema if x-kubernetes-list-type is map");
    };
    let place = path.field("items");
    if items.text("type") != "object" {
        return causes.invalid(place.field("type"), items.text("type"), "must be object if parent array's x-kubernetes-list-type is map");
    }
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or("");
        match items.at("properties").at(name) {
            None => causes.invalid(at, keys.to_vec(), "entries must all be names of item properties"),
            Some(property) if matches!(property.text("type"), "array" | "object") => {
                let place = place.field("properties");
                let place = place.key(name);
                causes.invalid(
                    place.field("type"),
                    items.text("type"),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                );
            }
            Some(_) => {}
        }
        if keys.iter().take(index).any(|other| other == key) {
            causes.invalid(at, keys.to_vec(), "must not contain duplicate entries");
        }
    }
}

/// `validateMapListKeysMapSet`
fn keys(schema: &Value, list_type: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let (items, at) = (schema.at("items"), path.field("items"));
    if items.is_true("nullable") {
        causes.forbidden(at.field("nullable"), &format!("cannot be nullable when x-kubernetes-list-type is {list_type}"));
    }
    if list_type != "map" {
        return;
    }
    for name in schema.list("x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items.at("properties").at(name) else { continue };
        let place = at.field("properties");
        let place = place.key(name);
        if items.list("required").iter().all(|required| required != name) && property.at("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.required(place.field("default"), why);
        }
        if property.is_true("nullable") {
            causes.forbidden(place.field("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}

/// The form of `x-kubernetes-validations`, before they are compiled.
fn rules(schema: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (index, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        let place = path.field("x-kubernetes-validations");
        let at = place.index(index);
        let (text, message, expression) = (rule.text("rule"), rule.text("message"), rule.text("messageExpression"));
        let breaks = |text: &str| text.contains(['\n', '\r']);
        match () {
            () if text.trim().is_empty() => causes.required(at.field("rule"), "rule is not specified"),
            () if !message.is_empty() && message.trim().is_empty() => {
                causes.invalid(at.field("message"), message, "must be non-empty if specified");
            }
            () if breaks(message.trim()) => causes.invalid(at.field("message"), message, "must not contain line breaks"),
            () if breaks(text.trim()) && message.trim().is_empty() => {
                causes.required(at.field("message"), "message must be specified if rule contains line breaks");
            }
            () => {}
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            causes.required(at.field("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.at("reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            not_supported(reason, &REASONS, at.field("reason"), causes);
        }
        let field = rule.text("fieldPath");
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            causes.invalid(at.field("fieldPath"), field, "must be non-empty if specified");
        }
        if breaks(field) {
            causes.invalid(at.field("fieldPath"), field, "must not contain line breaks");
        }
        if field_path::parse(field).and_then(|names| field_path::find(schema, &names)).is_err() {
            causes.invalid(at.field("fieldPath"), field, "must be a valid path");
        }
    }
}
