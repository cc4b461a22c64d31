//! A parsed body and its kind's shape -> the body without what the kind does not have, and what is wrong with it.
//!
//! Sources: sigs.k8s.io/json (unknown and duplicate fields), Go `encoding/json` (types), the `UnmarshalJSON` of quantities, times, int-or-strings.

use std::{
    collections::HashSet,
    fmt::{self, Write},
    hash::{BuildHasher, DefaultHasher, Hasher, RandomState},
};

use api::{Gvk, Status, quoted};
use serde_json::{Map, Value};

use super::{Definition, FieldValidation, Structure, Table, Type, go};

/// More than these are not reported, nor more once they take so much room: a path is as long as the keys in it.
const STRICT_ERRORS_MAX: usize = 100;
const STRICT_BYTES_MAX: usize = 1 << 20;

/// Drops unknown fields, nulls and zero values that stand for nothing from `object` as Go's decoder would, and checks types. `duplicates` are
/// the parser's. Returns warnings; fails with 400 for wrong types, and under [`FieldValidation::Strict`] for what else would be a warning.
pub fn check(
    schema: &Structure,
    gvk: &Gvk,
    object: &mut Value,
    duplicates: &[String],
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    let mut walk = Walk { table: &schema.table, twice: Twice::new(duplicates), strict: Vec::new(), strict_bytes: 0, fatal: None };
    walk.value(Type::Object(schema.root), object, &Place::ROOT);
    match walk.fatal {
        Some(why) => Err(refused(gvk, &why)),
        None => strict(gvk, walk.strict, mode),
    }
}

/// As [`check`], of the metadata alone: what is unknown of it comes back.
pub fn metadata(schema: &Structure, gvk: &Gvk, object: &mut Value) -> Result<Vec<String>, Status> {
    let Some(metadata) = object.get_mut("metadata").filter(|metadata| !metadata.is_null()) else { return Ok(Vec::new()) };
    let Some(field) = schema.root().field("metadata") else { return Ok(Vec::new()) };
    let mut walk = Walk { table: &schema.table, twice: None, strict: Vec::new(), strict_bytes: 0, fatal: None };
    walk.value(field.typ, metadata, &Place::ROOT);
    match walk.fatal {
        Some(why) => Err(refused(gvk, &why)),
        None => Ok(walk.strict.iter().map(|text| text.replacen("field \"", "field \"metadata.", 1)).collect()),
    }
}

/// What is to be done about fields that are unknown or given twice.
pub fn strict(gvk: &Gvk, found: Vec<String>, mode: FieldValidation) -> Result<Vec<String>, Status> {
    match mode {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(found),
        FieldValidation::Strict if found.is_empty() => Ok(found),
        FieldValidation::Strict => Err(refused(gvk, &format!("strict decoding error: {}", found.join(", ")))),
    }
}

fn refused(gvk: &Gvk, why: &str) -> Status {
    let (kind, version) = (&gvk.kind, &gvk.version);
    Status::bad_request(format!("{kind} in version {} cannot be handled as a {kind}: {why}", quoted(version)))
}

struct Walk<'a> {
    table: &'a Table,
    twice: Option<Twice<'a>>,
    strict: Vec<String>,
    strict_bytes: usize,
    /// The first type error.
    fatal: Option<String>,
}

/// The paths that were given twice, known again without writing out the path of every field: that is as long as all keys above it.
struct Twice<'a> {
    paths: HashSet<&'a str>,
    hashes: HashSet<u64>,
    /// Of the path to where the walk stands, one for each step.
    trail: Vec<DefaultHasher>,
}

impl<'a> Twice<'a> {
    /// `None` where nothing was given twice, as nearly always.
    fn new(duplicates: &'a [String]) -> Option<Self> {
        if duplicates.is_empty() {
            return None;
        }
        let root = RandomState::new().build_hasher();
        let hash = |path: &String| {
            let mut hasher = root.clone();
            hasher.write(path.as_bytes());
            hasher.finish()
        };
        let hashes = duplicates.iter().map(hash).collect();
        Some(Self { paths: duplicates.iter().map(String::as_str).collect(), hashes, trail: vec![root] })
    }

