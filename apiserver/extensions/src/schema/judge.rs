//! A value and what its schema asks of it -> what is wrong, in upstream's words.
//!
//! Sources: kube-openapi `pkg/validation/validate`, `pkg/validation/errors/schema.go`; apiextensions-apiserver `pkg/apiserver/validation`
//! (`kubeOpenAPIResultToFieldErrors`, ratcheting).

use std::{cell::Cell, collections::HashSet};

use api::{
    field_errors::{FieldErrors, Reason},
    quoted,
};
use kinds::common::Path;
use serde_json::{Map, Number, Value};

use super::{Additional, ListType, Node, Type, formats, lists};

/// What may be looked at for one object, in schema nodes and 64 bytes of texts: alternatives of alternatives over long lists are not gone through to the end.
const LOOKS_MAX: usize = 20_000_000;
const TEXT_BYTES_PER_LOOK: usize = 64;
/// What is wrong is put into words, which takes as long as so many looks.
const LOOKS_PER_WRONG: usize = 10;
const WRONGS_BYTES_MAX: usize = api::field_errors::FIELD_ERRORS_BYTES_MAX;
/// Of what is not about one field.
const NO_FIELD: &str = "<nil>";

/// Whether anything that keeps rules from being looked at is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    Complete,
    /// Rules would only trip over it (`hasBlockingErr`).
    Blocked,
}

/// `ValidateCustomResource`, or with `old` `ValidateCustomResourceUpdate`: what is as it was is not refused. `prefix` is where the value stands
/// (`status`), or empty.
pub fn judge(schema: &Node, value: &Value, old: Option<&Value>, prefix: &str, causes: &mut FieldErrors) -> Judged {
    let mut judge = Judge { looks: 0, bytes: 0 };
    let found = judge.node(schema, value, &Was::new(old), Path::ROOT);
    let (mut seen, mut judged) = (HashSet::new(), Judged::Complete);
    for wrong in found.wrongs {
        if !seen.insert((wrong.path.clone(), wrong.message.clone())) {
            continue;
        }
        if matches!(wrong.reason, Reason::NotSupported | Reason::Required | Reason::TooLong | Reason::TooMany | Reason::TypeInvalid) {
            judged = Judged::Blocked;
        }
        let field = match (prefix, wrong.path.as_str()) {
            ("", "") => NO_FIELD.to_owned(),
            (prefix, "") => prefix.to_owned(),
            ("", path) => path.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        causes.push(wrong.reason, field, wrong.message);
    }
    if judge.looks > LOOKS_MAX {
        causes.push(Reason::Internal, NO_FIELD, "Internal error: the schema takes too long to check the object".to_owned());
        return Judged::Blocked;
    }
    judged
}

struct Judge {
    looks: usize,
    bytes: usize,
}

/// What a value was before, and whether it still is so, once that is known.
struct Was<'v> {
    old: Option<&'v Value>,
    is_same: Cell<Option<bool>>,
}

impl<'v> Was<'v> {
    fn new(old: Option<&'v Value>) -> Self {
        Self { old, is_same: Cell::new(None) }
    }
}

#[derive(Default)]
struct Found {
    wrongs: Vec<Wrong>,
    /// How far it fits: of alternatives that all fail, what the best says is told.
    matched: usize,
}

struct Wrong {
    reason: Reason,
    path: String,
    message: String,
}

impl Found {
    fn take(&mut self, other: Found) {
        self.wrongs.extend(other.wrongs);
        self.matched += other.matched;
    }
}

