//! What a machine is told to join with -> the bootstrap token, and the CA that it is good for.
//!
//! `K10<sha256>::<id>.<secret>` as k3s has it, the hash being that of the CA's certificate (DER); or kubeadm's `<id>.<secret>` with
//! `sha256:<hash>` of the CA's public key. Either hash is taken in either place.

use std::{fmt, fs};

use anyhow::{Context, anyhow};
use api::bootstrap::Token;
use apiserver::certs::request::{fingerprints, fingerprints_of_der};

use crate::flags::JoinFlags;

const PREFIX: &str = "K10";
const HASH_LENGTH: usize = 64;

/// A token, and the pin that makes its holder sure of whom it shows it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    pub token: Token,
    /// Without one, nothing but the token's own signature of `cluster-info` tells a true server from a false one.
    pub pin: Option<Pin>,
}

/// SHA-256 of a CA's certificate or of its public key, hexadecimal, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin(String);

impl JoinToken {
    /// What `--token` or `--token-file`, and `--ca-hash` say; `None` without a token.
    ///
    /// # Errors
    /// The token, its file or the hash cannot be read.
    pub fn of_flags(flags: &JoinFlags) -> anyhow::Result<Option<Self>> {
        // They exclude each other on the command line; a config file may have both.
        let text = match (&flags.token_file, &flags.token) {
            (Some(file), _) => fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?,
            (None, Some(token)) => token.reveal().to_owned(),
            (None, None) => return Ok(None),
        };
        let read = Self::parse(&text, flags.ca_hash.as_deref());
        read.map(Some).map_err(|why| anyhow!("--token: {why}; `skiff token create` on a server prints a new one"))
    }

    /// `ca_hash` is `sha256:<hash>` (or the hash alone), as `--ca-hash` gives it.
    ///
    /// # Errors
    /// What is wrong, in words for whoever typed it; the token is not repeated.
    pub fn parse(text: &str, ca_hash: Option<&str>) -> Result<Self, String> {
        let text = text.trim();
        let (pinned, bare) = match text.strip_prefix(PREFIX).map(|rest| rest.split_once("::")) {
            Some(Some((hash, bare))) => (Some(Pin::parse(hash)?), bare),
            Some(None) => return Err(format!("the token begins with {PREFIX} and has no ::, so a part of it is missing")),
            None => (None, text),
        };
        let token = Token::parse(bare).ok_or(
            "a token is <id>.<secret> of six and sixteen of a-z and 0-9, as `skiff token create` prints it; was all of it copied?",
        )?;
        let given = ca_hash.map(Pin::parse).transpose()?;
        // Two that differ may be of the certificate and of its key: whoever has the CA tells ([`Pin::matches`]); the one given apart counts.
        Ok(Self { token, pin: given.or(pinned) })
    }
}

impl fmt::Display for JoinToken {
    /// The whole of it, secret and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Pin(hash)) = &self.pin {
            write!(f, "{PREFIX}{hash}::")?;
        }
        f.write_str(&self.token.text())
    }
}

impl Pin {
    fn parse(text: &str) -> Result<Self, String> {
        let hash = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hash = hash.len() == HASH_LENGTH && hash.bytes().all(|c| c.is_ascii_hexdigit());
        if is_hash { Ok(Self(hash.to_ascii_lowercase())) } else { Err("a CA's hash is sha256: and 64 hexadecimal digits".to_owned()) }
    }

    /// Of this CA's certificate (DER).
    ///
    /// # Errors
    /// It is no certificate.
    pub fn of_certificate(ca: &[u8]) -> Result<Self, String> {
        fingerprints_of_der(ca).map(|[whole, _]| Self(whole))
    }

    /// Whether it is this CA's (PEM).
    pub fn matches(&self, ca_pem: &str) -> bool {
        fingerprints(ca_pem).is_ok_and(|found| found.contains(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "abcdef.0123456789abcdef";

    #[test]
    fn both_forms_are_read() {
        let hash = "AB".repeat(32);
        let whole = format!("{PREFIX}{hash}::{BARE}");
        let joined = JoinToken::parse(&format!(" {whole}\n"), None).unwrap();
        assert_eq!((joined.token.text().as_str(), joined.pin.clone()), (BARE, Some(Pin("ab".repeat(32)))));
        assert_eq!(joined.to_string(), whole.replace("AB", "ab"));
        let other = JoinToken::parse(BARE, Some(&format!("sha256:{hash}"))).unwrap();
        assert_eq!(other, joined);
        let bare = JoinToken::parse(BARE, None).unwrap();
        assert_eq!((bare.to_string().as_str(), bare.pin), (BARE, None));
    }

    #[test]
    fn what_is_cut_off_is_told_without_the_secret() {
        let hash = "ab".repeat(32);
        for (text, ca_hash, why) in [
            ("abcdef.0123456789abcde", None, "was all of it copied"),
            (&format!("K10{hash}"), None, "has no ::"),
            (&format!("K10{}::{BARE}", &hash[1..]), None, "64 hexadecimal digits"),
            (BARE, Some("sha256:x"), "64 hexadecimal digits"),
            ("", None, "as `skiff token create` prints it"),
        ] {
            let error = JoinToken::parse(text, ca_hash).unwrap_err();
            assert!(error.contains(why) && !error.contains("0123456789"), "{text}: {error}");
        }
    }

    #[test]
    fn a_pin_is_of_the_certificate_or_of_its_key() {
        let ca = apiserver::certs::issue::authority("kubernetes", api::time::Timestamp::now()).unwrap().chain_pem;
        let other = apiserver::certs::issue::authority("kubernetes", api::time::Timestamp::now()).unwrap().chain_pem;
        let [whole, key] = fingerprints(&ca).unwrap();
        for hash in [whole, key] {
            let pin = Pin::parse(&hash).unwrap();
            assert!(pin.matches(&ca) && !pin.matches(&other) && !pin.matches("x"));
        }
        assert!(Pin::of_certificate(b"x").is_err());
    }

    #[test]
    fn a_token_may_stand_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "abcdef.0123456789abcdef\n").unwrap();
        let flags =
            |token_file| JoinFlags { server: Vec::new(), token: None, token_file, offline_start: true, tunnel: true, ca_hash: None };
        assert_eq!(JoinToken::of_flags(&flags(Some(file.clone()))).unwrap().unwrap().token.id, "abcdef");
        let both = JoinFlags { token: Some("fedcba.0123456789abcdef".parse().unwrap()), ..flags(Some(file.clone())) };
        assert_eq!(JoinToken::of_flags(&both).unwrap().unwrap().token.id, "abcdef", "the file goes first");
        assert!(JoinToken::of_flags(&flags(None)).unwrap().is_none());
        assert!(JoinToken::of_flags(&flags(Some(dir.path().join("none")))).is_err());
        fs::write(&file, "abcdef.01234").unwrap();
        let error = JoinToken::of_flags(&flags(Some(file))).unwrap_err().to_string();
        assert!(error.contains("skiff token create") && !error.contains("01234"), "{error}");
    }
}
