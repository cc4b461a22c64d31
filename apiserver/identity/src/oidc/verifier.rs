//! An issuer -> its keys, fetched and fetched again; a token -> its claims, once one of them has signed it. Source: coreos/go-oidc.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use api::{flight::Flight, task::Group, time::Timestamp};
use apiserver::jws::{Algorithm, Compact, PublicKey};
use arc_swap::ArcSwapOption;
use http::Uri;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout};

use super::Issuer;
use crate::remote::{Remote, Turns, authorities};

/// How long an issuer may take for one answer (upstream: 30 s).
const FETCH_BOUND: Duration = Duration::from_secs(30);
/// How long one request waits for an issuer.
const WAIT_BOUND: Duration = Duration::from_secs(10);
/// Between attempts to find out about an issuer.
const INITIAL_PAUSE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Keys are not asked for again sooner after an answer: whoever makes up tokens names keys that nobody has.
const REFETCH_PAUSE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 256;
/// Clocks may differ by this much, for `nbf`.
const LEEWAY_SECONDS: i64 = 60;

/// One issuer.
pub struct Verifier {
    issuer: String,
    discovery: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    authorities: Option<Vec<CertificateDer<'static>>>,
    group: Group,
    found: ArcSwapOption<Found>,
    /// Why there are no keys yet.
    trouble: Mutex<String>,
    /// Goes on when whoever was the first to ask went away: who makes up a token and hangs up keeps nobody from learning new keys.
    fetching: Flight<Fetched>,
    /// When that last ended.
    fetched: Mutex<Option<Instant>>,
    /// Of what is asked for on behalf of tokens.
    turns: Turns,
}

type Fetched = Result<Arc<Found>, String>;

/// What its discovery and its key set say.
struct Found {
    keys_url: String,
    keys: Vec<PublicKey>,
}

impl Verifier {
    pub fn new(issuer: &Issuer, algorithms: &[Algorithm], group: &Group) -> Result<Self, String> {
        let authorities = Some(issuer.certificate_authority.as_str()).filter(|pem| !pem.is_empty()).map(authorities).transpose()?;
        Ok(Self {
            issuer: issuer.url.clone(),
            discovery: if issuer.discovery_url.is_empty() { well_known(&issuer.url) } else { issuer.discovery_url.clone() },
            audiences: issuer.audiences.clone(),
            algorithms: algorithms.to_vec(),
            authorities,
            group: group.clone(),
            found: ArcSwapOption::empty(),
            trouble: Mutex::new("not initialized".into()),
            fetching: Flight::new(group),
            fetched: Mutex::default(),
            turns: Turns::default(),
        })
    }

    /// Another issuer, trusted in the same way.
    pub fn of_other(&self, issuer: &str, group: &Group) -> Self {
        Self {
            issuer: issuer.to_owned(),
            discovery: well_known(issuer),
            audiences: self.audiences.clone(),
            algorithms: self.algorithms.clone(),
            authorities: self.authorities.clone(),
            group: group.clone(),
            found: ArcSwapOption::empty(),
            trouble: Mutex::default(),
            fetching: Flight::new(group),
            fetched: Mutex::default(),
            turns: self.turns.clone(),
        }
    }

    pub fn health(&self) -> Result<(), String> {
        if self.found.load().is_some() { Ok(()) } else { Err(self.trouble.lock().clone()) }
    }

    /// Whether it is known who it is.
    pub fn is_known(&self) -> bool {
        self.found.load().is_some()
    }

    /// Finds out about the issuer, unless that is known.
    pub async fn load(self: &Arc<Self>) -> Result<(), String> {
        let known = || match self.found.load_full() {
            Some(found) => Some(Ok(found)),
            None if self.is_resting() => Some(Err(self.trouble.lock().clone())),
            None => None,
        };
        self.fetched(known).await.map(drop)
    }

    /// What is `known`, or what the issuer says now; one asks at a time, and all who come meanwhile take what it learns.
    async fn fetched(self: &Arc<Self>, known: impl FnOnce() -> Option<Fetched>) -> Fetched {
        let this = self.clone();
        let fetch = || async move {
            let fetched = match this.found.load_full() {
                None => this.discover().await,
                Some(before) => this.keys(&before.keys_url).await.map(|keys| Found { keys_url: before.keys_url.clone(), keys }),
            };
            let fetched = fetched.map(Arc::new);
            match &fetched {
                Ok(found) => this.found.store(Some(found.clone())),
                Err(why) => {
                    this.trouble.lock().clone_from(why);
                    if this.found.load().is_some() {
                        let (issuer, error) = (&this.issuer, why);
                        tracing::warn!(issuer, error, "failed to fetch the keys of an issuer; those that are known are kept");
                    }
                }
            }
            *this.fetched.lock() = Some(Instant::now());
            fetched
        };
        let waited = timeout(WAIT_BOUND, self.fetching.join((), known, fetch)).await;
        waited.unwrap_or_else(|_| Ok(Err("context deadline exceeded".into()))).unwrap_or_else(|lost| Err(lost.to_string()))
    }

    fn is_resting(&self) -> bool {
        self.fetched.lock().is_some_and(|ended| ended.elapsed() < REFETCH_PAUSE)
    }

