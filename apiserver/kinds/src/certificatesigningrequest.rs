//! CertificateSigningRequest: somebody's key and names, to be signed once somebody else has approved.
//!
//! Source: `pkg/registry/certificates/certificates/strategy.go`, `pkg/apis/certificates/validation`.

mod validate;

use std::borrow::Cow;

use api::{
    Gvk,
    field_errors::FieldErrors,
    human,
    time::{Timestamp, rfc3339},
};
use apiserver::kind::{Column, Ctx, Field, Handler, Kind, MetaCheck, Scope, Strategy, Subresource, names};
use serde_json::{Map, Value, json};

use crate::common::{
    self, Read, edit, read,
    table::{self, column},
};

pub use validate::request_bytes;

pub const GROUP: &str = "certificates.k8s.io";
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

const SIGNER: &str = "signerName indicates the requested signer, and is a qualified name.\n\nList/watch requests for CertificateSigningRequests can filter on this field using a \"spec.signerName=NAME\" fieldSelector.\n\nWell-known Kubernetes signers are:\n 1. \"kubernetes.io/kube-apiserver-client\": issues client certificates that can be used to authenticate to kube-apiserver.\n  Requests for this signer are never auto-approved by kube-controller-manager, can be issued by the \"csrsigning\" controller in kube-controller-manager.\n 2. \"kubernetes.io/kube-apiserver-client-kubelet\": issues client certificates that kubelets use to authenticate to kube-apiserver.\n  Requests for this signer can be auto-approved by the \"csrapproving\" controller in kube-controller-manager, and can be issued by the \"csrsigning\" controller in kube-controller-manager.\n 3. \"kubernetes.io/kubelet-serving\" issues serving certificates that kubelets use to serve TLS endpoints, which kube-apiserver can connect to securely.";
const DURATION: &str = "expirationSeconds is the requested duration of validity of the issued certificate. The certificate signer may issue a certificate with a different validity duration so a client must check the delta between the notBefore and and notAfter fields in the issued certificate to determine the actual duration.";

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::AGE_COLUMN,
    column("SignerName", "string", SIGNER),
    column(
        "Requestor",
        "string",
        "request contains an x509 certificate signing request encoded in a \"CERTIFICATE REQUEST\" PEM block. When serialized as JSON or YAML, the data is additionally base64-encoded.",
    ),
    column("RequestedDuration", "string", DURATION),
    column("Condition", "string", "conditions applied to the request. Known conditions are \"Approved\", \"Denied\", and \"Failed\"."),
];
const FIELDS: &[Field] = &[table::field("spec.signerName", "/spec/signerName", "")];

pub fn kind() -> Kind {
    let body = Gvk::new(GROUP, "v1", "CertificateSigningRequest");
    let approval =
        Subresource { name: "approval".into(), handler: Handler::Object, body, ..common::status(GROUP, "v1", "CertificateSigningRequest") };
    Kind {
        scope: Scope::Cluster,
        short_names: names(&["csr"]),
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        subresources: vec![approval, common::status(GROUP, "v1", "CertificateSigningRequest")],
        ..common::kind(GROUP, "v1", "CertificateSigningRequest", "certificatesigningrequests", "io.k8s.api.certificates.v1", Requests)
    }
}

struct Requests;

impl Strategy for Requests {
    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static [&'static str]]> {
        match subresource {
            "" => Some(&[&["spec"], &["status"]]),
            "status" => Some(&[&["spec"], &["status", "conditions"]]),
            "approval" => Some(&[&["spec"], &["status", "certificate"]]),
            _ => None,
        }
    }

    /// Who asks is told by the request alone.
    fn prepare_create(&self, ctx: &Ctx<'_>, object: &mut Value) {
        let Some(spec) = edit::make_child(object, "spec") else { return };
        for field in ["username", "uid", "groups", "extra"] {
            edit::remove(spec, field);
        }
        edit::set(spec, "username", ctx.user.name.as_str());
        if !ctx.user.uid.is_empty() {
            edit::set(spec, "uid", ctx.user.uid.as_str());
        }
        if !ctx.user.groups.is_empty() {
            edit::set(spec, "groups", json!(ctx.user.groups));
        }
        if !ctx.user.extra.is_empty() {
            edit::set(spec, "extra", json!(ctx.user.extra));
        }
        edit::set(object, "status", Value::Object(Map::new()));
    }

    fn prepare_update(&self, _: &Ctx<'_>, new: &mut Value, old: &Value) {
        edit::carry(new, old, "spec");
    }

    fn prepare_subresource(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        edit::carry(new, old, "spec");
        match ctx.subresource {
            "approval" => {
                stamp(new, old, ctx.now);
                // Of the status, the conditions alone.
                let conditions = new.at("status").at("conditions").cloned();
                edit::carry(new, old, "status");
                match (conditions, edit::make_child(new, "status")) {
                    (Some(conditions), Some(status)) => edit::set(status, "conditions", conditions),
                    (None, Some(status)) => edit::remove(status, "conditions"),
                    _ => {}
                }
            }
            _ => {
                keep(new, old, APPROVED);
                keep(new, old, DENIED);
                stamp(new, old, ctx.now);
            }
        }
    }

