//! A node's name -> whether who answers is that node's agent.
//!
//! Nodes say themselves what they are called and where they are reached. The subject of a serving certificate is the one name in it that is no node's word: the
//! cluster signs `system:node:NAME` for NAME alone. So the agent of a node is known by that, whatever address it was reached at, and no other node can
//! answer for it, whatever address its certificate bears.

use std::sync::Arc;

use api::{certificate::Identity, csr::NODE_USER_PREFIX};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::tls::{self, client_config};

/// The subject of API servers' certificates, kubeadm's as ours.
const API_SERVER: &str = "kube-apiserver";
/// The Service that all API servers answer for.
const SERVICE: &str = "kubernetes";
const SERVICE_IN_NAMESPACE: &str = "kubernetes.default";
const SERVICE_WITH_MORE: &str = "kubernetes.default.";

/// How the agents of all nodes are called.
pub struct Calls {
    config: ClientConfig,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Calls {
    /// With `shown` as our own certificate; theirs are of `ca`. Both PEM.
    ///
    /// # Errors
    /// What cannot be read, or does not belong together.
    pub fn new(ca: &str, shown: &Identity) -> Result<Self, tls::Error> {
        let mut config = client_config(ca, shown)?;
        // A session is resumed by the address alone, without a look at the certificate: another node may have it now, or say so.
        config.resumption = Resumption::disabled();
        Ok(Self { config, roots: Arc::new(tls::roots(ca)?), provider: tls::provider() })
    }

    /// How this node's agent is called.
    pub fn of(&self, node: &str) -> Arc<ClientConfig> {
        let verifier = OfNode { node: node.to_owned(), roots: self.roots.clone(), provider: self.provider.clone() };
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

#[derive(Debug)]
struct OfNode {
    node: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        match node_of(end_entity)? {
            Some(node) if node == self.node => {}
            Some(other) => return Err(Error::General(format!("it is the certificate of node {other:?}, not of {:?}", self.node))),
            // The node says itself where it is. Led to an API server, its callers would be there whom our own certificate names.
            None if is_api_servers(end_entity)? => {
                return Err(Error::General(format!("it is the certificate of an API server, not of node {:?}", self.node)));
            }
            // One that an administrator gave the node is known by its address, as upstream knows them all.
            None => verify_server_name(&parsed, name)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The node that the subject names, if it names one.
fn node_of(certificate: &[u8]) -> Result<Option<String>, Error> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    Ok(names.find_map(|name| name.strip_prefix(NODE_USER_PREFIX)).map(str::to_owned))
}

/// Whether it is one of an API server's, ours or kubeadm's: by its subject, or by a name that all of them have and nobody else.
fn is_api_servers(certificate: &[u8]) -> Result<bool, Error> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let mut subjects = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let names = parsed.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let mut names = names.iter().flat_map(|names| &names.value.general_names);
    let is_its_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == SERVICE || name == SERVICE_IN_NAMESPACE || name.starts_with(SERVICE_WITH_MORE)
        }
        _ => false,
    };
    Ok(subjects.any(|name| name.eq_ignore_ascii_case(API_SERVER)) || names.any(is_its_name))
}

#[cfg(test)]
mod tests {
    use api::time::Timestamp;
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::certs::{Certs, ServingNames, Subject, Usage, issue};

    #[test]
    fn an_agent_is_known_by_its_node_and_no_node_answers_for_another() {
        let names = ServingNames::standard("h", &[], None, "cluster.local");
        let (dir, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (certs, foreign) = (Certs::open(dir.path(), &names).unwrap(), Certs::open(foreign.path(), &names).unwrap());
        let roots = Arc::new(tls::roots(certs.ca()).unwrap());
        let judge = |pem: &str, node: &str, host: &str| {
            let (node, roots) = (node.to_owned(), roots.clone());
            let verifier = OfNode { node, roots, provider: tls::provider() };
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let judged = verifier.verify_server_cert(&der, &[], &ServerName::try_from(host.to_owned()).unwrap(), &[], UnixTime::now());
            judged.map(drop).map_err(|error| error.to_string())
        };
        let of_a = certs.issue_node("a", &["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]).unwrap().chain_pem;
        assert_eq!(judge(&of_a, "a", "192.0.2.1"), Ok(()));
        assert_eq!(judge(&of_a, "a", "192.0.2.99"), Ok(()), "the node itself, at an address that its certificate could not bear");
        // It bears the address that node b is reached at.
        assert!(judge(&of_a, "b", "192.0.2.2").unwrap_err().contains("node \"a\""));
        let shown = &certs.leaves().kubelet_client.chain_pem;
        assert!(judge(shown, "a", "192.0.2.1").is_err(), "it serves nobody");
        let own = certs.leaves().serving.chain_pem.clone();
        assert!(judge(&own, "a", "localhost").unwrap_err().contains("an API server"), "no node leads us to ourselves");
        let authority = crate::certs::files::Files::read_only(dir.path()).pair("ca").unwrap().unwrap().0;
        let given = |common_name: &str, dns: &[&str]| {
            let dns = dns.iter().map(|&name| name.to_owned()).collect();
            let addresses = vec!["192.0.2.1".parse().unwrap()];
            let subject = Subject { common_name: common_name.into(), organization: None, usage: Usage::Server, dns, addresses };
            issue::leaf(&authority, &subject, Timestamp::now()).unwrap().chain_pem
        };
        let administrators = given("kubelet", &["a", "kubernetes-node.example"]);
        assert_eq!(judge(&administrators, "a", "192.0.2.1"), Ok(()), "no node's: by its names");
        assert!(judge(&administrators, "a", "192.0.2.2").is_err());
        for (common_name, dns) in [
            ("kube-apiserver", &[][..]),
            ("x", &["kubernetes"]),
            ("x", &["Kubernetes.Default"]),
            ("x", &["a", "kubernetes.default.svc"]),
            ("x", &["kubernetes.default.svc.other.domain"]),
        ] {
            let refused = judge(&given(common_name, dns), "a", "192.0.2.1").unwrap_err();
            assert!(refused.contains("an API server"), "{common_name} {dns:?}: {refused}");
        }
        let theirs = foreign.issue_node("a", &["192.0.2.1".parse().unwrap()]).unwrap().chain_pem;
        assert!(judge(&theirs, "a", "192.0.2.1").is_err(), "of another authority");
    }
}
