//! Errors as Kubernetes gives them: a `metav1.Status` with code, reason, message and details.
//!
//! Source: apimachinery `pkg/api/errors/errors.go`.

use std::{borrow::Cow, fmt};

use serde_json::{Map, Value, json};

use crate::{Gvk, field_errors::FieldErrors, names::GroupResource};

/// An API failure. `code` is the HTTP status; `body` renders the whole `metav1.Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: Cow<'static, str>,
    pub message: String,
    /// Boxed: a Status is what nearly everything may answer with.
    pub details: Box<Map<String, Value>>,
    /// `metadata.continue`: a token with which a list can go on that cannot as it was.
    pub goes_on: Option<Box<str>>,
}

pub type StatusResult<T> = Result<T, Status>;

impl Status {
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Box::default(), goes_on: None }
    }

    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{gr} {name:?} not found")).about(gr, name)
    }

    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{gr} {name:?} already exists")).about(gr, name)
    }

    pub fn conflict(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(gr, name)
    }

    /// The message of a stale `resourceVersion`.
    pub fn stale(gr: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(gr, name, why)
    }

    pub fn forbidden(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (gr.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{gr} is forbidden: {why}"),
            _ => format!("{gr} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(gr, name)
    }

    /// 422 with every cause. `gvk.kind` and group are what `details` names.
    pub fn invalid(gvk: &Gvk, name: &str, causes: &FieldErrors) -> Self {
        // What is found twice is told once, and stays two causes (`ErrorList.ToAggregate`).
        let mut seen = std::collections::HashSet::new();
        let texts: Vec<String> = causes.0.iter().map(|c| c.text()).filter(|text| seen.insert(text.clone())).collect();
        let what = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let qualified = if gvk.group.is_empty() { gvk.kind.clone() } else { format!("{}.{}", gvk.kind, gvk.group) };
        let mut status = Self::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {what}"));
        for (key, value) in [("name", name), ("group", &gvk.group), ("kind", &gvk.kind)] {
            if !value.is_empty() {
                status.detail(key, value);
            }
        }
        let causes: Vec<Value> =
            causes.0.iter().map(|c| json!({"reason": c.reason.word(), "message": c.message, "field": c.field})).collect();
        status.details.insert("causes".into(), Value::Array(causes));
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_allowed(gr: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind \"{gr}\"");
        Self::new(405, "MethodNotAllowed", message).about(gr, "")
    }

    /// No such path or resource: the body upstream sends for an unknown URL.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", "));
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.detail("retryAfterSeconds", retry_after_seconds);
        status
    }

    /// The one cause says the same once more.
    pub fn internal(message: impl fmt::Display) -> Self {
        let why = message.to_string();
        let mut status = Self::new(500, "InternalError", format!("Internal error occurred: {why}"));
        status.detail("causes", json!([{"message": why}]));
        status
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// Sets one key of `details`.
    pub fn detail(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.details.insert(key.into(), value.into());
        self
    }

    /// Adds a cause to `details.causes`.
    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = json!({"reason": reason, "message": message});
        if !field.is_empty() {
            cause["field"] = field.into();
        }
        if let Value::Array(list) = self.details.entry("causes").or_insert_with(|| json!([])) {
            list.push(cause);
        }
        self
    }

    /// `ValidateDeleteOptions`: the words of `dryRun`, of which there is one.
    ///
    /// # Errors
    /// 422 for any other.
    pub fn known_dry_run(words: &[&str]) -> Result<(), Self> {
        if words.iter().all(|word| *word == "All") {
            return Ok(());
        }
        let mut causes = FieldErrors::default();
        causes.not_supported("dryRun", json!(words), &["All"]);
        Err(Self::invalid(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions"), "", &causes))
    }

    /// The `metav1.Status` object.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if let Some(token) = &self.goes_on {
            body["metadata"] = json!({"continue": token});
        }
        if !self.reason.is_empty() {
            body["reason"] = self.reason.as_ref().into();
        }
        // What upstream makes with `NewNotFound` and its like has details, be they empty.
        let has_details =
            matches!(self.reason.as_ref(), "Forbidden" | "NotFound" | "MethodNotAllowed" | "Invalid" | "Conflict" | "AlreadyExists");
        if has_details || !self.details.is_empty() {
            body["details"] = Value::Object(self.details.as_ref().clone());
        }
        body["code"] = self.code.into();
        body
    }

    fn about(mut self, gr: &GroupResource, name: &str) -> Self {
        for (key, value) in [("name", name), ("group", &gr.group), ("kind", &gr.resource)] {
            if !value.is_empty() {
                self.detail(key, value);
            }
        }
        self
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_names_the_resource_with_its_group() {
        let status = Status::not_found(&GroupResource::new("apps", "deployments"), "web");
        assert_eq!(status.message, r#"deployments.apps "web" not found"#);
        assert_eq!(status.body()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
    }

    #[test]
    fn an_internal_error_has_its_cause() {
        let body = Status::internal("no luck").body();
        assert_eq!(
            (&body["message"], &body["details"]),
            (&json!("Internal error occurred: no luck"), &json!({"causes": [{"message": "no luck"}]}))
        );
    }

    #[test]
    fn invalid_lists_every_cause() {
        let mut causes = FieldErrors::default();
        causes.required("spec.a", "");
        causes.required("spec.b", "");
        causes.required("spec.a", "");
        let status = Status::invalid(&Gvk::new("", "v1", "Pod"), "x", &causes);
        assert_eq!(status.message, r#"Pod "x" is invalid: [spec.a: Required value, spec.b: Required value]"#);
        assert_eq!(status.body()["details"]["causes"].as_array().map(Vec::len), Some(3));
    }
}
