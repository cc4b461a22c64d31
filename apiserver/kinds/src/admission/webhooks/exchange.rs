//! A review, and a webhook that is asked about it -> its AdmissionReview, and what its answer says.
//!
//! Sources: apiserver `pkg/admission/plugin/webhook/request/admissionreview.go`, `errors/statuserror.go`; `admission.k8s.io/v1`, `v1beta1`.

use std::{borrow::Cow, collections::BTreeMap};

use api::Status;
use apiserver::identity::Review;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admission::request::{self, Versioned};

/// A webhook's refusal lets nobody wait longer for the next try.
const RETRY_AFTER_SECONDS_MAX: u64 = 60;
/// Of a webhook's refusal.
const CAUSES_MAX: usize = 100;

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub allowed: bool,
    /// Operations of a JSON patch, where there are any.
    pub patch: Option<Value>,
    pub result: Option<Map<String, Value>>,
    pub warnings: Vec<String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Response {
    uid: Option<String>,
    allowed: Option<bool>,
    status: Option<Map<String, Value>>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// The body of a request to a webhook that understands `version`.
pub(super) fn request(review: &Review<'_>, shown: &Versioned<'_>, version: &str, uid: &str) -> Value {
    let mut request = request::request(review, &shown.kind);
    let body = |value: &Option<Cow<'_, Value>>| value.as_deref().cloned().unwrap_or_default();
    request["uid"] = uid.into();
    request["object"] = body(&shown.object);
    request["oldObject"] = body(&shown.old);
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

impl Answer {
    /// # Errors
    /// It is none, or not one to this request.
    pub fn read(body: &[u8], version: &str, uid: &str, may_patch: bool) -> Result<Self, String> {
        let sent: Sent = serde_json::from_slice(body).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
        let response = sent.response.ok_or("webhook response was absent")?;
        let patch_type = response.patch_type.as_deref();
        let patch = response.patch.as_deref().filter(|patch| !patch.is_empty());
        if version == "v1" {
            let given = response.uid.as_deref().unwrap_or_default();
            if given != uid {
                return Err(format!("expected response.uid={uid:?}, got {given:?}"));
            }
            if (sent.api_version.as_str(), sent.kind.as_str()) != ("admission.k8s.io/v1", "AdmissionReview") {
                let got = format!("{}, Kind={}", sent.api_version, sent.kind);
                return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}"));
            }
            match (may_patch, patch, patch_type) {
                (true, Some(_), None) => return Err("webhook returned response.patch but not response.patchType".into()),
                (true, None, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
                (true, Some(_), Some(other)) if other != "JSONPatch" => return Err(format!("unsupported patch type {other:?}")),
                (false, Some(_), _) => return Err("validating webhook may not return response.patch".into()),
                (false, None, Some(_)) => return Err("validating webhook may not return response.patchType".into()),
                _ => {}
            }
        }
        let patch = patch.filter(|_| may_patch).map(operations).transpose()?;
        Ok(Self {
            allowed: response.allowed.unwrap_or_default(),
            patch,
            result: response.status,
            warnings: response.warnings.unwrap_or_default(),
            annotations: response.audit_annotations.unwrap_or_default(),
        })
    }

    /// The refusal (`ToStatusErr`).
    pub fn refusal(&self, webhook: &str) -> Status {
        let part = |name: &str| self.result.as_ref().and_then(|result| result.get(name));
        let text = |name: &str| part(name).and_then(Value::as_str).unwrap_or_default();
        let code = part("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        let denied = format!("admission webhook {webhook:?} denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let mut status = Status::new(code.unwrap_or(400), Cow::Owned(text("reason").to_owned()), message);
        // As much of the details as is of their type: clients read them as the server's own.
        let details = part("details");
        for field in ["name", "group", "kind", "uid"] {
            if let Some(text) = details.and_then(|details| details.get(field)).and_then(Value::as_str) {
                status.detail(field, text);
            }
        }
        if let Some(seconds) =
            details.and_then(|details| details.get("retryAfterSeconds")).and_then(Value::as_u64).filter(|seconds| *seconds > 0)
        {
            status.detail("retryAfterSeconds", seconds.min(RETRY_AFTER_SECONDS_MAX));
        }
        if let Some(Value::Array(causes)) = details.and_then(|details| details.get("causes")) {
            let is_cause = |cause: &&Value| cause.as_object().is_some_and(|cause| cause.values().all(Value::is_string));
            status.detail("causes", causes.iter().filter(is_cause).take(CAUSES_MAX).cloned().collect::<Vec<_>>());
        }
        status
    }
}

fn operations(patch: &str) -> Result<Value, String> {
    let undecodable = |why: &dyn std::fmt::Display| format!("received undecodable patch in webhook response: {why}");
    let bytes = STANDARD.decode(patch).map_err(|error| undecodable(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| undecodable(&error))
}
