//! A request -> what is wrong with it. Source: `pkg/apis/certificates/validation`, `pkg/apis/core/validation/names.go` (`ValidateSignerName`).

use std::collections::HashSet;

use api::{csr, field_errors::FieldErrors};
use apiserver::certs::request;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{APPROVED, DENIED, FAILED, conditions, of_type};
use crate::common::{Path, Read, name_rules, not_supported, read, unchanged};

const DOMAIN_LENGTH: usize = 253;
/// A domain, a slash, and a DNS label and a subdomain with a dot between.
const SIGNER_LENGTH: usize = DOMAIN_LENGTH + 1 + DOMAIN_LENGTH + 63 + 1;
const SECONDS_MIN: i64 = 600;
const CERTIFICATE: &str = "status.certificate";

/// Sorted.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// What a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Neither approval nor certificate.
    Plain,
    Approval,
    Status,
}

/// `spec.request` as it was before JSON: PEM. Empty where it is not base64, which is refused.
pub fn request_bytes(object: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(object.at("spec").text("request")).unwrap_or_default()
}

/// The spec is looked at once: it never changes.
pub fn created(object: &Value, causes: &mut FieldErrors) {
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    if let Err(why) = request::look(&request_bytes(object)) {
        causes.invalid(path.field("request"), spec.at("request").cloned().unwrap_or_default(), &why);
    }
    usages(spec.list("usages"), path.field("usages"), causes);
    signer(spec.text("signerName"), path.field("signerName"), causes);
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid(path.field("expirationSeconds"), seconds, why);
    }
    well_formed_conditions(object, None, causes);
}

