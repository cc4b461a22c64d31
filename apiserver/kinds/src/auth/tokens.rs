//! Service accounts -> signed tokens, and tokens -> users, as long as all they are bound to still stands.
//!
//! Source: `pkg/serviceaccount/{claims,jwt}.go`. Tokens of the old sort, which stand in Secrets: [`legacy`](super::legacy).

use std::{collections::HashMap, sync::Arc};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::Engine,
    identity::{Authenticator, Known, User},
    jws::{self, Compact, KeyError, PublicKey, SigningKey},
};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{audiences::Audiences, legacy};

/// Clocks may differ by this much (`jwt.DefaultLeeway`).
const LEEWAY_SECONDS: i64 = 60;
/// How many verified signatures are remembered; all are forgotten when it is full.
const REMEMBERED_MAX: usize = 4096;

/// How tokens are made and verified: what kube-apiserver's `--service-account-*` and `--api-audiences` say.
pub struct TokensConfig {
    /// The first makes tokens, all are accepted; never empty.
    pub issuers: Vec<String>,
    /// The API server's own: tokens must be for one of them, and are where they ask for none. Never empty.
    pub audiences: Vec<String>,
    pub signing: SigningKey,
    /// Those that verify, and that discovery shows.
    pub keys: Vec<PublicKey>,
    /// No token is made that lives longer (but for `extends`).
    pub seconds_max: Option<i64>,
    /// Whether what the node's agent asks for pods lives for a year.
    pub extends: bool,
}

/// Signs and verifies service-account tokens.
pub struct Tokens {
    config: TokensConfig,
    /// Digest of a token whose signature was good -> what it says, which is checked anew each time.
    remembered: Mutex<HashMap<[u8; 32], Arc<Opened>>>,
    marks: Arc<legacy::Marks>,
}

/// A token with a good signature of ours: what it says, and of whom.
#[derive(Debug)]
pub struct Opened {
    pub claims: Claims,
    user: Arc<User>,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub aud: Audiences,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// The private claims: what the token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What is known of an object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub uid: String,
    /// Seconds since the epoch, if it is being deleted.
    pub deleted: Option<i64>,
}

impl Tokens {
    /// `key` and `public` are PEM, of one key. `issuer` is a URL; it is the default audience too.
    ///
    /// # Errors
    /// One is no key.
    pub fn new(issuer: &str, key: &str, public: &str) -> Result<Self, KeyError> {
        Ok(Self::of(TokensConfig {
            issuers: vec![issuer.to_owned()],
            audiences: vec![issuer.to_owned()],
            signing: SigningKey::of_pem(key.as_bytes())?,
            keys: PublicKey::all_of_pem(public.as_bytes())?,
            seconds_max: None,
            extends: true,
        }))
    }

    pub fn of(config: TokensConfig) -> Self {
        Self { config, remembered: Mutex::default(), marks: Arc::default() }
    }

    pub fn config(&self) -> &TokensConfig {
        &self.config
    }

    /// Who makes tokens.
    pub fn issuer(&self) -> &str {
        self.config.issuers.first().map_or("", String::as_str)
    }

