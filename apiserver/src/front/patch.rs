//! A patch document and the object it is for -> the patched object. Source: apiserver `pkg/endpoints/handlers/patch.go`.

mod operations;

pub(crate) use operations::Spent;

use api::Status;
use http::HeaderMap;
use serde_json::Value;

use super::{negotiate::media_type, query::Query};
use crate::{
    engine::{
        context::Ctx,
        managed_fields::{self, Configuration},
    },
    parse,
    schema::Schema,
};

const APPLY: &str = "application/apply-patch+yaml";
/// What built-in kinds take; others come to this one by one.
pub(crate) const TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", APPLY];
const CUSTOM_TYPES: &[&str] = &["application/json-patch+json", "application/merge-patch+json", APPLY];

/// A patch, read but not yet applied.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    /// `force` is of the query.
    Apply(Configuration),
}

/// Reads the body. The texts are the paths given twice.
///
/// # Errors
/// 415 for other types, 400 for what is no patch, 413 for too many operations.
pub(crate) fn read(headers: &HeaderMap, query: &Query, schema: &Schema, body: &[u8]) -> Result<(Patch, Vec<String>), Status> {
    let media_type = media_type(headers);
    let taken = if schema.has_protobuf() { TYPES } else { CUSTOM_TYPES };
    if !taken.contains(&media_type.as_str()) {
        return Err(Status::unsupported_media_type(taken));
    }
    if media_type == APPLY {
        return configuration(body, query);
    }
    let parsed = parse::json(body).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let patch = match media_type.as_str() {
        "application/json-patch+json" => Patch::Json(operations::read(parsed.value)?),
        "application/merge-patch+json" => Patch::Merge(map(parsed.value, "error decoding patch: ")?),
        _ => Patch::Strategic(map(parsed.value, "")?),
    };
    Ok((patch, parsed.duplicates))
}

impl Patch {
    /// `spent` is what one request has taken of the work that it may be, with all its tries.
    ///
    /// # Errors
    /// 422 where it does not fit the object, 413 where it is too much work.
    pub fn apply(&self, ctx: &Ctx<'_>, object: &mut Value, spent: &Spent) -> Result<(), Status> {
        match self {
            Patch::Json(patch) => operations::apply(patch, object, spent),
            Patch::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Patch::Apply(configuration) => managed_fields::apply(ctx, object, configuration),
            Patch::Strategic(patch) => ctx.kind.schema.strategic_merge(object, patch.clone()),
        }
    }
}

/// Applies a JSON patch that came from elsewhere (a webhook's), within the bounds of one that a client sends.
///
/// # Errors
/// 400 for what is none, 422 where it does not fit the object, 413 where it is too much work.
pub fn json(operations: Value, object: &mut Value) -> Result<(), Status> {
    operations::apply(&operations::read(operations)?, object, &Spent::default())
}

/// What patches have done that share the bounds of one.
#[derive(Default)]
pub struct PatchWork(operations::Work);

/// The same within the bounds that are left of `work`.
///
/// # Errors
/// As those of [`json`]; 422 and 413, too, where all of them together copy too much or are too much work.
pub fn json_within(operations: Value, object: &mut Value, work: &mut PatchWork) -> Result<(), Status> {
    work.0.apply(&operations::read(operations)?, object)
}

/// Whether it is applied, and with whose fields told apart.
pub(crate) fn is_apply(headers: &HeaderMap) -> bool {
    media_type(headers) == APPLY
}

/// Most send JSON, which is YAML.
fn configuration(body: &[u8], query: &Query) -> Result<(Patch, Vec<String>), Status> {
    let refused = |why: String| Status::bad_request(format!("error decoding YAML: {why}"));
    // Where a key stands twice it is YAML's reader that tells of it.
    let json = parse::json(body).ok().filter(|parsed| parsed.duplicates.is_empty());
    let parsed = json.map_or_else(|| parse::yaml(body), Ok).map_err(refused)?;
    let value = match parsed.value {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Object(map) => Value::Object(map),
        other => {
            let word = crate::schema::word(&other);
            let why = format!("json: cannot unmarshal {word} into Go value of type map[string]interface {{}}");
            return Err(refused(format!("error unmarshaling JSON: while decoding JSON: {why}")));
        }
    };
    Ok((Patch::Apply(Configuration { value, is_forced: query.flag("force") }), parsed.lines))
}

/// `refused` comes before what is wrong.
fn map(value: Value, refused: &str) -> Result<Value, Status> {
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        other => {
            let word = crate::schema::word(&other);
            let why = format!("json: cannot unmarshal {word} into Go value of type map[string]interface {{}}");
            Err(Status::bad_request(format!("{refused}{why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// JSON without nulls, which a merge patch cannot write.
    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from), "[a-z~/]{0,4}".prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c~/]{1,2}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-c]", json(), 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// The merge patch that turns `from` into `to`.
    fn difference(from: &Value, to: &Value) -> Value {
        let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
        let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
        let there = new.iter().map(|(key, value)| (key.clone(), old.get(key).map_or(value.clone(), |was| difference(was, value))));
        Value::Object(gone.chain(there).collect())
    }

    proptest! {
        #[test]
        fn a_merge_of_the_difference_makes_the_other(from in object(), to in object()) {
            let mut object = from.clone();
            json_patch::merge(&mut object, &difference(&from, &to));
            prop_assert_eq!(object, to);
        }

        #[test]
        fn operations_of_the_difference_make_the_other(from in object(), to in object()) {
            let mut object = from.clone();
            let text = serde_json::to_value(json_patch::diff(&from, &to)).unwrap();
            operations::apply(&operations::read(text).unwrap(), &mut object, &Spent::default()).unwrap();
            prop_assert_eq!(object, to);
        }
    }
}
