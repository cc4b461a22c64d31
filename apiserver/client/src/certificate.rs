//! A name -> a key that never leaves this machine, and the cluster's certificate for it; and when it is to be renewed.
//!
//! Upstream: client-go `util/certificate` (`csr/csr.go`, `certificate_manager.go`).

mod servers;

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use api::{
    certificate::Identity,
    csr::{KUBELET_CLIENT, KUBELET_SERVING, NODE_USER_PREFIX, NODES_GROUP},
    k8s::{ByteString, api::certificates::v1::CertificateSigningRequest},
    time::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::time::timeout;
use x509_parser::parse_x509_certificate;

use self::servers::Servers;
use crate::{
    may_pass,
    watch::{Change, Query, follow},
};

/// No sleep is longer: a clock that was set, or a machine that slept, is noticed by then.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
const SLEEP_MIN: Duration = Duration::from_millis(100);
/// Until the request itself is answered.
const CREATE_BOUND: Duration = Duration::from_secs(30);
/// In a user's words, no more of a condition than that many characters.
const WORDS_MAX: usize = 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// [`KUBELET_CLIENT`] or [`KUBELET_SERVING`]
    pub signer: &'static str,
    /// `system:node:a`
    pub common_name: String,
    pub organization: String,
    /// Names and addresses that are served.
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// From and to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub from: Timestamp,
    pub to: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no key or request could be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot create certificate signing request: {0}")]
    Create(Box<kube::Error>),
    #[error("no answer to a certificate signing request within {} s", CREATE_BOUND.as_secs())]
    Silence,
    #[error("certificate signing request {name} is denied, reason: {reason}, message: {message}")]
    Denied { name: String, reason: String, message: String },
    #[error("certificate signing request {name} failed, reason: {reason}, message: {message}")]
    Failed { name: String, reason: String, message: String },
    #[error("certificate signing request {name} was deleted before it was signed")]
    Deleted { name: String },
    #[error(
        "nobody signed certificate signing request {name} within {seconds} s: look with `kubectl get csr {name}`, sign with `kubectl certificate approve {name}`"
    )]
    Unsigned { name: String, seconds: u64 },
    #[error("the certificate that was signed cannot be used: {0}")]
    Unusable(String),
}

impl Error {
    /// Whether the same request may succeed later, with nobody doing anything about it but the servers.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Create(error) => may_pass(error),
            Self::Silence | Self::Deleted { .. } | Self::Unsigned { .. } => true,
            Self::Key(_) | Self::Denied { .. } | Self::Failed { .. } | Self::Unusable(_) => false,
        }
    }
}

impl Wanted {
    /// What a node shows to the API server.
    pub fn node_client(node_name: &str) -> Self {
        Self::of_node(KUBELET_CLIENT, node_name)
    }

    /// What a node's own server shows. Upstream: `newGetTemplateFn` of `pkg/kubelet/certificate/kubelet.go`.
    pub fn node_serving(node_name: &str, dns: Vec<String>, addresses: Vec<IpAddr>) -> Self {
        Self { dns, addresses, ..Self::of_node(KUBELET_SERVING, node_name) }
    }

    fn of_node(signer: &'static str, node_name: &str) -> Self {
        let (common_name, organization) = (format!("{NODE_USER_PREFIX}{node_name}"), NODES_GROUP.to_owned());
        Self { signer, common_name, organization, dns: Vec::new(), addresses: Vec::new() }
    }

    /// As the signers of nodes want them for keys that are not RSA.
    fn usages(&self) -> [&'static str; 2] {
        ["digital signature", if self.signer == KUBELET_SERVING { "server auth" } else { "client auth" }]
    }

    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.organization.as_str());
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        Ok(params)
    }
}

impl Life {
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.to
    }

    /// When 70 to 90 per cent of it are over; `random` is in 0..1. Source: `nextRotationDeadline`.
    pub fn renew_at(&self, random: f64) -> Timestamp {
        let life = self.to.duration_since(self.from).as_secs_f64().max(0.0);
        let part = Duration::try_from_secs_f64(life * (0.7 + 0.2 * random)).unwrap_or_default();
        self.from.checked_add(part).unwrap_or(self.to)
    }
}

/// From and to when the certificate is good.
///
/// # Errors
/// It is none.
pub fn life(identity: &Identity) -> Result<Life, String> {
    let der = CertificateDer::from_pem_slice(identity.chain_pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, parsed) = parse_x509_certificate(&der).map_err(|error| error.to_string())?;
    let at = |seconds| Timestamp::from_second(seconds).map_err(|error| error.to_string());
    let validity = parsed.validity();
    Ok(Life { from: at(validity.not_before.timestamp())?, to: at(validity.not_after.timestamp())? })
}

