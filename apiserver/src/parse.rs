//! Bytes of a request -> a JSON value and the fields that were given twice.

mod seed;
mod syntax;
mod yaml;

use std::borrow::Cow;

use api::{Gvk, Status, field_errors::FieldErrors, quoted};
use serde_json::Value;

use crate::schema::Schema;

/// Levels of nesting that are taken. Upstream takes 10,000; nothing that it accepts for its own kinds comes near this.
pub const DEPTH_MAX: usize = 128;
/// Objects within a body. The defaults of one may be some hundred times what it says itself: 3 MiB of `{}` would be gigabytes.
pub const OBJECTS_MAX: usize = 64 << 10;

/// How a body's own names for what it is are told of Go's decoder.
const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Comes before what is wrong with YAML where it was to become JSON.
const FROM_YAML: &str = "error converting YAML to JSON: ";

/// A parsed body. `duplicates` are the paths of keys that stood twice (`spec.containers[0].name`), the last value having won.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub value: Value,
    pub duplicates: Vec<String>,
    /// The same of YAML, in the words of its reader: `line 4: key "a" already set in map`.
    pub lines: Vec<String>,
}

/// JSON bytes. Fails with the words of Go's `encoding/json` (`invalid character 'x' looking for beginning of value`).
pub fn json(bytes: &[u8]) -> Result<Parsed, String> {
    // Checked as a whole first: mending is slower, and seldom needed.
    let text = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let parsed = seed::read(&mut reader).and_then(|parsed| reader.end().map(|()| parsed));
    match parsed.map_err(|error| syntax::complaint(bytes).unwrap_or_else(|| plain(&error))) {
        // Go takes half of a pair for the character that stands for what is none.
        Err(_) if let Some(mended) = syntax::without_lone_surrogates(&text) => json(mended.as_bytes()),
        parsed => parsed,
    }
}

/// One YAML document, read as YAML 1.1 as upstream does (`yes` is true, `0644` is octal). Aliases are bounded.
pub fn yaml(bytes: &[u8]) -> Result<Parsed, String> {
    yaml::read(bytes)
}

/// What a serializer says of a body that cannot be parsed: that of YAML gives up before it looks for a kind.
pub fn undecoded(why: &str) -> String {
    match why.strip_prefix(FROM_YAML) {
        Some(why) => why.to_owned(),
        None => format!("couldn't get version/kind; json parse error: {why}"),
    }
}

/// The error of a body that cannot be parsed, where `expected` was to come.
/// Source: apiserver `pkg/endpoints/handlers/rest.go` (transformDecodeError, summarizeData).
pub fn unrecognized(expected: &str, why: &str, body: &[u8]) -> Status {
    let why = undecoded(why);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {expected}): {why} ({})", summary(body)))
}

/// Checks that the body says nothing else than `expected`, which `schema` is of, about its kind, and writes both in where they are missing.
pub fn name_kind(schema: &Schema, expected: &Gvk, value: &mut Value, body: &[u8]) -> Result<(), Status> {
    let word = match value {
        Value::Object(_) => None,
        Value::Array(_) => Some("array"),
        Value::String(_) => Some("string"),
        Value::Number(_) => Some("number"),
        Value::Bool(_) => Some("bool"),
        Value::Null => Some("null"),
    };
    if let Some(word) = word {
        let why = format!("json: cannot unmarshal {word} into Go value of type {TYPE_META}");
        return Err(unrecognized(&expected.kind, &why, body));
    }
    let kind = head(expected, value, "kind", body)?;
    let api_version = head(expected, value, "apiVersion", body)?;
    if api_version.matches('/').count() > 1 {
        let words = format!("the object provided is unrecognized (must be of type {})", expected.kind);
        return Err(Status::bad_request(format!("{words}: unexpected GroupVersion string: {api_version} ({})", summary(body))));
    }
    if matches!(schema, Schema::Custom(_)) {
        same_version(expected, &api_version)?;
        same_custom_kind(expected, &kind, value)?;
    } else {
        is_registered(schema, expected, &api_version, &kind)?;
        same_kind(expected, &api_version, &kind)?;
        same_version(expected, &api_version)?;
    }
    if let Value::Object(map) = value {
        map.insert("kind".into(), expected.kind.as_str().into());
        map.insert("apiVersion".into(), expected.api_version().into());
    }
    Ok(())
}