    /// `ValidateCertificateRequestName`: "We don't care what you call your certificate requests."
    fn name_error(&self, _: &str) -> Option<String> {
        None
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        validate::created(object, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        validate::updated(new, old, validate::Way::Plain, causes);
    }

    fn validate_subresource(&self, subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let way = if subresource == "approval" { validate::Way::Approval } else { validate::Way::Status };
        validate::updated(new, old, way, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let duration = spec.int("expirationSeconds").map_or("<none>".into(), |seconds| Value::from(human::duration(seconds)));
        vec![
            read::name(object).into(),
            table::age(object, now),
            table::or_none(spec.text("signerName")),
            spec.text("username").into(),
            duration,
            state(object).into(),
        ]
    }
}

/// `extractCSRStatus`
fn state(object: &Value) -> String {
    let has = |wanted: &str| conditions(object).iter().any(|condition| condition.text("type") == wanted);
    let mut state = String::from(match () {
        () if has(DENIED) => "Denied",
        () if has(APPROVED) => "Approved",
        () => "Pending",
    });
    if has(FAILED) {
        state += ",Failed";
    }
    if !object.at("status").text("certificate").is_empty() {
        state += ",Issued";
    }
    state
}

fn conditions(object: &Value) -> &[Value] {
    object.at("status").list("conditions")
}

fn of_type<'v>(object: &'v Value, wanted: &str) -> Vec<&'v Value> {
    conditions(object).iter().filter(|condition| condition.text("type") == wanted).collect()
}

/// `preserveConditionInstances`: as they were, unless one was added or taken away.
fn keep(new: &mut Value, old: &Value, wanted: &str) {
    let was: Vec<Value> = of_type(old, wanted).into_iter().cloned().collect();
    if of_type(new, wanted).len() != was.len() {
        return;
    }
    let Some(status) = edit::child(new, "status") else { return };
    let now = edit::each(status, "conditions").filter(|condition| (&**condition).text("type") == wanted);
    now.zip(was).for_each(|(now, was)| *now = was);
}

/// `populateConditionTimestamps`
fn stamp(new: &mut Value, old: &Value, now: Timestamp) {
    let Some(status) = edit::child(new, "status") else { return };
    for condition in edit::each(status, "conditions") {
        edit::default_text(condition, "lastUpdateTime", &rfc3339(now));
        let same = |was: &&Value| was.text("type") == (&*condition).text("type") && was.text("status") == (&*condition).text("status");
        let since = conditions(old).iter().find(same).map(|was| was.text("lastTransitionTime")).filter(|at| !at.is_empty());
        let since = since.map_or_else(|| rfc3339(now), str::to_owned);
        edit::default_text(condition, "lastTransitionTime", &since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_request_is_shown() {
        let with = |types: &[&str], certificate: &str| {
            let conditions: Vec<Value> = types.iter().map(|t| json!({"type": t})).collect();
            state(&json!({"status": {"conditions": conditions, "certificate": certificate}}))
        };
        assert_eq!(with(&[], ""), "Pending");
        assert_eq!(with(&["Approved"], "x"), "Approved,Issued");
        assert_eq!(with(&["Approved", "Failed"], ""), "Approved,Failed");
        assert_eq!(with(&["Approved", "Denied"], ""), "Denied");
        let spec = json!({"signerName": "kubernetes.io/x", "username": "jane", "expirationSeconds": 3600});
        let cells = Requests.cells(&json!({"metadata": {"name": "r"}, "spec": spec}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["r", "<unknown>", "kubernetes.io/x", "jane", "60m", "Pending"].map(Value::from));
    }

    #[test]
    fn times_are_filled_in_and_kept() {
        let now = api::time::parse("2026-01-01T00:00:00Z").unwrap();
        let then = "2025-01-01T00:00:00Z";
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": then}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True", "lastUpdateTime": then},
        ]}});
        stamp(&mut new, &old, now);
        assert_eq!(new["status"]["conditions"][0]["lastTransitionTime"], then);
        assert_eq!(new["status"]["conditions"][0]["lastUpdateTime"], rfc3339(now));
        assert_eq!(new["status"]["conditions"][1]["lastTransitionTime"], rfc3339(now));
        assert_eq!(new["status"]["conditions"][1]["lastUpdateTime"], then);
    }

    #[test]
    fn who_signs_does_not_change_who_approved() {
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "ByHand"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Other"}]}});
        keep(&mut new, &old, APPROVED);
        assert_eq!(new, old);
        let mut more = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
        keep(&mut more, &old, DENIED);
        assert_eq!(more["status"]["conditions"].as_array().unwrap().len(), 1, "what is added is left for validation");
    }
}
