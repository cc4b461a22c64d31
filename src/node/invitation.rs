//! `--token`, `--token-file`, `--ca-hash` -> who lets us in, and which authority is the cluster's.

use std::fs;

use anyhow::{Context, anyhow};

use crate::{flags::JoinFlags, node::join_token::JoinToken};

/// `None` without a token.
///
/// # Errors
/// The token, its file or the hash cannot be read.
pub fn read(flags: &JoinFlags) -> anyhow::Result<Option<JoinToken>> {
    let text = match (&flags.token, &flags.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?,
        (None, None) => return Ok(None),
    };
    let read = JoinToken::parse(&text, flags.ca_hash.as_deref());
    read.map(Some).map_err(|why| anyhow!("--token: {why}; `skiff token create` on a server prints a new one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_stand_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "abcdef.0123456789abcdef\n").unwrap();
        let flags =
            |token_file| JoinFlags { server: Vec::new(), token: None, token_file, offline_start: true, tunnel: true, ca_hash: None };
        assert_eq!(read(&flags(Some(file.clone()))).unwrap().unwrap().token.id, "abcdef");
        assert!(read(&flags(None)).unwrap().is_none());
        assert!(read(&flags(Some(dir.path().join("none")))).is_err());
        fs::write(&file, "abcdef.01234").unwrap();
        let error = read(&flags(Some(file))).unwrap_err().to_string();
        assert!(error.contains("skiff token create") && !error.contains("01234"), "{error}");
    }
}
