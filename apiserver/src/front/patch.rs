//! A patch document and the object it is for -> the patched object. Source: apiserver `pkg/endpoints/handlers/patch.go`.

use api::Status;
use http::HeaderMap;
use serde_json::Value;

use super::negotiate::media_type;
use crate::{decode::Schemas, kind::Kind, parse};

/// Most operations of a JSON patch.
const OPERATIONS_MAX: usize = 10_000;
/// Most that the copies of one JSON patch may add up to: the patch must not blow the object up.
const COPIED_BYTES_MAX: usize = 3 << 20;

const TYPES: [&str; 3] = ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// A patch, read but not yet applied.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

/// Reads the body. The texts are the paths given twice.
///
/// # Errors
/// 415 for other types, 400 for what is no patch, 413 for too many operations.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<(Patch, Vec<String>), Status> {
    let media_type = media_type(headers);
    if media_type.starts_with("application/apply-patch+") {
        let mut status = Status::unsupported_media_type(&TYPES);
        status.message = format!("server-side apply is not supported yet: {}", status.message);
        return Err(status);
    }
    if !TYPES.contains(&media_type.as_str()) {
        return Err(Status::unsupported_media_type(&TYPES));
    }
    let parsed = parse::json(body).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let patch = match media_type.as_str() {
        "application/json-patch+json" => Patch::Json(operations(parsed.value)?),
        "application/merge-patch+json" => Patch::Merge(map(parsed.value)?),
        _ => Patch::Strategic(map(parsed.value)?),
    };
    Ok((patch, parsed.duplicates))
}

impl Patch {
    /// # Errors
    /// 422 where it does not fit the object.
    pub fn apply(&self, schemas: &dyn Schemas, kind: &Kind, object: &mut Value) -> Result<(), Status> {
        match self {
            Patch::Json(patch) => apply_operations(patch, object),
            Patch::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Patch::Strategic(patch) => schemas.strategic_merge(kind, object, patch.clone()),
        }
    }
}

fn operations(value: Value) -> Result<json_patch::Patch, Status> {
    let count = value.as_array().map(Vec::len);
    if let Some(count) = count.filter(|count| *count > OPERATIONS_MAX) {
        let why = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}");
        return Err(Status::too_large(format!("Request entity too large: {why}")));
    }
    serde_json::from_value(value).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

fn map(value: Value) -> Result<Value, Status> {
    if value.is_object() { Ok(value) } else { Err(Status::bad_request("error decoding patch: the patch must be a JSON object")) }
}

fn apply_operations(patch: &json_patch::Patch, object: &mut Value) -> Result<(), Status> {
    let mut copied = 0;
    for operation in &patch.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > COPIED_BYTES_MAX {
                return Err(Status::too_large(format!(
                    "Request entity too large: copies of a JSON patch are limited to {COPIED_BYTES_MAX} bytes"
                )));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|error| {
            tracing::debug!(%error, "patch does not apply");
            Status::new(422, "Invalid", "the server rejected our request due to an error in our request")
        })?;
    }
    Ok(())
}