    /// One step down; whether what is there may have been given twice.
    fn enter(&mut self, step: &Step<'_>) -> bool {
        let mut hasher = self.trail.last().cloned().unwrap_or_default();
        match step {
            Step::Root => {}
            Step::Index(at) => hasher.write(format!("[{at}]").as_bytes()),
            Step::Field(_, name) | Step::Key(name) => {
                if self.trail.len() > 1 {
                    hasher.write(b".");
                }
                hasher.write(name.as_bytes());
            }
        }
        let met = self.hashes.contains(&hasher.finish());
        self.trail.push(hasher);
        met
    }
}

/// Where the walk stands: a chain on the stack, written out only for errors.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    /// A field of the definition.
    Field(&'a Definition, &'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    const ROOT: Place<'static> = Place { parent: None, step: Step::Root };

    fn then(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step }
    }

    /// `Container.spec.containers.image`: the innermost object's type, then the fields from the root (as Go names it).
    fn go_field(&self) -> Option<String> {
        let mut owner = None;
        let mut fields = Vec::new();
        let mut at = Some(self);
        while let Some(place) = at {
            if let Step::Field(definition, name) = place.step {
                owner = owner.or(Some(definition));
                fields.push(name);
            }
            at = place.parent;
        }
        fields.reverse();
        owner.map(|owner| format!("{}.{}", owner.short(), fields.join(".")))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Index(at) => write!(f, "[{at}]"),
            Step::Field(_, name) | Step::Key(name) => {
                if parent.parent.is_some() {
                    f.write_char('.')?;
                }
                f.write_str(name)
            }
        }
    }
}