    /// The key set under `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.config.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// Signs `claims` as they are.
    ///
    /// # Errors
    /// 500 where there is no randomness.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Status> {
        self.config.signing.sign(claims).map_err(|e| Status::internal(format!("failed to generate token: {e}")))
    }

    /// Whether the token says that we issued it; nothing is verified yet.
    pub fn is_ours(&self, token: &str) -> bool {
        issuer_of(token).is_some_and(|issuer| self.config.issuers.contains(&issuer))
    }

    /// A token with a good signature of ours; times are not looked at yet.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn open(&self, token: &str) -> Result<Arc<Opened>, String> {
        let digest = Sha256::digest(token).into();
        if let Some(opened) = self.recalled(&digest) {
            return Ok(opened);
        }
        let claims = self.signed::<Claims>(token)?;
        if !self.config.issuers.contains(&claims.iss) {
            return Err(format!("token issuer {:?} is invalid", claims.iss));
        }
        let user = User::authenticated(Arc::new(user(&claims)));
        let opened = Arc::new(Opened { claims, user });
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, opened.clone());
        Ok(opened)
    }

    /// What [`Tokens::open`] has found: a good signature of an issuer of ours.
    fn recalled(&self, digest: &[u8; 32]) -> Option<Arc<Opened>> {
        self.remembered.lock().get(digest).cloned()
    }

    /// What a token says that one of our keys has signed: that which it names, or any where it names none.
    pub(super) fn signed<T: DeserializeOwned>(&self, token: &str) -> Result<T, String> {
        let compact = Compact::parse(token).ok_or("invalid bearer token: it has no signature that can be verified")?;
        let named = |key: &&PublicKey| compact.key_id.is_empty() || key.id() == compact.key_id;
        let mut keys = self.config.keys.iter().filter(named).peekable();
        if keys.peek().is_none() {
            return Err("invalid signature, no keys found".into());
        }
        if !keys.any(|key| key.has_signed(&compact)) {
            return Err("go-jose/go-jose: error in cryptographic primitive".into());
        }
        serde_json::from_slice(&compact.payload).map_err(|error| format!("invalid bearer token: {error}"))
    }

    /// Verifies a token. `Ok(None)`: not one of ours. `find` looks up `resource`, namespace and name.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
        find: &dyn Fn(&str, &Key) -> Option<Found>,
    ) -> Result<Option<Known>, String> {
        if !self.is_ours(token) {
            return Ok(None);
        }
        self.judge(&*self.open(token)?, audiences, now, find).map(Some)
    }

    fn judge(
        &self,
        Opened { claims, user }: &Opened,
        audiences: &[String],
        now: Timestamp,
        find: &dyn Fn(&str, &Key) -> Option<Found>,
    ) -> Result<Known, String> {
        let audiences = self.audiences(&claims.aud, audiences)?;
        check_times(claims, now)?;
        check_bound(&claims.bound, now, find)?;
        Ok(Known { user: user.clone(), audiences })
    }

    /// Those of the wanted audiences (none: our own) that the token has. One that names none is for us.
    pub(super) fn audiences(&self, of_token: &Audiences, wanted: &[String]) -> Result<Vec<String>, String> {
        let own = &self.config.audiences;
        let has = if of_token.0.is_empty() { own } else { &of_token.0 };
        let wanted = if wanted.is_empty() { own } else { wanted };
        let both: Vec<String> = wanted.iter().filter(|audience| has.contains(audience)).cloned().collect();
        if !both.is_empty() {
            return Ok(both);
        }
        let (got, wanted) = (super::rules::quoted(has), super::rules::quoted(wanted));
        Err(format!("token audiences {got} is invalid for the target audiences {wanted}"))
    }
}

/// Who made it, as it says.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        #[serde(default)]
        iss: String,
    }
    jws::unverified::<Issuer>(token).map(|claims| claims.iss)
}

