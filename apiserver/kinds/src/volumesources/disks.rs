//! Disks of clouds and of Fibre Channel -> what is wrong with them. Source: `validateAzureDisk`, `validateFCVolumeSource`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules};

const CACHING: &[&str] = &["None", "ReadOnly", "ReadWrite"];
const KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

/// Zero is the whole disk, although the words say otherwise.
pub fn partition(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let partition = source.int("partition").unwrap_or(0);
    if !(0..=255).contains(&partition) {
        causes.invalid(path.field("partition"), partition, "must be between 1 and 255, inclusive");
    }
}

pub fn azure(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    for (field, allowed) in [("cachingMode", CACHING), ("kind", KINDS)] {
        if let Some(found) = source.at(field).and_then(Value::as_str).filter(|found| !allowed.contains(found)) {
            causes.not_supported(path.field(field), found, allowed);
        }
    }
    let uri = source.text("diskURI");
    match source.at("kind").and_then(Value::as_str) {
        Some("Managed") if !uri.starts_with("/subscriptions/") => causes.not_supported(path.field("diskURI"), uri, &[MANAGED]),
        Some("Managed") | None => {}
        Some(_) if !uri.starts_with("https://") => causes.not_supported(path.field("diskURI"), uri, &[BLOB]),
        Some(_) => {}
    }
}

pub fn fibre_channel(source: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (targets, at) = (source.list("targetWWNs"), path.field("targetWWNs"));
    match (targets.is_empty(), source.list("wwids").is_empty()) {
        (true, true) => causes.required(at, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => causes.invalid(at, Value::from(targets.to_vec()), "targetWWNs and wwids can not be specified simultaneously"),
        _ => {}
    }
    if targets.is_empty() {
        return;
    }
    match source.int("lun") {
        None => causes.required(path.field("lun"), "lun is required if targetWWNs is specified"),
        Some(lun) => {
            for error in name_rules::in_range(lun, 0, 255) {
                causes.invalid(path.field("lun"), lun, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: fn(&Value, Path<'_>, &mut FieldErrors), source: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&source, Path::new("v"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_disk_is_where_its_kind_is() {
        let wanted = [
            r#"v.cachingMode: Unsupported value: "X": supported values: "None", "ReadOnly", "ReadWrite""#.to_owned(),
            format!(r#"v.diskURI: Unsupported value: "x": supported values: "{BLOB}""#),
        ];
        assert_eq!(texts(azure, json!({"cachingMode": "X", "kind": "Shared", "diskURI": "x"})), wanted);
        assert_eq!(texts(azure, json!({"kind": "Managed", "diskURI": "/subscriptions/x"})), Vec::<String>::new());
    }

    #[test]
    fn a_target_has_a_lun() {
        assert_eq!(
            texts(fibre_channel, json!({})),
            ["v.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"]
        );
        assert_eq!(
            texts(fibre_channel, json!({"targetWWNs": ["a"]})),
            ["v.lun: Required value: lun is required if targetWWNs is specified"]
        );
        assert_eq!(
            texts(fibre_channel, json!({"targetWWNs": ["a"], "lun": 256, "wwids": ["b"]})),
            [
                r#"v.targetWWNs: Invalid value: ["a"]: targetWWNs and wwids can not be specified simultaneously"#,
                "v.lun: Invalid value: 256: must be between 0 and 255, inclusive",
            ]
        );
    }
}
