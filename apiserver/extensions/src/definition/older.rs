//! A definition as a stock server stores it (v1beta1) -> v1.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/{v1beta1,v1}/conversion.go`, `v1beta1/defaults.go`.

use kinds::common::Read;
use serde_json::{Map, Value, json};

/// What v1beta1 may say of all versions at once.
const OF_ALL: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// Version by version, and with v1's names.
pub fn upgraded(mut definition: Value) -> Value {
    definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
    if let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) {
        spec_of(spec);
    }
    definition
}

fn spec_of(spec: &mut Map<String, Value>) {
    let version = spec.shift_remove("version").unwrap_or_default();
    let of_all = OF_ALL.map(|(name, name_of_one)| (name_of_one, spec.shift_remove(name).filter(|value| !value.is_null())));
    if spec.get("versions").is_none_or(|versions| versions.as_array().is_none_or(Vec::is_empty)) {
        spec.insert("versions".into(), json!([{"name": version, "served": true, "storage": true}]));
    }
    for one in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        for (name, value) in &of_all {
            if let Some(value) = value
                && one.get(*name).is_none_or(Value::is_null)
            {
                one.insert((*name).to_owned(), value.clone());
            }
        }
        let columns = one.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(path) = column.shift_remove("JSONPath") {
                column.insert("jsonPath".into(), path);
            }
        }
    }
    // Nothing said was true, and false is not written.
    match spec.get("preserveUnknownFields").and_then(Value::as_bool) {
        None => drop(spec.insert("preserveUnknownFields".into(), true.into())),
        Some(false) => drop(spec.shift_remove("preserveUnknownFields")),
        Some(true) => {}
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let parts = [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")];
        let webhook: Map<String, Value> = parts
            .into_iter()
            .filter_map(|(name, renamed)| Some((renamed.to_owned(), conversion.shift_remove(name).filter(|value| !value.is_null())?)))
            .collect();
        if Value::Object(conversion.clone()).text("strategy") == "Webhook" {
            conversion.insert("webhook".into(), webhook.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_all_versions_is_said_of_each() {
        let column = json!({"name": "Size", "type": "integer", "JSONPath": ".spec.size"});
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let client = json!({"url": "https://a"});
        let old = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {
            "group": "test.io", "version": "v1", "validation": schema, "subresources": {"status": {}}, "additionalPrinterColumns": [column],
            "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": false, "storage": false, "schema": {"openAPIV3Schema": {}}}],
            "conversion": {"strategy": "Webhook", "webhookClientConfig": client, "conversionReviewVersions": ["v1"]},
            "preserveUnknownFields": false,
        }});
        let column = json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"});
        assert_eq!(
            upgraded(old),
            json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "spec": {
                "group": "test.io",
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}, "additionalPrinterColumns": [column]},
                    {"name": "v2", "served": false, "storage": false, "schema": {"openAPIV3Schema": {}}, "subresources": {"status": {}}, "additionalPrinterColumns": [column]},
                ],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}},
            }})
        );
        let bare =
            upgraded(json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {"version": "v3", "conversion": {"strategy": "None"}}}));
        let spec = json!({"versions": [{"name": "v3", "served": true, "storage": true}], "conversion": {"strategy": "None"}, "preserveUnknownFields": true});
        assert_eq!(bare["spec"], spec);
    }
}