fn head(expected: &Gvk, value: &Value, field: &str, body: &[u8]) -> Result<String, Status> {
    match &value[field] {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => {
            let why = format!("json: cannot unmarshal {} into Go struct field .{field} of type string", crate::schema::word(other));
            Err(unrecognized(&expected.kind, &why, body))
        }
    }
}

fn same_version(expected: &Gvk, api_version: &str) -> Result<(), Status> {
    let ours = expected.api_version();
    if api_version.is_empty() || api_version == ours {
        return Ok(());
    }
    let words = format!("the API version in the data ({api_version}) does not match the expected API version ({ours})");
    Err(Status::bad_request(words))
}

/// Whether there is such a kind at all.
fn is_registered(schema: &Schema, expected: &Gvk, api_version: &str, kind: &str) -> Result<(), Status> {
    let (api_version, kind) = match (api_version, kind) {
        ("", kind) => (expected.api_version(), kind),
        (api_version, "") => (api_version.to_owned(), expected.kind.as_str()),
        (api_version, kind) => (api_version.to_owned(), kind),
    };
    let is_expected = api_version == expected.api_version() && kind == expected.kind;
    // Lists are kinds too, and `List` is one of the core's.
    let is_list = |item: &str| if item.is_empty() { api_version == "v1" } else { schema.knows(&api_version, item) };
    if kind.is_empty() || is_expected || schema.knows(&api_version, kind) || kind.strip_suffix("List").is_some_and(is_list) {
        return Ok(());
    }
    let (version, wanted) = (api_version.rsplit('/').next().unwrap_or_default(), &expected.kind);
    // Definitions of further kinds are served by a server of their own there.
    let scheme = match expected.group.as_str() {
        "apiextensions.k8s.io" => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:55",
        _ => "pkg/api/legacyscheme/scheme.go:30",
    };
    let why = format!("no kind {} is registered for version {} in scheme {scheme:?}", quoted(kind), quoted(&api_version));
    Err(Status::bad_request(format!("{kind} in version {} cannot be handled as a {wanted}: {why}", quoted(version))))
}

/// What is no other version of the kind is not converted, whatever its version.
fn same_kind(expected: &Gvk, api_version: &str, kind: &str) -> Result<(), Status> {
    if kind.is_empty() || kind == expected.kind {
        return Ok(());
    }
    let version = if api_version.is_empty() { &expected.version } else { api_version.rsplit('/').next().unwrap_or_default() };
    let wanted = &expected.kind;
    let why = format!("converting ({version}.{kind}) to ({}.{wanted}): unknown conversion", crate::names::go_package(&expected.group));
    Err(Status::bad_request(format!("{kind} in version {} cannot be handled as a {wanted}: {why}", quoted(version))))
}

/// Whatever a custom object calls itself is read, and then refused under that name (`ValidateTypeMeta` of apiextensions).
fn same_custom_kind(expected: &Gvk, kind: &str, value: &Value) -> Result<(), Status> {
    if kind.is_empty() || kind == expected.kind {
        return Ok(());
    }
    let mut causes = FieldErrors::default();
    causes.invalid("kind", kind, &format!("must be {}", expected.kind));
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Err(Status::invalid(&Gvk::new(&expected.group, &expected.version, kind), name, &causes))
}

fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let shown = body.get(..SHOWN).unwrap_or(body);
    let text = match body.first() {
        None => return "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => api::hex(shown),
    };
    if body.len() > SHOWN { format!("{text} ...") } else { text }
}