impl Judge {
    fn node(&mut self, schema: &Node, value: &Value, was: &Was<'_>, at: Path<'_>) -> Found {
        let mut found = Found::default();
        self.looks += 1;
        if self.looks > LOOKS_MAX {
            return found;
        }
        if value.is_null() {
            if (schema.typ != Type::Unset || schema.int_or_string) && !schema.nullable {
                self.type_wrong(&mut found, at, &types(schema), "null");
            }
            self.enumeration(schema, value, at, &mut found);
        } else {
            self.typ(schema, value, at, &mut found);
            self.alternatives(schema, value, was, at, &mut found);
            match value {
                Value::String(text) => self.text(schema, text, at, &mut found),
                Value::Number(number) => self.number(schema, number, at, &mut found),
                Value::Array(list) => self.list(schema, list, was, at, &mut found),
                _ => {}
            }
            self.enumeration(schema, value, at, &mut found);
            if let Value::Object(map) = value {
                self.object(schema, map, was, at, &mut found);
            }
            found.matched += 4;
        }
        if !found.wrongs.is_empty() && self.is_same(value, was) {
            found.wrongs.clear();
        }
        found
    }

    /// Whether it is as it was; looked at once, however many alternatives there are.
    fn is_same(&mut self, value: &Value, was: &Was<'_>) -> bool {
        let is_same = was.is_same.get().unwrap_or_else(|| was.old.is_some_and(|old| self.compare(value, old)));
        was.is_same.set(Some(is_same));
        is_same
    }