/// The common name of the certificate.
pub fn common_name(identity: &Identity) -> Option<String> {
    let der = CertificateDer::from_pem_slice(identity.chain_pem.as_bytes()).ok()?;
    let (_, parsed) = parse_x509_certificate(&der).ok()?;
    parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned)
}

/// Resolves when it is `at` by the machine's clock, which may be set meanwhile.
pub async fn until(at: Timestamp) {
    loop {
        let left = at.duration_since(Timestamp::now());
        if !left.is_positive() {
            return;
        }
        tokio::time::sleep(left.unsigned_abs().clamp(SLEEP_MIN, SLEEP_MAX)).await;
    }
}

/// A new key, PKCS#8 PEM.
///
/// # Errors
/// None could be made.
pub fn new_key() -> Result<String, Error> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

/// Asks for a certificate for the key (PEM), and waits until it is signed, for `bound` at most.
///
/// # Errors
/// It was refused, or nobody signed it in time.
pub async fn obtain(client: &Client, wanted: &Wanted, key_pem: &str, bound: Duration) -> Result<Identity, Error> {
    let key = KeyPair::from_pem(key_pem)?;
    let pem = wanted.params()?.serialize_request(&key)?.pem()?;
    let (name, uid) = create(client, wanted, pem).await?;
    tracing::debug!(name, signer = wanted.signer, "certificate signing request created");
    let signed = timeout(bound, Box::pin(signed(client, &name, &uid))).await;
    let chain_pem = signed.unwrap_or_else(|_| Err(Error::Unsigned { name, seconds: bound.as_secs() }))?;
    let identity = Identity { chain_pem, key_pem: key_pem.to_owned() };
    parse(&identity).map_err(Error::Unusable)?;
    Ok(identity)
}

/// A certificate that is signed by nobody, good for `life`: for a node's server while nobody signs its own.
///
/// # Errors
/// No key could be made.
pub fn self_signed(wanted: &Wanted, life: Duration, now: Timestamp) -> Result<Identity, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = wanted.params()?;
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    (params.not_before, params.not_after) = (now, now + life);
    let certificate = params.self_signed(&key)?;
    Ok(Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// How the holder of `shown` calls servers whose certificates are signed by `ca_pem`; nobody in particular where nothing is shown.
///
/// # Errors
/// What cannot be read, or does not belong together.
pub fn tls(ca_pem: &str, shown: Option<&Identity>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Servers::new(roots, provider.clone())?);
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match shown {
        None => Ok(builder.with_no_client_auth()),
        Some(shown) => {
            let (chain, key) = parse(shown)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
        }
    }
}

fn parse(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    if chain.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok((chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| error.to_string())?))
}

/// Name and uid of the request.
async fn create(client: &Client, wanted: &Wanted, pem: String) -> Result<(String, String), Error> {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"request": ByteString(pem.into_bytes()), "signerName": wanted.signer, "usages": wanted.usages()},
    });
    let object: CertificateSigningRequest = serde_json::from_value(object).expect("it is one, as written above");
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let created = timeout(CREATE_BOUND, api.create(&PostParams::default(), &object)).await.map_err(|_| Error::Silence)?;
    let meta = created.map_err(|error| Error::Create(Box::new(error)))?.metadata;
    Ok((meta.name.unwrap_or_default(), meta.uid.unwrap_or_default()))
}

/// Waits for the certificate. Source: `WaitForCertificate`.
async fn signed(client: &Client, name: &str, uid: &str) -> Result<String, Error> {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let query = Query { field_selector: Query::named("", name).field_selector, ..Query::default() };
    let is_ours = move |request: &CertificateSigningRequest| request.metadata.uid.as_deref() == Some(uid);
    let mut following = pin!(follow(client.clone(), query, move |change: Change<CertificateSigningRequest>| {
        let seen = match change {
            Change::Listed(all, _) | Change::Kept(all, _) => {
                outcome(name, all.values().map(|seen| &seen.object).find(|request| is_ours(request)))
            }
            Change::Put(seen) if is_ours(&seen.object) => outcome(name, Some(&seen.object)),
            Change::Gone(_) => outcome(name, None),
            Change::Failed(error) => {
                tracing::debug!(name, %error, "watching a certificate signing request failed; retrying");
                None
            }
            Change::Put(_) | Change::Reached(_) => None,
        };
        // The first outcome is taken; where one waits already there is nothing to add.
        seen.map(|seen| tell.try_send(seen));
    }));
    tokio::select! {
        Some(seen) = told.recv() => seen,
        () = &mut following => Err(Error::Silence),
    }
}

