//! DeviceClass: which devices are of a kind, and how they are set up. Source: `pkg/registry/resource/deviceclass`, `ValidateDeviceClass`.

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Kind, MetaCheck, Scope, Strategy};
use serde_json::Value;

use super::{
    GROUP, PACKAGE, VERSION,
    config::{self, Stored},
    each,
    requests::CONFIGS,
    selectors,
};
use crate::common::{self, Path, Read, edit, read, resource_names, table};

const SPEC: Path<'static> = Path::new("spec");

pub fn kind() -> Kind {
    Kind { scope: Scope::Cluster, generation: true, ..common::kind(GROUP, VERSION, "DeviceClass", "deviceclasses", PACKAGE, DeviceClasses) }
}

struct DeviceClasses;

impl Strategy for DeviceClasses {
    fn default(&self, object: &mut Value) {
        edit::make_child(object, "spec");
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn name_error(&self, name: &str) -> Option<String> {
        common::long_name_error(name)
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        spec(object.at("spec"), Stored::New, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let (new, old) = (new.at("spec"), old.at("spec"));
        spec(new, if read::same(new.at("config"), old.at("config")) { Stored::Before } else { Stored::New }, causes);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        table::metadata_cells(object, now)
    }
}

/// `validateDeviceClassSpec`
fn spec(spec: Option<&Value>, configured: Stored, causes: &mut FieldErrors) {
    selectors::validate(spec.list("selectors"), SPEC.field("selectors"), causes);
    each(spec.list("config"), CONFIGS, SPEC.field("config"), causes, |one, at, causes| config::validate(one, configured, at, causes));
    if let Some(name) = spec.at("extendedResourceName").and_then(Value::as_str).filter(|name| !resource_names::is_extended(name)) {
        causes.invalid(SPEC.field("extendedResourceName"), name, "must be a valid extended resource name");
    }
}
