//! The cluster's keys and a token -> bytes that may stand in etcd; and back, for who has the token.
//!
//! AES-256-GCM under a key by PBKDF2-HMAC-SHA256. A token has 82 bits if it is random, which nobody guesses; the iterations are for those that people choose.

use std::num::NonZeroU32;

use anyhow::{Context, bail, ensure};
use api::{bootstrap::Token, certificate::Identity};
use apiserver::certs::request::fingerprints;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, pbkdf2, rand,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

const FORMAT: u64 = 1;
/// As OWASP advises for PBKDF2-HMAC-SHA256.
const ITERATIONS: u32 = if cfg!(test) { 1_000 } else { 600_000 };
/// What stands in etcd may not keep us busy for long.
const ITERATIONS_MAX: u32 = 5_000_000;
const SALT_BYTES: usize = 16;

/// What all servers of a cluster have in common.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub authority: Identity,
    /// PKCS#8 PEM.
    pub service_account: String,
}

/// [`Keys`] as they stand in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Of the authority's certificate: no secret, it tells one cluster from another.
    pub fingerprint: String,
    iterations: u32,
    salt: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    bytes: Vec<u8>,
}

/// SHA-256 of the PEM text, in hex.
pub fn fingerprint(certificate: &str) -> String {
    // Of what it says, however it is written down.
    if let Ok([der, _]) = fingerprints(certificate) {
        return der;
    }
    api::hex(digest::digest(&digest::SHA256, certificate.trim().as_bytes()))
}

impl Sealed {
    /// Takes some tenths of a second.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn seal(keys: &Keys, token: &Token) -> anyhow::Result<Self> {
        let mut salt = vec![0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| anyhow::anyhow!("the machine gives no random numbers"))?;
        let fingerprint = fingerprint(&keys.authority.chain_pem);
        let plain = json!({"ca.crt": keys.authority.chain_pem, "ca.key": keys.authority.key_pem, "sa.key": keys.service_account});
        let mut bytes = plain.to_string().into_bytes();
        let nonce = key(token, &salt, ITERATIONS)?.seal_in_place_append_tag(Aad::from(fingerprint.as_bytes()), &mut bytes);
        let nonce = *nonce.map_err(|_| anyhow::anyhow!("the keys cannot be sealed"))?.as_ref();
        Ok(Self { fingerprint, iterations: ITERATIONS, salt, nonce, bytes })
    }

    /// `None`: the token is another one, or what is sealed has been changed. Takes as long.
    ///
    /// # Errors
    /// What is sealed is not what we seal.
    pub fn open(&self, token: &Token) -> anyhow::Result<Option<Keys>> {
        let mut bytes = self.bytes.clone();
        let (key, nonce) = (key(token, &self.salt, self.iterations)?, Nonce::from(&self.nonce));
        let Ok(plain) = key.open_in_place(nonce, Aad::from(self.fingerprint.as_bytes()), &mut bytes) else { return Ok(None) };
        let plain: Value = serde_json::from_slice(plain).context("what is sealed is no JSON")?;
        let of = |name: &str| plain[name].as_str().map(str::to_owned).with_context(|| format!("what is sealed lacks {name}"));
        let authority = Identity { chain_pem: of("ca.crt")?, key_pem: of("ca.key")? };
        ensure!(fingerprint(&authority.chain_pem) == self.fingerprint, "what is sealed is another authority than it says");
        Ok(Some(Keys { authority, service_account: of("sa.key")? }))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        json!({
            "format": FORMAT, "authority": self.fingerprint, "kdf": "PBKDF2-HMAC-SHA256", "iterations": self.iterations,
            "salt": text(&self.salt), "cipher": "AES-256-GCM", "nonce": text(&self.nonce), "sealed": text(&self.bytes),
        })
        .to_string()
        .into_bytes()
    }

    /// # Errors
    /// They are not what [`Sealed::to_bytes`] makes, or a newer skiff made them.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let all: Value = serde_json::from_slice(bytes).context("they are no JSON")?;
        if all["format"] != FORMAT {
            bail!("their format is {}, this skiff knows {FORMAT}", all["format"]);
        }
        let part = |name: &str| {
            all[name].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok()).with_context(|| format!("{name} is damaged"))
        };
        let iterations = all["iterations"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=ITERATIONS_MAX).contains(n));
        Ok(Self {
            fingerprint: all["authority"].as_str().context("authority is damaged")?.to_owned(),
            iterations: iterations.context("iterations is damaged")?,
            salt: part("salt")?,
            nonce: part("nonce")?.try_into().ok().context("nonce is damaged")?,
            bytes: part("sealed")?,
        })
    }
}

fn key(token: &Token, salt: &[u8], iterations: u32) -> anyhow::Result<RandomizedNonceKey> {
    let mut key = [0; 32];
    let iterations = NonZeroU32::new(iterations).context("no iterations")?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, token.text().as_bytes(), &mut key);
    RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("the key has the wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys { authority: Identity { chain_pem: "cert".into(), key_pem: "key".into() }, service_account: "sa".into() }
    }

    #[test]
    fn who_has_the_token_has_the_keys_and_nobody_else() {
        let [token, other] = ["abcdef.0123456789abcdef", "abcdef.0123456789abcdeg"].map(|text| Token::parse(text).unwrap());
        let sealed = Sealed::seal(&keys(), &token).unwrap();
        let bytes = sealed.to_bytes();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let inside = BASE64_STANDARD.encode("key");
        assert!(!text.contains("0123456789abcdef") && !text.contains(inside.trim_end_matches('=')), "{text}");
        let read = Sealed::from_bytes(&bytes).unwrap();
        assert_eq!(read, sealed);
        assert!(read.open(&token).unwrap() == Some(keys()));
        assert!(read.open(&other).unwrap().is_none());
        let changed = Sealed { fingerprint: fingerprint("another"), ..sealed.clone() };
        assert!(changed.open(&token).unwrap().is_none(), "the fingerprint is part of what is sealed");
        assert_ne!(Sealed::seal(&keys(), &token).unwrap().bytes, sealed.bytes, "a salt and a nonce of its own each time");
    }

    #[test]
    fn what_is_no_sealed_keys_is_told() {
        let good = Sealed { fingerprint: "f".into(), iterations: 1, salt: vec![1], nonce: [0; NONCE_LEN], bytes: vec![1] };
        let whole: Value = serde_json::from_slice(&good.to_bytes()).unwrap();
        assert!(Sealed::from_bytes(&good.to_bytes()).is_ok());
        for (field, value, why) in [
            ("format", json!(2), "format is 2"),
            ("iterations", json!(4_000_000_000_u32), "iterations is damaged"),
            ("iterations", json!(0), "iterations is damaged"),
            ("nonce", json!("AA=="), "nonce is damaged"),
            ("sealed", json!("?"), "sealed is damaged"),
        ] {
            let mut bad = whole.clone();
            bad[field] = value;
            let error = Sealed::from_bytes(bad.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(Sealed::from_bytes(b"\xff").is_err());
    }
}
