//! A token of three parts and keys -> whether one of them has signed it, and what it says.
//!
//! JSON Web Signatures in their compact form (RFC 7515, 7517, 7518): RS, PS and ES of 256, 384 and 512, and no others: an algorithm belongs to the key
//! that verifies, never to the token alone. Sources: go-jose, `pkg/serviceaccount/{jwt,openidmetadata}.go`, client-go `util/keyutil`.

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, PublicKey as RsaPublicKey, PublicKeyComponents},
    signature::{self as sig, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, UnparsedPublicKey, VerificationAlgorithm},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, public_key::PublicKey as Parsed, x509::SubjectPublicKeyInfo};

/// `alg` of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

impl Algorithm {
    pub const ALL: [Self; 9] =
        [Self::Es256, Self::Es384, Self::Es512, Self::Ps256, Self::Ps384, Self::Ps512, Self::Rs256, Self::Rs384, Self::Rs512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// How it is verified, with a key of this sort; `None` where they do not go together.
    fn of(self, sort: Sort) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (sort, self) {
            (Sort::Rsa, Self::Rs256) => &sig::RSA_PKCS1_2048_8192_SHA256,
            (Sort::Rsa, Self::Rs384) => &sig::RSA_PKCS1_2048_8192_SHA384,
            (Sort::Rsa, Self::Rs512) => &sig::RSA_PKCS1_2048_8192_SHA512,
            (Sort::Rsa, Self::Ps256) => &sig::RSA_PSS_2048_8192_SHA256,
            (Sort::Rsa, Self::Ps384) => &sig::RSA_PSS_2048_8192_SHA384,
            (Sort::Rsa, Self::Ps512) => &sig::RSA_PSS_2048_8192_SHA512,
            (Sort::Ec(Curve::P256), Self::Es256) => &sig::ECDSA_P256_SHA256_FIXED,
            (Sort::Ec(Curve::P384), Self::Es384) => &sig::ECDSA_P384_SHA384_FIXED,
            (Sort::Ec(Curve::P521), Self::Es512) => &sig::ECDSA_P521_SHA512_FIXED,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Rsa,
    Ec(Curve),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Of a coordinate.
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> (Algorithm, &'static EcdsaSigningAlgorithm) {
        match self {
            Self::P256 => (Algorithm::Es256, &sig::ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::P384 => (Algorithm::Es384, &sig::ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::P521 => (Algorithm::Es512, &sig::ECDSA_P521_SHA512_FIXED_SIGNING),
        }
    }

    /// What stands before the point in a SubjectPublicKeyInfo (RFC 5480).
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
                0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ],
            Self::P384 => &[
                0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22,
                0x03, 0x62, 0x00,
            ],
            Self::P521 => &[
                0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
                0x23, 0x03, 0x81, 0x86, 0x00,
            ],
        }
    }
}

/// What is wrong with a key; never a word of the key itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

fn wrong(why: impl std::fmt::Display) -> KeyError {
    KeyError(why.to_string())
}

/// One key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    sort: Sort,
    /// SubjectPublicKeyInfo.
    der: Vec<u8>,
    /// The only one that it is for, where its JWK names one.
    only: Option<Algorithm>,
}

