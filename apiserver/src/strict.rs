//! A file of configuration, read -> its value, and which of its fields its type has not. Source: apimachinery `pkg/runtime/serializer` (`EnableStrict`).

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

/// The value, and what was passed over, as upstream tells it: `unknown field "rules[0].levl"`.
///
/// # Errors
/// A field has another type.
pub fn lenient<T: DeserializeOwned>(config: &Value) -> Result<(T, Vec<String>), String> {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(config, |path| unknown.push(format!("unknown field {}", api::quoted(&at(&path)))));
    read.map(|value| (value, unknown)).map_err(|error| error.to_string())
}

/// The value. `apiVersion` and `kind` are fields of every type.
///
/// # Errors
/// In upstream's words: a field has another type, or there is no such field.
pub fn strict<T: DeserializeOwned>(config: &Value) -> Result<T, String> {
    let (value, mut unknown) = lenient(config)?;
    unknown.retain(|one| ![r#"unknown field "apiVersion""#, r#"unknown field "kind""#].contains(&one.as_str()));
    if unknown.is_empty() { Ok(value) } else { Err(told(&unknown)) }
}

/// What is wrong, as one sentence.
pub fn told(unknown: &[String]) -> String {
    format!("strict decoding error: {}", unknown.join(", "))
}

/// `rules[0].level`
fn at(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", at(parent)),
        Path::Map { parent, key } => match at(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => at(parent),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        rules: Option<Vec<Rule>>,
    }

    #[derive(Debug, Deserialize)]
    struct Rule {
        level: Option<String>,
    }

    #[test]
    fn what_a_type_has_not_is_named_where_it_stands() {
        let odd = json!({"apiVersion": "v1", "kind": "C", "rules": [{"level": "a"}, {"levl": "b"}], "ruls": []});
        let why = strict::<Config>(&odd).unwrap_err();
        assert_eq!(why, r#"strict decoding error: unknown field "rules[1].levl", unknown field "ruls""#);
        let (read, unknown) = lenient::<Config>(&json!({"rules": [{"level": "a"}], "x": 1})).unwrap();
        assert_eq!(read.rules.unwrap()[0].level.as_deref(), Some("a"));
        assert_eq!(unknown, [r#"unknown field "x""#]);
        let (_, unknown) = lenient::<Config>(&json!({"rules": [{"\u{7f}'": 1}]})).unwrap();
        assert_eq!(unknown, [r#"unknown field "rules[0].\x7f'""#]);
        assert!(strict::<Config>(&json!({"apiVersion": "v1", "kind": "C", "rules": null})).unwrap().rules.is_none());
        assert!(strict::<Config>(&json!({"rules": "all"})).unwrap_err().contains("invalid type"));
    }
}
