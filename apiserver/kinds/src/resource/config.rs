//! What a class or a claim tells a driver -> what is wrong with it.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::names::driver_name;
use crate::common::{Path, Read};

/// `OpaqueParametersMaxLength`, `AllocatedDeviceStatusDataMaxLength`: bytes of JSON.
const RAW_BYTES: usize = 10 << 10;

/// Whether what was there before is held to limits that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    New,
    Before,
}

/// `validateDeviceConfiguration`
pub fn validate(config: &Value, stored: Stored, path: Path<'_>, causes: &mut FieldErrors) {
    let at = path.field("opaque");
    let Some(opaque) = config.at("opaque") else { return causes.required(at, "") };
    driver_name(opaque.text("driver"), at.field("driver"), causes);
    raw(opaque.at("parameters"), stored, at.field("parameters"), causes);
}

/// `validateRawExtension`
pub fn raw(value: Option<&Value>, stored: Stored, path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        None => causes.required(path, ""),
        Some(value) if stored == Stored::New && value.to_string().len() > RAW_BYTES => causes.too_long(path, RAW_BYTES),
        Some(Value::Object(_)) => {}
        Some(_) => causes.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}
