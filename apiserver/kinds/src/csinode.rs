//! CSINode: the strategy of which CSI drivers a node has. Source: `pkg/registry/storage/csinode`, `ValidateCSINode` in `pkg/apis/storage/validation`.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy};
use serde_json::Value;

use crate::common::{self, Path, Read, edit, name_rules, not_negative, read, table, unchanged, well_formed};

const NODE_ID_BYTES: usize = 256;
const DRIVERS: Path<'static> = Path::new("spec.drivers");
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("storage.k8s.io", "v1", "CSINode", "csinodes", "io.k8s.api.storage.v1", CsiNodes)
    }
}

struct CsiNodes;

impl Strategy for CsiNodes {
    fn default(&self, object: &mut Value) {
        // A Go list without `omitempty`: it is always written.
        if let Some(spec) = edit::make_child(object, "spec") {
            edit::default_to(spec, "drivers", Value::Array(Vec::new()));
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let mut names = HashSet::new();
        for (i, driver) in object.at("spec").list("drivers").iter().enumerate() {
            let (at, name) = (DRIVERS.index(i), driver.text("name"));
            driver_name(name, at.field("name"), causes);
            node_id(driver.text("nodeID"), at.field("nodeID"), causes);
            not_negative(driver.at("allocatable").int("count"), at.field("allocatable").field("count"), causes);
            if !names.insert(name) {
                causes.duplicate(at.field("name"), name);
            }
            topology_keys(driver.list("topologyKeys"), at, causes);
        }
    }

    /// A driver comes and goes; what is said of it stays, but for how many volumes it takes.
    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let drivers = new.at("spec").list("drivers");
        let by_name: HashMap<&str, &Value> = drivers.iter().map(|driver| (driver.text("name"), driver)).collect();
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            edit::remove(&mut driver, "allocatable");
            driver
        };
        for before in old.at("spec").list("drivers") {
            if let Some(after) = by_name.get(before.text("name")) {
                unchanged(Some(&fixed(after)), Some(&fixed(before)), DRIVERS, causes);
            }
        }
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.at("spec").list("drivers").len().into(), table::age(object, now)]
    }
}

/// `ValidateCSIDriverName`
pub fn driver_name(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        return causes.required(path, "");
    }
    if name.len() > 63 {
        causes.too_long(path, 63);
    }
    well_formed(name, name_rules::dns_subdomain(&name.to_lowercase()), path, causes);
}

fn node_id(id: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if id.is_empty() {
        causes.required(path, "");
    }
    if id.len() > NODE_ID_BYTES {
        causes.invalid(path, id, &format!("must be {NODE_ID_BYTES} characters or less"));
    }
}

fn topology_keys(keys: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for key in keys.iter().filter_map(Value::as_str) {
        if key.is_empty() {
            causes.required(path, "");
        }
        if !seen.insert(key) {
            causes.duplicate(path, key);
        }
        well_formed(key, name_rules::qualified(key), path, causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(drivers: Value) -> Value {
        json!({"metadata": {"name": "n1"}, "spec": {"drivers": drivers}})
    }

    #[test]
    fn each_rule_has_its_words() {
        let good = json!({"name": "Disk.example.com", "nodeID": "i-1", "topologyKeys": ["example.com/zone"], "allocatable": {"count": 0}});
        let cases: Vec<(Value, Vec<String>)> = vec![
            (Value::Null, vec![]),
            (json!([good]), vec![]),
            (json!([{}]), vec!["spec.drivers[0].name: Required value".into(), "spec.drivers[0].nodeID: Required value".into()]),
            (
                json!([{"name": "a".repeat(64), "nodeID": "b".repeat(257)}]),
                vec![
                    "spec.drivers[0].name: Too long: may not be more than 63 bytes".into(),
                    format!("spec.drivers[0].nodeID: Invalid value: {:?}: must be 256 characters or less", "b".repeat(257)),
                ],
            ),
            (
                json!([good, {"name": "Disk.example.com", "nodeID": "i", "allocatable": {"count": -1}}]),
                vec![
                    "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0".into(),
                    "spec.drivers[1].name: Duplicate value: \"Disk.example.com\"".into(),
                ],
            ),
            (
                json!([{"name": "a", "nodeID": "i", "topologyKeys": ["zone", "zone"]}]),
                vec!["spec.drivers[0]: Duplicate value: \"zone\"".into()],
            ),
        ];
        for (drivers, wanted) in cases {
            let mut causes = FieldErrors::default();
            CsiNodes.validate(&of(drivers.clone()), &mut causes);
            assert_eq!(causes.0.iter().map(|c| c.text()).collect::<Vec<_>>(), wanted, "{drivers}");
        }
    }

    #[test]
    fn a_driver_stays_as_it_is_but_for_its_volumes() {
        let driver = |id: &str, count: i64| json!({"name": "a", "nodeID": id, "allocatable": {"count": count}});
        let cases = [
            (json!([driver("1", 5)]), json!([driver("1", 6)]), 0),
            (json!([driver("1", 5)]), json!([]), 0),
            (json!([]), json!([driver("1", 5)]), 0),
            (json!([driver("1", 5)]), json!([driver("2", 5)]), 1),
        ];
        for (old, new, count) in cases {
            let mut causes = FieldErrors::default();
            CsiNodes.validate_update(&of(new.clone()), &of(old), &mut causes);
            assert_eq!(causes.0.len(), count, "{new}");
            let words = "spec.drivers: Invalid value: {\"name\":\"a\",\"nodeID\":\"2\"}: field is immutable";
            assert!(causes.0.iter().all(|cause| cause.text() == words), "{causes:?}");
        }
    }
}
