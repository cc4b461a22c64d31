//! A pod -> all that is wrong with it. Source: `pkg/apis/core/validation/validation.go`.

use api::causes::Causes;
use serde_json::Value;

use crate::common::Path;

pub mod status;
pub mod update;

/// A whole pod.
pub fn pod(pod: &Value, causes: &mut Causes) {
    spec(pod.get("spec").unwrap_or(&Value::Null), Path::new("spec"), causes);
}

/// A pod spec, in a pod or in a template.
pub fn spec(_spec: &Value, _path: Path<'_>, _causes: &mut Causes) {}
