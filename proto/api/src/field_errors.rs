//! Field errors: what is wrong with an object, each with the path of the field, in upstream's words.
//!
//! Source of types and wording: apimachinery `pkg/util/validation/field/errors.go`.

use serde_json::Value;

/// The machine-readable reason of one cause (`metav1.CauseType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

/// One thing that is wrong: `field` is a path such as `spec.containers[0].name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub reason: Reason,
    pub field: String,
    pub message: String,
}

/// All that is wrong with one object, in the order it was found; no more once the texts are larger than what anybody reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub Vec<FieldError>, usize);

/// Bytes of the texts of one object's causes after which no more are taken: a body of 3 MiB may be wrong in a million places, or be shown whole with each.
pub const FIELD_ERRORS_BYTES_MAX: usize = 1 << 20;

impl Reason {
    /// The word in `status.details.causes[].reason`.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NotFound => "FieldValueNotFound",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::Internal => "InternalError",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no more are taken.
    pub fn is_full(&self) -> bool {
        self.1 >= FIELD_ERRORS_BYTES_MAX
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: &str) {
        self.with_value(Reason::Invalid, field, "Invalid value", &value.into(), detail);
    }

    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.push(Reason::Required, field, message);
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.with_value(Reason::Duplicate, field, "Duplicate value", &value.into(), "");
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.with_value(Reason::NotFound, field, "Not found", &value.into(), "");
    }

    /// `supported` is listed sorted and quoted, as upstream does.
    pub fn not_supported(&mut self, field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) {
        let mut words: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        words.sort();
        let detail = if words.is_empty() { String::new() } else { format!("supported values: {}", words.join(", ")) };
        self.with_value(Reason::NotSupported, field, "Unsupported value", &value.into(), &detail);
    }

    /// As [`FieldErrors::not_supported`], with the words for what is.
    pub fn not_supported_as(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: &str) {
        self.with_value(Reason::NotSupported, field, "Unsupported value", &value.into(), detail);
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() { "Forbidden".to_owned() } else { format!("Forbidden: {detail}") };
        self.push(Reason::Forbidden, field, message);
    }

    /// `max` is a length in bytes.
    pub fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.push(Reason::TooLong, field, format!("Too long: may not be more than {max} bytes"));
    }

    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, max: usize) {
        let plural = if max == 1 { "item" } else { "items" };
        self.push(Reason::TooMany, field, format!("Too many: {actual}: must have at most {max} {plural}"));
    }

    pub fn push(&mut self, reason: Reason, field: impl Into<String>, message: String) {
        if self.is_full() {
            return;
        }
        let field = field.into();
        self.1 += field.len() + message.len();
        self.0.push(FieldError { reason, field, message });
    }

    fn with_value(&mut self, reason: Reason, field: impl Into<String>, what: &str, value: &Value, detail: &str) {
        if self.is_full() {
            return;
        }
        let shown = match value {
            Value::String(s) => crate::quoted(s),
            Value::Null => "null".to_owned(),
            other => other.to_string(),
        };
        let message = if detail.is_empty() { format!("{what}: {shown}") } else { format!("{what}: {shown}: {detail}") };
        self.push(reason, field, message);
    }
}

impl FieldError {
    /// `spec.replicas: Invalid value: -1: must be greater than or equal to 0`
    pub fn text(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_within_bounds() {
        let mut causes = FieldErrors::default();
        let long = "x".repeat(1000);
        for _ in 0..10_000 {
            causes.invalid("spec.x", long.as_str(), "");
        }
        assert!(causes.is_full() && causes.0.len() > 1000);
        assert!(causes.0.iter().map(|cause| cause.text().len()).sum::<usize>() < FIELD_ERRORS_BYTES_MAX + 100_000);
    }

    #[test]
    fn causes_read_as_upstream_writes_them() {
        let mut causes = FieldErrors::default();
        causes.invalid("spec.replicas", -1, "must be greater than or equal to 0");
        causes.required("spec.selector", "");
        causes.not_supported("spec.type", "x", &["b", "a"]);
        let text: Vec<String> = causes.0.iter().map(FieldError::text).collect();
        assert_eq!(text[0], "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(text[1], "spec.selector: Required value");
        assert_eq!(text[2], r#"spec.type: Unsupported value: "x": supported values: "a", "b""#);
        causes.invalid("x", "a\u{1}b", "no");
        assert_eq!(causes.0[3].text(), r#"x: Invalid value: "a\x01b": no"#);
    }
}
