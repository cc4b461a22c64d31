//! Why a strategic merge patch is refused, in upstream's words. Source: apimachinery `pkg/util/mergepatch/errors.go`.

use api::Status;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("map: {0} does not contain declared merge key: {1}")]
    NoMergeKey(String, String),
    #[error("cannot merge lists without merge key for {0}")]
    KeyUndeclared(String),
    #[error("expected a {0}, but received a {1}")]
    Type(&'static str, &'static str),
    #[error("list element types are not identical: [{0} {1}]")]
    Mixed(String, String),
    #[error("unknown patch type: {0} in map: {1}")]
    PatchType(String, String),
    #[error("merging lists cannot yet be specified in the patch")]
    MergeOfList,
    #[error("The order in patch list:\n{0}\n doesn't match $setElementOrder list:\n{1}\n")]
    OrderMismatch(String, String),
    #[error("unable to find api field in struct {0} for the json field {1:?}")]
    UnknownField(String, String),
}

impl Refusal {
    /// Source: apiserver `pkg/endpoints/handlers/patch.go` (interpretStrategicMergePatchError).
    pub fn status(&self) -> Status {
        match self {
            Refusal::PrimitiveList | Refusal::RetainKeys | Refusal::ElementOrder => Status::bad_request(self.to_string()),
            Refusal::ListOfLists => Status::new(422, "", self.to_string()),
            _ => Status::new(500, "", self.to_string()),
        }
    }
}

/// A value as Go's `%v` prints it.
pub fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            format!("map[{}]", keys.into_iter().map(|(k, v)| format!("{k}:{}", go(v))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// The Go type that JSON decodes into.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