impl PublicKey {
    /// All keys of a PEM file: public keys, certificates, and the public halves of private keys (`keyutil.PublicKeysFromFile`).
    ///
    /// # Errors
    /// There is none in it, or one is neither RSA nor of a known curve.
    pub fn all_of_pem(text: &[u8]) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(wrong)?;
            match kind {
                SectionKind::PublicKey => keys.push(Self::of_der(&der)?),
                SectionKind::Certificate => {
                    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| wrong("not a certificate"))?;
                    keys.push(Self::of_der(certificate.public_key().raw)?);
                }
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    keys.push(SigningKey::of_der(&der)?.public);
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            return Err(wrong("data does not contain any valid RSA or ECDSA public keys"));
        }
        Ok(keys)
    }

    /// From a SubjectPublicKeyInfo. Its id is upstream's: of the bytes themselves (`keyIDFromPublicKey`).
    fn of_der(der: &[u8]) -> Result<Self, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| wrong("not a public key"))?;
        let sort = match info.parsed().map_err(|_| wrong("neither an RSA nor an ECDSA key"))? {
            Parsed::RSA(_) => Sort::Rsa,
            Parsed::EC(point) => {
                let curve = Curve::ALL.into_iter().find(|curve| point.data().len() == 1 + 2 * curve.bytes());
                let curve = curve.filter(|curve| der.starts_with(curve.prefix()));
                Sort::Ec(curve.ok_or_else(|| wrong("unknown curve, must be P-256, P-384 or P-521"))?)
            }
            _ => return Err(wrong("neither an RSA nor an ECDSA key")),
        };
        Ok(Self { id: BASE64.encode(Sha256::digest(der)), sort, der: der.to_vec(), only: None })
    }

    /// `None` for what is no key that can verify here: another sort, one that encrypts.
    pub fn of_jwk(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk[name].as_str();
        let bytes = |name: &str| BASE64.decode(text(name)?).ok();
        if text("use").is_some_and(|usage| usage == "enc") {
            return None;
        }
        let (sort, der) = match text("kty")? {
            "RSA" => {
                let key = PublicKeyComponents { n: bytes("n")?, e: bytes("e")? };
                (Sort::Rsa, key.as_der().ok()?.as_ref().to_vec())
            }
            "EC" => {
                let curve = Curve::ALL.into_iter().find(|curve| text("crv") == Some(curve.name()))?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != curve.bytes() || y.len() != curve.bytes() {
                    return None;
                }
                (Sort::Ec(curve), [curve.prefix(), &[4], &x, &y].concat())
            }
            _ => return None,
        };
        let only = match text("alg") {
            None | Some("") => None,
            Some(name) => Some(Algorithm::parse(name)?),
        };
        Some(Self { id: text("kid").unwrap_or_default().to_owned(), sort, der, only })
    }

    /// Of a key of ours upstream's id, of a JWK its `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// That which tokens of ours are signed with (`algorithmFromPublicKey`).
    pub fn algorithm(&self) -> Algorithm {
        match self.sort {
            Sort::Rsa => Algorithm::Rs256,
            Sort::Ec(curve) => curve.algorithm().0,
        }
    }

    /// As discovery shows it.
    pub fn jwk(&self) -> Value {
        let (id, algorithm) = (&self.id, self.algorithm().name());
        match self.sort {
            Sort::Ec(curve) => {
                let point = self.der.get(curve.prefix().len() + 1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                json!({
                    "use": "sig", "kty": "EC", "kid": id, "crv": curve.name(), "alg": algorithm, "x": BASE64.encode(x), "y": BASE64.encode(y),
                })
            }
            Sort::Rsa => {
                let info = SubjectPublicKeyInfo::from_der(&self.der).ok().map(|(_, info)| info);
                let Some(Parsed::RSA(key)) = info.as_ref().and_then(|info| info.parsed().ok()) else { return Value::Null };
                let number = |bytes: &[u8]| BASE64.encode(bytes.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &bytes[at..]));
                json!({"use": "sig", "kty": "RSA", "kid": id, "alg": algorithm, "n": number(key.modulus), "e": number(key.exponent)})
            }
        }
    }

    /// Whether this key has signed it.
    pub fn has_signed(&self, token: &Compact<'_>) -> bool {
        if self.only.is_some_and(|only| only != token.algorithm) {
            return false;
        }
        let Some(algorithm) = token.algorithm.of(self.sort) else { return false };
        UnparsedPublicKey::new(algorithm, &self.der).verify(token.signed.as_bytes(), &token.signature).is_ok()
    }
}

/// One key that signs.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl SigningKey {
    /// The first private key of a PEM file (`keyutil.PrivateKeyFromFile`).
    ///
    /// # Errors
    /// There is none, or it is neither RSA nor of a known curve.
    pub fn of_pem(text: &[u8]) -> Result<Self, KeyError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(wrong)?;
            if matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey) {
                return Self::of_der(&der);
            }
        }
        Err(wrong("data does not contain a valid RSA or ECDSA private key"))
    }

    fn of_der(der: &[u8]) -> Result<Self, KeyError> {
        for curve in Curve::ALL {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve.algorithm().1, der) {
                let public = [curve.prefix(), pair.public_key().as_ref()].concat();
                return Ok(Self { public: PublicKey::of_der(&public)?, pair: Pair::Ec(pair) });
            }
        }
        let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
        let pair = pair.map_err(|_| wrong("neither an RSA key of 2048 bits or more nor an ECDSA key of P-256, P-384 or P-521"))?;
        let key = RsaPublicKey::from_der(pair.public_key().as_ref()).map_err(wrong)?;
        let public = key.as_der().map_err(wrong)?;
        Ok(Self { public: PublicKey::of_der(public.as_ref())?, pair: Pair::Rsa(pair) })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `claims` under upstream's header: algorithm and id of the key.
    ///
    /// # Errors
    /// The claims are no JSON, or there is no randomness.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = json!({"alg": self.public.algorithm().name(), "kid": self.public.id});
        let claims = serde_json::to_vec(claims).map_err(wrong)?;
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).map_err(wrong)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&sig::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).map_err(wrong)?;
                signature
            }
        };
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }
}

