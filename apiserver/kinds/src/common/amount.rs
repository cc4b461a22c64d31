//! `3` or `"30%"` -> what is wrong with it. Source: `ValidatePositiveIntOrPercent`, `IsNotMoreThan100Percent` in `pkg/apis/apps/validation`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Path, name_rules, not_negative, well_formed};

/// `ValidatePositiveIntOrPercent`
pub fn int_or_percent(value: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        Some(Value::String(text)) => well_formed(text, name_rules::percent(text), path, causes),
        Some(number) => not_negative(number.as_i64(), path, causes),
        None => {}
    }
}

/// `IsNotMoreThan100Percent`: numbers have no such bound.
pub fn at_most_all(value: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(value) = value.filter(|v| v.is_string() && amount(Some(v)) > 100) {
        causes.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// The number, or the number of per cent; 0 for what is neither.
pub fn amount(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => text.strip_suffix('%').and_then(|t| t.parse().ok()).unwrap_or(0),
        Some(number) => number.as_i64().unwrap_or(0),
        None => 0,
    }
}
