//! Requests for certificates -> approved where a node asks for its own, signed, and cleaned up. Source: `pkg/controller/certificates`.

mod approve;
mod clean;
mod names;
mod pending;
mod release;
mod reserved;
mod serving;
mod sign;

use std::fmt::Debug;

use api::{
    csr::Requested,
    k8s::{
        api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::Timestamp,
};
use reconcile::Action;

pub use approve::Approving;
pub use clean::Cleaning;
pub use release::Release;
pub use reserved::Reserved;
pub use serving::ServingApproval;
pub use sign::Signing;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The cluster's CA, and who reads what it is asked to sign.
pub trait Authority: Debug + Send + Sync {
    /// What a request (PEM) asks for; its signature is good.
    ///
    /// # Errors
    /// What is wrong with it.
    fn look(&self, request: &[u8]) -> Result<Requested, String>;

    /// A certificate (PEM) for the request, with these usages, for so many seconds from now.
    ///
    /// # Errors
    /// What is wrong with the request, or with the CA.
    fn sign(&self, request: &[u8], usages: &[String], seconds: u64) -> Result<String, String>;
}

fn condition<'r>(request: &'r CertificateSigningRequest, kind: &str) -> Option<&'r CertificateSigningRequestCondition> {
    request.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|condition| condition.type_ == kind)
}

/// Whether somebody has said yes or no.
fn is_decided(request: &CertificateSigningRequest) -> bool {
    condition(request, APPROVED).is_some() || condition(request, DENIED).is_some()
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty())
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

/// The request with one more condition.
fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: None,
    });
    request
}

fn approve(request: &CertificateSigningRequest, message: &str, now: Timestamp) -> Action {
    Action::update_part(&with_condition(request, APPROVED, "AutoApproved", message.into(), now), "approval")
}

fn deny(request: &CertificateSigningRequest, reason: &str, message: String, now: Timestamp) -> Action {
    Action::update_part(&with_condition(request, DENIED, reason, message, now), "approval")
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Takes a request of JSON for what it says; its certificates say what they are for.
    #[derive(Debug)]
    pub struct Plain;

    impl Authority for Plain {
        fn look(&self, request: &[u8]) -> Result<Requested, String> {
            let said: Value = serde_json::from_slice(request).map_err(|e| e.to_string())?;
            let list = |field: &str| -> Vec<String> {
                said[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            Ok(Requested {
                common_name: said["cn"].as_str().unwrap_or_default().into(),
                organizations: list("o"),
                dns: list("dns"),
                addresses: list("ip").iter().filter_map(|ip| ip.parse().ok()).collect(),
                key: said["key"].as_str().unwrap_or_default().into(),
                ..Requested::default()
            })
        }

        fn sign(&self, _: &[u8], usages: &[String], seconds: u64) -> Result<String, String> {
            Ok(format!("{} for {seconds}", usages.join(",")))
        }
    }

    pub fn request(name: &str, signer: &str, user: &str, asked: &Value, usages: &[&str]) -> CertificateSigningRequest {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "request": BASE64_STANDARD.encode(asked.to_string()), "signerName": signer, "username": user, "usages": usages,
                "groups": ["system:nodes", "system:authenticated"],
            },
        }))
        .unwrap()
    }

    /// What a plan writes into a request: the types of its conditions, and the last one's reason and message.
    pub fn written(action: &Action) -> (Vec<String>, String, String) {
        let Action::Update { object, .. } = action else { panic!("{action:?}") };
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let text = |field: &str| conditions.last().unwrap()[field].as_str().unwrap_or_default().to_owned();
        (conditions.iter().map(|c| c["type"].as_str().unwrap().to_owned()).collect(), text("reason"), text("message"))
    }

    #[test]
    fn what_was_decided_stays() {
        let mut one = request("r", "a.b/c", "jane", &json!({}), &[]);
        assert!(!is_decided(&one) && !is_issued(&one));
        one = with_condition(&one, DENIED, "No", "no".into(), Timestamp::UNIX_EPOCH);
        assert!(is_decided(&one) && condition(&one, APPROVED).is_none());
        let Action::Update { path, object, .. } = approve(&one, "yes", Timestamp::UNIX_EPOCH) else { panic!() };
        assert_eq!(path, "/apis/certificates.k8s.io/v1/certificatesigningrequests/r/approval");
        assert_eq!(object["metadata"]["resourceVersion"], "1", "whoever was faster wins");
    }
}
