//! An approved request -> its certificate, by the cluster's CA. Source: `pkg/controller/certificates/signer/signer.go`.

use std::sync::Arc;

use api::{
    Key,
    csr::{self, Requested},
    k8s::{ByteString, api::certificates::v1::CertificateSigningRequest},
    time::Timestamp,
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};

use super::{APPROVED, Authority, DENIED, FAILED, condition, is_issued, usages, with_condition};
use crate::Config;

/// No certificate is shorter.
const SECONDS_MIN: u64 = 600;

pub struct Signing {
    requests: Cache<CertificateSigningRequest>,
    authority: Arc<dyn Authority>,
    /// `--cluster-signing-duration`: no certificate is longer.
    seconds: u64,
}

pub struct World {
    request: Arc<CertificateSigningRequest>,
    made: Result<String, String>,
    now: Timestamp,
}

impl Signing {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { requests: caches.of(), authority: config.authority.clone(), seconds: config.signing_seconds }
    }

    fn sign(&self, request: &CertificateSigningRequest) -> Result<String, String> {
        let bytes = &request.spec.request.0;
        is_for(&request.spec.signer_name, &self.authority.look(bytes)?, usages(request))?;
        self.authority.sign(bytes, usages(request), life(request.spec.expiration_seconds, self.seconds))
    }
}

impl Controller for Signing {
    type World = World;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.requests);
    }

    /// Signs here: that needs a random number and the time.
    async fn observe(&self, key: &Key) -> Option<World> {
        let request = self.requests.get(key)?;
        let is_ours =
            [csr::CLIENT, csr::KUBELET_CLIENT, csr::KUBELET_SERVING, csr::LEGACY_UNKNOWN].contains(&request.spec.signer_name.as_str());
        let is_approved = condition(&request, APPROVED).is_some() && condition(&request, DENIED).is_none();
        if !is_ours || !is_approved || condition(&request, FAILED).is_some() || is_issued(&request) {
            return None;
        }
        let made = self.sign(&request);
        Some(World { request, made, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let action = match &world.made {
            Ok(pem) => {
                let mut signed = (*world.request).clone();
                signed.status.get_or_insert_default().certificate = Some(ByteString(pem.clone().into_bytes()));
                Action::update_status(&signed)
            }
            Err(why) => {
                tracing::info!(name = world.request.name_any(), why, "a request for a certificate failed");
                Action::update_status(&with_condition(&world.request, FAILED, "SignerValidationFailure", why.clone(), world.now))
            }
        };
        Plan::act(vec![action])
    }
}

/// `getCSRVerificationFuncForSignerName`
fn is_for(signer: &str, asked: &Requested, usages: &[String]) -> Result<(), String> {
    match signer {
        csr::KUBELET_CLIENT => csr::kubelet_client(asked, usages).map_err(str::to_owned),
        csr::KUBELET_SERVING => csr::kubelet_serving(asked, usages).map_err(str::to_owned),
        csr::CLIENT => client_usages(usages),
        _ => Ok(()),
    }
}

/// `validAPIServerClientUsages`
fn client_usages(usages: &[String]) -> Result<(), String> {
    const CLIENT_AUTH: &str = "client auth";
    if let Some(other) = usages.iter().find(|usage| !["digital signature", "key encipherment", CLIENT_AUTH].contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    let is_client = usages.iter().any(|usage| usage == CLIENT_AUTH);
    if is_client { Ok(()) } else { Err(format!("missing required usage for client certificate: {CLIENT_AUTH}")) }
}

/// What was asked for, but no longer than `most`.
fn life(asked: Option<i32>, most: u64) -> u64 {
    asked.map_or(most, |seconds| u64::try_from(seconds).unwrap_or_default().max(SECONDS_MIN).min(most))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::certificates::tests::request;

    #[test]
    fn each_signer_signs_its_own() {
        let words = |all: &[&str]| -> Vec<String> { all.iter().map(|usage| (*usage).to_owned()).collect() };
        let node = Requested { common_name: "system:node:n".into(), organizations: vec!["system:nodes".into()], ..Requested::default() };
        let client = words(&["digital signature", "client auth"]);
        assert_eq!(is_for(csr::KUBELET_CLIENT, &node, &client), Ok(()));
        assert!(is_for(csr::KUBELET_SERVING, &node, &client).is_err());
        assert!(is_for(csr::KUBELET_CLIENT, &Requested::default(), &client).is_err());
        assert_eq!(is_for(csr::CLIENT, &Requested::default(), &client), Ok(()));
        assert_eq!(is_for(csr::CLIENT, &node, &words(&["server auth"])).unwrap_err(), "invalid usage for client certificate: server auth");
        let missing = is_for(csr::CLIENT, &node, &words(&["digital signature"])).unwrap_err();
        assert_eq!(missing, "missing required usage for client certificate: client auth");
        assert_eq!(is_for(csr::LEGACY_UNKNOWN, &node, &words(&["any"])), Ok(()));
    }

    #[test]
    fn a_life_is_as_asked_for_but_not_too_long() {
        assert_eq!(life(None, 3600), 3600);
        assert_eq!(life(Some(1200), 3600), 1200);
        assert_eq!(life(Some(7200), 3600), 3600);
        assert_eq!(life(Some(-1), 3600), 600);
    }

    #[tokio::test]
    async fn what_is_signed_or_failed_is_written_to_the_status() {
        let request = Arc::new(request("r", csr::CLIENT, "jane", &json!({}), &["client auth"]));
        let caches = Caches::unfollowed(kube::Client::new(tower::service_fn(nobody), "default"), api::task::Group::new());
        let signing = Signing::new(&caches, &Config { signing_seconds: 3600, ..Config::of_tests() });
        assert_eq!(signing.sign(&request).unwrap(), "client auth for 3600");
        for (made, wanted) in [(Ok("pem".to_owned()), "/status/certificate"), (Err("bad".to_owned()), "/status/conditions/0/reason")] {
            let world = World { request: request.clone(), made, now: Timestamp::UNIX_EPOCH };
            let plan = signing.plan(&world, &Key::new("", "r"));
            let [Action::Update { path, object, .. }] = &plan.actions[..] else { panic!() };
            assert!(path.ends_with("/r/status") && object.pointer(wanted).is_some(), "{object}");
        }
    }

    async fn nobody(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        Ok(http::Response::new(kube::client::Body::empty()))
    }
}