impl Walk<'_> {
    fn value(&mut self, typ: Type, value: &mut Value, at: &Place<'_>) {
        if self.fatal.is_some() {
            return;
        }
        match (typ, &mut *value) {
            (Type::Object(definition), Value::Object(map)) => self.object(self.table.definition(definition), map, at),
            (Type::List(element), Value::Array(list)) => self.list(self.table.element(element), list, at),
            (Type::Map(element), Value::Object(map)) => self.map(self.table.element(element), map, at),
            (Type::Any, _) | (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) | (Type::Double, Value::Number(_)) => {}
            (Type::Int64, Value::Number(n)) if n.is_i64() => {}
            (Type::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Type::Int32 | Type::Int64, Value::Number(n)) => {
                let what = format!("number {n}");
                self.mismatch(&what, typ, at);
            }
            (Type::Bytes, Value::String(text)) => self.fail(go::base64_error(text)),
            (Type::Time | Type::MicroTime, _) => self.time(typ, value, at),
            (Type::Quantity, _) => self.quantity(value),
            (Type::IntOrString, _) => self.int_or_string(value, at),
            _ => self.mismatch(go::word(value), typ, at),
        }
    }

    fn object(&mut self, definition: &Definition, map: &mut Map<String, Value>, at: &Place<'_>) {
        map.retain(|key, value| match definition.field(key) {
            Some(field) => {
                let here = at.then(Step::Field(definition, &field.name));
                self.enter(&here);
                if !value.is_null() {
                    self.value(field.typ, value, &here);
                }
                self.leave();
                !value.is_null() && !field.is_absent(value)
            }
            None if definition.open => true,
            None => {
                self.strict("unknown", &at.then(Step::Key(key)));
                false
            }
        });
    }

    fn list(&mut self, element: Type, list: &mut [Value], at: &Place<'_>) {
        for (index, value) in list.iter_mut().enumerate() {
            if value.is_null() {
                *value = zero(element);
            }
            let here = at.then(Step::Index(index));
            self.enter(&here);
            self.value(element, value, &here);
            self.leave();
        }
    }

    fn map(&mut self, element: Type, map: &mut Map<String, Value>, at: &Place<'_>) {
        for (key, value) in map.iter_mut() {
            let here = at.then(Step::Key(key));
            self.enter(&here);
            if value.is_null() {
                *value = zero(element);
            }
            self.value(element, value, &here);
            self.leave();
        }
    }

    /// Steps down to `at`, and reports it if it was given twice.
    fn enter(&mut self, at: &Place<'_>) {
        let Some(twice) = &mut self.twice else { return };
        if twice.enter(&at.step)
            && self.has_room()
            && self.twice.as_ref().is_some_and(|twice| twice.paths.contains(at.to_string().as_str()))
        {
            self.strict("duplicate", at);
        }
    }

    fn leave(&mut self) {
        if let Some(twice) = &mut self.twice {
            twice.trail.pop();
        }
    }

    fn has_room(&self) -> bool {
        self.strict.len() < STRICT_ERRORS_MAX && self.strict_bytes < STRICT_BYTES_MAX
    }

    fn strict(&mut self, what: &str, at: &Place<'_>) {
        if self.has_room() {
            let text = format!("{what} field {}", quoted(&at.to_string()));
            self.strict_bytes += text.len();
            self.strict.push(text);
        }
    }

    fn mismatch(&mut self, what: &str, typ: Type, at: &Place<'_>) {
        self.no(what, &go::type_name(self.table, typ), at);
    }

    /// Go's decoder tells of the field too where a type reads itself (`addErrorContext`).
    fn no(&mut self, what: &str, wanted: &str, at: &Place<'_>) {
        let words = match at.go_field() {
            Some(field) => format!("json: cannot unmarshal {what} into Go struct field {field} of type {wanted}"),
            None => format!("json: cannot unmarshal {what} into Go value of type {wanted}"),
        };
        self.fail(Some(words));
    }

    fn fail(&mut self, why: Option<String>) {
        if self.fatal.is_none() {
            self.fatal = why;
        }
    }

    fn time(&mut self, typ: Type, value: &Value, at: &Place<'_>) {
        let layout = if typ == Type::MicroTime { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        match value {
            Value::String(text) => self.fail(go::time_error(text, layout)),
            other => self.no(go::word(other), "string", at),
        }
    }

    /// A number is taken too. It becomes text in canonical form (`Quantity.UnmarshalJSON` and `MarshalJSON`).
    fn quantity(&mut self, value: &mut Value) {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
        let text = value.as_str().unwrap_or("{}");
        match api::quantity::written_of_json(text).map(|written| (written != text).then(|| written.into_owned())) {
            Ok(None) => {}
            Ok(Some(written)) => *value = Value::String(written),
            Err(why) => self.fail(Some(why.to_owned())),
        }
    }

    fn int_or_string(&mut self, value: &Value, at: &Place<'_>) {
        let what = match value {
            Value::String(_) => return,
            Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
            Value::Number(n) => format!("number {n}"),
            other => go::word(other).to_owned(),
        };
        self.no(&what, "int32", at);
    }
}

