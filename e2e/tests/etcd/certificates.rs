//! Names -> certificates for 127.0.0.1, by an authority that lives as long as its test.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes its own certificate.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.certificate.pem()).expect("a file in the test's own folder");
    }

    /// Writes `<path>.crt` and `<path>.key`, good for servers and clients.
    pub fn sign(&self, name: &str, path: &Path) {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = params(name);
        leaf.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(path.with_extension("crt"), leaf.pem()).expect("a file in the test's own folder");
        fs::write(path.with_extension("key"), key.serialize_pem()).expect("a file in the test's own folder");
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names, no faults");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
