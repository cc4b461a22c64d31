//! A claim and what it was -> what may not have changed. Source: `ValidatePersistentVolumeClaimUpdate`.

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{CLASS_ANNOTATION, datasource};
use crate::common::{Path, Read, diff, edit, read, resources::quantity, unchanged};

const SPEC: Path<'static> = Path::new("spec");
const STORAGE: Path<'static> = Path::new("spec.resources.requests.storage");
const CLASS: Path<'static> = Path::new("spec.volumeAttributesClassName");
const IMMUTABLE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// Runs after the new claim has been validated by itself.
pub fn validate(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let null = Value::Null;
    let (mut now, mut was) = (new.get("spec").unwrap_or(&null).clone(), old.get("spec").unwrap_or(&null).clone());
    datasource::normalize(&mut was);
    if was.text("volumeName").is_empty() {
        edit::carry(&mut was, &now, "volumeName");
    }
    class(new, old, &mut now, causes);
    if new.at("status").text("phase") == "Bound" {
        if let Some(requests) = now.pointer_mut("/resources/requests").filter(|r| r.is_object()) {
            edit::carry_as(requests, "storage", storage(old).or(Some(&json!("0"))));
        }
        edit::carry(&mut now, &was, "volumeAttributesClassName");
    }
    let (now, was) = (as_go_has_it(&now), as_go_has_it(&was));
    if now != was {
        causes.forbidden(SPEC, &format!("{IMMUTABLE}\n{}", diff::in_order(&was, &now)));
    }
    size(new, old, causes);
    unchanged(new.at("spec").at("volumeMode"), old.at("spec").at("volumeMode"), Path::new("volumeMode"), causes);
    attributes_class(new, old, causes);
}

/// The class moves from the annotation to its field, or comes where there was none; else it stays, and so does the annotation.
fn class(new: &Value, old: &Value, now: &mut Value, causes: &mut FieldErrors) {
    let annotation = |of: &'_ Value| of.at("metadata").at("annotations").at(CLASS_ANNOTATION).cloned();
    let (annotated, was_annotated) = (annotation(new), annotation(old));
    let (named, was_named) = (new.at("spec").at("storageClassName"), old.at("spec").at("storageClassName"));
    let is_as_annotated = named.is_some() && named == was_annotated.as_ref();
    if was_named.is_none() && is_as_annotated && (annotated.is_none() || annotated == was_annotated) {
        edit::remove(now, "storageClassName");
        return;
    }
    if !read::same(annotated.as_ref(), was_annotated.as_ref()) {
        let at = Path::new("metadata.annotations");
        causes.invalid(at.field(CLASS_ANNOTATION), annotated.unwrap_or_else(|| "".into()), "field is immutable");
    }
    if named.is_some() && was_named.is_none() && (was_annotated.is_none() || is_as_annotated) {
        edit::remove(now, "storageClassName");
    }
}

fn storage(claim: &Value) -> Option<&Value> {
    claim.at("spec").at("resources").at("requests").at("storage")
}

/// It may shrink while it grows, as long as it is larger than what there is already (`RecoverVolumeExpansionFailure`).
fn size(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let amount = |value: Option<&Value>| value.and_then(quantity).unwrap_or(api::quantity::Quantity::from_units(0));
    let (now, was, there) = (amount(storage(new)), amount(storage(old)), amount(old.at("status").at("capacity").at("storage")));
    if now < was && now <= there {
        causes.forbidden(STORAGE, "field can not be less than status.capacity");
    }
}

