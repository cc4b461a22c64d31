//! Why a strategic merge patch is refused, in upstream's words. Source: apimachinery `pkg/util/mergepatch/errors.go`.

use std::fmt::{self, Display, Formatter, Write};

use api::Status;
use serde_json::{Map, Value};

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
    Go(value).to_string()
}

pub fn go_list(list: &[Value]) -> String {
    GoList(list).to_string()
}

pub fn go_map(map: &Map<String, Value>) -> String {
    GoMap(map).to_string()
}

/// Written into one text: a value is as deep as its sender likes.
struct Go<'a>(&'a Value);
struct GoList<'a>(&'a [Value]);
struct GoMap<'a>(&'a Map<String, Value>);

impl Display for Go<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Array(list) => GoList(list).fmt(f),
            Value::Object(map) => GoMap(map).fmt(f),
            other => other.fmt(f),
        }
    }
}

impl Display for GoList<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, item) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { " " } else { "" })?;
            Go(item).fmt(f)?;
        }
        f.write_char(']')
    }
}

impl Display for GoMap<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.0.iter().collect();
        keys.sort_by_key(|(key, _)| *key);
        f.write_str("map[")?;
        for (at, (key, value)) in keys.into_iter().enumerate() {
            f.write_str(if at > 0 { " " } else { "" })?;
            write!(f, "{key}:{}", Go(value))?;
        }
        f.write_char(']')
    }
}

/// A value that is no text as Go's `%s` prints it: `%!s(int64=5)`.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => format!("%!s({}={})", kind(value), Go(value)),
        Value::Null => "%!s(<nil>)".into(),
        other => go(other),
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