    async fn discover(&self) -> Result<Found, String> {
        let configuration: Value = serde_json::from_slice(&self.fetch(&self.discovery, None, &Turns::default()).await?)
            .map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
        let text = |name: &str| configuration[name].as_str().unwrap_or_default();
        if text("issuer") != self.issuer {
            let (wanted, got) = (&self.issuer, text("issuer"));
            return Err(format!("oidc: issuer did not match the issuer returned by provider, expected {wanted:?} got {got:?}"));
        }
        let keys_url = text("jwks_uri");
        if keys_url.is_empty() {
            return Err("provider did not return JWKS URL".into());
        }
        let keys = self.keys(keys_url).await?;
        Ok(Found { keys_url: keys_url.to_owned(), keys })
    }

    async fn keys(&self, url: &str) -> Result<Vec<PublicKey>, String> {
        let set = self.fetch(url, None, &Turns::default()).await?;
        let set: Value = serde_json::from_slice(&set).map_err(|error| format!("oidc: failed to decode keys: {error}"))?;
        let keys = set["keys"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(keys.iter().take(KEYS_MAX).filter_map(PublicKey::of_jwk).collect())
    }

    /// What stands at a URL that a token of this issuer names.
    pub async fn fetch_for_token(&self, url: &str, bearer: Option<&str>) -> Result<Vec<u8>, String> {
        self.fetch(url, bearer, &self.turns).await
    }

    /// What stands at a URL of https; redirects are not followed.
    async fn fetch(&self, url: &str, bearer: Option<&str>, turns: &Turns) -> Result<Vec<u8>, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{url}: URL scheme must be https"));
        }
        let remote = Remote::of_origin(&uri, self.authorities.as_deref(), turns, &self.group).map_err(|why| format!("{url}: {why}"))?;
        remote.get(bearer, FETCH_BOUND).await.map_err(|error| format!("Get {url:?}: {error}"))
    }

    /// The claims of a token that this issuer has signed, for one of the audiences, and that holds now.
    pub async fn verify(self: &Arc<Self>, token: &str) -> Result<Map<String, Value>, String> {
        let Some(found) = self.found.load_full() else { return Err("oidc: authenticator not initialized".into()) };
        let compact = Compact::parse(token).ok_or("oidc: malformed jwt: no compact JWS of an algorithm that keys have")?;
        if !self.algorithms.contains(&compact.algorithm) {
            let names: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            return Err(format!("oidc: id token signed with unsupported algorithm, expected {names:?} got {:?}", compact.algorithm.name()));
        }
        let claims: Map<String, Value> =
            serde_json::from_slice(&compact.payload).map_err(|error| format!("oidc: failed to unmarshal claims: {error}"))?;
        self.check(&claims, Timestamp::now().as_second())?;
        if has_signed(&found.keys, &compact) {
            return Ok(claims);
        }
        // Its key may be a new one.
        let keys = self.newer(&found).await.map_err(|why| format!("fetching keys: {why}"))?;
        if keys.is_some_and(|found| has_signed(&found.keys, &compact)) {
            return Ok(claims);
        }
        Err("failed to verify signature: failed to verify id token signature".into())
    }

    /// Keys that were fetched since `known`, if they may be.
    async fn newer(self: &Arc<Self>, known: &Arc<Found>) -> Result<Option<Arc<Found>>, String> {
        let is_newer = |found: &Arc<Found>| !Arc::ptr_eq(found, known);
        let ready = || match self.found.load_full() {
            Some(found) if is_newer(&found) || self.is_resting() => Some(Ok(found)),
            _ => None,
        };
        self.fetched(ready).await.map(|found| Some(found).filter(is_newer))
    }

    fn check(&self, claims: &Map<String, Value>, now: i64) -> Result<(), String> {
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        if issuer != self.issuer && !(issuer == "accounts.google.com" && self.issuer == "https://accounts.google.com") {
            return Err(format!("oidc: id token issued by a different provider, expected {:?} got {issuer:?}", self.issuer));
        }
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !audiences.iter().any(|audience| self.audiences.iter().any(|own| own == audience)) {
            return Err(format!("oidc: expected audience in {:?} got {audiences:?}", self.audiences));
        }
        if expiry(claims).is_none_or(|until| until < now) {
            return Err("oidc: token is expired".into());
        }
        if seconds(claims, "nbf").is_some_and(|from| now.saturating_add(LEEWAY_SECONDS) < from) {
            return Err("oidc: current time is before the nbf (not before) time".into());
        }
        Ok(())
    }
}

/// Until when a token holds, in seconds since the epoch.
pub fn expiry(claims: &Map<String, Value>) -> Option<i64> {
    seconds(claims, "exp")
}

fn seconds(claims: &Map<String, Value>, name: &str) -> Option<i64> {
    let number = claims.get(name)?;
    number.as_i64().or_else(|| number.as_f64().map(|number| number as i64))
}

fn has_signed(keys: &[PublicKey], compact: &Compact<'_>) -> bool {
    let named = |key: &&PublicKey| compact.key_id.is_empty() || key.id() == compact.key_id;
    keys.iter().filter(named).any(|key| key.has_signed(compact))
}

fn well_known(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Asks until the issuer is known, or nobody wants to know any more.
pub async fn initialize(verifier: Weak<Verifier>) {
    while let Some(verifier) = verifier.upgrade() {
        match verifier.load().await {
            Ok(()) => return,
            Err(error) => tracing::error!(issuer = verifier.issuer, error, "oidc authenticator: initializing plugin"),
        }
        drop(verifier);
        sleep(INITIAL_PAUSE).await;
    }
}
