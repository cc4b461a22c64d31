//! Names -> certificates: issuing and looking into them. Pure but for fresh keys.

use std::{net::IpAddr, time::Duration};

use api::{certificate::Identity, csr::BACKDATE_SECONDS, time::Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::*};

const DAY_SECONDS: u64 = 24 * 3600;
/// How long the authority lasts: ten years, as kubeadm's does.
pub const AUTHORITY_SECONDS: u64 = 10 * 365 * DAY_SECONDS;
/// How long a leaf lasts: one year; it is renewed long before.
pub const LEAF_SECONDS: u64 = 365 * DAY_SECONDS;
/// Clocks of other machines may be behind ours by this much.
pub(super) const SKEW_SECONDS: u64 = BACKDATE_SECONDS as u64;

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organization: Option<String>,
    pub usage: Usage,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// What can be read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub not_before: i64,
    pub not_after: i64,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The public key's raw bits.
    pub public_key: Vec<u8>,
    pub authority_key_id: Option<Vec<u8>>,
    pub subject_key_id: Option<Vec<u8>>,
}

impl Seen {
    /// True when less than a third of the lifetime is left.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let left = self.not_after - now.as_second();
        left * 3 < self.not_after - self.not_before
    }

    /// Whether it has all that is wanted, and is of no group that is not: who was in more groups once is not for the rest of a year.
    pub fn covers(&self, subject: &Subject) -> bool {
        let is_wanted = |organization: &String| subject.organization.as_ref() == Some(organization);
        self.organizations.iter().all(is_wanted)
            && subject.dns.iter().all(|d| self.dns.contains(d))
            && subject.addresses.iter().all(|a| self.addresses.contains(a))
    }
}

/// A new self-signed authority.
pub fn authority(common_name: &str, now: Timestamp) -> Result<Identity, rcgen::Error> {
    let mut params = params(common_name, None, now, AUTHORITY_SECONDS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::KeyEncipherment];
    params.subject_alt_names = vec![SanType::DnsName(common_name.try_into()?)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    Ok(Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// A leaf signed by `authority`, with a fresh key, for [`LEAF_SECONDS`].
pub fn leaf(authority: &Identity, subject: &Subject, now: Timestamp) -> Result<Identity, rcgen::Error> {
    leaf_for(authority, subject, now, LEAF_SECONDS)
}

/// The same for a lifetime of `seconds`.
pub fn leaf_for(authority: &Identity, subject: &Subject, now: Timestamp, seconds: u64) -> Result<Identity, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.chain_pem, KeyPair::from_pem(&authority.key_pem)?)?;
    let mut params = params(&subject.common_name, subject.organization.as_deref(), now, seconds);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match subject.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    for name in &subject.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// A fresh P-256 key in PKCS#8 PEM.
pub fn key() -> Result<String, rcgen::Error> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

/// The public half of a PKCS#8 PEM key, PEM.
pub fn public(key: &str) -> Result<String, rcgen::Error> {
    Ok(KeyPair::from_pem(key)?.public_key_pem())
}

/// Reads the first certificate of `pem`; the error says what is wrong with it.
pub fn look(pem: &str) -> Result<Seen, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let (_, parsed) = parse_x509_certificate(&der).map_err(|e| e.to_string())?;
    let mut seen = Seen {
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        organizations: parsed.subject().iter_organization().filter_map(|of| of.as_str().ok().map(str::to_owned)).collect(),
        dns: Vec::new(),
        addresses: Vec::new(),
        public_key: parsed.public_key().subject_public_key.data.to_vec(),
        authority_key_id: None,
        subject_key_id: None,
    };
    for extension in parsed.extensions() {
        note(extension, &mut seen);
    }
    Ok(seen)
}

fn note(extension: &X509Extension<'_>, seen: &mut Seen) {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(dns) => seen.dns.push((*dns).to_owned()),
                    GeneralName::IPAddress(bytes) => seen.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        ParsedExtension::AuthorityKeyIdentifier(id) => seen.authority_key_id = id.key_identifier.as_ref().map(|k| k.0.to_vec()),
        ParsedExtension::SubjectKeyIdentifier(id) => seen.subject_key_id = Some(id.0.to_vec()),
        _ => {}
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn params(common_name: &str, organization: Option<&str>, now: Timestamp, seconds: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    valid(&mut params, now.saturating_sub(SKEW_SECONDS), now + seconds);
    params
}

/// Both in seconds since the epoch.
pub(super) fn valid(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}
