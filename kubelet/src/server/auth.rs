//! A request and who brings it -> may it pass? Certificates are judged here, all else by the API server's reviews.
//!
//! Source: `pkg/kubelet/server/auth.go`, `InstallAuthFilter` in `server.go`.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use api::k8s::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use client::kube::{self, Api, api::PostParams};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::route::RequestInfo as Question;

/// The API server's own certificate, as kubeadm names it.
const APISERVER: &str = "kube-apiserver-kubelet-client";
const MASTERS: &str = "system:masters";
/// How long answers hold: upstream's `authentication.webhook.cacheTTL`, `authorization.webhook.cache{Authorized,Unauthorized}TTL`.
const KNOWN: Duration = Duration::from_secs(120);
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
/// Answers kept at a time.
const CACHE_MAX: usize = 1024;
/// How long a review may take.
const REVIEW_WAIT: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Why a request does not pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: StatusCode,
    pub text: String,
}

type RequestInfo = (User, &'static str, &'static str);

/// Authentication and authorization, with what was answered lately.
pub struct Auth {
    client: kube::Client,
    node_name: String,
    users: Recent<[u8; 32], User>,
    decisions: Recent<RequestInfo, bool>,
}

struct Recent<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl Auth {
    pub fn new(client: kube::Client, node_name: &str) -> Self {
        Self { client, node_name: node_name.into(), users: Recent::new(), decisions: Recent::new() }
    }

    /// # Errors
    /// 401 for who is not known, 403 for what is not allowed, 500 where the API server does not answer.
    pub async fn pass(&self, headers: &HeaderMap, asked: &Question, peer: Option<&User>) -> Result<(), Refused> {
        let user = match (peer, bearer(headers)) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) => self.known(token).await?,
            (None, None) => return Err(unauthorized()),
        };
        tracing::Span::current().record("user", user.name.as_str());
        if user.name == APISERVER || user.groups.iter().any(|g| g == MASTERS) {
            return Ok(());
        }
        let Question { verb, subresources, .. } = *asked;
        for subresource in subresources {
            if self.allowed(&user, verb, subresource).await? {
                return Ok(());
            }
        }
        let list = subresources.join(" ");
        let name = &user.name;
        let text = format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{list}])\n");
        Err(Refused { code: StatusCode::FORBIDDEN, text })
    }

    async fn known(&self, token: &str) -> Result<User, Refused> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(user) = self.users.get(&digest) {
            return Ok(user);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = within(api.create(&PostParams::default(), &review)).await.ok_or_else(unauthorized)?;
        let status = answer.status.filter(|s| s.authenticated == Some(true)).ok_or_else(unauthorized)?;
        let info = status.user.ok_or_else(unauthorized)?;
        let user = User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default().into_iter().collect(),
        };
        self.users.put(digest, user.clone(), KNOWN);
        Ok(user)
    }

    async fn allowed(&self, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, Refused> {
        let key = (user.clone(), verb, subresource);
        if let Some(decision) = self.decisions.get(&key) {
            return Ok(decision);
        }
        let text = || format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = self.review(user, verb, subresource);
        let answer = within(api.create(&PostParams::default(), &review)).await;
        let answer = answer.ok_or_else(|| Refused { code: StatusCode::INTERNAL_SERVER_ERROR, text: text() })?;
        let decision = answer.status.is_some_and(|s| s.allowed);
        self.decisions.put(key, decision, if decision { ALLOWED } else { DENIED });
        Ok(decision)
    }

    fn review(&self, user: &User, verb: &str, subresource: &str) -> SubjectAccessReview {
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(subresource.into()),
            name: Some(self.node_name.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { spec, ..SubjectAccessReview::default() }
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let held = self.0.lock();
        held.get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, hold: Duration) {
        let mut held = self.0.lock();
        let now = Instant::now();
        if held.len() >= CACHE_MAX {
            held.retain(|_, (_, until)| now < *until);
        }
        if held.len() >= CACHE_MAX {
            held.clear();
        }
        held.insert(key, (value, now + hold));
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthorized() -> Refused {
    Refused { code: StatusCode::UNAUTHORIZED, text: "Unauthorized".into() }
}

/// `None`: refused, broken, or too late; logged.
async fn within<T>(review: impl Future<Output = Result<T, kube::Error>>) -> Option<T> {
    match tokio::time::timeout(REVIEW_WAIT, review).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, "TokenReview or SubjectAccessReview failed");
            None
        }
        Err(_) => {
            tracing::warn!("TokenReview or SubjectAccessReview timed out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// An API server that knows the token `good` as `alice`, who may see metrics.
    fn auth() -> (Auth, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let tokens = request.uri().path().ends_with("/tokenreviews");
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
                sent["status"] = if tokens {
                    serde_json::json!({"authenticated": sent["spec"]["token"] == "good", "user": {"username": "alice"}})
                } else {
                    let attributes = &sent["spec"]["resourceAttributes"];
                    assert_eq!((attributes["resource"].as_str(), attributes["name"].as_str()), (Some("nodes"), Some("n1")));
                    serde_json::json!({"allowed": sent["spec"]["user"] == "alice" && attributes["subresource"] == "metrics"})
                };
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(sent.to_string().into_bytes())))
            }
        });
        (Auth::new(kube::Client::new(server, "default"), "n1"), asked)
    }

    async fn code(auth: &Auth, path: &str, token: Option<&str>, peer: Option<&User>) -> u16 {
        let mut request = http::Request::builder().uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(()).unwrap();
        let asked = Question::new(request.method(), request.uri().path());
        auth.pass(request.headers(), &asked, peer).await.map_or_else(|r| r.code.as_u16(), |()| 200)
    }

    #[tokio::test]
    async fn only_who_may_passes() {
        let (auth, _) = auth();
        let user = |name: &str, groups: &[&str]| User {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        };
        assert_eq!(code(&auth, "/pods", None, None).await, 401);
        assert_eq!(code(&auth, "/pods", Some("bad"), None).await, 401);
        assert_eq!(code(&auth, "/pods", Some("good"), None).await, 403);
        assert_eq!(code(&auth, "/metrics", Some("good"), None).await, 200);
        assert_eq!(code(&auth, "/exec/a/b/c", None, Some(&user(APISERVER, &[]))).await, 200);
        assert_eq!(code(&auth, "/exec/a/b/c", None, Some(&user("admin", &[MASTERS]))).await, 200);
        assert_eq!(code(&auth, "/exec/a/b/c", None, Some(&user("alice", &[]))).await, 403);
        assert_eq!(code(&auth, "/metrics", None, Some(&user("alice", &[]))).await, 200);
    }

    #[tokio::test]
    async fn answers_are_kept_for_a_while() {
        let (auth, asked) = auth();
        for _ in 0..3 {
            assert_eq!(code(&auth, "/metrics", Some("good"), None).await, 200);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
