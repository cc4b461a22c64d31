//! A port of a Service, of Endpoints or of an EndpointSlice -> what is wrong with it, where the three agree.

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, well_formed};

pub fn number(number: i64, path: Path<'_>, causes: &mut FieldErrors) {
    name_rules::port_number(number).iter().for_each(|error| causes.invalid(path, number, error));
}

pub fn protocol(protocol: &str, path: Path<'_>, causes: &mut FieldErrors) {
    match protocol {
        "" => causes.required(path, ""),
        "TCP" | "UDP" | "SCTP" => {}
        other => causes.not_supported(path, other, &["TCP", "UDP", "SCTP"]),
    }
}

/// `path` is the port's.
pub fn app_protocol(port: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(protocol) = port.at("appProtocol").and_then(Value::as_str) {
        well_formed(protocol, name_rules::qualified(protocol), path.field("appProtocol"), causes);
    }
}
