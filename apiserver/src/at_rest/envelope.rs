//! KMS v2's envelope: a value under a key of its own, which is derived from a seed that the KMS has encrypted.
//!
//! Sources: apiserver `pkg/storage/value/encrypt/envelope/kmsv2`, `encrypt/aes/aes_extended_nonce.go`.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::ciphers::{Gcm, fill};

/// `annotationsMaxSize`
const ANNOTATIONS_BYTES_MAX: usize = 32 << 10;
/// `KeyIDMaxSize`
const KEY_ID_BYTES_MAX: usize = 1 << 10;
/// `encryptedDEKSourceMaxSize`
const SOURCE_BYTES_MAX: usize = 1 << 10;
/// `AES_GCM_KEY`, as servers before 1.29 wrote: the source is the key.
const KEY: i32 = 0;
/// `HKDF_SHA256_XNONCE_AES_GCM_SEED`
pub(super) const SEED: i32 = 1;
/// Of a seed, of what is derived from it, and of the key that this makes.
const SEED_BYTES: usize = 32;

/// `k8s.io.apiserver…kmsv2.v2.EncryptedObject`
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// What the KMS made of key or seed.
    #[prost(bytes = "bytes", tag = "3")]
    pub source: Bytes,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub source_type: i32,
}

/// What identifies a key, whatever it has encrypted.
pub(super) type KeyName = [u8; 32];

impl EncryptedObject {
    /// # Errors
    /// It is none.
    pub fn read(bytes: &Bytes) -> Result<Self, String> {
        let object = Self::decode(bytes.clone()).map_err(|error| format!("proto: {error}"))?;
        object.validate(object.data.is_empty())?;
        Ok(object)
    }

    /// `ValidateEncryptedObject`
    pub fn validate(&self, is_empty: bool) -> Result<(), String> {
        if !matches!(self.source_type, KEY | SEED) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        if is_empty {
            return Err("encrypted data is empty".into());
        }
        let source = self.source.len();
        if source == 0 || source > SOURCE_BYTES_MAX {
            let why = if source == 0 {
                "encrypted DEK source is empty".to_owned()
            } else {
                format!("encrypted DEK source is {source} bytes, which exceeds the max size of {SOURCE_BYTES_MAX}")
            };
            return Err(format!("failed to validate encrypted DEK source: {why}"));
        }
        validate_key_id(&self.key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        let size: usize = self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bad = self.annotations.keys().find(|name| crate::names::subdomain_error(name).is_some() || !name.contains('.'));
        if let Some(name) = bad {
            return Err(format!(
                "failed to validate annotations: annotations: Invalid value: {name:?}: should be a domain with at least two segments separated by dots"
            ));
        }
        if size > ANNOTATIONS_BYTES_MAX {
            let why = format!("total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS_BYTES_MAX}");
            return Err(format!("failed to validate annotations: {why}"));
        }
        Ok(())
    }

    pub fn key_name(&self) -> KeyName {
        let bare = Self { data: Bytes::new(), ..self.clone() };
        Sha256::digest(bare.encode_to_vec()).into()
    }
}

/// `ValidateKeyID`
pub(super) fn validate_key_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("keyID is empty".into()),
        length if length > KEY_ID_BYTES_MAX => Err(format!("keyID is {length} bytes, which exceeds the max size of {KEY_ID_BYTES_MAX}")),
        _ => Ok(()),
    }
}

/// What the KMS has decrypted.
pub(super) enum Dek {
    Seed(Box<hmac::Key>),
    Key(Box<Gcm>),
}

impl Dek {
    /// # Errors
    /// It is too short, or no key.
    pub fn of(source_type: i32, plain: &[u8]) -> Result<Self, String> {
        match source_type {
            SEED if plain.len() < SEED_BYTES => Err(format!("invalid seed length {} used for key generation", plain.len())),
            SEED => Ok(Self::Seed(Box::new(hmac::Key::new(hmac::HMAC_SHA256, plain)))),
            _ => Gcm::new(plain).map(|gcm| Self::Key(Box::new(gcm))),
        }
    }

    /// One, and what the KMS is to encrypt.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> Result<(Self, Vec<u8>), String> {
        let mut seed = vec![0; SEED_BYTES];
        fill(&mut seed)?;
        Ok((Self::of(SEED, &seed)?, seed))
    }

    pub fn seal(&self, plain: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        let Self::Seed(seed) = self else { return Err("a key without seed encrypts nothing any more".into()) };
        let mut info = [0; SEED_BYTES];
        fill(&mut info)?;
        Ok([&info[..], &derived(seed, &info)?.seal(plain, authenticated)?].concat())
    }

    pub fn open(&self, sealed: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Key(gcm) => gcm.open(sealed, authenticated),
            Self::Seed(seed) => {
                let (info, rest) = sealed.split_at_checked(SEED_BYTES).ok_or("the stored data was shorter than the required size")?;
                derived(seed, info)?.open(rest, authenticated)
            }
        }
    }
}

/// HKDF-Expand (RFC 5869) of SHA-256 to 32 bytes: its first block.
fn derived(seed: &hmac::Key, info: &[u8]) -> Result<Gcm, String> {
    Gcm::new(hmac::sign(seed, &[info, &[1]].concat()).as_ref())
}
