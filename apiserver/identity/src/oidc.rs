//! A JWT of an issuer who is trusted -> who bears it. Source: apiserver `plugin/pkg/authenticator/token/oidc/oidc.go`, `pkg/apis/apiserver/v1/types.go`.

mod claims;
mod validation;
mod verifier;

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{field_errors::FieldErrors, task::Group, time::Timestamp};
use apiserver::{
    identity::{Known, User},
    jws::{self, Algorithm},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{cache::Answers, token_webhook::or_default};
use claims::Rules;
use verifier::Verifier;

/// What a good token said holds for so long, and no further than it does itself (`TokenSuccessCacheTTL`).
const HOLDS: Duration = Duration::from_secs(10);
/// Issuers of distributed claims that are known for one issuer of tokens.
const OTHER_ISSUERS_MAX: usize = 16;

/// `JWTAuthenticator`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct JwtAuthenticator {
    pub issuer: Issuer,
    #[serde(deserialize_with = "or_default")]
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: ClaimMappings,
    #[serde(deserialize_with = "or_default")]
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL", deserialize_with = "or_default")]
    pub discovery_url: String,
    #[serde(deserialize_with = "or_default")]
    pub certificate_authority: String,
    #[serde(deserialize_with = "or_default")]
    pub audiences: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub audience_match_policy: String,
    #[serde(deserialize_with = "or_default")]
    pub egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimMappings {
    pub username: Mapping,
    pub groups: Mapping,
    pub uid: UidMapping,
    #[serde(deserialize_with = "or_default")]
    pub extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or an expression.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Mapping {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct UidMapping {
    pub claim: String,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ExtraMapping {
    pub key: String,
    pub value_expression: String,
}

impl JwtAuthenticator {
    /// All that is wrong with it, at `path`. `disallowed` are the issuers of service-account tokens.
    pub fn validate(&self, path: &str, disallowed: &[String], causes: &mut FieldErrors) {
        validation::check(self, path, disallowed, causes);
    }
}

/// One issuer, at work.
pub struct Jwt {
    reader: Arc<Reader>,
    answers: Answers<Result<Arc<Said>, String>>,
    /// The API server's own.
    audiences: Vec<String>,
}

/// Who finds out what a token says.
struct Reader {
    rules: Rules,
    url: String,
    verifier: Arc<Verifier>,
    /// Of distributed claims, whose tokens are other issuers'.
    others: Mutex<HashMap<String, Other>>,
    group: Group,
}

struct Other {
    verifier: Arc<Verifier>,
    used: Instant,
}

/// What a token said, and until when.
struct Said {
    user: Arc<User>,
    until: i64,
}

impl Jwt {
    /// Begins to look for the issuer's keys; they are asked for until they are there. `config` is valid.
    ///
    /// # Errors
    /// The authority is none.
    pub fn new(config: &JwtAuthenticator, algorithms: &[Algorithm], audiences: &[String], group: &Group) -> Result<Self, String> {
        let verifier = Arc::new(Verifier::new(&config.issuer, algorithms, group)?);
        group.spawn(verifier::initialize(Arc::downgrade(&verifier)));
        let (rules, url, group) = (Rules::new(config)?, config.issuer.url.clone(), group.clone());
        let (answers, audiences) = (Answers::new(&group), audiences.to_vec());
        Ok(Self { reader: Arc::new(Reader { rules, url, verifier, others: Mutex::default(), group }), answers, audiences })
    }

    /// Whether its keys are there.
    ///
    /// # Errors
    /// Why not.
    pub fn health(&self) -> Result<(), String> {
        let reader = &self.reader;
        reader.verifier.health().map_err(|why| format!("oidc: authenticator for issuer {:?} is not healthy: {why}", reader.url))
    }

    /// Whether a token says that it is this issuer's.
    pub fn issued(&self, token: &str) -> bool {
        untrusted_issuer(token).is_some_and(|issuer| issuer == self.reader.url)
    }

    /// Who bears a token of this issuer; `None` where it is not for whom `asked` names.
    ///
    /// # Errors
    /// It is not good.
    pub async fn known(&self, token: &str, asked: &[String]) -> Result<Option<Known>, String> {
        let key = self.answers.asked([token.as_bytes()]);
        let keep = |answer: &Result<_, _>| if answer.is_ok() { HOLDS } else { Duration::ZERO };
        let (reader, owned) = (self.reader.clone(), token.to_owned());
        let said = self.answers.get(key, keep, async move { reader.said(&owned).await }).await;
        let said = said.unwrap_or_else(|lost| Err(lost.to_string()))?;
        if said.until < Timestamp::now().as_second() {
            return Err("oidc: verify token: oidc: token is expired".into());
        }
        Ok(Known::of_the_server(said.user.clone(), &self.audiences, asked))
    }
}

impl Reader {
    async fn said(&self, token: &str) -> Result<Arc<Said>, String> {
        let mut claims = self.verifier.verify(token).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        let until = verifier::expiry(&claims).unwrap_or_default();
        if let Some(claim) = self.rules.distributed()
            && let Some(source) =
                claims::source(claim, &claims).map_err(|why| format!("oidc: could not expand distributed claims: {why}"))?
        {
            let value = self.resolve(claim, &source).await.map_err(|why| format!("oidc: could not expand distributed claims: {why}"))?;
            claims.insert(claim.to_owned(), value);
        }
        Ok(Arc::new(Said { user: self.rules.user(claims)?.into(), until }))
    }

    /// A claim that stands elsewhere (OpenID Connect Core 5.6.2). The token there is verified by the keys of whoever issued it.
    async fn resolve(&self, claim: &str, source: &claims::Source) -> Result<Value, String> {
        let fetched = self
            .verifier
            .fetch_for_token(&source.endpoint, Some(&source.access_token).filter(|token| !token.is_empty()).map(String::as_str))
            .await;
        let jwt = fetched.and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
        let jwt = jwt.map_err(|why| format!("while getting distributed claim {claim:?}: {why}"))?;
        let issuer = untrusted_issuer(&jwt)
            .ok_or_else(|| format!("getting untrusted issuer from endpoint {} failed for claim {claim:?}", source.endpoint))?;
        let verifier = self.other(&issuer);
        verifier.load().await.map_err(|why| format!("verifying untrusted issuer {issuer} failed: {why}"))?;
        let mut found: Map<String, Value> = verifier.verify(&jwt).await.map_err(|why| format!("verify distributed claim token: {why}"))?;
        let lacks = || format!("jwt returned by distributed claim endpoint {:?} did not contain claim: {claim}", source.endpoint);
        found.shift_remove(claim).ok_or_else(lacks)
    }

    fn other(&self, issuer: &str) -> Arc<Verifier> {
        if issuer == self.url {
            return self.verifier.clone();
        }
        let mut others = self.others.lock();
        if let Some(known) = others.get_mut(issuer) {
            known.used = Instant::now();
            return known.verifier.clone();
        }
        if others.len() >= OTHER_ISSUERS_MAX {
            // One that never answered first, and of the others who was not asked for longest.
            let goes = others.iter().min_by_key(|(_, other)| (other.verifier.is_known(), other.used)).map(|(issuer, _)| issuer.clone());
            goes.map(|issuer| others.remove(&issuer));
        }
        let verifier = Arc::new(self.verifier.of_other(issuer, &self.group));
        others.insert(issuer.to_owned(), Other { verifier: verifier.clone(), used: Instant::now() });
        verifier
    }
}

fn untrusted_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        #[serde(default)]
        iss: String,
    }
    let issuer = jws::unverified::<Issuer>(token)?.iss;
    // openid-connect-core-1_0.html#GoogleIss
    Some(if issuer == "accounts.google.com" { "https://accounts.google.com".into() } else { issuer })
}

#[cfg(test)]
mod tests;
