//! Upstream's own encodings of every built-in kind against ours, and random objects there and back.

use std::{fs, path::Path};

use apiserver::schema::{Table, Type};
use proptest::{prelude::*, strategy::Strategy};
use serde_json::{Map, Value, json};

use super::TABLES;

/// `staging/src/k8s.io/api/testdata/HEAD` of upstream.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/api");
const DEPTH: u32 = 9;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Kind, version and message, as upstream puts them together.
fn enveloped(value: &Value, message: &[u8]) -> Vec<u8> {
    apiserver::schema::enveloped(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap(), message)
}

#[test]
fn what_upstream_wrote_is_what_we_write() {
    let (mut seen, mut wrong) = (0, Vec::new());
    let mut files: Vec<_> =
        fs::read_dir(GOLDEN).expect("the shared data is beside the project").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let value: Value = serde_json::from_slice(&read(path)).unwrap();
        // Some (scales, reviews of other groups) are not among the published definitions, and some are no objects.
        let (Some(api_version), Some(kind)) = (value["apiVersion"].as_str(), value["kind"].as_str()) else { continue };
        let Some(at) = TABLES.writer().definition(api_version, kind) else { continue };
        seen += 1;
        let mut message = Vec::new();
        TABLES.writer().write(at, value.to_string().as_bytes(), &mut message).unwrap();
        let (ours, theirs) = (enveloped(&value, &message), read(&path.with_extension("pb")));
        if ours != theirs {
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
            let part = |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(20)..bytes.len().min(at + 20)]).into_owned();
            wrong.push(format!("{api_version} {kind} at {at}: {:?}, upstream has {:?}", part(&ours), part(&theirs)));
            continue;
        }
        let back = TABLES.protobuf(kind, &theirs).unwrap().value;
        if back != value {
            wrong.push(format!("{api_version} {kind} read back: {}", first_difference(&value, &back, String::new())));
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 90, "{seen}");
}

fn first_difference(a: &Value, b: &Value, at: String) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys = x.keys().chain(y.keys()).find(|key| x.get(*key) != y.get(*key));
            keys.map_or(at.clone(), |key| first_difference(&a[key], &b[key], format!("{at}.{key}")))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            let index = x.iter().zip(y).position(|(a, b)| a != b);
            index.map_or(at.clone(), |index| first_difference(&x[index], &y[index], format!("{at}[{index}]")))
        }
        _ => format!("{at}: {a} | {b}"),
    }
}

/// Something of each type that its field's zero value is not, so that nothing is left out on the way.
fn anything(table: &'static Table, typ: Type, depth: u32) -> BoxedStrategy<Value> {
    match typ {
        Type::String => "[a-zä\"\\\\\n0]{1,8}".prop_map(Value::from).boxed(),
        Type::Bool => Just(json!(true)).boxed(),
        Type::Int32 => prop_oneof![Just(i32::MIN), Just(-1), 1..1000, Just(i32::MAX)].prop_map(Value::from).boxed(),
        Type::Int64 => prop_oneof![Just(i64::MIN), Just(-1), 1i64..1000, Just(i64::MAX)].prop_map(Value::from).boxed(),
        Type::Double => (1i32..1000).prop_map(|n| json!(f64::from(n) / 8.0)).boxed(),
        Type::Bytes => Just(json!("aGk=")).boxed(),
        Type::Time => (0i64..4_000_000_000).prop_map(|s| api::time::rfc3339(api::time::Timestamp::from_second(s).unwrap()).into()).boxed(),
        Type::MicroTime => (0i64..4_000_000_000_000)
            .prop_map(|s| api::time::rfc3339_micro(api::time::Timestamp::from_microsecond(s * 1000 + 7).unwrap()).into())
            .boxed(),
        Type::Quantity => "[1-9][0-9]{0,3}(m|Mi)?".prop_map(Value::from).boxed(),
        Type::IntOrString => prop_oneof![Just(json!(8080)), Just(json!("http"))].boxed(),
        Type::Any => Just(json!({"a": [1, null, "x"]})).boxed(),
        Type::Object(at) => object(table, at, depth).boxed(),
        Type::List(at) => proptest::collection::vec(anything(table, table.element(at), depth + 1), 1..3).prop_map(Value::from).boxed(),
        Type::Map(at) => proptest::collection::btree_map("[a-z]{1,5}", anything(table, table.element(at), depth + 1), 1..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
            .boxed(),
    }
}

/// Some of its fields.
fn object(table: &'static Table, at: u32, depth: u32) -> BoxedStrategy<Value> {
    let definition = table.definition(at);
    let fields: Vec<(String, Type)> = definition
        .fields
        .iter()
        .filter(|field| !(matches!(field.name.as_ref(), "apiVersion" | "kind") && definition.field("metadata").is_some()))
        // Forms of their own are in the golden files.
        .filter(|field| field.typ != Type::Any)
        .map(|field| (field.name.to_string(), field.typ))
        .collect();
    if depth > DEPTH || fields.is_empty() {
        return Just(json!({})).boxed();
    }
    proptest::sample::subsequence(fields.clone(), 0..=fields.len().min(5))
        .prop_shuffle()
        .prop_flat_map(move |picked| {
            let values: Vec<_> = picked
                .into_iter()
                .map(|(name, typ)| anything(table, typ, depth + 1).prop_map(move |value| (name.clone(), value)).boxed())
                .collect();
            values.prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>()))
        })
        .boxed()
}