fn attributes_class(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let field = |claim: &'_ Value| claim.at("spec").at("volumeAttributesClassName").cloned();
    let (now, was, current) = (field(new), field(old), old.at("status").at("currentVolumeAttributesClassName"));
    if now == was || current.is_none() {
        return;
    }
    match now.as_ref().and_then(Value::as_str) {
        None => causes.forbidden(CLASS, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"),
        Some("") => causes.forbidden(CLASS, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"),
        Some(_) => {}
    }
}

/// The spec under the names and in the order of upstream's internal type, where what is empty is null.
fn as_go_has_it(spec: &Value) -> Value {
    let filled = |value: Option<&Value>| value.filter(|v| !matches!(v, Value::Array(a) if a.is_empty())).cloned();
    let list = |of: Option<&Value>, name: &str| of.at(name).filter(|m| m.as_object().is_some_and(|m| !m.is_empty())).cloned();
    let text = |of: &Value, name: &str| of.at(name).cloned();
    let source = |of: &Value| json!({"APIGroup": text(of, "apiGroup"), "Kind": of.text("kind"), "Name": of.text("name")});
    let reference = |of: &Value| {
        let mut all = source(of);
        all["Namespace"] = text(of, "namespace").unwrap_or(Value::Null);
        all
    };
    json!({
        "AccessModes": filled(spec.at("accessModes")),
        "Selector": spec.at("selector"),
        "Resources": {"Limits": list(spec.at("resources"), "limits"), "Requests": list(spec.at("resources"), "requests")},
        "VolumeName": spec.text("volumeName"),
        "StorageClassName": text(spec, "storageClassName"),
        "VolumeMode": text(spec, "volumeMode"),
        "DataSource": spec.at("dataSource").map(source),
        "DataSourceRef": spec.at("dataSourceRef").map(reference),
        "VolumeAttributesClassName": text(spec, "volumeAttributesClassName"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(more: Value, status: Value) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "volumeMode": "Filesystem"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": "a"}, "spec": spec, "status": status})
    }

    fn sized(size: &str) -> Value {
        json!({"resources": {"requests": {"storage": size}}})
    }

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        validate(new, old, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn the_spec_stays() {
        let old = claim(json!({"storageClassName": "none"}), json!({"phase": "Pending"}));
        let mut new = old.clone();
        new["spec"]["volumeName"] = json!("pv");
        assert_eq!(texts(&new, &old), Vec::<String>::new());
        new["spec"]["storageClassName"] = json!("other");
        let wanted = format!(
            "spec: Forbidden: {IMMUTABLE}\n@@ -10,7 +10,7 @@\n   }}\n  }},\n  \"VolumeName\": \"pv\",\n- \"StorageClassName\": \"none\",\n+ \"StorageClassName\": \"other\",\n  \"VolumeMode\": \"Filesystem\",\n  \"DataSource\": null,\n  \"DataSourceRef\": null,\n"
        );
        assert_eq!(texts(&new, &old), [wanted]);
        new["spec"]["storageClassName"] = json!("none");
        new["spec"]["volumeMode"] = json!("Block");
        assert_eq!(texts(&new, &old)[1], "volumeMode: Invalid value: \"Block\": field is immutable");
    }

    #[test]
    fn a_bound_claim_may_grow_and_shrink_above_what_there_is() {
        let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let old = claim(sized("2Gi"), bound.clone());
        for size in ["3Gi", "1500Mi"] {
            assert_eq!(texts(&claim(sized(size), bound.clone()), &old), Vec::<String>::new(), "{size}");
        }
        let wanted = ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"];
        assert_eq!(texts(&claim(sized("1Gi"), bound), &old), wanted);
        assert_eq!(texts(&claim(sized("3Gi"), json!({"phase": "Pending"})), &old).len(), 1);
    }

    #[test]
    fn a_class_comes_once() {
        let (bare, named) = (claim(json!({}), json!({})), claim(json!({"storageClassName": "x"}), json!({})));
        assert_eq!(texts(&named, &bare), Vec::<String>::new());
        assert_eq!(texts(&bare, &named).len(), 1);
        let mut annotated = bare.clone();
        annotated["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "x"});
        assert_eq!(texts(&named, &annotated), Vec::<String>::new());
        let other = claim(json!({"storageClassName": "y"}), json!({}));
        let found = texts(&other, &annotated);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], format!("metadata.annotations.{CLASS_ANNOTATION}: Invalid value: \"\": field is immutable"));
    }

    #[test]
    fn applied_attributes_are_not_taken_away() {
        let bound = json!({"phase": "Bound", "currentVolumeAttributesClassName": "gold"});
        let of = |class: Value| claim(json!({"volumeAttributesClassName": class}), bound.clone());
        assert_eq!(texts(&of(json!("silver")), &of(json!("gold"))), Vec::<String>::new());
        for (class, word) in [(json!(""), "empty string"), (Value::Null, "nil")] {
            let found = texts(&of(class), &of(json!("gold")));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(&format!("update to {word} is forbidden")), "{found:?}");
        }
    }
}
