//! ConfigMap: the strategy of plain configuration: key names, 1 MiB, immutability. Source: `pkg/apis/core/validation`, `ValidateConfigMap`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Strategy, names};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::common::{self, Path, Read, name_rules, read, table, well_formed};

/// The most that the values of a ConfigMap or a Secret may hold together, in bytes.
pub const SIZE_MAX: usize = 1 << 20;

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Data", "string", "Data contains the configuration data. Keys consist of alphanumeric characters, '-', '_' or '.'."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["cm"]),
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "ConfigMap", "configmaps", "io.k8s.api.core.v1", ConfigMaps)
    }
}

struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let data = Path::new("data");
        let mut size = 0;
        for (key, value) in object.entries("data") {
            well_formed(key, name_rules::config_key(key), data.key(key), causes);
            if object.object("binaryData").is_some_and(|b| b.contains_key(key)) {
                causes.invalid(data.key(key), key, "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        size += bytes_map(object, "binaryData", causes);
        if size > SIZE_MAX {
            // Upstream's path of nothing.
            causes.too_long("[]", SIZE_MAX);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        immutable(new, old, &["data", "binaryData"], causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = object.object("data").map_or(0, |m| m.len()) + object.object("binaryData").map_or(0, |m| m.len());
        vec![read::name(object).into(), count.into(), table::age(object, now)]
    }
}

/// Once `immutable` is true, neither it nor `fields` change.
pub fn immutable(new: &Value, old: &Value, fields: &[&str], causes: &mut FieldErrors) {
    if !old.is_true("immutable") {
        return;
    }
    if !new.is_true("immutable") {
        causes.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields.iter().filter(|f| !read::same(new.at(f), old.at(f))) {
        causes.forbidden(*field, "field is immutable when `immutable` is set");
    }
}

/// Checks a map of base64 values under `name`; returns how many bytes they hold together.
pub fn bytes_map(object: &Value, name: &str, causes: &mut FieldErrors) -> usize {
    let path = Path::new(name);
    let mut size = 0;
    for (key, value) in object.entries(name) {
        well_formed(key, name_rules::config_key(key), path.key(key), causes);
        match BASE64_STANDARD.decode(value) {
            Ok(bytes) => size += bytes.len(),
            Err(_) => causes.invalid(path.key(key), "<redacted>", "illegal base64 data"),
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = FieldErrors::default();
        ConfigMaps.validate(object, &mut causes);
        if let Some(old) = old {
            ConfigMaps.validate_update(object, old, &mut causes);
        }
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn keys_are_checked_in_both_maps() {
        assert!(texts(&json!({"data": {"a.b-C_1": "x"}, "binaryData": {"b": "AAA="}}), None).is_empty());
        let found = texts(&json!({"data": {"a b": "", "both": ""}, "binaryData": {"both": "", "bad": "!"}}), None);
        assert_eq!(found.len(), 3);
        assert!(found[0].starts_with(r#"data[a b]: Invalid value: "a b": a valid config key must consist of"#), "{}", found[0]);
        assert_eq!(found[1], r#"data[both]: Invalid value: "both": duplicate of key present in binaryData"#);
        assert_eq!(found[2], r#"binaryData[bad]: Invalid value: "<redacted>": illegal base64 data"#);
    }

    #[test]
    fn a_mebibyte_is_the_limit() {
        assert!(texts(&json!({"data": {"a": "x".repeat(SIZE_MAX)}}), None).is_empty());
        let over = texts(&json!({"data": {"a": "x".repeat(SIZE_MAX), "b": "y"}}), None);
        assert_eq!(over, ["[]: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn immutable_ones_stay_as_they_are() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert!(texts(&json!({"immutable": true, "data": {"a": "1"}, "binaryData": {}}), Some(&old)).is_empty());
        let found = texts(&json!({"data": {"a": "2"}, "binaryData": {"b": "AAA="}}), Some(&old));
        let fields: Vec<&str> = found.iter().map(|t| t.split(':').next().unwrap()).collect();
        assert_eq!(fields, ["immutable", "data", "binaryData"]);
        assert!(texts(&json!({"data": {"a": "2"}}), Some(&json!({"data": {"a": "1"}}))).is_empty());
    }

    #[test]
    fn data_counts_both_maps() {
        let now = Timestamp::UNIX_EPOCH;
        let cells = ConfigMaps.cells(&json!({"metadata": {"name": "c"}, "data": {"a": ""}, "binaryData": {"b": "", "c": ""}}), now);
        assert_eq!(cells, [json!("c"), json!(3), json!("<unknown>")]);
    }
}
