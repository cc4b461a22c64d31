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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_parsed_and_say_yes_or_no() {
        let texts = |text: &str| {
            let mut causes = FieldErrors::default();
            validate(&[json!({"cel": {"expression": text}})], Path::new("s"), &mut causes);
            causes.0.iter().map(|cause| cause.text()).collect::<Vec<_>>()
        };
        for good in ["device.driver == 'a'", "device.attributes['a'].b", "semver('1.0.0').isGreaterThan(device.attributes['a'].version)"] {
            assert_eq!(texts(good), Vec::<String>::new(), "{good}");
        }
        let why = "must evaluate to bool or the unknown type, not string";
        assert_eq!(texts("'x'"), [format!("s[0].cel.expression: Invalid value: \"'x'\": {why}")]);
        let found = texts("device.x +");
        assert!(
            found[0].starts_with("s[0].cel.expression: Invalid value: \"device.x +\": compilation failed: ERROR: <input>:1:11: Syntax")
        );
    }
}
