//! A bundle of certificates that anybody may have sent, and hashes or a token -> what of it is the cluster's authority.
//!
//! Upstream: `cmd/kubeadm/app/util/pubkeypin`, `cluster-bootstrap/token/jws`.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Of a key of HMAC-SHA256 (RFC 2104).
const BLOCK: usize = 64;

/// The certificates that are pinned (`is_pinned` sees each, PEM), and no others: what else is in the bundle was put there by who knows whom.
///
/// # Errors
/// None is; it says which there are.
pub fn pinned(bundle: &str, is_pinned: impl Fn(&str) -> bool) -> Result<String, String> {
    let (mut trusted, mut seen) = (String::new(), Vec::new());
    for block in blocks(bundle) {
        let der = CertificateDer::from_pem_slice(block.as_bytes()).map_err(|error| error.to_string())?;
        seen.push(format!("sha256:{}", hex(&Sha256::digest(&der))));
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
    let wanted = [
        base64url(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#).as_bytes()),
        base64url(format!(r#"{{"kid":"{id}","alg":"HS256"}}"#).as_bytes()),
    ];
    if !wanted.iter().any(|one| one == header) {
        return false;
    }
    let signed = format!("{header}.{}", base64url(content.as_bytes()));
    let computed = base64url(&hmac(secret.as_bytes(), signed.as_bytes()));
    // All of it is looked at, whatever differs.
    computed.len() == mac.len() && computed.bytes().zip(mac.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn blocks(bundle: &str) -> impl Iterator<Item = &str> {
    bundle.match_indices(BEGIN).filter_map(|(at, _)| {
        let rest = &bundle[at..];
        rest.find(END).map(|end| &rest[..end + END.len()])
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    // A token's secret is 16 bytes: longer keys would be hashed first, which makes no other key of these.
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let with = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(with(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(with(0x5c)).chain_update(inner).finalize().into()
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
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
        assert!(error.contains(&hex(&Sha256::digest(&der))) && error.contains("not the one that is expected"), "{error}");
        for nothing in ["", "nonsense", "-----BEGIN CERTIFICATE-----"] {
            assert!(pinned(nothing, |_| true).is_err());
        }
        assert!(pinned(&ours, |_| false).is_err(), "nothing is pinned: nothing is trusted");
    }

    #[test]
    fn who_signed_knew_the_token() {
        // RFC 4231, test case 2.
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar", "\u{ff}\u{3ff}"];
        assert_eq!(texts.map(|text| base64url(text.as_bytes())).join(" "), " Zg Zm8 Zm9v Zm9vYg Zm9vYmE Zm9vYmFy w7_Pvw");
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
