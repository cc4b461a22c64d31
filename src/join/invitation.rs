//! `--token`, `--ca-hash` -> who lets us in, and which authority is the cluster's.

use std::fs;

use anyhow::{Context, bail};
use client::trust::Pin;

use crate::flags::JoinFlags;

/// Begins a token that pins the CA, as k3s has it.
const PINNING: &str = "K10";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// What `skiff token create` prints, read.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    pub id: String,
    pub secret: String,
    /// None: only who knows the token is believed.
    pub pins: Vec<Pin>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({}, {:?})", self.id, self.pins)
    }
}

impl Invitation {
    /// `None` without a token.
    ///
    /// # Errors
    /// The token, its file or a hash cannot be read.
    pub fn of(flags: &JoinFlags) -> anyhow::Result<Option<Self>> {
        let text = match (&flags.token, &flags.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?,
            (None, None) => return Ok(None),
        };
        Self::parse(text.trim(), &flags.ca_hash).map(Some)
    }

    /// `id.secret`, or `K10<hash of the CA>::id.secret`.
    fn parse(text: &str, hashes: &[String]) -> anyhow::Result<Self> {
        let mut pins: Vec<Pin> = Vec::new();
        let mut rest = text;
        if let Some((hash, token)) = text.strip_prefix(PINNING).and_then(|text| text.split_once("::")) {
            pins.push(Pin::parse(hash).map_err(|_| anyhow::anyhow!("{}", wrong("what stands before :: is no hash of a CA")))?);
            rest = token;
        }
        for hash in hashes {
            pins.push(Pin::parse(hash).map_err(anyhow::Error::msg).context("--ca-hash")?);
        }
        let fits = |text: &str, length: usize| text.len() == length && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let Some((id, secret)) = rest.split_once('.').filter(|(id, secret)| fits(id, ID_LENGTH) && fits(secret, SECRET_LENGTH)) else {
            bail!(wrong(
                "it must be six characters, a dot and sixteen characters, of a-z and 0-9, perhaps with K10, a hash and :: before them"
            ));
        };
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), pins })
    }

    /// What servers are shown.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// The token itself is not repeated: this is logged.
fn wrong(why: &str) -> String {
    format!("the token is not whole: {why}. `skiff token create` on a server prints a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_pin_an_authority_or_do_not() {
        let digits = "0123456789abcdef".repeat(4);
        let bare = Invitation::parse("abcdef.0123456789abcdef", &[]).unwrap();
        assert_eq!((bare.bearer().as_str(), bare.pins.len()), ("abcdef.0123456789abcdef", 0));
        let pinning = Invitation::parse(&format!("K10{digits}::abcdef.0123456789abcdef"), &[]).unwrap();
        assert_eq!((pinning.bearer(), pinning.pins.clone()), (bare.bearer(), vec![Pin::parse(&digits).unwrap()]));
        let beside = Invitation::parse("abcdef.0123456789abcdef", &[format!("sha256:{digits}")]).unwrap();
        assert_eq!(beside, pinning);
        assert!(!format!("{beside:?}").contains("0123456789abcdef."), "secrets are not logged");
        let cut = format!("K10{}::abcdef.0123456789abcdef", &digits[1..]);
        for bad in ["", "abcdef", "abcdef.short", "K10::abcdef.0123456789abcdef", &cut, "K10abcdef.0123456789abcdef"] {
            let error = Invitation::parse(bad, &[]).unwrap_err().to_string();
            assert!(error.contains("skiff token create"), "{bad}: {error}");
        }
        let error = format!("{:#}", Invitation::parse("abcdef.0123456789abcdef", &["12".into()]).unwrap_err());
        assert!(error.contains("--ca-hash"), "{error}");
    }

    #[test]
    fn a_token_may_stand_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "abcdef.0123456789abcdef\n").unwrap();
        let flags = JoinFlags { token_file: Some(file), ..JoinFlags::default() };
        assert_eq!(Invitation::of(&flags).unwrap().unwrap().id, "abcdef");
        assert!(Invitation::of(&JoinFlags::default()).unwrap().is_none());
        let missing = JoinFlags { token_file: Some(dir.path().join("none")), ..JoinFlags::default() };
        assert!(Invitation::of(&missing).is_err());
    }
}
