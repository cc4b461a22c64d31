//! StorageClass: the strategy of how volumes are made. Source: `pkg/registry/storage/storageclass`, `ValidateStorageClass` in
//! `pkg/apis/storage/validation`, `SetDefaults_StorageClass`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
};

use api::{GroupResource, field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy, names};
use podspec::claims::DEFAULT_CLASS;
use serde_json::Value;

use crate::{
    common::{self, Path, Read, edit, name_rules, read, table, unchanged, well_formed},
    pod,
};

const PARAMETERS: usize = 512;
const PARAMETERS_BYTES: usize = 256 << 10;
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Provisioner", "string", "provisioner indicates the type of the provisioner."),
    table::column(
        "ReclaimPolicy",
        "string",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
    ),
    table::column(
        "VolumeBindingMode",
        "string",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
    ),
    table::column("AllowVolumeExpansion", "string", "allowVolumeExpansion shows whether the storage class allow volume expand."),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["sc"]),
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", "io.k8s.api.storage.v1", StorageClasses)
    }
}

pub fn resource() -> GroupResource {
    GroupResource::new("storage.k8s.io", "storageclasses")
}

struct StorageClasses;

impl Strategy for StorageClasses {
    fn default(&self, object: &mut Value) {
        edit::default_to(object, "reclaimPolicy", "Delete");
        edit::default_to(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        provisioner(object, "provisioner", causes);
        parameters(object, Empty::Allowed, causes);
        match object.text("reclaimPolicy") {
            "" | "Delete" | "Retain" => {}
            other => causes.not_supported("reclaimPolicy", other, &["Delete", "Retain"]),
        }
        match object.text("volumeBindingMode") {
            "Immediate" | "WaitForFirstConsumer" => {}
            other => causes.not_supported("volumeBindingMode", other, &["Immediate", "WaitForFirstConsumer"]),
        }
        topologies(object.list("allowedTopologies"), Path::new("allowedTopologies"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            unchanged(new.at(field), old.at(field), Path::new(field), causes);
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let terms = new.list("allowedTopologies").iter().enumerate();
        let keys =
            terms.flat_map(|(i, term)| term.list("matchLabelExpressions").iter().enumerate().map(move |(j, e)| (i, j, e.text("key"))));
        let warned = keys.filter_map(|(i, j, key)| Some((i, j, pod::warnings::deprecated_node_label(key)?)));
        warned.map(|(i, j, text)| format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {text}")).collect()
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let or = |field: &str, default: &str| Value::from(object.at(field).and_then(Value::as_str).unwrap_or(default));
        vec![
            format!("{}{}", read::name(object), if is_default(object) { " (default)" } else { "" }).into(),
            object.text("provisioner").into(),
            or("reclaimPolicy", "Delete"),
            or("volumeBindingMode", "Immediate"),
            object.is_true("allowVolumeExpansion").into(),
            table::age(object, now),
        ]
    }
}

/// Whether a class may do without parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    Allowed,
    Forbidden,
}

/// `validateProvisioner`, of the class's field of this name.
pub fn provisioner(object: &Value, field: &str, causes: &mut FieldErrors) {
    match object.text(field).to_lowercase().as_str() {
        "" => causes.required(field, ""),
        text => well_formed(text, name_rules::qualified(text), Path::new(field), causes),
    }
}

/// `validateParameters`
pub fn parameters(object: &Value, empty: Empty, causes: &mut FieldErrors) {
    let parameters = object.object("parameters");
    let count = parameters.map_or(0, serde_json::Map::len);
    if count > PARAMETERS {
        return causes.too_long("parameters", PARAMETERS);
    }
    if parameters.is_some_and(|p| p.contains_key("")) {
        causes.invalid("parameters", "", "field can not be empty.");
    }
    let bytes: usize = object.entries("parameters").map(|(key, value)| key.len() + value.len()).sum();
    if bytes > PARAMETERS_BYTES {
        causes.too_long("parameters", PARAMETERS_BYTES);
    }
    if count == 0 && empty == Empty::Forbidden {
        causes.required("parameters", "must contain at least one key/value pair");
    }
}

/// `validateAllowedTopologies`: no term is there twice, however it is ordered, nor is one empty.
fn topologies(terms: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen: HashSet<BTreeMap<&str, BTreeSet<&str>>> = HashSet::from([BTreeMap::new()]);
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i);
        let list = at.field("matchLabelExpressions");
        let mut by_key = BTreeMap::new();
        for (j, expression) in term.list("matchLabelExpressions").iter().enumerate() {
            let (at, key) = (list.index(j), expression.text("key"));
            let values = topology_values(expression.list("values"), at.field("values"), causes);
            well_formed(key, name_rules::qualified(key), at.field("key"), causes);
            if by_key.insert(key, values).is_some() {
                causes.duplicate(at.field("key"), key);
            }
        }
        if !seen.insert(by_key) {
            causes.duplicate(list, "");
        }
    }
}

fn topology_values<'v>(values: &'v [Value], path: Path<'_>, causes: &mut FieldErrors) -> BTreeSet<&'v str> {
    if values.is_empty() {
        causes.required(path, "");
    }
    let mut seen = BTreeSet::new();
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        if !seen.insert(value) {
            causes.duplicate(path.index(i), value);
        }
    }
    seen
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &Value) -> bool {
    let annotations = class.at("metadata").at("annotations");
    DEFAULT_CLASS.iter().any(|key| annotations.text(key) == "true")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(more: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "a"}, "provisioner": "Disk.example.com/x"});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        StorageClasses.default(&mut object);
        let mut causes = FieldErrors::default();
        StorageClasses.validate(&object, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let term = |key: &str, values: &[&str]| json!({"matchLabelExpressions": [{"key": key, "values": values}]});
        let many: Value = (0..513).map(|i| (i.to_string(), Value::from(""))).collect::<serde_json::Map<_, _>>().into();
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({"parameters": {"type": "ssd"}, "allowedTopologies": [term("zone", &["a", "b"]), term("zone", &["a"])]}), &[]),
            (json!({"provisioner": ""}), &["provisioner: Required value"]),
            (json!({"parameters": {"": "x"}}), &["parameters: Invalid value: \"\": field can not be empty."]),
            (json!({"parameters": {"a": "x".repeat(256 << 10)}}), &["parameters: Too long: may not be more than 262144 bytes"]),
            (json!({"parameters": many}), &["parameters: Too long: may not be more than 512 bytes"]),
            (
                json!({"reclaimPolicy": "Recycle"}),
                &[r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#],
            ),
            (
                json!({"volumeBindingMode": "Late"}),
                &[r#"volumeBindingMode: Unsupported value: "Late": supported values: "Immediate", "WaitForFirstConsumer""#],
            ),
            (
                json!({"allowedTopologies": [term("zone", &["a", "b"]), term("zone", &["b", "a", "a"]), term("zone", &[]), {}]}),
                &[
                    r#"allowedTopologies[1].matchLabelExpressions[0].values[2]: Duplicate value: "a""#,
                    r#"allowedTopologies[1].matchLabelExpressions: Duplicate value: """#,
                    "allowedTopologies[2].matchLabelExpressions[0].values: Required value",
                    r#"allowedTopologies[3].matchLabelExpressions: Duplicate value: """#,
                ],
            ),
        ];
        for (more, wanted) in cases {
            assert_eq!(texts(more), wanted);
        }
    }

    #[test]
    fn all_but_expansion_and_topologies_stays() {
        let old = json!({"provisioner": "a", "parameters": {"x": "1"}, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
        let new = json!({"provisioner": "b", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
        let mut causes = FieldErrors::default();
        StorageClasses.validate_update(&new, &old, &mut causes);
        let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_ref()).collect();
        assert_eq!(fields, ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]);
        assert!(causes.0.iter().all(|cause| cause.text().ends_with("field is immutable")), "{causes:?}");
    }

    #[test]
    fn the_default_is_marked() {
        let class = json!({"metadata": {"name": "a", "annotations": {DEFAULT_CLASS[0]: "true"}}, "provisioner": "p"});
        let cells = StorageClasses.cells(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a (default)", "p", "Delete", "Immediate", false, "<unknown>"]));
    }
}