pub fn updated(new: &Value, old: &Value, way: Way, causes: &mut FieldErrors) {
    well_formed_conditions(new, Some(old), causes);
    well_formed_certificate(new, old, causes);
    let path = Path::new("status.conditions");
    for kind in [APPROVED, DENIED, FAILED] {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            causes.forbidden(path, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    for kind in [APPROVED, DENIED].into_iter().filter(|_| way != Way::Approval) {
        let (now, was) = (of_type(new, kind), of_type(old, kind));
        if now.len() > was.len() {
            causes.forbidden(path, &format!("updates may not add a condition of type {kind:?}"));
        } else if now.len() == was.len() && !now.iter().zip(&was).all(|(a, b)| read::same(Some(a), Some(b))) {
            causes.forbidden(path, &format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    certificate(new, old, way, causes);
    unchanged(new.at("spec"), old.at("spec"), Path::new("spec"), causes);
}

fn usages(usages: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    if usages.is_empty() {
        causes.required(path, "");
    }
    let mut seen = HashSet::new();
    for (i, usage) in usages.iter().enumerate() {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            not_supported(usage, &USAGES, path.index(i), causes);
        }
        if !seen.insert(usage) {
            causes.duplicate(path.index(i), usage);
        }
    }
}

fn signer(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name == csr::LEGACY_UNKNOWN {
        return causes.invalid(path, name, "the legacy signerName is not allowed via this API version");
    }
    if name.is_empty() {
        return causes.required(path, "");
    }
    let (domain, rest) = match name.split('/').collect::<Vec<_>>()[..] {
        [domain, rest] => (domain, rest),
        _ => return causes.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
    };
    if domain.len() > DOMAIN_LENGTH {
        causes.too_long(path, DOMAIN_LENGTH);
    }
    labels(domain, name_rules::dns_label, path, causes);
    if !domain.contains('.') {
        causes.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(rest, name_rules::dns_subdomain, path, causes);
    if name.len() > SIGNER_LENGTH {
        causes.too_long(path, SIGNER_LENGTH);
    }
}

/// Of the first part between dots that is wrong, all that is wrong with it.
fn labels(text: &str, rule: fn(&str) -> Vec<String>, path: Path<'_>, causes: &mut FieldErrors) {
    let wrong = text.split('.').map(|label| (label, rule(label))).find(|(_, errors)| !errors.is_empty());
    for (label, error) in wrong.iter().flat_map(|(label, errors)| errors.iter().map(move |error| (label, error))) {
        causes.invalid(path, text, &format!("validating label {label:?}: {error}"));
    }
}

/// What `old` had wrong already is let pass.
fn well_formed_conditions(object: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
    let was = |fault: fn(&[Value]) -> bool| old.is_some_and(|old| fault(conditions(old)));
    let (both, twice, nameless) = (was(is_both), was(has_twice), was(has_nameless));
    let (path, mut seen) = (Path::new("status.conditions"), HashSet::new());
    let (mut approved, mut denied) = (false, false);
    for (i, condition) in conditions(object).iter().enumerate() {
        let (at, kind, status) = (path.index(i), condition.text("type"), condition.text("status"));
        if kind.is_empty() && !nameless {
            causes.required(at.field("type"), "");
        }
        let allowed: &[&str] = if [APPROVED, DENIED, FAILED].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        match status {
            "" => causes.required(at.field("status"), ""),
            status if !allowed.contains(&status) => not_supported(status, allowed, at.field("status"), causes),
            _ => {}
        }
        approved |= kind == APPROVED;
        denied |= kind == DENIED;
        if approved && denied && [APPROVED, DENIED].contains(&kind) && !both {
            causes.invalid(path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(kind) && !twice {
            causes.duplicate(at.field("type"), kind);
        }
    }
}

fn is_both(conditions: &[Value]) -> bool {
    [APPROVED, DENIED].iter().all(|kind| conditions.iter().any(|c| c.text("type") == *kind))
}

fn has_twice(conditions: &[Value]) -> bool {
    let mut seen = HashSet::new();
    conditions.iter().any(|condition| !seen.insert(condition.text("type")))
}

fn has_nameless(conditions: &[Value]) -> bool {
    conditions.iter().any(|condition| condition.text("type").is_empty())
}

fn issued(object: &Value) -> &str {
    object.at("status").text("certificate")
}

/// What `old` had wrong already is let pass (`allowArbitraryCertificate`).
fn well_formed_certificate(new: &Value, old: &Value, causes: &mut FieldErrors) {
    let (now, was) = (issued(new), issued(old));
    if now != was
        && let Err(why) = chain(now)
        && chain(was).is_ok()
    {
        causes.invalid(CERTIFICATE, "<certificate data>", &why);
    }
}

fn certificate(new: &Value, old: &Value, way: Way, causes: &mut FieldErrors) {
    let (now, was) = (issued(new), issued(old));
    match () {
        () if now == was => {}
        () if way != Way::Status => causes.forbidden(CERTIFICATE, "updates may not set certificate content"),
        () if !was.is_empty() => causes.forbidden(CERTIFICATE, "updates may not modify existing certificate content"),
        () => {}
    }
}

/// `validateCertificate`
fn chain(base64: &str) -> Result<(), String> {
    if base64.is_empty() {
        return Ok(());
    }
    request::check_certificates(&BASE64_STANDARD.decode(base64).map_err(|_| "illegal base64 data")?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True"})
    }

    fn with(conditions: &[Value], certificate: &str) -> Value {
        json!({"spec": {}, "status": {"conditions": conditions, "certificate": certificate}})
    }

    fn signed_certificate() -> String {
        let pem = apiserver::certs::issue::authority("x", api::time::Timestamp::now()).unwrap().chain_pem;
        BASE64_STANDARD.encode(pem)
    }

    #[test]
    fn signers_are_domains_with_a_path() {
        let found = |name: &str| texts(|causes| signer(name, Path::new("spec.signerName"), causes));
        assert!(found("example.com/x").is_empty() && found("kubernetes.io/kubelet-serving").is_empty());
        let cases = [
            ("", "spec.signerName: Required value"),
            ("x", r#"spec.signerName: Invalid value: "x": must be a fully qualified domain and path of the form"#),
            ("a.b/c/d", "must be a fully qualified domain"),
            ("a/b", r#"Invalid value: "a": should be a domain with at least two segments separated by dots"#),
            ("A.b/c", r#"Invalid value: "A.b": validating label "A": "#),
            ("a.b/C", r#"Invalid value: "C": validating label "C": "#),
            (csr::LEGACY_UNKNOWN, "the legacy signerName is not allowed via this API version"),
        ];
        for (name, why) in cases {
            let found = found(name);
            assert!(found[0].contains(why), "{name}: {found:?}");
        }
    }

    #[test]
    fn what_is_asked_for_is_checked_once() {
        let found = texts(|causes| {
            created(&json!({"spec": {"usages": ["x", "any", "any"], "expirationSeconds": 599, "signerName": "a.b/c"}}), causes)
        });
        let starts = [
            "spec.request: Invalid",
            "spec.usages[0]: Unsupported value: \"x\"",
            "spec.usages[2]: Duplicate value",
            "spec.expirationSeconds: Invalid value: 599: may not",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{found:?}");
        assert!(texts(|causes| usages(&[], Path::new("u"), causes)) == ["u: Required value"]);
    }

    #[test]
    fn each_way_changes_its_own() {
        let (none, approved) = (with(&[], ""), with(&[condition(APPROVED)], ""));
        let signed = with(&[condition(APPROVED)], &signed_certificate());
        let found = |new: &Value, old: &Value, way| texts(|causes| updated(new, old, way, causes));
        assert!(found(&approved, &none, Way::Approval).is_empty());
        assert!(found(&signed, &approved, Way::Status).is_empty());
        let cases = [
            (&approved, &none, Way::Status, r#"updates may not add a condition of type "Approved""#),
            (&approved, &none, Way::Plain, r#"updates may not add a condition of type "Approved""#),
            (&none, &approved, Way::Approval, r#"updates may not remove a condition of type "Approved""#),
            (&signed, &approved, Way::Approval, "updates may not set certificate content"),
            (
                &with(&[condition(APPROVED)], &signed_certificate()),
                &signed,
                Way::Status,
                "updates may not modify existing certificate content",
            ),
            (&with(&[condition(APPROVED)], "eA=="), &approved, Way::Status, "must contain at least one CERTIFICATE PEM block"),
        ];
        for (new, old, way, why) in cases {
            let found = found(new, old, way);
            assert!(found.len() == 1 && found[0].contains(why), "{why}: {found:?}");
        }
        let csr = BASE64_STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\neA==\n-----END CERTIFICATE REQUEST-----\n");
        let why = r#"only CERTIFICATE PEM blocks are allowed, found "CERTIFICATE REQUEST""#;
        assert!(found(&with(&[condition(APPROVED)], &csr), &approved, Way::Status)[0].ends_with(why));
        let at: Vec<String> = found(&with(&[], "eA=="), &approved, Way::Status);
        assert!(at[0].starts_with("status.certificate: ") && at[1].starts_with("status.conditions: "), "the form comes first: {at:?}");
        let mut changed = condition(APPROVED);
        changed["reason"] = "x".into();
        assert!(found(&with(&[changed], ""), &approved, Way::Plain)[0].contains("may not modify a condition"));
    }

    #[test]
    fn conditions_exclude_each_other() {
        let none = with(&[], "");
        let found = |conditions: &[Value], old: &Value| texts(|causes| updated(&with(conditions, ""), old, Way::Approval, causes));
        let both = [condition(APPROVED), condition(DENIED)];
        assert!(found(&both, &none)[0].contains("mutually exclusive"));
        assert!(found(&both, &with(&both, "")).is_empty(), "what another server let pass stays");
        assert!(found(&[condition(APPROVED), condition(APPROVED)], &none)[0].contains("Duplicate value"));
        assert!(found(&[json!({"type": APPROVED, "status": "False"})], &none)[0].contains("Unsupported value"));
        assert!(found(&[json!({"type": "", "status": "True"})], &none)[0].contains("Required"));
        assert!(found(&[json!({"type": "Mine", "status": "Unknown"})], &none).is_empty());
    }
}
