//! An issuer -> its keys, fetched and fetched again; a token -> its claims, once one of them has signed it. Source: coreos/go-oidc.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use api::{task::Group, time::Timestamp};
use apiserver::jws::{Algorithm, Compact, PublicKey};
use arc_swap::ArcSwapOption;
use http::Uri;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep, timeout},
};

use super::Issuer;
use crate::remote::{Remote, authorities};

/// How long an issuer may take for one answer (upstream: 30 s).
const FETCH_BOUND: Duration = Duration::from_secs(30);
/// How long one request waits for an issuer.
const WAIT_BOUND: Duration = Duration::from_secs(10);
/// Between attempts to find out about an issuer.
const INITIAL_PAUSE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Keys are not asked for again sooner: whoever makes up tokens names keys that nobody has.
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
    /// Who fetches; when that was last done.
    fetching: Turn<Option<Instant>>,
}

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
            fetching: Turn::default(),
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
            fetching: Turn::default(),
        }
    }

    pub fn health(&self) -> Result<(), String> {
        if self.found.load().is_some() { Ok(()) } else { Err(self.trouble.lock().clone()) }
    }

    /// Finds out about the issuer, unless that is known.
    pub async fn load(&self) -> Result<(), String> {
        if self.found.load().is_some() {
            return Ok(());
        }
        let loaded = timeout(WAIT_BOUND, async {
            let mut last = self.fetching.lock().await;
            if self.found.load().is_some() {
                return Ok(());
            }
            if last.is_some_and(|last| last.elapsed() < REFETCH_PAUSE) {
                return Err(self.trouble.lock().clone());
            }
            *last = Some(Instant::now());
            self.discover().await
        });
        let loaded = loaded.await.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        if let Err(why) = &loaded {
            self.trouble.lock().clone_from(why);
        }
        loaded
    }

    async fn discover(&self) -> Result<(), String> {
        let configuration: Value = serde_json::from_slice(&self.fetch(&self.discovery, None).await?)
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
        self.found.store(Some(Arc::new(Found { keys_url: keys_url.to_owned(), keys })));
        Ok(())
    }

    async fn keys(&self, url: &str) -> Result<Vec<PublicKey>, String> {
        let set: Value =
            serde_json::from_slice(&self.fetch(url, None).await?).map_err(|error| format!("oidc: failed to decode keys: {error}"))?;
        let keys = set["keys"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(keys.iter().take(KEYS_MAX).filter_map(PublicKey::of_jwk).collect())
    }

    /// What stands at a URL of https; redirects are not followed.
    pub async fn fetch(&self, url: &str, bearer: Option<&str>) -> Result<Vec<u8>, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{url}: URL scheme must be https"));
        }
        let remote = Remote::of_origin(&uri, self.authorities.as_deref(), &self.group).map_err(|why| format!("{url}: {why}"))?;
        remote.get(bearer, FETCH_BOUND).await.map_err(|error| format!("Get {url:?}: {error}"))
    }

    /// The claims of a token that this issuer has signed, for one of the audiences, and that holds now.
    pub async fn verify(&self, token: &str) -> Result<Map<String, Value>, String> {
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
        let keys = timeout(WAIT_BOUND, self.newer(&found)).await.map_err(|_| "fetching keys: context deadline exceeded")?;
        if keys.is_some_and(|found| has_signed(&found.keys, &compact)) {
            return Ok(claims);
        }
        Err("failed to verify signature: failed to verify id token signature".into())
    }

    /// Keys that were fetched since `known`, if they may be.
    async fn newer(&self, known: &Arc<Found>) -> Option<Arc<Found>> {
        let mut last = self.fetching.lock().await;
        let now = self.found.load_full()?;
        if !Arc::ptr_eq(&now, known) {
            return Some(now);
        }
        if last.is_some_and(|last| last.elapsed() < REFETCH_PAUSE) {
            return None;
        }
        *last = Some(Instant::now());
        match self.keys(&known.keys_url).await {
            Ok(keys) => {
                let found = Arc::new(Found { keys_url: known.keys_url.clone(), keys });
                self.found.store(Some(found.clone()));
                Some(found)
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer, error, "failed to fetch the keys of an issuer; those that are known are kept");
                None
            }
        }
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