/// An object that names its kind, of any kind there is.
fn some_object() -> impl Strategy<Value = Value> {
    let table: &'static Table = TABLES.table();
    let kinds = [("v1", "Pod"), ("v1", "Service"), ("apps/v1", "Deployment"), ("v1", "Node"), ("v1", "Secret"), ("batch/v1", "CronJob")];
    proptest::sample::select(kinds.to_vec()).prop_flat_map(move |(api_version, kind)| {
        let at = TABLES.writer().definition(api_version, kind).unwrap();
        object(table, at, 0).prop_map(move |mut value| {
            value["kind"] = kind.into();
            value["apiVersion"] = api_version.into();
            value
        })
    })
}

/// One in which each thing stands that may stand in a schema's place.
fn some_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!({"type": "string"})), Just(json!({"type": "integer", "default": 3, "enum": [3, "x", null]}))];
    leaf.prop_recursive(4, 30, 3, |inner| {
        let some = || proptest::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            inner.clone().prop_map(|schema| json!({"type": "array", "items": schema})),
            some().prop_map(|schemas| json!({"items": schemas, "additionalItems": false, "allOf": schemas})),
            (inner.clone(), any::<bool>())
                .prop_map(|(schema, is_allowed)| json!({"additionalItems": schema, "additionalProperties": is_allowed})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"properties": {"a": a, "b": {"additionalProperties": b}}})),
            inner.clone().prop_map(|schema| json!({"dependencies": {"a": schema, "b": ["c", "d"]}, "not": {"items": {"type": "string"}}})),
        ]
    })
}

/// What upstream writes although the object has nothing there (a struct, a number that is no pointer) is read as that.
fn covers(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            written.iter().all(|(key, value)| read.get(key).is_some_and(|read| covers(read, value)))
                && read.iter().filter(|(key, _)| !written.contains_key(*key)).all(|(_, value)| is_zero(value))
        }
        (Value::Array(read), Value::Array(written)) => {
            read.len() == written.len() && read.iter().zip(written).all(|(read, written)| covers(read, written))
        }
        (read, written) => read == written,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:TZ=-]{0,20}".prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let name = "spec|metadata|containers|limits|requests|resources|ports|port|data|labels|creationTimestamp|managedFields|fieldsV1|time|env|name";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn objects_come_back_as_they_went(value in some_object()) {
        let (api_version, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
        let at = TABLES.writer().definition(api_version, kind).unwrap();
        let mut message = Vec::new();
        TABLES.writer().write(at, value.to_string().as_bytes(), &mut message).unwrap();
        let back = TABLES.protobuf(kind, &enveloped(&value, &message)).unwrap().value;
        prop_assert!(covers(&back, &value), "{}\n{}", value, back);
        // And what came back is written to the same bytes.
        let mut again = Vec::new();
        TABLES.writer().write(at, back.to_string().as_bytes(), &mut again).unwrap();
        prop_assert_eq!(message, again);
    }

    #[test]
    fn schemas_come_back_as_they_went(schema in some_schema()) {
        let value = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let at = TABLES.writer().definition("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
        let mut message = Vec::new();
        TABLES.writer().write(at, value.to_string().as_bytes(), &mut message).unwrap();
        let back = TABLES.protobuf("CustomResourceDefinition", &enveloped(&value, &message)).unwrap().value;
        prop_assert!(covers(&back, &value), "{}\n{}", value, back);
    }

    #[test]
    fn whatever_is_stored_is_written_and_read(value in any_json()) {
        for (api_version, kind) in [("v1", "Pod"), ("v1", "Secret"), ("apiextensions.k8s.io/v1", "CustomResourceDefinition")] {
            let at = TABLES.writer().definition(api_version, kind).unwrap();
            let mut message = Vec::new();
            if TABLES.writer().write(at, value.to_string().as_bytes(), &mut message).is_ok() {
                prop_assert!(TABLES.protobuf(kind, &apiserver::schema::enveloped(api_version, kind, &message)).is_ok());
            }
        }
    }
}
