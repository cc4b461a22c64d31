//! `cluster-info` and the tokens -> a signature of its kubeconfig with each token, so that who knows one can tell the true from a false one.
//!
//! Source: `pkg/controller/bootstrap/bootstrapsigner.go`, `cluster-bootstrap/token/jws` (RFC 7515, Appendix F).

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Key,
    bootstrap::{
        CLUSTER_INFO, CLUSTER_INFO_KUBECONFIG, CLUSTER_INFO_NAMESPACE, ID, JWS_PREFIX, Life, SECRET, USAGE_SIGNING, id_of_name, is_for,
        life,
    },
    k8s::api::core::v1::{ConfigMap, Secret},
    time::Timestamp,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use client::{Cache, Caches, kube};
use jsonwebtoken::{Algorithm, EncodingKey};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};

use super::{data, tokens};

pub struct BootstrapSigner {
    maps: Cache<ConfigMap>,
    tokens: Cache<Secret>,
}

pub struct World {
    map: Arc<ConfigMap>,
    tokens: Vec<Arc<Secret>>,
    now: Timestamp,
}

impl BootstrapSigner {
    pub fn new(caches: &Caches) -> Self {
        let maps = caches.filtered(&format!("metadata.namespace={CLUSTER_INFO_NAMESPACE},metadata.name={CLUSTER_INFO}"));
        Self { maps, tokens: tokens(caches) }
    }
}

impl Controller for BootstrapSigner {
    type World = World;

    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.maps);
        wake.on(&self.tokens, |_, wake| wake(Key::new(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO)));
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        Some(World { map: self.maps.get(key)?, tokens: self.tokens.list(), now: Timestamp::now() })
    }

    /// Signing costs a few microseconds and no random number.
    fn plan(&self, world: &World, _: &Key) -> Plan {
        let data = world.map.data.clone().unwrap_or_default();
        let Some(content) = data.get(CLUSTER_INFO_KUBECONFIG) else { return Plan::rest() };
        let signatures = world.tokens.iter().filter_map(|token| signature(token, content, world.now));
        let others = data.iter().filter(|(key, _)| !key.starts_with(JWS_PREFIX)).map(|(key, value)| (key.clone(), value.clone()));
        let wanted: BTreeMap<String, String> = others.chain(signatures).collect();
        if wanted == data {
            return Plan::rest();
        }
        Plan::act(vec![Action::update(&ConfigMap { data: Some(wanted), ..(*world.map).clone() })])
    }
}

/// `validateSecretForSigning`: under which key, and what.
fn signature(token: &Secret, content: &str, now: Timestamp) -> Option<(String, String)> {
    let (name, data) = (token.name_any(), data(token));
    let (id, secret) = (data.get(ID)?, data.get(SECRET).filter(|secret| !secret.is_empty())?);
    if id_of_name(&name)? != id || life(&data, now) == Life::Over || !is_for(&data, USAGE_SIGNING) {
        return None;
    }
    Some((format!("{JWS_PREFIX}{id}"), detached(content, id, secret)?))
}

/// `ComputeDetachedSignature`. The header is compared as text: its fields are in this order.
fn detached(content: &str, id: &str, secret: &str) -> Option<String> {
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256);
    signature.map(|signature| format!("{header}..{signature}")).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bootstrap::tests::token;

    fn plan(data: serde_json::Value, tokens: Vec<Arc<Secret>>) -> Plan {
        let caches = Caches::unfollowed(kube::Client::new(tower::service_fn(nobody), "default"), api::task::Group::new());
        let map = json!({"metadata": {"name": CLUSTER_INFO, "namespace": CLUSTER_INFO_NAMESPACE, "resourceVersion": "4"}, "data": data});
        let world =
            World { map: Arc::new(serde_json::from_value(map).unwrap()), tokens, now: api::time::parse("2026-01-01T00:00:00Z").unwrap() };
        BootstrapSigner::new(&caches).plan(&world, &Key::new(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO))
    }

    #[test]
    fn signatures_are_upstreams() {
        // `jws_test.go`
        let secret = "my voice is my passcode";
        let made = detached("Hello from the other side. I must have called a thousand times.", "joshua", secret).unwrap();
        assert_eq!(made, "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8");
    }

    #[tokio::test]
    async fn each_token_signs_and_no_other_signature_stays() {
        let good = token("abcdef", &[]);
        let tokens =
            vec![good.clone(), token("ghijkl", &[("expiration", "2025-01-01T00:00:00Z")]), token("mnopqr", &[(USAGE_SIGNING, "false")])];
        let plan = plan(json!({"kubeconfig": "x", "other": "y", "jws-kubeconfig-ghijkl": "old"}), tokens);
        let [Action::Update { object, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
        let keys: Vec<&String> = object["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig", "other"]);
        assert_eq!(super::tests::plan(object["data"].clone(), vec![good.clone()]), Plan::rest(), "a second time changes nothing");
        assert_eq!(super::tests::plan(json!({"other": "y"}), vec![good]), Plan::rest());
    }

    async fn nobody(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        Ok(http::Response::new(kube::client::Body::empty()))
    }
}
