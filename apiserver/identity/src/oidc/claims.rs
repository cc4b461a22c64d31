//! Claims -> a user, by the mappings and rules of the issuer's configuration.

use std::collections::BTreeMap;

use apiserver::identity::User;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{JwtAuthenticator, Mapping};
use crate::expressions::{About, Makes, Program, texts};

const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Mappings and rules, compiled.
pub struct Rules {
    username: By,
    groups: Option<By>,
    uid: Option<By>,
    /// Key and what makes its values.
    extra: Vec<(String, Program)>,
    /// Claim and value.
    required: Vec<(String, String)>,
    claims: Vec<Rule>,
    user: Vec<Rule>,
}

enum By {
    /// The claim, and what stands before what it says.
    Claim(String, String),
    Expression(Program),
}

struct Rule {
    program: Program,
    expression: String,
    message: String,
}

/// Where a distributed claim stands.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
#[derive(Default)]
pub struct Source {
    pub endpoint: String,
    pub access_token: String,
}

impl Rules {
    pub fn new(config: &JwtAuthenticator) -> Result<Self, String> {
        let claims = |source: &str, makes| Program::compile(source, About::Claims, makes);
        let rule = |expression: &str, message: &str, about| {
            let program = Program::compile(expression, about, Makes::Bool)?;
            Ok::<_, String>(Rule { program, expression: expression.to_owned(), message: message.to_owned() })
        };
        let mappings = &config.claim_mappings;
        let uid = Mapping { claim: mappings.uid.claim.clone(), expression: mappings.uid.expression.clone(), prefix: None };
        let (with_claim, with_expression): (Vec<_>, Vec<_>) = config.claim_validation_rules.iter().partition(|rule| !rule.claim.is_empty());
        Ok(Self {
            username: by(&mappings.username)?.ok_or("claimMappings.username: claim or expression is required")?,
            groups: by(&mappings.groups)?,
            uid: by(&uid)?,
            extra: mappings
                .extra
                .iter()
                .map(|one| Ok((one.key.clone(), claims(&one.value_expression, Makes::Anything)?)))
                .collect::<Result<_, String>>()?,
            required: with_claim.iter().map(|rule| (rule.claim.clone(), rule.required_value.clone())).collect(),
            claims: with_expression.iter().map(|one| rule(&one.expression, &one.message, About::Claims)).collect::<Result<_, _>>()?,
            user: config
                .user_validation_rules
                .iter()
                .map(|one| rule(&one.expression, &one.message, About::User))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The one claim that may stand elsewhere.
    pub fn distributed(&self) -> Option<&str> {
        match &self.groups {
            Some(By::Claim(claim, _)) => Some(claim),
            _ => None,
        }
    }

    /// # Errors
    /// In upstream's words.
    pub fn user(&self, claims: Map<String, Value>) -> Result<User, String> {
        let claims = Value::Object(claims);
        let mut user =
            User { name: self.name(&claims)?, groups: self.groups(&claims)?, uid: self.uid(&claims)?, extra: self.extra(&claims)? };
        user.groups.shrink_to_fit();
        for (claim, wanted) in &self.required {
            let found = claims.get(claim).ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
            let found = found.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: it is no string"))?;
            if found != wanted {
                return Err(format!("oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"));
            }
        }
        holds(&self.claims, &claims).map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        if !self.user.is_empty() {
            let info = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            holds(&self.user, &info).map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
        Ok(user)
    }

    fn name(&self, claims: &Value) -> Result<String, String> {
        let (claim, prefix) = match &self.username {
            By::Expression(program) => {
                let value = program.run(claims).map_err(|why| format!("oidc: error evaluating username claim expression: {why}"))?;
                return match value {
                    Value::String(name) if name.is_empty() => Err("oidc: empty username via CEL expression is not allowed".into()),
                    Value::String(name) => Ok(name),
                    _ => Err("oidc: error evaluating username claim expression: username claim expression must return a string".into()),
                };
            }
            By::Claim(claim, prefix) => (claim, prefix),
        };
        let name = text(claims, claim).map_err(|why| format!("oidc: parse username claims {claim:?}: {why}"))?;
        if claim == "email" && claims.get("email_verified").is_some_and(|verified| verified != true) {
            return Err(match &claims["email_verified"] {
                Value::Bool(_) | Value::Null => "oidc: email not verified".into(),
                _ => "oidc: parse 'email_verified' claim: it is no boolean".into(),
            });
        }
        if name.is_empty() && prefix.is_empty() {
            return Err(format!("oidc: parse username claims {claim:?}: it is empty"));
        }
        Ok(format!("{prefix}{name}"))
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(By::Expression(program)) => {
                program.run(claims).and_then(texts).map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))
            }
            Some(By::Claim(claim, prefix)) => {
                let wrong = || format!("oidc: parse groups claim {claim:?}: it is neither a string nor a list of strings");
                let groups = match claims.get(claim) {
                    None | Some(Value::Null) => return Ok(Vec::new()),
                    Some(Value::String(one)) => vec![one.clone()],
                    Some(Value::Array(all)) => {
                        all.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()?
                    }
                    Some(_) => return Err(wrong()),
                };
                Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
            }
        }
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        match &self.uid {
            None => Ok(String::new()),
            Some(By::Claim(claim, _)) => text(claims, claim).map_err(|why| format!("oidc: parse uid claim {claim:?}: {why}")),
            Some(By::Expression(program)) => {
                let value = program.run(claims).map_err(|why| format!("oidc: error evaluating uid claim expression: {why}"))?;
                let Value::String(uid) = value else {
                    return Err("oidc: error evaluating uid claim expression: uid claim expression must return a string".into());
                };
                Ok(uid)
            }
        }
    }

    fn extra(&self, claims: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra = BTreeMap::new();
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, program) in &self.extra {
            let values =
                program.run(claims).and_then(texts).map_err(|why| format!("oidc: error evaluating extra claim expression: {why}"))?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(extra)
    }
}

fn by(mapping: &Mapping) -> Result<Option<By>, String> {
    Ok(match (mapping.claim.as_str(), mapping.expression.as_str()) {
        ("", "") => None,
        ("", source) => Some(By::Expression(Program::compile(source, About::Claims, Makes::Anything)?)),
        (claim, _) => Some(By::Claim(claim.to_owned(), mapping.prefix.clone().unwrap_or_default())),
    })
}

/// A claim as text; null is an empty one, as Go reads it.
fn text(claims: &Value, claim: &str) -> Result<String, String> {
    match claims.get(claim) {
        None => Err("claim not present".into()),
        Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("it is no string".into()),
    }
}

/// Whether all rules hold (`checkValidationRulesEvaluation`).
fn holds(rules: &[Rule], about: &Value) -> Result<(), String> {
    for rule in rules {
        if rule.program.run(about)? != true {
            let (expression, message) = (&rule.expression, &rule.message);
            return Err(format!("validation expression '{expression}' failed: {message}"));
        }
    }
    Ok(())
}

/// Where `claim` stands, if not among the claims themselves.
///
/// # Errors
/// That cannot be made out.
pub fn source(claim: &str, claims: &Map<String, Value>) -> Result<Option<Source>, String> {
    if claims.contains_key(claim) {
        return Ok(None);
    }
    let Some(names) = claims.get("_claim_names") else { return Ok(None) };
    let names = names.as_object().ok_or("oidc: error parsing distributed claim names")?;
    let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
    let sources = sources.as_object().ok_or("oidc: could not parse claim sources")?;
    let Some(name) = names.get(claim) else { return Ok(None) };
    let name = name.as_str().ok_or("oidc: error parsing distributed claim names")?;
    let source = sources.get(name).ok_or_else(|| format!("id token _claim_names contained a source {name} missing in _claims_sources"))?;
    let source: Source = serde_json::from_value(source.clone()).map_err(|error| format!("oidc: could not parse claim sources: {error}"))?;
    // An aggregated claim is none of these.
    Ok(Some(source).filter(|source| !source.endpoint.is_empty()))
}
