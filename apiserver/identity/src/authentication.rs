//! `AuthenticationConfiguration` -> the issuers whose tokens are taken, exchanged as a whole when the file changes.
//!
//! Sources: `pkg/kubeapiserver/{authenticator/config,options/authentication}.go`, KEP-3331, KEP-4633.

use std::{collections::HashSet, sync::Arc, time::Duration};

use api::{Status, field_errors::FieldErrors, task::Group};
use apiserver::{
    engine::Engine,
    identity::{Anonymous, Authenticator, Known},
    jws::Algorithm,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    file::{self, Take, Wrong},
    oidc::{Jwt, JwtAuthenticator},
    token_webhook::or_default,
};

/// Issuers of one configuration (`ValidateAuthenticationConfiguration`).
const ISSUERS_MAX: usize = 64;
/// How long the issuers of a new configuration may take until they are known (`UpdateAuthenticationConfigTimeout`), and how often that is looked at.
const HEALTHY_BOUND: Duration = Duration::from_secs(60);
const HEALTHY_PAUSE: Duration = Duration::from_millis(250);

/// The file, read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthenticationConfig {
    #[serde(deserialize_with = "or_default")]
    pub jwt: Vec<JwtAuthenticator>,
    anonymous: Option<AnonymousConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AnonymousConfig {
    enabled: bool,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Condition {
    path: String,
}

impl AuthenticationConfig {
    /// Reads and validates it. `disallowed` are the issuers of service-account tokens.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str, disallowed: &[String]) -> Result<Self, String> {
        let config: Self = file::parse(text, "AuthenticationConfiguration")?;
        config.validated(disallowed)
    }

    /// One issuer, as flags say it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn of_issuer(issuer: JwtAuthenticator, disallowed: &[String]) -> Result<Self, String> {
        Self { jwt: vec![issuer], anonymous: None }.validated(disallowed)
    }

    fn validated(self, disallowed: &[String]) -> Result<Self, String> {
        let mut causes = FieldErrors::default();
        if self.jwt.len() > ISSUERS_MAX {
            causes.too_many("jwt", self.jwt.len(), ISSUERS_MAX);
        } else {
            let (mut urls, mut discovery) = (HashSet::new(), HashSet::new());
            for (index, one) in self.jwt.iter().enumerate() {
                one.validate(&format!("jwt[{index}]"), disallowed, &mut causes);
                if !urls.insert(&one.issuer.url) {
                    causes.duplicate(format!("jwt[{index}].issuer.url"), &*one.issuer.url);
                }
                if !one.issuer.discovery_url.is_empty() && !discovery.insert(&one.issuer.discovery_url) {
                    causes.duplicate(format!("jwt[{index}].issuer.discoveryURL"), &*one.issuer.discovery_url);
                }
            }
        }
        if self.anonymous.as_ref().is_some_and(|anonymous| !anonymous.enabled && !anonymous.conditions.is_empty()) {
            causes.invalid("anonymous.conditions", "", "enabled should be set to true when conditions are defined");
        }
        if causes.is_empty() {
            return Ok(self);
        }
        Err(causes.0.iter().map(api::field_errors::FieldError::text).collect::<Vec<_>>().join(", "))
    }

    /// Whether nobody in particular is let in, where the file says so.
    pub fn anonymous(&self) -> Option<Anonymous> {
        let anonymous = self.anonymous.as_ref()?;
        Some(match (anonymous.enabled, anonymous.conditions.as_slice()) {
            (false, _) => Anonymous::Nowhere,
            (true, []) => Anonymous::Everywhere,
            (true, conditions) => Anonymous::At(conditions.iter().map(|condition| condition.path.clone()).collect()),
        })
    }
}

/// The issuers of now.
pub struct Jwts {
    now: ArcSwap<Vec<Jwt>>,
    algorithms: Vec<Algorithm>,
    audiences: Vec<String>,
    disallowed: Vec<String>,
    anonymous: Option<Anonymous>,
    group: Group,
}

impl Jwts {
    /// `audiences` are the API server's own, `disallowed` the issuers of service-account tokens.
    ///
    /// # Errors
    /// An authority is none.
    pub fn new(
        config: &AuthenticationConfig,
        algorithms: &[Algorithm],
        audiences: &[String],
        disallowed: &[String],
        group: &Group,
    ) -> Result<Arc<Self>, String> {
        let this = Self {
            now: ArcSwap::default(),
            algorithms: algorithms.to_vec(),
            audiences: audiences.to_vec(),
            disallowed: disallowed.to_vec(),
            anonymous: config.anonymous(),
            group: group.clone(),
        };
        this.now.store(Arc::new(this.made(config)?));
        Ok(Arc::new(this))
    }

    fn made(&self, config: &AuthenticationConfig) -> Result<Vec<Jwt>, String> {
        config.jwt.iter().map(|one| Jwt::new(one, &self.algorithms, &self.audiences, &self.group)).collect()
    }

    /// Takes a new text of the file, once its issuers are known.
    pub fn take(self: &Arc<Self>) -> Take {
        let this = self.clone();
        Arc::new(move |text| {
            let this = this.clone();
            Box::pin(async move { this.replace(&text).await })
        })
    }

