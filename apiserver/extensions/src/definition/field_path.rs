//! A path such as `.spec.parts['a.b']` and a schema -> the schema of what stands there. Source: `ValidFieldPath` in `pkg/apiserver/schema/cel/validation.go`.

use kinds::common::Read;
use serde_json::Value;

/// The names on the way.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(path: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']").ok_or("unterminated string")?;
            names.push(after[..end].replace("\\'", "'").replace("\\\\", "\\"));
            rest = &after[end + 2..];
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            if end == 0 {
                return Err("expected a field name after '.'".to_owned());
            }
            names.push(after[..end].to_owned());
            rest = &after[end..];
        } else if names.is_empty() {
            return Err(format!("expected [ or . but got: {}", rest.chars().next().unwrap_or_default()));
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
    }
    Ok(names)
}

/// # Errors
/// Where it leads nowhere.
pub fn find<'s>(schema: &'s Value, names: &[String]) -> Result<&'s Value, String> {
    let mut at = schema;
    for name in names {
        let inner = at.object("properties").and_then(|properties| properties.get(name));
        at = inner.or(at.at("additionalProperties").filter(|schema| schema.is_object())).ok_or("does not refer to a valid field")?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_schemas() {
        let schema = json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"}, "m": {"additionalProperties": {"type": "integer"}}}}}});
        let of = |path: &str| parse(path).and_then(|names| find(&schema, &names).map(|found| found.text("type").to_owned()));
        assert_eq!(of(".spec['a.b']").as_deref(), Ok("string"));
        assert_eq!(of(".spec.m.x").as_deref(), Ok("integer"));
        assert!(of(".spec.gone").is_err() && of("spec").is_err() && of(".").is_err() && of(".spec[0]").is_err());
    }
}
