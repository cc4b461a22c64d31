//! Servers that nobody has trusted yet, and a join token -> the cluster's authority.
//!
//! What is asked for is public (ConfigMap `kube-public/cluster-info`), and nothing secret is sent before the authority is known: a pinned CA is
//! recognized by its hash; without a pin, who signed the answer with the token is believed. Upstream: `cmd/kubeadm/app/discovery/token`.

use std::fmt;

use anyhow::{Context, bail};
use api::{
    bootstrap::{CLUSTER_INFO, CLUSTER_INFO_KUBECONFIG, CLUSTER_INFO_NAMESPACE, JWS_PREFIX},
    k8s::{ByteString, api::core::v1::ConfigMap},
    task::Group,
};
use client::{
    ANSWER_BOUND,
    kube::{self, Api},
    transport::{Server, Transport, unchecked},
    trust::{is_signed, pinned},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::node::join_token::JoinToken;

const ASKING: &str = "asking for what anybody may know of the cluster (kube-public/cluster-info)";

/// What a server that has just started may yet do.
#[derive(Debug)]
pub enum NotYet {
    /// Nobody may read what anybody may know of the cluster, or it is not there.
    Public,
    /// Nobody has signed with the token of this id.
    Signed(String),
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str(ASKING),
            Self::Signed(id) => write!(
                f,
                "the token says nothing of the cluster's CA, and no server knows token {id}: is it the right one, and is its time over? `skiff token list` on a server shows those there are, `skiff token create` makes one"
            ),
        }
    }
}

impl std::error::Error for NotYet {}

/// The CA's certificates, PEM.
///
/// # Errors
/// No server answers, or none of what they say can be trusted.
pub async fn authority(servers: &[Server], join_token: &JoinToken, group: &Group) -> anyhow::Result<String> {
    let transport = Transport::new(servers.to_vec(), unchecked()?, group);
    let maps: Api<ConfigMap> = Api::namespaced(transport.client(), CLUSTER_INFO_NAMESPACE);
    let answer = timeout(ANSWER_BOUND, maps.get(CLUSTER_INFO)).await.context(ASKING)?;
    trusted(&public(answer)?, join_token)
}

fn public(answer: Result<ConfigMap, kube::Error>) -> anyhow::Result<ConfigMap> {
    answer.map_err(|error| match &error {
        kube::Error::Api(status) if [403, 404].contains(&status.code) => anyhow::Error::from(error).context(NotYet::Public),
        _ => anyhow::Error::from(error).context(ASKING),
    })
}

fn trusted(info: &ConfigMap, join_token: &JoinToken) -> anyhow::Result<String> {
    let of = |key: &str| info.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
    let kubeconfig = of(CLUSTER_INFO_KUBECONFIG)
        .with_context(|| format!("ConfigMap {CLUSTER_INFO_NAMESPACE}/{CLUSTER_INFO} has no {CLUSTER_INFO_KUBECONFIG}"))?;
    let bundle = authority_of(kubeconfig).with_context(|| format!("ConfigMap {CLUSTER_INFO_NAMESPACE}/{CLUSTER_INFO}"))?;
    if let Some(pin) = &join_token.pin {
        return pinned(&bundle, |block| pin.matches(block)).map_err(|error| {
            anyhow::anyhow!("{error}: this is another cluster, somebody is in between, or the cluster was made anew. `skiff token create` on its server prints a token with the right hash")
        });
    }
    let (id, secret) = (&join_token.token.id, &join_token.token.secret);
    let Some(signature) = of(&format!("{JWS_PREFIX}{id}")) else {
        return Err(NotYet::Signed(id.clone()).into());
    };
    if !is_signed(signature, kubeconfig, id, secret) {
        bail!(
            "the server does not know the secret of token {id}: it is wrong, or somebody is in between. `skiff token create` on a server makes a new one, with the hash of its CA"
        );
    }
    tracing::warn!(id, "the token does not pin the cluster's CA: the one is trusted that was signed with the token");
    Ok(bundle)
}

/// The first cluster's CA.
fn authority_of(kubeconfig: &str) -> anyhow::Result<String> {
    let value: Value = serde_yaml::from_str(kubeconfig).context("its kubeconfig is no YAML")?;
    let data = &value["clusters"][0]["cluster"]["certificate-authority-data"];
    let data: ByteString = serde_json::from_value(data.clone()).context("its kubeconfig has no certificate-authority-data")?;
    String::from_utf8(data.0).context("its certificate-authority-data is not PEM text")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use client::certificate::{Wanted, self_signed};
    use serde_json::json;

    use super::*;

    fn info(entries: &[(&str, &str)]) -> ConfigMap {
        let data: BTreeMap<String, String> = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn a_server_that_has_just_started_may_yet_tell_and_one_that_knows_us_not_will_never() {
        let status = |code| kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::failure("no", "Why") }));
        for (code, may_yet) in [(403, true), (404, true), (401, false), (410, false)] {
            let error = public(Err(status(code))).unwrap_err();
            assert_eq!(error.is::<NotYet>(), may_yet, "{code}");
            assert!(format!("{error:#}").starts_with(ASKING) && format!("{error:#}").contains("no: Why"), "{error:#}");
        }
        assert_eq!(public(Ok(info(&[("a", "b")]))).unwrap(), info(&[("a", "b")]));
    }

    #[test]
    fn an_authority_is_trusted_for_its_hash_or_for_a_signature() {
        let own = self_signed(&Wanted::node_client("ca"), std::time::Duration::from_secs(60), api::time::Timestamp::now()).unwrap();
        let (ca, data) = (own.chain_pem.clone(), ByteString(own.chain_pem.into_bytes()));
        let kubeconfig =
            serde_yaml::to_string(&json!({"clusters": [{"name": "", "cluster": {"certificate-authority-data": data}}]})).unwrap();
        let token = |hash: Option<&str>| JoinToken::parse("abcdef.0123456789abcdef", hash).unwrap();
        let (bare, other) = (token(None), token(Some(&"0".repeat(64))));
        let [whole, key] = apiserver::certs::request::fingerprints(&ca).unwrap();
        let (pinning, by_key) = (token(Some(&whole)), token(Some(&format!("sha256:{key}"))));
        let unsigned = info(&[("kubeconfig", &kubeconfig)]);
        for pinning in [&pinning, &by_key] {
            assert_eq!(trusted(&unsigned, pinning).unwrap().trim(), ca.trim());
        }
        let error = trusted(&unsigned, &other).unwrap_err().to_string();
        assert!(error.contains("is not the one that is expected") && error.contains("skiff token create"), "{error}");
        assert!(trusted(&unsigned, &bare).unwrap_err().to_string().contains("skiff token list"));
        let forged = info(&[("kubeconfig", &kubeconfig), ("jws-kubeconfig-abcdef", "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..AAAA")]);
        assert!(trusted(&forged, &bare).unwrap_err().to_string().contains("does not know the secret"));
        for broken in [info(&[]), info(&[("kubeconfig", "clusters: []")]), info(&[("kubeconfig", ": :")])] {
            assert!(trusted(&broken, &pinning).is_err());
        }
    }
}