#[async_trait]
impl Authenticator for Tokens {
    async fn token(&self, engine: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status> {
        let refused = |why| Status::new(401, "Unauthorized", why);
        let (now, find) = (Timestamp::now(), |resource: &str, key: &Key| found(engine, resource, key));
        // Most come again and again: what they say need not be read anew.
        if let Some(opened) = self.recalled(&Sha256::digest(token).into()) {
            return self.judge(&opened, audiences, now, &find).map(Some).map_err(refused);
        }
        if issuer_of(token).is_some_and(|issuer| issuer == legacy::ISSUER) {
            let claims = self.signed::<legacy::Claims>(token).map_err(refused)?;
            let audiences = self.audiences(&claims.aud, audiences).map_err(refused)?;
            return legacy::known(engine, &self.marks, token, claims, audiences).map(Some).map_err(refused);
        }
        self.verify(token, audiences, now, &find).map_err(refused)
    }
}

/// Of an object, since when it is being deleted: every request with a token bound to it asks.
#[derive(Deserialize)]
struct Going {
    metadata: Option<GoingSince>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GoingSince {
    deletion_timestamp: Option<String>,
}

fn found(engine: &Engine, resource: &str, key: &Key) -> Option<Found> {
    let object = engine.cached(&GroupResource::new("", resource), key)?;
    let uid = object.uid().to_owned();
    if !object.is_deleting() {
        return Some(Found { uid, deleted: None });
    }
    let at = object.part::<Going>().ok().and_then(|going| api::time::parse(&going.metadata?.deletion_timestamp?));
    Some(Found { uid, deleted: Some(at.map_or(0, Timestamp::as_second)) })
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let now = now.as_second();
    match () {
        () if now - LEEWAY_SECONDS > claims.exp => Err("service account token has expired".into()),
        () if now + LEEWAY_SECONDS < claims.nbf => Err("service account token is not valid yet".into()),
        () if now + LEEWAY_SECONDS < claims.iat => Err("service account token is issued in the future".into()),
        () => Ok(()),
    }
}

/// All that the token is bound to must stand, under the same uid, and not have been deleted a while ago.
fn check_bound(bound: &Bound, now: Timestamp, find: &dyn Fn(&str, &Key) -> Option<Found>) -> Result<(), String> {
    let gone = |f: &Found| f.deleted.is_some_and(|at| at < now.as_second() - LEEWAY_SECONDS);
    let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
    let stands = find("serviceaccounts", &Key::new(namespace, &account.name))
        .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    if stands.uid != account.uid {
        return Err(format!("service account UID ({}) does not match claim ({})", stands.uid, account.uid));
    }
    if gone(&stands) {
        return Err(format!("service account {namespace}/{} has been deleted", account.name));
    }
    // A node beside a pod only tells where the pod runs.
    let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
    let bound_to = [
        ("secrets", "secret", "secret", namespace.as_str(), bound.secret.as_ref()),
        ("pods", "pod", "pod", namespace, bound.pod.as_ref()),
        ("nodes", "node", "node", "", node),
    ];
    for (resource, what, claim, namespace, reference) in bound_to {
        let Some(reference) = reference else { continue };
        let invalidated = || "service account token has been invalidated".to_owned();
        let stands = find(resource, &Key::new(namespace, &reference.name)).ok_or_else(invalidated)?;
        if stands.uid != reference.uid {
            let (real, claimed) = (&stands.uid, &reference.uid);
            let what = if what == "secret" { "secret UID".to_owned() } else { format!("{} UID", capital(what)) };
            return Err(format!("{what} ({real}) does not match service account {claim} ref claim ({claimed})"));
        }
        if gone(&stands) {
            return Err(invalidated());
        }
    }
    Ok(())
}

fn user(claims: &Claims) -> User {
    let (bound, account) = (&claims.bound, &claims.bound.serviceaccount);
    let mut user = User {
        name: format!("system:serviceaccount:{}:{}", bound.namespace, account.name),
        uid: account.uid.clone(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{}", bound.namespace)],
        ..User::default()
    };
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    for (what, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra(&format!("{what}-name"), reference.name.clone());
            extra(&format!("{what}-uid"), reference.uid.clone());
        }
    }
    user
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine as _;

    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    pub fn signer() -> Tokens {
        let key = apiserver::certs::issue::key().unwrap();
        Tokens::new(ISSUER, &key, &apiserver::certs::issue::public(&key).unwrap()).unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn reference(name: &str, uid: &str) -> Reference {
        Reference { name: name.into(), uid: uid.into() }
    }

    fn claims() -> Claims {
        let at = now().as_second();
        Claims {
            aud: Audiences(vec![ISSUER.into()]),
            exp: at + 600,
            iat: at,
            iss: ISSUER.into(),
            jti: "j".into(),
            bound: Bound { namespace: "a".into(), serviceaccount: reference("robot", "u1"), ..Bound::default() },
            nbf: at,
            sub: "system:serviceaccount:a:robot".into(),
        }
    }

    fn find(resource: &str, key: &Key) -> Option<Found> {
        let uid = match (resource, key.namespace.as_str(), key.name.as_str()) {
            ("serviceaccounts", "a", "robot") => "u1",
            ("pods", "a", "web") => "u2",
            ("nodes", "", "n") => "u3",
            ("pods", "a", "dying") => return Some(Found { uid: "u4".into(), deleted: Some(now().as_second() - 61) }),
            _ => return None,
        };
        Some(Found { uid: uid.into(), deleted: None })
    }

    fn verdict(tokens: &Tokens, claims: &Claims) -> Result<Option<Known>, String> {
        tokens.verify(&tokens.sign(claims).unwrap(), &[], now(), &find)
    }

    #[test]
    fn a_good_token_is_a_user() {
        let mut claims = claims();
        claims.bound.pod = Some(reference("web", "u2"));
        claims.bound.node = Some(reference("gone", "any"));
        let Known { user, audiences } = verdict(&signer(), &claims).unwrap().unwrap();
        assert_eq!(audiences, [ISSUER]);
        assert_eq!(user.name, "system:serviceaccount:a:robot");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["gone"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
    }

    #[test]
    fn what_does_not_hold_is_refused_in_upstreams_words() {
        type Change = fn(&mut Claims);
        let cases: [(Change, &str); 10] = [
            (|c| c.exp = now().as_second() - 61, "service account token has expired"),
            (|c| c.nbf = now().as_second() + 61, "service account token is not valid yet"),
            (|c| c.iat = now().as_second() + 61, "service account token is issued in the future"),
            (|c| c.aud = Audiences(vec!["x".into()]), "token audiences [\"x\"] is invalid for the target audiences"),
            (|c| c.bound.serviceaccount.uid = "old".into(), "service account UID (u1) does not match claim (old)"),
            (|c| c.bound.serviceaccount.name = "none".into(), "not found"),
            (|c| c.bound.pod = Some(reference("web", "old")), "Pod UID (u2) does not match service account pod ref claim (old)"),
            (|c| c.bound.pod = Some(reference("none", "x")), "service account token has been invalidated"),
            (|c| c.bound.pod = Some(reference("dying", "u4")), "service account token has been invalidated"),
            (|c| c.bound.node = Some(reference("n", "old")), "Node UID (u3) does not match"),
        ];
        let tokens = signer();
        for (change, why) in cases {
            let mut claims = claims();
            change(&mut claims);
            let error = verdict(&tokens, &claims).unwrap_err();
            assert!(error.contains(why), "{error} lacks {why}");
        }
    }

    #[test]
    fn an_audience_that_is_asked_for_must_be_there() {
        let tokens = signer();
        let token = tokens.sign(&claims()).unwrap();
        assert!(tokens.verify(&token, &["vault".into()], now(), &find).is_err());
        let mut other = claims();
        other.aud = Audiences(vec!["vault".into()]);
        assert!(tokens.verify(&tokens.sign(&other).unwrap(), &["vault".into()], now(), &find).unwrap().is_some());
    }

    #[test]
    fn several_issuers_and_keys_are_accepted_and_the_first_makes_tokens() {
        let (old, new) = (signer(), signer());
        let pem = apiserver::certs::issue::key().unwrap();
        let both = Tokens::of(TokensConfig {
            issuers: vec!["https://new".into(), ISSUER.into()],
            audiences: vec!["api".into(), ISSUER.into()],
            signing: SigningKey::of_pem(pem.as_bytes()).unwrap(),
            keys: [&old, &new].into_iter().flat_map(|tokens| tokens.config.keys.clone()).collect(),
            seconds_max: None,
            extends: true,
        });
        assert_eq!(both.issuer(), "https://new");
        for signer in [&old, &new] {
            let known = both.verify(&signer.sign(&claims()).unwrap(), &[], now(), &find).unwrap().unwrap();
            assert_eq!(known.audiences, [ISSUER]);
        }
        assert_eq!(both.verify(&both.sign(&claims()).unwrap(), &[], now(), &find).unwrap_err(), "invalid signature, no keys found");
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
        let mut nobodys = claims();
        nobodys.aud = Audiences::default();
        let known = both.verify(&old.sign(&nobodys).unwrap(), &["api".into(), "vault".into()], now(), &find).unwrap().unwrap();
        assert_eq!(known.audiences, ["api"], "a token without audiences is for the API server");
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (tokens, other) = (signer(), signer());
        assert!(tokens.verify(&other.sign(&claims()).unwrap(), &[], now(), &find).is_err(), "signed with another key");
        let good = tokens.sign(&claims()).unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let b64 = |v: Value| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
        let mut more = claims();
        more.bound.serviceaccount.name = "admin".into();
        let swapped = format!("{}.{}.{}", parts[0], b64(serde_json::to_value(more).unwrap()), parts[2]);
        assert!(tokens.verify(&swapped, &[], now(), &find).is_err(), "claims swapped");
        for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "None", "typ": "JWT"})] {
            for signature in ["", parts[2]] {
                let forged = format!("{}.{}.{signature}", b64(header.clone()), parts[1]);
                assert!(tokens.verify(&forged, &[], now(), &find).is_err(), "{header} {signature}");
            }
        }
    }

    #[test]
    fn foreign_tokens_are_left_to_others() {
        let tokens = signer();
        let mut foreign = claims();
        foreign.iss = "https://elsewhere".into();
        for token in [tokens.sign(&foreign).unwrap(), "abcdef.0123456789abcdef".into(), "a.b.c".into(), String::new(), "....".into()] {
            assert_eq!(tokens.verify(&token, &[], now(), &find), Ok(None), "{token}");
        }
    }

    #[test]
    fn the_key_set_names_the_signing_key() {
        let tokens = signer();
        let token = tokens.sign(&claims()).unwrap();
        let compact = Compact::parse(&token).unwrap();
        let keys = tokens.jwks();
        let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == compact.key_id).unwrap();
        assert!(PublicKey::of_jwk(key).unwrap().has_signed(&compact));
    }
}