    fn compare(&mut self, a: &Value, b: &Value) -> bool {
        self.looks += 1;
        if self.looks > LOOKS_MAX {
            return false;
        }
        match (a, b) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.compare(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| self.compare(a, b)))
            }
            (Value::String(a), Value::String(b)) => {
                self.looks += a.len() / TEXT_BYTES_PER_LOOK;
                a == b
            }
            (a, b) => a == b,
        }
    }

    fn typ(&mut self, schema: &Node, value: &Value, at: Path<'_>, found: &mut Found) {
        if schema.typ == Type::Unset && !schema.int_or_string {
            return;
        }
        let format = schema.limits().format.as_str();
        let (word, own_format) = named(value);
        let is = |typ: Type| schema.typ == typ || schema.int_or_string && matches!(typ, Type::Integer | Type::String);
        let is_whole_float = word == "number" && value.as_f64().is_some_and(|f| f.fract() == 0.0) && is(Type::Integer);
        let fits = is(Type::of(word)) || is_whole_float || word == "integer" && is(Type::Number);
        found.matched += 1;
        if fits {
            return;
        }
        let is_listed = matches!(value, Value::String(_) | Value::Array(_));
        match () {
            () if !is_listed && !format.is_empty() => self.type_wrong(found, at, format, own_format),
            () if is_listed && !format.is_empty() && !is(Type::Number) && !is(Type::Integer) => {}
            () => self.type_wrong(found, at, &types(schema), word),
        }
    }

    fn alternatives(&mut self, schema: &Node, value: &Value, was: &Was<'_>, at: Path<'_>, found: &mut Found) {
        let more = schema.more();
        let is_one = !more.any_of.is_empty() || !more.one_of.is_empty() || !more.all_of.is_empty() || more.not.is_some();
        // Whatever they say would be dropped.
        if is_one && self.is_same(value, was) {
            found.matched += 1;
            return;
        }
        let told = |words: &str| format!("{} must {words}", quoted(&at.to_string()));
        if !schema.more().any_of.is_empty() {
            let mut best: Option<Found> = None;
            for node in &schema.more().any_of {
                let result = self.node(node, value, was, at);
                let fits = result.wrongs.is_empty();
                if fits || best.as_ref().is_none_or(|best| result.matched > best.matched) {
                    best = Some(result);
                }
                if fits {
                    break;
                }
            }
            if best.as_ref().is_some_and(|best| !best.wrongs.is_empty()) {
                self.composite(found, told("validate at least one schema (anyOf)"));
            }
            found.take(best.unwrap_or_default());
        }
        if !schema.more().one_of.is_empty() {
            self.one_of(schema, value, was, at, found);
        }
        if !schema.more().all_of.is_empty() {
            let mut fitting = 0;
            for node in &schema.more().all_of {
                let result = self.node(node, value, was, at);
                fitting += usize::from(result.wrongs.is_empty());
                found.take(result);
            }
            if fitting != schema.more().all_of.len() {
                let none = if fitting == 0 { ". None validated" } else { "" };
                self.composite(found, told(&format!("validate all the schemas (allOf){none}")));
            }
        }
        if let Some(not) = &schema.more().not
            && self.node(not, value, was, at).wrongs.is_empty()
        {
            self.composite(found, told("not validate the schema (not)"));
        }
        found.matched += 1;
    }

    fn one_of(&mut self, schema: &Node, value: &Value, was: &Was<'_>, at: Path<'_>, found: &mut Found) {
        let (mut fitting, mut best, mut first) = (0, None::<Found>, None::<Found>);
        for node in &schema.more().one_of {
            let result = self.node(node, value, was, at);
            if result.wrongs.is_empty() {
                fitting += 1;
                best = None;
                first.get_or_insert(result);
            } else if fitting == 0 && best.as_ref().is_none_or(|best| result.matched > best.matched) {
                best = Some(result);
            }
        }
        if fitting == 1 {
            return found.take(first.unwrap_or_default());
        }
        let more = if fitting == 0 { "Found none valid".to_owned() } else { format!("Found {fitting} valid alternatives") };
        self.composite(found, format!("{} must validate one and only one schema (oneOf). {more}", quoted(&at.to_string())));
        found.take(best.unwrap_or_default());
    }

    fn text(&mut self, schema: &Node, text: &str, at: Path<'_>, found: &mut Found) {
        let limits = schema.limits();
        self.looks += text.len() / TEXT_BYTES_PER_LOOK;
        let length = if limits.max_length.is_some() || limits.min_length.is_some() { count(text.chars().count()) } else { 0 };
        if let Some(max) = limits.max_length.filter(|max| length > *max) {
            self.wrong(found, Reason::TooLong, at, format!("Too long: may not be more than {max} bytes"));
        } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
            self.invalid(found, at, &text.into(), &format!("should be at least {min} chars long"));
        } else if let Some(pattern) = limits.pattern() {
            self.looks += text.len() / TEXT_BYTES_PER_LOOK;
            if !pattern.is_match(text) {
                self.invalid(found, at, &text.into(), &format!("should match '{}'", limits.pattern));
            }
        }
        if !limits.format.is_empty() && matches!(schema.typ, Type::String | Type::Unset) && !formats::is(&limits.format, text) {
            self.type_wrong(found, at, &limits.format, text);
        }
    }

    fn number(&mut self, schema: &Node, number: &Number, at: Path<'_>, found: &mut Found) {
        let limits = schema.limits();
        self.range(schema, number, at, found);
        let value = Value::Number(number.clone());
        if let Some(factor) = &limits.multiple_of {
            let is_multiple = match (number.as_i64(), factor.as_f64()) {
                (_, None) => true,
                // Go makes a whole number of the factor there.
                (Some(n), Some(f)) => (f as i64) <= 0 || n % (f as i64) == 0,
                (None, Some(f)) if f < 1.0 => (1.0 / f * real(number)).fract() == 0.0,
                (None, Some(f)) => (real(number) / f).fract() == 0.0,
            };
            if !is_multiple {
                self.invalid(found, at, &value, &format!("should be a multiple of {}", go_number(factor)));
            }
        }
        if let Some((min, exclusive)) = &limits.minimum {
            let (below, equal) = (less(number, min), less(min, number));
            if below || *exclusive && !equal {
                let words = if *exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(found, at, &value, &format!("should be {words} {}", go_number(min)));
            }
        }
        if let Some((max, exclusive)) = &limits.maximum {
            let (above, below) = (less(max, number), less(number, max));
            if above || *exclusive && !below {
                let words = if *exclusive { "less than" } else { "less than or equal to" };
                self.invalid(found, at, &value, &format!("should be {words} {}", go_number(max)));
            }
        }
        found.matched += 1;
    }

    /// `IsValueValidAgainstRange`
    fn range(&mut self, schema: &Node, number: &Number, at: Path<'_>, found: &mut Found) {
        let format = schema.limits().format.as_str();
        let whole = number.as_i64().or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.3e18).map(|f| f as i64));
        let fits = match (schema.typ, format) {
            (Type::Integer, "int32") => whole.is_some_and(|n| i32::try_from(n).is_ok()),
            (Type::Integer, _) => whole.is_some(),
            (Type::Number, "float") => real(number).abs() <= f64::from(f32::MAX),
            _ => true,
        };
        if !fits {
            let word = schema.typ.word();
            let of = if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
            self.composite(found, format!("Checked value must be of type {word} {of} in {at}"));
        }
    }

    fn list(&mut self, schema: &Node, list: &[Value], was: &Was<'_>, at: Path<'_>, found: &mut Found) {
        let before = Before::of(schema, was.old);
        if let Some(items) = &schema.items {
            for (index, element) in list.iter().enumerate() {
                let result = self.node(items, element, &Was::new(before.of_element(schema, element)), at.index(index));
                found.take(result);
            }
        }
        let (limits, length) = (schema.limits(), count(list.len()));
        if let Some(min) = limits.min_items.filter(|min| length < *min) {
            self.invalid(found, at, &length.into(), &format!("should have at least {min} items"));
        }
        if let Some(max) = limits.max_items.filter(|max| length > *max) {
            self.too_many(found, at, length, max);
        }
        if limits.unique_items {
            let mut seen = HashSet::new();
            if !list.iter().all(|element| seen.insert(lists::canonical(element))) {
                self.invalid(found, at, &"".into(), "shouldn't contain duplicates");
            }
        }
    }

    fn enumeration(&mut self, schema: &Node, value: &Value, at: Path<'_>, found: &mut Found) {
        let allowed = &schema.limits().enumeration;
        self.looks += allowed.len() / 8;
        if allowed.is_empty() || allowed.iter().any(|one| !one.is_null() && same(one, value)) {
            return;
        }
        let words = allowed.iter().map(|one| match one {
            Value::String(text) => quoted(text),
            other => quoted(&lists::canonical(other)),
        });
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), words.collect::<Vec<_>>().join(", "));
        self.wrong(found, Reason::NotSupported, at, message);
    }

    fn object(&mut self, schema: &Node, map: &Map<String, Value>, was: &Was<'_>, at: Path<'_>, found: &mut Found) {
        let (limits, length) = (schema.limits(), count(map.len()));
        if let Some(min) = limits.min_properties.filter(|min| length < *min) {
            self.invalid(found, at, &length.into(), &format!("should have at least {min} properties"));
        }
        if let Some(max) = limits.max_properties.filter(|max| length > *max) {
            self.too_many(found, at, length, max);
        }
        let was = |key: &str| Was::new(was.old.and_then(|old| old.get(key)));
        for (key, value) in map {
            if let Some(node) = schema.properties.get(key) {
                let result = self.node(node, value, &was(key), at.field(key));
                found.take(result);
                continue;
            }
            match &schema.additional {
                Additional::Of(node) => {
                    let result = self.node(node, value, &was(key), at.field(key));
                    found.take(result);
                }
                Additional::Allows(false) => {
                    let message = format!("Invalid value: {}: {at}.{key} in body is a forbidden property", quoted(key));
                    self.wrong(found, Reason::Invalid, at, message);
                }
                Additional::Allows(true) | Additional::None => {}
            }
        }
        for name in limits.required.iter().filter(|name| !map.contains_key(*name)) {
            self.wrong(found, Reason::Required, at.field(name), "Required value".to_owned());
        }
    }

    fn too_many(&mut self, found: &mut Found, at: Path<'_>, length: i64, max: i64) {
        let plural = if max == 1 { "item" } else { "items" };
        self.wrong(found, Reason::TooMany, at, format!("Too many: {length}: must have at most {max} {plural}"));
    }

    fn type_wrong(&mut self, found: &mut Found, at: Path<'_>, wanted: &str, got: &str) {
        let message = format!("Invalid value: {got:?}: {at} in body must be of type {wanted}: {got:?}");
        self.wrong(found, Reason::TypeInvalid, at, message);
    }

    fn invalid(&mut self, found: &mut Found, at: Path<'_>, value: &Value, why: &str) {
        let message = format!("Invalid value: {}: {at} in body {why}", shown(value));
        self.wrong(found, Reason::Invalid, at, message);
    }

    /// What is not told of a field.
    fn composite(&mut self, found: &mut Found, message: String) {
        self.wrong(found, Reason::Invalid, Path::ROOT, format!("Invalid value: \"\": {message}"));
    }

    fn wrong(&mut self, found: &mut Found, reason: Reason, at: Path<'_>, message: String) {
        // One is enough to refuse: beyond the bound the texts are dropped, not the fact.
        let is_full = self.bytes > WRONGS_BYTES_MAX;
        if is_full && !found.wrongs.is_empty() {
            return;
        }
        self.looks += LOOKS_PER_WRONG;
        let wrong = Wrong { reason, path: at.to_string(), message };
        self.bytes += wrong.path.len() + wrong.message.len();
        found.wrongs.push(wrong);
    }
}

