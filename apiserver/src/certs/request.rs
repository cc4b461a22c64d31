//! A PKCS#10 request -> what it asks for, and the certificate for it. Source: `pkg/controller/certificates/authority`.
//!
//! The subject is taken over byte by byte: rcgen knows one value of each attribute, and two organizations are two groups. All else is made
//! of what was read, so that nothing is signed that nobody looked at.

use std::{collections::BTreeSet, net::IpAddr};

use api::{certificate::Identity, csr::Requested, time::Timestamp};
use rand::Rng;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SigningKey,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest, Sha256};
use x509_parser::{certification_request::X509CertificationRequest, extensions::GeneralName, prelude::*};

use super::issue::{SKEW_SECONDS, address, valid};

/// Shorter certificates end as late as was asked for, longer ones are as old as their start (`signer.go`, `Short`).
const SHORT_SECONDS: u64 = 8 * 3600;
/// Names of one request together; a certificate goes over the wire with each handshake.
const NAMES_MAX: usize = 1000;

const BASIC_USAGES: [(&str, KeyUsagePurpose); 10] = [
    ("signing", KeyUsagePurpose::DigitalSignature),
    ("digital signature", KeyUsagePurpose::DigitalSignature),
    ("content commitment", KeyUsagePurpose::ContentCommitment),
    ("key encipherment", KeyUsagePurpose::KeyEncipherment),
    ("key agreement", KeyUsagePurpose::KeyAgreement),
    ("data encipherment", KeyUsagePurpose::DataEncipherment),
    ("cert sign", KeyUsagePurpose::KeyCertSign),
    ("crl sign", KeyUsagePurpose::CrlSign),
    ("encipher only", KeyUsagePurpose::EncipherOnly),
    ("decipher only", KeyUsagePurpose::DecipherOnly),
];

/// With their object identifiers.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// Reads a request in PEM, and checks that whoever made it has the key.
///
/// # Errors
/// What is wrong with it; of the PEM in upstream's words.
pub fn look(pem: &[u8]) -> Result<Requested, String> {
    let der = der(pem)?;
    read(&parse(&der)?)
}

/// Asks for a certificate: a request in PEM, of this key (PKCS#8 PEM).
///
/// # Errors
/// The key or a name cannot be used.
pub fn ask(key: &str, common_name: &str, organization: &str, dns: &[String], addresses: &[IpAddr]) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = names(&Requested { dns: dns.to_vec(), addresses: addresses.to_vec(), ..Requested::default() })?;
    params.serialize_request(&KeyPair::from_pem(key)?)?.pem()
}

/// A certificate (PEM) for the request, with these usages (words of the certificates API), for `seconds`, but no longer than the authority lasts.
///
/// # Errors
/// What is wrong with the request, or with the authority.
pub fn sign(authority: &Identity, pem: &[u8], usages: &[String], seconds: u64, now: Timestamp) -> Result<String, String> {
    let der = der(pem)?;
    let request = parse(&der)?;
    let wanted = read(&request)?;
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|e| format!("public key: {e}"))?;

    let failed = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    life(&mut params, authority, seconds, now)?;
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from(rand::rng().random::<[u8; 16]>().to_vec()));
    params.subject_alt_names = names(&wanted).map_err(failed)?;
    (params.key_usages, params.extended_key_usages) = purposes(usages)?;

    let signing = KeyPair::from_pem(&authority.key_pem).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.chain_pem, &signing).map_err(failed)?;
    let nameless = params.signed_by(&key, &issuer).map_err(failed)?;
    let certificate = with_subject(nameless.der(), info.subject.as_raw(), &signing).map_err(failed)?;
    Ok(pem_of(&certificate))
}

/// SHA-256 of a certificate (PEM), and of its public key as kubeadm pins it (`--discovery-token-ca-cert-hash`); hexadecimal.
///
/// # Errors
/// It is no certificate.
pub fn fingerprints(pem: &str) -> Result<[String; 2], String> {
    fingerprints_of_der(&rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?)
}

/// The same of a certificate in DER.
///
/// # Errors
/// It is no certificate.
pub fn fingerprints_of_der(der: &[u8]) -> Result<[String; 2], String> {
    let (_, parsed) = parse_x509_certificate(der).map_err(|e| e.to_string())?;
    Ok([api::hex(Sha256::digest(der)), api::hex(Sha256::digest(parsed.public_key().raw))])
}