/// What became of the request; `None` while nothing did.
fn outcome(name: &str, request: Option<&CertificateSigningRequest>) -> Option<Result<String, Error>> {
    let name = name.to_owned();
    let Some(request) = request else { return Some(Err(Error::Deleted { name })) };
    let status = request.status.as_ref()?;
    let (mut is_approved, mut bad) = (false, None);
    for condition in status.conditions.iter().flatten() {
        let words = |text: &Option<String>| text.as_deref().unwrap_or_default().chars().take(WORDS_MAX).collect();
        let (name, reason, message) = (name.clone(), words(&condition.reason), words(&condition.message));
        match condition.type_.as_str() {
            "Denied" => bad = Some(Error::Denied { name, reason, message }),
            "Failed" => bad = Some(Error::Failed { name, reason, message }),
            "Approved" => is_approved = true,
            _ => {}
        }
    }
    if let Some(bad) = bad {
        return Some(Err(bad));
    }
    let certificate = status.certificate.as_ref().filter(|certificate| is_approved && !certificate.0.is_empty())?;
    Some(String::from_utf8(certificate.0.clone()).map_err(|_| Error::Unusable("it is not PEM text".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn most_of_a_life_is_used() {
        let life = Life { from: at(1000), to: at(2000) };
        for (random, second) in [(0.0, 1700), (0.5, 1800), (1.0, 1900)] {
            assert_eq!(life.renew_at(random), at(second), "{random}");
        }
        assert_eq!(Life { from: at(1000), to: at(900) }.renew_at(0.5), at(1000), "a life that makes no sense is over");
        assert!(life.is_over(at(2000)) && !life.is_over(at(1999)));
    }

    #[test]
    fn what_became_of_a_request_is_told_once_it_is_known() {
        let outcome_of = |status: serde_json::Value| {
            let request = json!({"metadata": {"name": "csr-a", "uid": "u"}, "spec": {"request": "", "signerName": "s"}, "status": status});
            outcome("csr-a", Some(&serde_json::from_value(request).unwrap()))
        };
        let condition = |of: &str| json!({"type": of, "status": "True", "reason": "Because", "message": "so"});
        assert!(outcome_of(json!({})).is_none());
        assert!(outcome_of(json!({"conditions": [condition("Approved")]})).is_none(), "not signed yet");
        assert!(outcome_of(json!({"certificate": "YQ=="})).is_none(), "signed, and not approved");
        let signed = outcome_of(json!({"conditions": [condition("Approved")], "certificate": "YQ=="})).unwrap();
        assert_eq!(signed.unwrap(), "a");
        let denied = outcome_of(json!({"conditions": [condition("Denied")]})).unwrap().unwrap_err().to_string();
        assert_eq!(denied, "certificate signing request csr-a is denied, reason: Because, message: so");
        let failed = outcome_of(json!({"conditions": [condition("Approved"), condition("Failed")], "certificate": "YQ=="}));
        assert!(matches!(failed, Some(Err(Error::Failed { .. }))));
        assert!(matches!(outcome("csr-a", None), Some(Err(Error::Deleted { .. }))));
    }

    #[test]
    fn what_nobody_signs_is_good_for_a_while() {
        let wanted = Wanted::node_serving("a", vec!["a".into()], vec!["10.0.0.5".parse().unwrap()]);
        let own = self_signed(&wanted, Duration::from_secs(3600), at(1_000_000)).unwrap();
        assert_eq!(life(&own).unwrap(), Life { from: at(1_000_000), to: at(1_003_600) });
        assert_eq!(common_name(&own).as_deref(), Some("system:node:a"));
        assert_eq!(format!("{own:?}"), "Identity(..)", "keys are not logged");
        let other = self_signed(&wanted, Duration::from_secs(3600), at(1_000_000)).unwrap();
        let mixed = Identity { chain_pem: own.chain_pem.clone(), key_pem: other.key_pem };
        assert!(tls(&own.chain_pem, Some(&own)).is_ok());
        assert!(tls(&own.chain_pem, Some(&mixed)).is_err(), "another's key");
        assert!(tls("", Some(&Identity { chain_pem: String::new(), key_pem: own.key_pem })).is_err());
    }
}