/// The elements of a list as it was, where they can be told apart: those of a list map.
pub struct Before<'v>(std::collections::HashMap<String, &'v Value>);

impl<'v> Before<'v> {
    pub fn of(schema: &Node, old: Option<&'v Value>) -> Self {
        let list = old.and_then(Value::as_array).filter(|_| schema.list_type == ListType::Map);
        Self(list.into_iter().flatten().map(|element| (lists::canonical(&lists::key(schema, element)), element)).collect())
    }

    pub fn of_element(&self, schema: &Node, element: &Value) -> Option<&'v Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&lists::canonical(&lists::key(schema, element))).copied()
    }
}

fn types(schema: &Node) -> String {
    if schema.int_or_string { "integer,string".to_owned() } else { schema.typ.word().to_owned() }
}

/// JSON type and format of a value.
fn named(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn real(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

fn less(a: &Number, b: &Number) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a < b,
        _ => real(a) < real(b),
    }
}

/// Numbers are the same whatever they are written like.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => !less(a, b) && !less(b, a),
        _ => a == b,
    }
}

fn go_number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e21 => format!("{value:.0}"),
        _ => number.to_string(),
    }
}

/// A value as messages show it: JSON, fields in order.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => lists::canonical(other),
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        judge(&Node::of(&schema), &value, old.as_ref(), "", &mut causes);
        causes.0.iter().map(|cause| cause.text()).collect()
    }

    fn of(property: Value, value: Value) -> Vec<String> {
        texts(json!({"type": "object", "properties": {"x": property}}), json!({"x": value}), None)
    }

    #[test]
    fn each_rule_has_its_words() {
        let table = [
            (json!({"type": "integer"}), json!("a"), r#"x: Invalid value: "string": x in body must be of type integer: "string""#),
            (json!({"type": "string"}), json!(null), r#"x: Invalid value: "null": x in body must be of type string: "null""#),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"x: Invalid value: "boolean": x in body must be of type integer,string: "boolean""#,
            ),
            (json!({"type": "string", "enum": ["b", "a"]}), json!("c"), r#"x: Unsupported value: "c": supported values: "b", "a""#),
            (
                json!({"type": "string", "enum": ["\u{85}"]}),
                json!("\u{7f}'"),
                r#"x: Unsupported value: "\x7f'": supported values: "\u0085""#,
            ),
            (json!({"type": "string", "pattern": "^a$"}), json!("b"), r#"x: Invalid value: "b": x in body should match '^a$'"#),
            (json!({"type": "string", "minLength": 2}), json!("b"), r#"x: Invalid value: "b": x in body should be at least 2 chars long"#),
            (json!({"type": "string", "maxLength": 1}), json!("bb"), "x: Too long: may not be more than 1 bytes"),
            (json!({"type": "integer", "minimum": 1}), json!(0), "x: Invalid value: 0: x in body should be greater than or equal to 1"),
            (
                json!({"type": "integer", "maximum": 5, "exclusiveMaximum": true}),
                json!(5),
                "x: Invalid value: 5: x in body should be less than 5",
            ),
            (json!({"type": "integer", "multipleOf": 2}), json!(5), "x: Invalid value: 5: x in body should be a multiple of 2"),
            (
                json!({"type": "array", "items": {}, "minItems": 1}),
                json!([]),
                "x: Invalid value: 0: x in body should have at least 1 items",
            ),
            (json!({"type": "array", "items": {}, "maxItems": 1}), json!([1, 2]), "x: Too many: 2: must have at most 1 item"),
            (json!({"type": "object", "required": ["y"]}), json!({}), "x.y: Required value"),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("b"),
                r#"x: Invalid value: "b": x in body must be of type date-time: "b""#,
            ),
            (
                json!({"type": "object", "not": {"required": ["y"]}}),
                json!({"y": 1}),
                r#"<nil>: Invalid value: "": "x" must not validate the schema (not)"#,
            ),
        ];
        for (schema, value, wanted) in table {
            assert_eq!(of(schema.clone(), value), [wanted], "{schema}");
        }
    }

    #[test]
    fn alternatives_tell_what_the_best_says() {
        let schema = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let none = of(schema.clone(), json!({}));
        assert_eq!(none[0], r#"<nil>: Invalid value: "": "x" must validate one and only one schema (oneOf). Found none valid"#);
        assert_eq!(none[1], "x.a: Required value");
        let two = of(schema, json!({"a": 1, "b": 2}));
        assert_eq!(two, [r#"<nil>: Invalid value: "": "x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#]);
        assert!(of(json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("a")).is_empty());
    }

    #[test]
    fn what_was_so_before_is_let_be() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "list": {"type": "array",
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}});
        let old = json!({"a": "long", "list": [{"k": "x", "v": 9}]});
        assert!(
            texts(schema.clone(), json!({"a": "long", "list": [{"k": "y", "v": 1}, {"k": "x", "v": 9}]}), Some(old.clone())).is_empty()
        );
        assert_eq!(texts(schema.clone(), json!({"a": "other"}), Some(old.clone())).len(), 1);
        assert_eq!(texts(schema, json!({"list": [{"k": "x", "v": 8}]}), Some(old)).len(), 1);
    }

    /// Alternatives that all fail, of a long list: what it was is compared once, and nothing more is looked at where it is the same.
    #[test]
    fn what_was_is_compared_once() {
        const LENGTH: usize = 10_000;
        let alternatives: Vec<Value> = (0..500).map(|_| json!({"items": {"type": "string"}, "maxItems": 1})).collect();
        let list = |last: i64| json!((1..LENGTH).map(|_| 1).chain([last as i32]).collect::<Vec<_>>());
        for word in ["anyOf", "oneOf", "allOf"] {
            let schema = Node::of(&json!({"type": "array", "items": {}, word: alternatives}));
            let mut judge = Judge { looks: 0, bytes: 0 };
            let found = judge.node(&schema, &list(1), &Was::new(Some(&list(1))), Path::ROOT);
            assert!(found.wrongs.is_empty() && judge.looks < 3 * LENGTH, "{word}: {}", judge.looks);
        }
        let short: Vec<Value> = (0..500).map(|_| json!({"maxItems": 1})).collect();
        let schema = Node::of(&json!({"type": "array", "items": {}, "anyOf": short}));
        let mut judge = Judge { looks: 0, bytes: 0 };
        let found = judge.node(&schema, &list(2), &Was::new(Some(&list(1))), Path::ROOT);
        assert!(!found.wrongs.is_empty() && judge.looks < 4 * LENGTH, "{}", judge.looks);
    }

    #[test]
    fn looking_has_an_end() {
        let alternatives: Vec<Value> = (0..20_000).map(|n| json!({"enum": [n], "type": "integer"})).collect();
        let schema = json!({"type": "object", "properties": {"x": {"type": "array", "items": {"not": {"anyOf": alternatives}}}}});
        let told = texts(schema, json!({"x": vec![Value::from("a"); 100_000]}), None);
        assert!(told.iter().any(|text| text.contains("too long")), "{told:?}");
    }
}