    async fn replace(&self, text: &str) -> Result<(), Wrong> {
        let config = AuthenticationConfig::parse(text, &self.disallowed).map_err(Wrong::Text)?;
        if config.anonymous() != self.anonymous {
            return Err(Wrong::Text("anonymous: Forbidden: changed from initial configuration file".into()));
        }
        let made = self.made(&config).map_err(Wrong::Text)?;
        let end = Instant::now() + HEALTHY_BOUND;
        while let Some(why) = made.iter().find_map(|one| one.health().err()) {
            if Instant::now() >= end {
                return Err(Wrong::Passing(why));
            }
            sleep(HEALTHY_PAUSE).await;
        }
        self.now.store(Arc::new(made));
        Ok(())
    }

    /// Whether the keys of all issuers are there.
    pub fn are_healthy(&self) -> bool {
        self.now.load().iter().all(|one| one.health().is_ok())
    }
}

#[async_trait]
impl Authenticator for Jwts {
    async fn token(&self, _: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status> {
        let now = self.now.load_full();
        if now.is_empty() {
            return Ok(None);
        }
        let Some(issuer) = now.iter().find(|one| one.issued(token)) else { return Ok(None) };
        issuer.known(token, audiences).await.map_err(|why| Status::new(401, "Unauthorized", why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{text}");
        AuthenticationConfig::parse(&text, &["https://own".into()]).err().unwrap_or_default()
    }

    fn issuer(more: &str) -> String {
        format!("jwt:\n- issuer: {{url: 'https://a', audiences: [x]}}\n  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n{more}")
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        assert_eq!(wrong(""), "");
        assert_eq!(wrong(&issuer("")), "");
        let cases = [
            ("jwt: [{}]", "jwt[0].issuer.url: Required value"),
            ("jwt: [{issuer: {url: 'http://a', audiences: [x]}}]", "URL scheme must be https"),
            ("jwt: [{issuer: {url: 'https://own', audiences: [x]}}]", "URL must not overlap with disallowed issuers: [https://own]"),
            ("jwt: [{issuer: {url: 'https://u:p@a', audiences: [x]}}]", "URL must not contain a username or password"),
            ("jwt: [{issuer: {url: 'https://a?b=c', audiences: [x]}}]", "URL must not contain a query"),
            ("jwt: [{issuer: {url: 'https://a#b', audiences: [x]}}]", "URL must not contain a fragment"),
            ("jwt: [{issuer: {url: 'https://a', discoveryURL: 'https://a/', audiences: [x]}}]", "discoveryURL must be different from URL"),
            ("jwt: [{issuer: {url: 'https://a'}}]", "at least one jwt[0].issuer.audiences is required"),
            ("jwt: [{issuer: {url: 'https://a', audiences: [x, z]}}]", "audienceMatchPolicy must be MatchAny for multiple audiences"),
            (
                "jwt: [{issuer: {url: 'https://a', audiences: [x], certificateAuthority: z}}]",
                "jwt[0].issuer.certificateAuthority: Invalid value",
            ),
            ("jwt: [{issuer: {url: 'https://a', audiences: [x], egressSelectorType: cluster}}]", "egress selectors are not supported"),
            (
                "jwt: [{issuer: {url: 'https://a', audiences: [x]}}]",
                "jwt[0].claimMappings.username: Required value: claim or expression is required",
            ),
            ("jwt: [{claimMappings: {username: {claim: sub}}}]", "prefix is required when claim is set"),
            ("jwt: [{claimMappings: {username: {claim: sub, prefix: '', expression: x}}}]", "claim and expression can't both be set"),
            ("jwt: [{claimMappings: {username: {expression: 'claims.email'}}}]", "claims.email_verified must be used"),
            ("jwt: [{claimMappings: {extra: [{key: 'k8s.io/a', valueExpression: \"'x'\"}]}}]", "are reserved for Kubernetes use"),
            ("jwt: [{claimMappings: {extra: [{key: 'foo', valueExpression: \"'x'\"}]}}]", "must be a domain-prefixed path"),
            ("jwt: [{claimValidationRules: [{claim: a, message: b}]}]", "may not be specified when claim is set"),
            ("jwt: [{claimValidationRules: [{expression: '1 + 1'}]}]", "must evaluate to bool"),
            ("jwt: [{userValidationRules: [{expression: 'user.x'}]}]", "compilation failed"),
            ("jwt: [{nothing: 1}]", "unknown field"),
            ("anonymous: {enabled: false, conditions: [{path: /x}]}", "enabled should be set to true when conditions are defined"),
        ];
        for (text, why) in cases {
            let found = wrong(text);
            assert!(found.contains(why), "{text}: {found}");
        }
        let twice = format!(
            "{}- issuer: {{url: 'https://a', audiences: [x]}}\n  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
            issuer("")
        );
        assert!(wrong(&twice).contains("jwt[1].issuer.url: Duplicate value: \"https://a\""), "{}", wrong(&twice));
        for text in ["", "[]", "apiVersion: v1\nkind: AuthenticationConfiguration", "apiVersion: apiserver.config.k8s.io/v1\nkind: X"] {
            assert!(AuthenticationConfig::parse(text, &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn nobody_in_particular_is_let_in_where_the_file_says_so() {
        let read = |text: &str| {
            let text = format!("apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\n{text}");
            AuthenticationConfig::parse(&text, &[]).unwrap().anonymous()
        };
        assert_eq!(read(""), None);
        assert_eq!(read("anonymous: {enabled: false}"), Some(Anonymous::Nowhere));
        assert_eq!(read("anonymous: {enabled: true}"), Some(Anonymous::Everywhere));
        let some = read("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap();
        assert!(some.is_let_in("/livez") && !some.is_let_in("/livez/ping") && !some.is_let_in("/"));
    }
}
