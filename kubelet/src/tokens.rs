//! Pods -> service account tokens bound to them: asked for once, kept, and renewed well before they expire.
//!
//! Source: `pkg/kubelet/token/token_manager.go`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Pod, ServiceAccount},
    },
    time::Timestamp,
};
use client::kube::{self, Api, api::PostParams};
use parking_lot::Mutex;

use crate::{meta, turns::Turns};

/// A token is renewed after a day even if it lives longer.
const AGE_MAX_SECONDS: i64 = 24 * 3600;
/// Renewals of tokens made together are spread over this.
const JITTER_SECONDS: i64 = 10;
/// How long a request may take.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// Requests of this node at a time; those that wait for their turn when one is not answered are not answered either.
const REQUESTS_MAX: usize = 8;

/// Tokens of this node's pods. Clones share them.
#[derive(Clone)]
pub struct Tokens {
    client: kube::Client,
    cache: Arc<Mutex<HashMap<TokenKey, CachedToken>>>,
    turns: Arc<Turns>,
}

/// What a token is for. Contains nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenKey {
    account: Key,
    pod_name: String,
    pod_uid: String,
    audience: String,
    seconds: i64,
    /// Nobody is told when it is to be renewed.
    is_asked_for: bool,
}

#[derive(Clone)]
struct CachedToken {
    token: String,
    expires: Timestamp,
    renew: Timestamp,
}

impl Tokens {
    pub fn new(client: kube::Client) -> Self {
        Self { client, cache: Arc::default(), turns: Arc::new(Turns::new(REQUESTS_MAX)) }
    }

    /// A token for the pod's service account, bound to the pod. `audience` empty: the API server's own. Living `seconds`, if the server agrees.
    ///
    /// # Errors
    /// Upstream's words, where there is none and none is given.
    pub async fn get(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String> {
        self.current(TokenKey::of(pod, audience, seconds)).await.map(|(token, _)| token)
    }

    /// The same, and when it expires. Nobody is told when it is to be renewed: who asks asks again.
    ///
    /// # Errors
    /// As [`Tokens::get`].
    pub async fn get_with_expiry(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<(String, Timestamp), String> {
        self.current(TokenKey { is_asked_for: true, ..TokenKey::of(pod, audience, seconds) }).await
    }

    async fn current(&self, key: TokenKey) -> Result<(String, Timestamp), String> {
        let cached = self.cache.lock().get(&key).cloned();
        let now = Timestamp::now();
        if let Some(cached) = cached.as_ref().filter(|h| now < h.renew) {
            return Ok((cached.token.clone(), cached.expires));
        }
        match self.request(&key).await {
            Ok(fresh) => {
                let token = (fresh.token.clone(), fresh.expires);
                self.cache.lock().insert(key, fresh);
                Ok(token)
            }
            Err(why) => match cached {
                None => Err(format!("failed to fetch token: {why}")),
                Some(cached) if cached.expires <= now => Err(format!("token {} expired and refresh failed: {why}", key.account)),
                Some(cached) => {
                    tracing::warn!(account = %key.account, pod = key.pod_name, error = why, "failed to refresh token; using the cached one");
                    Ok((cached.token, cached.expires))
                }
            },
        }
    }

    /// Drops the tokens of a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.cache.lock().retain(|key, _| key.pod_uid != pod_uid);
    }

    /// The uids of the pods that have a token to renew.
    pub fn due(&self, now: Timestamp) -> HashSet<String> {
        let cache = self.cache.lock();
        cache.iter().filter(|(key, cached)| !key.is_asked_for && cached.renew <= now).map(|(key, _)| key.pod_uid.clone()).collect()
    }

    /// How long until the first token is to be renewed; `None` without tokens.
    pub fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let first = self.cache.lock().iter().filter(|(key, _)| !key.is_asked_for).map(|(_, cached)| cached.renew).min()?;
        // A renewal that failed is due still: never again at once.
        Some(Duration::try_from(first.duration_since(now)).unwrap_or_default().max(Duration::from_secs(1)))
    }

    async fn request(&self, key: &TokenKey) -> Result<CachedToken, String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.account.namespace);
        let (body, params) = (key.request(), PostParams::default());
        let answer = accounts.create_token_request(&key.account.name, &params, &body);
        let answer = self.turns.within(REQUEST_WAIT, answer).await.map_err(|_| "timed out".to_owned())?;
        let answer = answer.map_err(|error| said(&error))?;
        let status = answer.status.ok_or("the answer has no status")?;
        let expires = status.expiration_timestamp.ok_or("the answer has no expiration")?.0;
        let token = status.token.filter(|t| !t.is_empty()).ok_or("the answer has no token")?;
        let seconds = answer.spec.and_then(|s| s.expiration_seconds).unwrap_or(key.seconds);
        let jitter = rand::random_range(0..JITTER_SECONDS);
        Ok(CachedToken { token, expires, renew: renew_at(expires, seconds, jitter) })
    }
}

