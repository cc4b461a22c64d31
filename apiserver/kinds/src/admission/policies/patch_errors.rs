//! An operation of a JSON patch that does not fit an object -> why not, in the words of upstream's library (evanphx/json-patch v4).

use serde_json::{Map, Value};

/// `None` where it is nothing that the library looks at: a bound of ours.
pub fn why_not(object: &Value, operation: &Map<String, Value>) -> Option<String> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default();
    let (op, path, from) = (text("op"), text("path"), text("from"));
    let missing = |words: String| Some(format!("{words}: missing value"));
    let place = parent(object, path);
    match (op, &place) {
        ("add" | "remove", None) => missing(format!("{op} operation does not apply: doc is missing path: {path:?}")),
        ("add", Some((Value::Array(_), key))) => Some(format!("error in add for path: '{path}': {}", bad_index(key, true))),
        ("remove", Some((Value::Array(_), key))) => Some(format!("error in remove for path: '{path}': {}", bad_index(key, false))),
        ("remove", Some((_, key))) => missing(format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}")),
        ("replace", None) => missing(format!("replace operation does not apply: doc is missing path: {path}")),
        ("replace", Some(_)) => missing(format!("replace operation does not apply: doc is missing key: {path}")),
        ("move" | "copy", _) => match (parent(object, from), &place) {
            (None, _) => missing(format!("{op} operation does not apply: doc is missing from path: {from}")),
            (_, None) => missing(format!("{op} operation does not apply: doc is missing destination path: {path}")),
            _ => None,
        },
        ("add", Some(_)) => None,
        _ => Some(format!("Unexpected kind: {op}")),
    }
}

/// What holds the place that a path is of, and the place's name in it.
fn parent<'o>(object: &'o Value, path: &str) -> Option<(&'o Value, String)> {
    let (above, key) = path.rsplit_once('/')?;
    let holder = object.pointer(above).filter(|holder| holder.is_object() || holder.is_array())?;
    Some((holder, key.replace("~1", "/").replace("~0", "~")))
}

fn bad_index(key: &str, adds: bool) -> String {
    match key.parse::<i64>() {
        Ok(index) => format!("Unable to access invalid index: {index}: invalid index referenced"),
        Err(_) if adds => {
            format!("value was not a proper array index: '{key}': strconv.Atoi: parsing {}: invalid syntax", api::quoted(key))
        }
        Err(_) => format!("strconv.Atoi: parsing {}: invalid syntax", api::quoted(key)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_told_as_the_library_does() {
        let object = json!({"a": {"b/c": 1}, "l": [1]});
        let table = [
            (
                json!({"op": "remove", "path": "/a/x~1y"}),
                "error in remove for path: '/a/x~1y': Unable to remove nonexistent key: x/y: missing value",
            ),
            (json!({"op": "remove", "path": "/x/y"}), r#"remove operation does not apply: doc is missing path: "/x/y": missing value"#),
            (
                json!({"op": "remove", "path": "/l/7"}),
                "error in remove for path: '/l/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!({"op": "add", "path": "/x/y", "value": 1}),
                r#"add operation does not apply: doc is missing path: "/x/y": missing value"#,
            ),
            (
                json!({"op": "add", "path": "/l/x", "value": 1}),
                r#"error in add for path: '/l/x': value was not a proper array index: 'x': strconv.Atoi: parsing "x": invalid syntax"#,
            ),
            (
                json!({"op": "replace", "path": "/l/-", "value": 1}),
                "replace operation does not apply: doc is missing key: /l/-: missing value",
            ),
            (
                json!({"op": "copy", "from": "/x/y", "path": "/a/z"}),
                "copy operation does not apply: doc is missing from path: /x/y: missing value",
            ),
            (
                json!({"op": "move", "from": "/l/0", "path": "/x/y"}),
                "move operation does not apply: doc is missing destination path: /x/y: missing value",
            ),
            (json!({"op": "dance", "path": "/a"}), "Unexpected kind: dance"),
        ];
        for (operation, wanted) in table {
            assert_eq!(why_not(&object, operation.as_object().unwrap()).as_deref(), Some(wanted), "{operation}");
        }
        let copy = json!({"op": "copy", "from": "/l/0", "path": "/a/z"});
        assert_eq!(why_not(&object, copy.as_object().unwrap()), None, "what was too much was not that it does not fit");
    }
}
