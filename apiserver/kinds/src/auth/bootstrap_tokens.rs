//! A bootstrap token -> who shows it: the Secret of its name is looked up, nothing is searched.
//!
//! Source: `plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go`.

use std::sync::Arc;

use api::{
    GroupResource, Key, Status,
    bootstrap::{self, Data, Life, Token},
    time::Timestamp,
};
use apiserver::{
    engine::Engine,
    identity::{Authenticator, Known, User},
};
use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::Read;

/// Takes `id.secret` from machines that have no certificate yet.
pub struct BootstrapTokens {
    /// The API server's own.
    audiences: Vec<String>,
}

impl BootstrapTokens {
    pub fn new(audiences: &[String]) -> Self {
        Self { audiences: audiences.to_vec() }
    }
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    /// What is wrong with a token is for the log: whoever shows it learns nothing.
    async fn token(&self, engine: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status> {
        let Some(token) = Token::parse(token) else { return Ok(None) };
        let key = Key::new(bootstrap::NAMESPACE, &token.secret_name());
        let Some(secret) = engine.cached(&GroupResource::new("", "secrets"), &key).filter(|secret| !secret.is_deleting()) else {
            return Ok(None);
        };
        match groups(&secret.value(), &token, Timestamp::now()) {
            Err(why) => {
                tracing::info!(secret = key.name, why, "bootstrap token refused");
                Ok(None)
            }
            Ok(groups) => {
                let user = User { name: format!("{}{}", bootstrap::USER_PREFIX, token.id), groups, ..User::default() };
                Ok(Known::of_the_server(user.into(), &self.audiences, audiences))
            }
        }
    }
}

/// The groups that the token gives.
fn groups(secret: &Value, token: &Token, now: Timestamp) -> Result<Vec<String>, String> {
    if secret.text("type") != bootstrap::SECRET_TYPE {
        return Err(format!("has invalid type, expected {}.", bootstrap::SECRET_TYPE));
    }
    let data = data(secret);
    let kept = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
    // Digests differ anywhere: how long they are compared tells nothing of the secret.
    if kept(bootstrap::SECRET).is_empty() || Sha256::digest(kept(bootstrap::SECRET)) != Sha256::digest(&token.secret) {
        return Err(format!("has invalid value for key {}.", bootstrap::SECRET));
    }
    if kept(bootstrap::ID) != token.id {
        return Err(format!("has invalid value for key {}.", bootstrap::ID));
    }
    if bootstrap::life(&data, now) == Life::Over {
        return Err("has expired".into());
    }
    if !bootstrap::is_for(&data, bootstrap::USAGE_AUTHENTICATION) {
        return Err(format!("not marked {}=true.", bootstrap::USAGE_AUTHENTICATION));
    }
    bootstrap::groups(&data)
}

/// The data of a Secret, as far as it is text.
fn data(secret: &Value) -> Data {
    let text = |base64: &str| String::from_utf8(BASE64_STANDARD.decode(base64).ok()?).ok();
    secret.entries("data").filter_map(|(key, value)| Some((key.to_owned(), text(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let good = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        for (key, value) in good.iter().chain(entries) {
            data[*key] = BASE64_STANDARD.encode(value).into();
        }
        json!({"type": bootstrap::SECRET_TYPE, "data": data})
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let (now, token) = (api::time::parse("2026-01-01T00:00:00Z").unwrap(), Token::parse("abcdef.0123456789abcdef").unwrap());
        let found = |secret: &Value| groups(secret, &token, now);
        assert_eq!(found(&secret(&[])).unwrap(), ["system:bootstrappers"]);
        let more = secret(&[("auth-extra-groups", bootstrap::NODE_GROUP), ("expiration", "2026-01-01T00:00:01Z")]);
        assert_eq!(found(&more).unwrap(), ["system:bootstrappers", bootstrap::NODE_GROUP]);
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        let cases = [
            (other, "invalid type"),
            (secret(&[("token-secret", "0123456789abcdeg")]), "invalid value for key token-secret"),
            (secret(&[("token-secret", "")]), "invalid value for key token-secret"),
            (secret(&[("token-id", "abcdeg")]), "invalid value for key token-id"),
            (secret(&[("expiration", "2026-01-01T00:00:00Z")]), "expired"),
            (secret(&[("expiration", "soon")]), "expired"),
            (secret(&[("usage-bootstrap-authentication", "True")]), "not marked"),
            (secret(&[("auth-extra-groups", "system:masters")]), "invalid"),
        ];
        for (secret, why) in cases {
            let refused = found(&secret).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
