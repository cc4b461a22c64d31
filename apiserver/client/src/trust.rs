//! A bundle of certificates that anybody may have sent, and hashes or a token -> what of it is the cluster's authority.
//!
//! Upstream: `cmd/kubeadm/app/util/pubkeypin`, `cluster-bootstrap/token/jws`.

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates that are pinned (`is_pinned` sees each, PEM), and no others: what else is in the bundle was put there by who knows whom.
///
/// # Errors
/// None is; it says which there are.
pub fn pinned(bundle: &str, is_pinned: impl Fn(&str) -> bool) -> Result<String, String> {
    let (mut trusted, mut seen) = (String::new(), Vec::new());
    for block in blocks(bundle) {
        let der = CertificateDer::from_pem_slice(block.as_bytes()).map_err(|error| error.to_string())?;
        seen.push(format!("sha256:{}", api::hex(Sha256::digest(&der))));
        if is_pinned(block) {
            trusted.push_str(block);
            trusted.push('\n');
        }
    }
    match (trusted.is_empty(), seen.is_empty()) {
        (false, _) => Ok(trusted),
        (true, true) => Err("there is no certificate of a CA".to_owned()),
        (true, false) => Err(format!("the CA there is {}, which is not the one that is expected", seen.join(", "))),
    }
}

/// Whether who made the signature (a detached JWS: `header..signature`) of `content` knew the token. Upstream: `DetachedTokenIsValid`.
pub fn is_signed(signature: &str, content: &str, id: &str, secret: &str) -> bool {
    let Some((header, mac)) = signature.split_once("..") else { return false };
    let Ok(mac) = BASE64_URL_SAFE_NO_PAD.decode(mac) else { return false };
    let headers = [format!(r#"{{"alg":"HS256","kid":"{id}"}}"#), format!(r#"{{"kid":"{id}","alg":"HS256"}}"#)];
    if !headers.iter().any(|one| BASE64_URL_SAFE_NO_PAD.encode(one) == header) {
        return false;
    }
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content));
    // In constant time.
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes(), &mac).is_ok()
}

fn blocks(bundle: &str) -> impl Iterator<Item = &str> {
    bundle.match_indices(BEGIN).filter_map(|(at, _)| {
        let rest = &bundle[at..];
        rest.find(END).map(|end| &rest[..end + END.len()])
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> String {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn of_a_bundle_only_what_is_pinned_is_trusted() {
        let (ours, evil) = (authority(), authority());
        let is_ours = |block: &str| ours.trim() == block.trim();
        let trusted = pinned(&format!("{evil}\nnoise\n{ours}{evil}"), is_ours).unwrap();
        assert_eq!(trusted.trim(), ours.trim());
        let error = pinned(&evil, is_ours).unwrap_err();
        let der = CertificateDer::from_pem_slice(evil.as_bytes()).unwrap();
        assert!(error.contains(&api::hex(Sha256::digest(&der))) && error.contains("not the one that is expected"), "{error}");
        for nothing in ["", "nonsense", "-----BEGIN CERTIFICATE-----"] {
            assert!(pinned(nothing, |_| true).is_err());
        }
        assert!(pinned(&ours, |_| false).is_err(), "nothing is pinned: nothing is trusted");
    }

    #[test]
    fn who_signed_knew_the_token() {
        // Upstream: `cluster-bootstrap/token/jws/jws_test.go`.
        let (id, secret, content) =
            ("joshua", "my voice is my passcode", "Hello from the other side. I must have called a thousand times.");
        let signature = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert!(is_signed(signature, content, id, secret));
        assert!(!is_signed(signature, "Hello", id, secret));
        assert!(!is_signed(signature, content, "other", secret) && !is_signed(signature, content, id, "other secret"));
        assert!(!is_signed(&signature[..signature.len() - 1], content, id, secret) && !is_signed("", content, id, secret));
    }
}
