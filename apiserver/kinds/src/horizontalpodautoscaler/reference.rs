//! A reference to an object of some version -> what is wrong with it. Source: `pkg/apis/autoscaling/validation/validation.go`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, well_formed};

/// What may be said of the version that a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// It has a group.
    Group,
    /// It may be core's.
    Core,
    /// It is not looked at: it was wrong before.
    Any,
}

/// `ValidateCrossVersionObjectReference`
pub fn reference(found: Option<&Value>, version: Version, path: Path<'_>, causes: &mut FieldErrors) {
    for field in ["kind", "name"] {
        let value = found.text(field);
        if value.is_empty() {
            causes.required(path.field(field), "");
        } else {
            well_formed(value, name_rules::path_segment(value), path.field(field), causes);
        }
    }
    let text = found.text("apiVersion");
    if let Some(why) = version_error(text, version) {
        causes.invalid(path.field("apiVersion"), text, &why);
    }
}

/// `ValidateAPIVersion`
pub fn version_error(text: &str, version: Version) -> Option<String> {
    match (version, text.matches('/').count()) {
        (Version::Any, _) => None,
        (_, 2..) => Some(format!("unexpected GroupVersion string: {text}")),
        (Version::Group, 0) => Some("apiVersion must specify API group".to_owned()),
        (Version::Group, _) if text.starts_with('/') => Some("apiVersion must specify API group".to_owned()),
        _ => None,
    }
}
