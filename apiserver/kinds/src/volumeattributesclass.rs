//! VolumeAttributesClass: the strategy of how volumes may be changed. Source: `pkg/registry/storage/volumeattributesclass`,
//! `ValidateVolumeAttributesClass` in `pkg/apis/storage/validation`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Kind, MetaCheck, Scope, Strategy, names};
use serde_json::Value;

use crate::{
    common::{self, Read, read, table},
    storageclass::{Empty, parameters, provisioner},
};

const COLUMNS: &[Column] =
    &[table::NAME_COLUMN, table::column("DriverName", "string", "Name of the CSI driver This field is immutable."), table::AGE_COLUMN];

pub fn kind() -> Kind {
    Kind {
        short_names: names(&["vac"]),
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind(
            "storage.k8s.io",
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            "io.k8s.api.storage.v1",
            VolumeAttributesClasses,
        )
    }
}

struct VolumeAttributesClasses;

impl Strategy for VolumeAttributesClasses {
    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        provisioner(object, "driverName", causes);
        parameters(object, Empty::Forbidden, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        for field in ["driverName", "parameters"] {
            if !read::same(new.at(field), old.at(field)) {
                causes.forbidden(field, &format!("updates to {field} are forbidden."));
            }
        }
        self.validate_create(new, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![read::name(object).into(), object.text("driverName").into(), table::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn a_class_says_whose_and_what() {
        let wanted = ["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"];
        assert_eq!(texts(|c| VolumeAttributesClasses.validate_create(&json!({}), c)), wanted);
        let old = json!({"driverName": "a.example", "parameters": {"x": "1"}});
        assert_eq!(texts(|c| VolumeAttributesClasses.validate_create(&old, c)), Vec::<String>::new());
        let new = json!({"driverName": "b.example", "parameters": {"x": "2"}});
        let wanted =
            ["driverName: Forbidden: updates to driverName are forbidden.", "parameters: Forbidden: updates to parameters are forbidden."];
        assert_eq!(texts(|c| VolumeAttributesClasses.validate_update(&new, &old, c)), wanted);
    }

    #[test]
    fn the_driver_is_shown() {
        let cells = VolumeAttributesClasses.cells(&json!({"metadata": {"name": "a"}, "driverName": "d"}), Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(cells), json!(["a", "d", "<unknown>"]));
    }
}