impl TokenKey {
    fn of(pod: &Pod, audience: &str, seconds: i64) -> Self {
        let account = meta::spec(pod).and_then(|s| s.service_account_name.as_deref()).filter(|n| !n.is_empty());
        Self {
            account: Key::new(meta::namespace(pod), account.unwrap_or("default")),
            pod_name: meta::name(pod).to_owned(),
            pod_uid: meta::uid(pod).to_owned(),
            is_asked_for: false,
            audience: audience.to_owned(),
            seconds,
        }
    }

    fn request(&self) -> TokenRequest {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.pod_name.clone()),
            uid: Some(self.pod_uid.clone()),
        };
        let audiences = if self.audience.is_empty() { Vec::new() } else { vec![self.audience.clone()] };
        let spec = TokenRequestSpec { audiences: Some(audiences), bound_object_ref: Some(bound), expiration_seconds: Some(self.seconds) };
        TokenRequest { spec: Some(spec), ..TokenRequest::default() }
    }
}

/// What the server said, where it was the server: users read it in events.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// After four fifths of its life, or a day: whichever is first.
fn renew_at(expires: Timestamp, life_seconds: i64, jitter_seconds: i64) -> Timestamp {
    let expiry = expires.as_second();
    let late = expiry - life_seconds * 20 / 100 - jitter_seconds;
    let old = expiry - life_seconds + AGE_MAX_SECONDS - jitter_seconds;
    Timestamp::from_second(late.min(old)).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn renewal_is_at_four_fifths_or_a_day() {
        let at = |life: i64| renew_at(Timestamp::from_second(1_000_000 + life).unwrap(), life, 0).as_second() - 1_000_000;
        assert_eq!(at(3600), 2880);
        assert_eq!(at(600), 480);
        assert_eq!(at(7 * 24 * 3600), 24 * 3600);
        assert_eq!(renew_at(Timestamp::from_second(3600).unwrap(), 3600, 5).as_second(), 2875);
    }

    #[test]
    fn requests_are_bound_to_the_pod() {
        let request = TokenKey::of(&pod(r#"{"containers":[],"serviceAccountName":"sa"}"#), "aud", 600).request();
        let spec = request.spec.unwrap();
        assert_eq!(spec.audiences.unwrap(), ["aud"]);
        assert_eq!(spec.expiration_seconds, Some(600));
        let bound = spec.bound_object_ref.unwrap();
        assert_eq!((bound.kind.as_deref(), bound.name.as_deref(), bound.uid.as_deref()), (Some("Pod"), Some("web"), Some("u1")));
        assert_eq!(TokenKey::of(&pod(r#"{"containers":[]}"#), "", 1).account, Key::new("default", "default"));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_all_pods_wait_for_a_silent_server_once() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let tokens = Tokens::new(kube::Client::new(silent, "default"));
        let p = pod(r#"{"containers":[]}"#);
        let begun = tokio::time::Instant::now();
        let all = futures::future::join_all((0..200).map(|seconds| tokens.get(&p, "", 600 + seconds))).await;
        assert!(all.iter().all(|one| *one == Err("failed to fetch token: timed out".to_owned())), "{all:?}");
        assert!(begun.elapsed() < REQUEST_WAIT * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_token_is_asked_for_once() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/default/serviceaccounts/default/token");
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async {
                let expires = api::time::rfc3339(Timestamp::now() + jiff::SignedDuration::from_secs(3600));
                let body = format!(
                    r#"{{"metadata":{{}},"spec":{{"audiences":[],"expirationSeconds":3600}},"status":{{"token":"t","expirationTimestamp":"{expires}"}}}}"#
                );
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(body.into_bytes())))
            }
        });
        let tokens = Tokens::new(kube::Client::new(server, "default"));
        let p = pod(r#"{"containers":[]}"#);
        assert_eq!(tokens.get(&p, "", 3600).await.as_deref(), Ok("t"));
        assert_eq!(tokens.get(&p, "", 3600).await.as_deref(), Ok("t"));
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        let next = tokens.next_due(Timestamp::now()).unwrap().as_secs();
        assert!((2800..=2880).contains(&next), "{next}");
        assert!(tokens.due(Timestamp::now()).is_empty());
        tokens.forget("u1");
        assert!(tokens.next_due(Timestamp::now()).is_none());
    }
}