/// Whether it is certificates and nothing else, PEM (`validateCertificate`).
///
/// # Errors
/// Why not, in upstream's words.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = block.map_err(|error| error.to_string())?;
        if kind != SectionKind::Certificate {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", label(kind)));
        }
        parse_x509_certificate(&der).map_err(|e| format!("x509: {e}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}

/// What stands in the first line of a block.
fn label(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "CERTIFICATE",
        SectionKind::PublicKey => "PUBLIC KEY",
        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
        SectionKind::PrivateKey => "PRIVATE KEY",
        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
        SectionKind::Crl => "X509 CRL",
        SectionKind::Csr => "CERTIFICATE REQUEST",
        _ => "another",
    }
}

fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    match <(SectionKind, Vec<u8>)>::from_pem_slice(pem) {
        Ok((SectionKind::Csr, der)) => Ok(der),
        _ => Err("PEM block type must be CERTIFICATE REQUEST".into()),
    }
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| format!("x509: {e}"))?;
    if !rest.is_empty() {
        return Err("x509: trailing data".into());
    }
    request.verify_signature().map_err(|e| format!("x509: {e}"))?;
    Ok(request)
}

fn read(request: &X509CertificationRequest<'_>) -> Result<Requested, String> {
    let info = &request.certification_request_info;
    let mut wanted = Requested { key: api::hex(Sha256::digest(info.subject_pki.raw)), ..Requested::default() };
    let text = |attribute: &AttributeTypeAndValue<'_>| {
        let text = attribute.as_str().map_err(|_| "x509: a name of the subject is no text of UTF-8 or ASCII")?;
        Ok::<_, String>(text.to_owned())
    };
    wanted.organizations = info.subject.iter_organization().map(text).collect::<Result<_, _>>()?;
    // Readers differ in which of two they take for the user's name.
    let mut common = info.subject.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?;
    if common.len() > 1 {
        return Err("x509: the subject has more than one common name".into());
    }
    wanted.common_name = common.pop().unwrap_or_default();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().try_for_each(|name| note(name, &mut wanted))?;
        }
    }
    if wanted.dns.len() + wanted.addresses.len() + wanted.emails.len() + wanted.uris.len() > NAMES_MAX {
        return Err(format!("x509: more than {NAMES_MAX} names"));
    }
    Ok(wanted)
}

/// Names of other kinds are left out, as Go does.
fn note(name: &GeneralName<'_>, wanted: &mut Requested) -> Result<(), String> {
    match name {
        GeneralName::DNSName(dns) => wanted.dns.push((*dns).to_owned()),
        GeneralName::RFC822Name(email) => wanted.emails.push((*email).to_owned()),
        GeneralName::URI(uri) => wanted.uris.push((*uri).to_owned()),
        GeneralName::IPAddress(bytes) => wanted.addresses.push(address(bytes).ok_or("x509: cannot parse IP address")?),
        _ => {}
    }
    Ok(())
}

fn names(wanted: &Requested) -> Result<Vec<SanType>, rcgen::Error> {
    let mut names: Vec<SanType> = Vec::new();
    for dns in &wanted.dns {
        names.push(SanType::DnsName(dns.as_str().try_into()?));
    }
    for email in &wanted.emails {
        names.push(SanType::Rfc822Name(email.as_str().try_into()?));
    }
    names.extend(wanted.addresses.iter().copied().map(SanType::IpAddress));
    for uri in &wanted.uris {
        names.push(SanType::URI(uri.as_str().try_into()?));
    }
    Ok(names)
}

fn purposes(usages: &[String]) -> Result<(Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>), String> {
    let (mut basic, mut extended) = (Vec::new(), BTreeSet::new());
    for usage in usages {
        if let Some((_, purpose)) = BASIC_USAGES.iter().find(|(word, _)| word == usage) {
            if !basic.contains(purpose) {
                basic.push(*purpose);
            }
        } else if let Some((_, oid)) = EXTENDED_USAGES.iter().find(|(word, _)| word == usage) {
            extended.insert(*oid);
        } else {
            return Err(format!("unrecognized usage values: [{usage:?}]"));
        }
    }
    Ok((basic, extended.into_iter().map(|oid| ExtendedKeyUsagePurpose::Other(oid.to_vec())).collect()))
}

