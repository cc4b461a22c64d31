//! Selectors, tolerations and taints of devices -> what is wrong with them.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{each, expressions};
use crate::common::{Path, Read, name_rules, not_supported, well_formed};

const SELECTORS: usize = 32;
const OPERATORS: &[&str] = &["Equal", "Exists"];
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// `validateSelectorSlice`
pub fn validate(selectors: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    each(selectors, SELECTORS, path, causes, |selector, at, causes| {
        let at = at.field("cel");
        match selector.at("cel") {
            None => causes.required(at, ""),
            Some(cel) => expressions::validate(cel.text("expression"), at.field("expression"), causes),
        }
    });
}

/// `validateDeviceToleration`
pub fn toleration(toleration: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    if !key.is_empty() {
        well_formed(key, name_rules::qualified(key), path.field("key"), causes);
    }
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => causes.invalid(path.field("value"), value, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => well_formed(value, name_rules::label_value(value), path.field("value"), causes),
        "" => causes.required(path.field("operator"), ""),
        other => not_supported(other, OPERATORS, path.field("operator"), causes),
    }
    let effect = toleration.text("effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        not_supported(effect, EFFECTS, path.field("effect"), causes);
    }
}

/// `validateDeviceTaint`
pub fn taint(taint: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (key, value) = (taint.text("key"), taint.text("value"));
    well_formed(key, name_rules::qualified(key), path.field("key"), causes);
    well_formed(value, name_rules::label_value(value), path.field("value"), causes);
    match taint.text("effect") {
        "" => causes.required(path.field("effect"), ""),
        effect if EFFECTS.contains(&effect) => {}
        effect => not_supported(effect, EFFECTS, path.field("effect"), causes),
    }
}
