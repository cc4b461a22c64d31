//! A key of the configuration -> values that it encrypts and decrypts, in upstream's layouts.
//!
//! Sources: apiserver `pkg/storage/value/encrypt/{aes,secretbox}`. AES-GCM: nonce of 12 bytes, ciphertext, tag; the storage key is authenticated.
//! AES-CBC: initialization vector of 16 bytes, ciphertext padded by PKCS #7. Secretbox: nonce of 24 bytes, tag, ciphertext.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey},
    iv::FixedLength,
    rand,
};
use crypto_secretbox::{AeadInPlace, KeyInit, XSalsa20Poly1305, aead::generic_array::GenericArray};

const GCM_NONCE: usize = 12;
const GCM_TAG: usize = 16;
const CBC_BLOCK: usize = 16;
const BOX_NONCE: usize = 24;
const BOX_TAG: usize = 16;
const SHORT: &str = "the stored data was shorter than the required size";
const FORGED: &str = "cipher: message authentication failed";

/// One key of one provider.
pub(super) enum KeyCipher {
    Cbc { encrypt: Box<PaddedBlockEncryptingKey>, decrypt: Box<PaddedBlockDecryptingKey> },
    Gcm(Box<Gcm>),
    Secretbox(Box<XSalsa20Poly1305>),
}

/// AES-GCM under one key.
pub(super) struct Gcm(LessSafeKey);

impl KeyCipher {
    /// `key` has 16, 24 or 32 bytes.
    pub fn cbc(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            other => return Err(format!("crypto/aes: invalid key size {other}")),
        };
        let key = || UnboundCipherKey::new(algorithm, key).map_err(|error| error.to_string());
        let encrypt = Box::new(PaddedBlockEncryptingKey::cbc_pkcs7(key()?).map_err(|error| error.to_string())?);
        let decrypt = Box::new(PaddedBlockDecryptingKey::cbc_pkcs7(key()?).map_err(|error| error.to_string())?);
        Ok(Self::Cbc { encrypt, decrypt })
    }

    /// As [`KeyCipher::cbc`].
    pub fn gcm(key: &[u8]) -> Result<Self, String> {
        Gcm::new(key).map(|gcm| Self::Gcm(Box::new(gcm)))
    }

    /// `key` has 32 bytes.
    pub fn secretbox(key: &[u8]) -> Result<Self, String> {
        let key = XSalsa20Poly1305::new_from_slice(key);
        key.map(|key| Self::Secretbox(Box::new(key))).map_err(|error| error.to_string())
    }

    pub fn seal(&self, plain: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.seal(plain, authenticated),
            Self::Cbc { encrypt, .. } => {
                let mut text = plain.to_vec();
                let context = encrypt.encrypt(&mut text).map_err(|error| error.to_string())?;
                let DecryptionContext::Iv128(iv) = &context else { return Err("unable to read sufficient random bytes".into()) };
                Ok([&iv.as_ref()[..], &text].concat())
            }
            Self::Secretbox(key) => {
                let mut out = vec![0; BOX_NONCE + BOX_TAG];
                fill(&mut out[..BOX_NONCE])?;
                out.extend_from_slice(plain);
                let (nonce, rest) = out.split_at_mut(BOX_NONCE);
                let (tag, text) = rest.split_at_mut(BOX_TAG);
                let made = key.encrypt_in_place_detached(GenericArray::from_slice(nonce), &[], text).map_err(|error| error.to_string())?;
                tag.copy_from_slice(&made);
                Ok(out)
            }
        }
    }

    pub fn open(&self, sealed: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.open(sealed, authenticated),
            Self::Cbc { decrypt, .. } => {
                let (iv, text) = sealed.split_at_checked(CBC_BLOCK).ok_or(SHORT)?;
                if text.len() % CBC_BLOCK != 0 {
                    return Err("the stored data is not a multiple of the block size".into());
                }
                if text.is_empty() {
                    return Err("invalid PKCS7 data (empty or not padded)".into());
                }
                let iv = FixedLength::try_from(iv).map_err(|_| SHORT)?;
                let mut text = text.to_vec();
                let opened = decrypt.decrypt(&mut text, DecryptionContext::Iv128(iv)).map_err(|_| "invalid padding on input")?;
                let length = opened.len();
                text.truncate(length);
                Ok(text)
            }
            Self::Secretbox(key) => {
                if sealed.len() < BOX_NONCE + BOX_TAG {
                    return Err(SHORT.into());
                }
                let (nonce, rest) = sealed.split_at(BOX_NONCE);
                let (tag, text) = rest.split_at(BOX_TAG);
                let (mut text, tag) = (text.to_vec(), GenericArray::from_slice(tag));
                // Upstream's words for what was not made with this key.
                let opened = key.decrypt_in_place_detached(GenericArray::from_slice(nonce), &[], &mut text, tag);
                opened.map_err(|_| "output array was not large enough for encryption")?;
                Ok(text)
            }
        }
    }
}

impl Gcm {
    pub fn new(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            other => return Err(format!("crypto/aes: invalid key size {other}")),
        };
        UnboundKey::new(algorithm, key).map(|key| Self(LessSafeKey::new(key))).map_err(|error| error.to_string())
    }

    /// Nonce, ciphertext and tag.
    pub fn seal(&self, plain: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; GCM_NONCE];
        fill(&mut nonce)?;
        let mut out = Vec::with_capacity(GCM_NONCE + plain.len() + GCM_TAG);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let (at, nonce) = (GCM_NONCE, Nonce::assume_unique_for_key(nonce));
        let made = self.0.seal_in_place_separate_tag(nonce, Aad::from(authenticated), &mut out[at..]);
        out.extend_from_slice(made.map_err(|error| error.to_string())?.as_ref());
        Ok(out)
    }

    pub fn open(&self, sealed: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, text) = sealed.split_at_checked(GCM_NONCE).ok_or(SHORT)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SHORT)?;
        let mut text = text.to_vec();
        let length = self.0.open_in_place(nonce, Aad::from(authenticated), &mut text).map_err(|_| FORGED)?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// # Errors
/// The system has no random bytes.
pub(super) fn fill(out: &mut [u8]) -> Result<(), String> {
    rand::fill(out).map_err(|_| "unable to read sufficient random bytes".into())
}