/// `PermissiveSigningPolicy`
fn life(params: &mut CertificateParams, authority: &Identity, seconds: u64, now: Timestamp) -> Result<(), String> {
    let end = u64::try_from(super::issue::look(&authority.chain_pem)?.not_after).unwrap_or_default();
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    if now >= end {
        return Err("refusing to sign a certificate that expired in the past: the authority has expired".into());
    }
    let seconds = if seconds < SHORT_SECONDS { seconds } else { seconds - SKEW_SECONDS };
    valid(params, now.saturating_sub(SKEW_SECONDS), now.saturating_add(seconds).min(end));
    Ok(())
}

/// The certificate of another subject, signed anew.
fn with_subject(certificate: &[u8], subject: &[u8], key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let unreadable = || rcgen::Error::CouldNotParseCertificate;
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| unreadable())?;
    let (body, old) = (parsed.tbs_certificate.as_ref(), parsed.tbs_certificate.subject.as_raw());
    // Both are parts of `certificate`: where the old subject stands in the body.
    let at = (old.as_ptr() as usize).checked_sub(body.as_ptr() as usize).ok_or_else(unreadable)?;
    let before = body.get(header_length(body)..at).ok_or_else(unreadable)?;
    let after = body.get(at + old.len()..).ok_or_else(unreadable)?;
    let signed = sequence(&[before, subject, after]);

    let rest = certificate.get(header_length(certificate) + body.len()..).ok_or_else(unreadable)?;
    let algorithm_length = 2 + usize::from(*rest.get(1).ok_or_else(unreadable)?);
    let algorithm = rest.get(..algorithm_length).ok_or_else(unreadable)?;
    let signature = key.sign(&signed)?;
    // A bit string of whole bytes.
    let signature = tagged(0x03, &[&[0], &signature]);
    Ok(sequence(&[&signed, algorithm, &signature]))
}

/// Of a DER value, its tag and its length together.
fn header_length(der: &[u8]) -> usize {
    match der.get(1) {
        Some(long) if *long > 0x80 => 2 + usize::from(long & 0x7f),
        _ => 2,
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, parts)
}

fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            // A length has eight bytes at most.
            der.push(0x80 | bytes.len() as u8);
            der.extend(bytes);
        }
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