/// A token, taken apart; nothing is verified yet.
pub struct Compact<'a> {
    pub algorithm: Algorithm,
    /// Of the key that has signed it, as it says; may be empty.
    pub key_id: String,
    /// JSON, if it is one of ours.
    pub payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

impl<'a> Compact<'a> {
    /// `None` for what is none, has an algorithm of no key (`none`, HMAC), or wants to be understood in a way that nobody here knows (`crit`).
    pub fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        let algorithm = Algorithm::parse(&header.alg)?;
        if header.crit.is_some() {
            return None;
        }
        // A payload with a dot in it is no base64.
        let payload = BASE64.decode(payload).ok()?;
        Some(Self { algorithm, key_id: header.kid.unwrap_or_default(), payload, signed, signature: BASE64.decode(signature).ok()? })
    }
}

/// What a token says in one of its claims, as text; nothing is verified.
pub fn unverified<T: for<'de> Deserialize<'de>>(token: &str) -> Option<T> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signers() -> Vec<SigningKey> {
        let pem = |pair: rcgen::KeyPair| SigningKey::of_pem(pair.serialize_pem().as_bytes()).unwrap();
        let ec = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512];
        let mut all: Vec<SigningKey> = ec.map(|algorithm| pem(rcgen::KeyPair::generate_for(algorithm).unwrap())).into();
        all.push(pem(rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()));
        all
    }

    #[test]
    fn each_key_verifies_what_it_signed_and_nothing_else() {
        let signers = signers();
        for (at, signer) in signers.iter().enumerate() {
            let token = signer.sign(&json!({"sub": "x"})).unwrap();
            let compact = Compact::parse(&token).unwrap();
            assert_eq!((compact.algorithm, compact.key_id.as_str()), (signer.public.algorithm(), signer.public.id()));
            assert_eq!(compact.payload, br#"{"sub":"x"}"#);
            for (other, verifier) in signers.iter().enumerate() {
                assert_eq!(verifier.public.has_signed(&compact), at == other, "{at} {other}");
            }
            let again = PublicKey::of_jwk(&signer.public.jwk()).unwrap();
            assert!(again.has_signed(&compact) && again.der == signer.public.der, "{:?}", signer.public.jwk());
            let more = token.replacen('.', "x.", 1);
            assert!(Compact::parse(&more).is_none_or(|changed| !signer.public.has_signed(&changed)));
        }
    }

    #[test]
    fn an_algorithm_is_the_keys_and_not_the_tokens() {
        let signer = signers().pop().unwrap();
        let token = signer.sign(&json!({"sub": "x"})).unwrap();
        let rest = token.split_once('.').unwrap().1;
        for alg in ["none", "None", "", "HS256", "EdDSA", "RS1"] {
            let forged = format!("{}.{rest}", BASE64.encode(json!({"alg": alg}).to_string()));
            assert!(Compact::parse(&forged).is_none(), "{alg}");
        }
        for alg in ["ES256", "PS256", "RS512"] {
            let forged = format!("{}.{rest}", BASE64.encode(json!({"alg": alg}).to_string()));
            assert!(!signer.public.has_signed(&Compact::parse(&forged).unwrap()), "{alg}");
        }
        let mut jwk = signer.public.jwk();
        jwk["alg"] = "PS256".into();
        assert!(
            !PublicKey::of_jwk(&jwk).unwrap().has_signed(&Compact::parse(&token).unwrap()),
            "a key is for one algorithm where it says so"
        );
        let crit = format!("{}.{rest}", BASE64.encode(json!({"alg": "RS256", "crit": ["b64"], "b64": false}).to_string()));
        assert!(Compact::parse(&crit).is_none());
    }

    #[test]
    fn odd_keys_are_no_keys() {
        for odd in [
            json!({}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
            json!({"kty": "RSA", "n": "", "e": ""}),
            json!({"kty": "RSA", "n": "!", "e": "AQAB"}),
            json!(null),
            json!("x"),
        ] {
            assert_eq!(PublicKey::of_jwk(&odd), None, "{odd}");
        }
        let mut encrypts = signers().remove(0).public.jwk();
        encrypts["use"] = "enc".into();
        assert_eq!(PublicKey::of_jwk(&encrypts), None);
        for bad in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert!(PublicKey::all_of_pem(bad.as_bytes()).is_err() && SigningKey::of_pem(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_has_keys_of_any_sort() {
        let pairs = [rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap()];
        let certificate = rcgen::CertificateParams::default().self_signed(&pairs[0]).unwrap();
        let text = format!("{}{}{}", certificate.pem(), pairs[0].public_key_pem(), pairs[1].serialize_pem());
        let keys = PublicKey::all_of_pem(text.as_bytes()).unwrap();
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[2], SigningKey::of_pem(pairs[1].serialize_pem().as_bytes()).unwrap().public);
    }
}
