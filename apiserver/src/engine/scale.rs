//! An object <-> its `autoscaling/v1` Scale.

use api::{Status, field_errors::FieldErrors};
use serde_json::{Value, json};

use super::meta;
use crate::{
    kind::{Kind, ScalePaths},
    schema::Schema,
};

/// The scale that an object shows.
pub(crate) fn of(paths: &ScalePaths, object: &Value) -> Value {
    let mut metadata = json!({});
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta::field(object, name) {
            metadata[name] = value.clone();
        }
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if let Some(text) = object.pointer(&paths.selector).map(selector_text).filter(|text| !text.is_empty()) {
        status["selector"] = text.into();
    }
    let mut spec = json!({});
    if number(&paths.spec_replicas) != 0 {
        spec["replicas"] = number(&paths.spec_replicas).into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// Puts the scale's wish into the object, with the version it was made from.
pub(crate) fn put(kind: &Kind, paths: &ScalePaths, object: &mut Value, scale: &Value) -> Result<(), Status> {
    let replicas = scale.pointer("/spec/replicas").filter(|value| !value.is_null());
    let replicas = replicas.map_or(Some(0), Value::as_i64).filter(|count| i32::try_from(*count).is_ok());
    let Some(replicas) = replicas else { return Err(Status::bad_request("Scale: spec.replicas must be an integer")) };
    // Custom kinds judge the number where it comes to stand.
    if replicas < 0 && !matches!(kind.schema, Schema::Custom(_)) {
        let mut causes = FieldErrors::default();
        causes.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        let gvk = api::Gvk::new("autoscaling", "v1", "Scale");
        return Err(Status::invalid(&gvk, meta::text(object, "name"), &causes));
    }
    // Who names neither means the object as it is.
    for name in ["resourceVersion", "uid"] {
        let value = meta::text(scale, name).to_owned();
        if !value.is_empty() {
            meta::of(object).insert(name.into(), value.into());
        }
    }
    // What it stands in is made where it is missing (`SetNestedField`).
    let mut place = object;
    for step in paths.spec_replicas.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        let Some(map) = place.as_object_mut() else {
            return Err(Status::internal(format!("{} has no {} to scale", kind.kind, paths.spec_replicas)));
        };
        place = map.entry(step).or_insert(Value::Null);
    }
    *place = replicas.into();
    Ok(())
}

/// A label selector, or a map of labels, as one line; custom resources have it as that line (`labelSelectorPath`).
fn selector_text(selector: &Value) -> String {
    use api::selector::Labels;
    if let Some(line) = selector.as_str() {
        return line.to_owned();
    }
    let is_selector = selector.get("matchLabels").is_some_and(Value::is_object) || selector.get("matchExpressions").is_some();
    if is_selector {
        let typed = serde_json::from_value(selector.clone()).ok();
        return Labels::from_selector(typed.as_ref()).ok().flatten().map(|labels| labels.to_string()).unwrap_or_default();
    }
    let map: std::collections::BTreeMap<String, String> = serde_json::from_value(selector.clone()).unwrap_or_default();
    Labels::from_map(&map).to_string()
}