fn pem_of(der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let body = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

    use super::*;
    use crate::certs::issue;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    fn asked(organizations: &[&str], names: &[SanType], key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (at, organization) in organizations.iter().enumerate() {
            // The second one by its number: rcgen knows one of each name.
            let kind = if at == 0 { DnType::OrganizationName } else { DnType::CustomDnType(vec![2, 5, 4, 10]) };
            params.distinguished_name.push(kind, *organization);
        }
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.subject_alt_names = names.to_vec();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn usages() -> Vec<String> {
        ["digital signature", "client auth", "any", "ipsec user"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_certificate_says_what_was_asked_for() {
        let authority = issue::authority("kubernetes", now()).unwrap();
        let names = [SanType::DnsName("a.example".try_into().unwrap()), SanType::IpAddress([10, 0, 0, 9].into())];
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = asked(&["dev", "ops"], &names, &key);
            let wanted = look(request.as_bytes()).unwrap();
            assert_eq!((wanted.common_name.as_str(), wanted.organizations.as_slice()), ("jane", &["dev".to_owned(), "ops".to_owned()][..]));
            let pem = sign(&authority, request.as_bytes(), &usages(), 3600, now()).unwrap();
            let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let (_, made) = parse_x509_certificate(&der).unwrap();
            let ca = rustls_pki_types::CertificateDer::from_pem_slice(authority.chain_pem.as_bytes()).unwrap();
            made.verify_signature(Some(parse_x509_certificate(&ca).unwrap().1.public_key())).unwrap();
            let groups: Vec<_> = made.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
            assert_eq!(groups, ["dev", "ops"]);
            assert_eq!(api::hex(Sha256::digest(made.public_key().raw)), wanted.key, "the key that was shown");
            let extended = made.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.client_auth && extended.any && !extended.server_auth && extended.other.len() == 1);
            assert!(made.basic_constraints().unwrap().is_some_and(|c| !c.value.ca));
            let seen = issue::look(&pem).unwrap();
            assert_eq!((seen.dns, seen.addresses), (vec!["a.example".to_owned()], vec![[10, 0, 0, 9].into()]));
            assert_eq!(seen.authority_key_id, issue::look(&authority.chain_pem).unwrap().subject_key_id);
            assert!((3590..=3600).contains(&(seen.not_after - now().as_second())));
        }
    }

    #[test]
    fn no_certificate_outlives_its_authority_or_repeats_a_number() {
        let authority = issue::authority("kubernetes", now()).unwrap();
        let request = asked(&["dev"], &[], &KeyPair::generate().unwrap());
        let sign = |seconds, at| sign(&authority, request.as_bytes(), &usages(), seconds, at);
        let end = issue::look(&authority.chain_pem).unwrap().not_after;
        assert_eq!(issue::look(&sign(u64::MAX, now()).unwrap()).unwrap().not_after, end);
        assert!(sign(3600, Timestamp::from_second(end).unwrap()).unwrap_err().contains("expired"));
        let serial = |pem: String| {
            let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
            parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
        };
        assert_ne!(serial(sign(3600, now()).unwrap()), serial(sign(3600, now()).unwrap()));
        let day = issue::look(&sign(24 * 3600, now()).unwrap()).unwrap();
        assert_eq!(day.not_after - day.not_before, 24 * 3600);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let key = KeyPair::generate().unwrap();
        let good = asked(&["dev"], &[], &key);
        let der = der(good.as_bytes()).unwrap();
        let wrap = |der: &[u8]| pem_of(der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(look(wrap(&der).as_bytes()).is_ok());
        let mut forged = der.clone();
        *forged.last_mut().unwrap() ^= 1;
        let mut longer = der.clone();
        longer.push(0);
        for bad in [Vec::new(), b"x".to_vec(), pem_of(&der).into_bytes(), key.serialize_pem().into_bytes()] {
            assert_eq!(look(&bad).unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
        }
        for bad in [&forged, &longer, &der[..der.len() - 1].to_vec()] {
            assert!(look(wrap(bad).as_bytes()).unwrap_err().starts_with("x509: "), "{bad:?}");
        }
    }

    #[test]
    fn what_is_asked_is_what_is_read() {
        let key = issue::key().unwrap();
        let pem = ask(&key, "system:node:n", "system:nodes", &["n".to_owned()], &[[10, 0, 0, 9].into()]).unwrap();
        let wanted = look(pem.as_bytes()).unwrap();
        assert_eq!(
            (wanted.node(), wanted.organizations.clone(), wanted.dns.len(), wanted.addresses.len()),
            (Some("n"), vec!["system:nodes".to_owned()], 1, 1)
        );
        let again = look(ask(&key, "x", "y", &[], &[]).unwrap().as_bytes()).unwrap();
        assert_eq!(again.key, wanted.key, "one key, one digest");
    }

    #[test]
    fn two_common_names_are_one_too_many() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:mine");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "system:node:other");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        assert!(look(pem.as_bytes()).unwrap_err().contains("more than one common name"));
    }

    #[test]
    fn an_authority_has_two_fingerprints() {
        let authority = issue::authority("kubernetes", now()).unwrap();
        let [whole, key] = fingerprints(&authority.chain_pem).unwrap();
        assert!(whole.len() == 64 && key.len() == 64 && whole != key);
        assert!(fingerprints("x").is_err());
    }

    #[test]
    fn lengths_are_written_as_short_as_they_can_be() {
        assert_eq!(tagged(0x30, &[&[7; 3]])[..2], [0x30, 3]);
        assert_eq!(tagged(0x30, &[&[7; 200]])[..3], [0x30, 0x81, 200]);
        assert_eq!(tagged(0x30, &[&[7; 300]])[..4], [0x30, 0x82, 1, 44]);
        for length in [3, 200, 300] {
            let der = tagged(0x30, &[&vec![7; length]]);
            assert_eq!(der.len() - header_length(&der), length);
        }
    }
}