/// What Go has where a null stands in a list or a map.
pub(super) fn zero(typ: Type) -> Value {
    match typ {
        Type::String | Type::Bytes => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::Object(_) | Type::Map(_) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Time | Type::MicroTime | Type::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LINES: &str = "=x.v1.Pod\napiVersion s\nkind s\nmetadata @x.v1.Meta\nspec @x.v1.PodSpec\n\
        =x.v1.Meta\nname s\nlabels {s\ncreationTimestamp t\n\
        =x.v1.PodSpec\ncontainers [@x.v1.Container\nseconds l\nlimits {q\nport o\nraw x\nflag b\nzero ~b\nempty ~[s\ndata y\n\
        =x.v1.Container\nname s\nimage s\nargs [s\nnumber i\n";

    fn run(object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, Status> {
        let schema = Structure::find(&Arc::new(Table::parse(LINES)), "x.v1.Pod").unwrap();
        check(&schema, &Gvk::new("", "v1", "Pod"), object, &["metadata.labels.a".into()], mode)
    }

    #[test]
    fn unknown_and_null_fields_go_and_are_reported() {
        let mut pod = json!({
            "foo": 1, "spec": {"containers": [{"name": "a", "Image": "b", "args": [null]}], "bar": {"x": 1}, "seconds": null},
            "metadata": {"labels": {"a": "b", "c": null}},
        });
        let warnings = run(&mut pod, FieldValidation::Warn).unwrap();
        assert_eq!(
            warnings,
            [
                r#"unknown field "foo""#,
                r#"unknown field "spec.containers[0].Image""#,
                r#"unknown field "spec.bar""#,
                r#"duplicate field "metadata.labels.a""#,
            ]
        );
        assert_eq!(pod, json!({"spec": {"containers": [{"name": "a", "args": [""]}]}, "metadata": {"labels": {"a": "b", "c": ""}}}));
    }

    #[test]
    fn strict_refuses_with_all_and_ignore_says_nothing() {
        let status = run(&mut json!({"spec": {"foo": 1, "bar": 2}}), FieldValidation::Strict).unwrap_err();
        assert_eq!(status.code, 400);
        assert_eq!(
            status.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\", unknown field \"spec.bar\""
        );
        assert!(run(&mut json!({"spec": {"foo": 1}}), FieldValidation::Ignore).unwrap().is_empty());
    }

    #[test]
    fn wrong_types_are_refused_in_upstreams_words() {
        let table = [
            (
                json!({"spec": {"containers": [{"image": 5}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
            ),
            (
                json!({"spec": {"containers": "a"}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (json!({"spec": []}), "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
            (
                json!({"spec": {"seconds": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.seconds of type int64",
            ),
            (
                json!({"spec": {"containers": [{"number": 3_000_000_000_u32}]}}),
                "json: cannot unmarshal number 3000000000 into Go struct field Container.spec.containers.number of type int32",
            ),
            (
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field Meta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"creationTimestamp": 5}}),
                "json: cannot unmarshal number into Go struct field Meta.metadata.creationTimestamp of type string",
            ),
            (json!({"spec": {"limits": {"cpu": "x"}}}), api::quantity::RULE),
            (json!({"spec": {"port": {}}}), "json: cannot unmarshal object into Go struct field PodSpec.spec.port of type int32"),
            (json!({"spec": {"data": "!"}}), "illegal base64 data at input byte 0"),
        ];
        for (mut object, words) in table {
            let status = run(&mut object, FieldValidation::Ignore).unwrap_err();
            assert_eq!(status.message, format!("Pod in version \"v1\" cannot be handled as a Pod: {words}"));
        }
    }

    #[test]
    fn what_has_its_own_form_passes() {
        let mut pod = json!({
            "metadata": {"creationTimestamp": "2024-01-02T03:04:05Z"},
            "spec": {"limits": {"cpu": 1, "memory": "1Gi"}, "port": "http", "raw": {"a": null}, "data": "aGk=", "flag": true},
        });
        pod["spec"]["zero"] = false.into();
        pod["spec"]["empty"] = json!([]);
        run(&mut pod, FieldValidation::Strict).unwrap();
        assert!(pod["spec"].get("zero").is_none() && pod["spec"].get("empty").is_none());
        assert_eq!(pod["spec"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(pod["spec"]["raw"], json!({"a": null}));
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9:TZ=-]{0,20}".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("spec|metadata|containers|limits|port|data|labels|creationTimestamp|raw|foo", inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_passes_once_passes_again_unchanged(mut object in anything()) {
            if run(&mut object, FieldValidation::Warn).is_ok() {
                let before = object.clone();
                prop_assert!(run(&mut object, FieldValidation::Warn).is_ok());
                prop_assert_eq!(object, before);
            }
        }
    }
}