/// serde_json's words without the position, for what Go would have taken.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        return "exceeded max depth".into();
    }
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_named_by_path_and_the_last_wins() {
        let parsed = json(br#"{"a":{"b":[{"c":1,"c":2}]},"d":1,"d":3}"#).unwrap();
        assert_eq!(parsed.value, json!({"a": {"b": [{"c": 2}]}, "d": 3}));
        assert_eq!(parsed.duplicates, ["a.b[0].c", "d"]);
    }

    #[test]
    fn malformed_json_is_refused_in_upstreams_words() {
        let table = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("abc", "invalid character 'a' looking for beginning of value"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru3", "invalid character '3' in literal true (expecting 'e')"),
            ("01", "invalid character '1' after top-level value"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u12g4""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("'", "invalid character '\\'' looking for beginning of value"),
        ];
        for (text, words) in table {
            assert_eq!(json(text.as_bytes()).unwrap_err(), words, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_broken_utf8_is_mended() {
        let deep = "[".repeat(100_000);
        assert_eq!(json(deep.as_bytes()).unwrap_err(), "exceeded max depth");
        assert_eq!(json(b"\"a\xff\"").unwrap().value, json!("a\u{fffd}"));
        for (text, wanted) in [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\ude00x""#, "\u{fffd}x"),
            (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\\ud800\udfff""#, "\\ud800\u{fffd}"),
        ] {
            assert_eq!(json(text.as_bytes()).unwrap().value, json!(wanted), "{text}");
        }
        assert!(json(br#""\ud800" x"#).is_err());
    }

    #[test]
    fn objects_are_counted_in_each_syntax() {
        let of = |objects: usize| format!("[{}]", vec!["{}"; objects].join(","));
        for read in [json, yaml] {
            assert_eq!(read(of(OBJECTS_MAX).as_bytes()).map(|parsed| parsed.duplicates), Ok(Vec::new()));
            let refused = read(of(OBJECTS_MAX + 1).as_bytes()).unwrap_err();
            assert!(refused.contains("more than 65536 objects"), "{refused}");
        }
    }

    #[test]
    fn yaml_reads_as_version_1_1() {
        let parsed = yaml(b"a: yes\nb: 0644\nc: '1'\n1: x\nd: 1.5\n").unwrap();
        assert_eq!(parsed.value, json!({"a": true, "b": 420, "c": "1", "1": "x", "d": 1.5}));
    }

    #[test]
    fn yaml_duplicates_and_bombs_are_refused() {
        let parsed = yaml(b"a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 3, "b": 2}));
        assert_eq!(parsed.duplicates, ["a"]);
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(yaml(bomb.as_bytes()).is_err());
        assert!(yaml("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_body_of_another_kind_is_refused() {
        let expected = Gvk::new("", "v1", "Pod");
        let mut value = json!({"kind": "Service", "apiVersion": "v1"});
        let status = name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap_err();
        assert_eq!(
            status.message,
            "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"
        );
        let mut value = json!({"kind": "Other", "apiVersion": "apps/v2"});
        let status = name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap_err();
        assert!(status.message.ends_with("converting (v2.Other) to (core.Pod): unknown conversion"), "{status}");
        let mut value = json!({"kind": "\u{7f}'", "apiVersion": "apps/\u{85}"});
        let status = name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap_err();
        assert!(status.message.contains(r#" in version "\u0085" cannot be handled as a Pod: "#), "{status}");
        let mut value = json!({"kind": "Pod", "apiVersion": "apps/v1"});
        let status = name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap_err();
        assert_eq!(status.message, "the API version in the data (apps/v1) does not match the expected API version (v1)");
        let mut value = json!({});
        name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap();
        assert_eq!(value, json!({"kind": "Pod", "apiVersion": "v1"}));
    }

    #[test]
    fn lists_are_kinds_of_another_type() {
        let expected = Gvk::new("", "v1", "ConfigMap");
        let why = |kind: &str| {
            let mut value = json!({"kind": kind, "apiVersion": "v1"});
            name_kind(&Schema::Open, &expected, &mut value, b"{}").unwrap_err().message
        };
        for kind in ["List", "ConfigMapList"] {
            assert!(why(kind).ends_with(&format!("converting (v1.{kind}) to (core.ConfigMap): unknown conversion")), "{}", why(kind));
        }
    }

    #[test]
    fn an_unreadable_body_is_shown_in_part() {
        let status = unrecognized("Pod", "unexpected end of JSON input", b"abcd");
        assert!(status.message.ends_with("unexpected end of JSON input (61626364)"), "{}", status.message);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}:,\"'a0-9.eE\\-+&*!|> \n\\\\tfn]{0,40}") {
            drop(json(&bytes));
            drop(yaml(&bytes));
            drop(yaml(text.as_bytes()));
            let ours = json(text.as_bytes());
            prop_assert_eq!(ours.is_ok(), serde_json::from_str::<Value>(&text).is_ok());
            if let Err(why) = ours {
                prop_assert!(!why.is_empty());
            }
        }

        #[test]
        fn a_syntax_complaint_comes_only_where_serde_complains(text in "[\\[\\]{}:,\"a0-9.e\\- truefalsn]{0,24}") {
            prop_assert_eq!(syntax::complaint(text.as_bytes()).is_some(), serde_json::from_str::<Value>(&text).is_err(), "{}", text);
        }
    }
}
