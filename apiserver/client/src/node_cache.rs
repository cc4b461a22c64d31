//! What a server told of the collections that a node watches -> files; and where no server answers, the same again out of them.
//!
//! It stands between a client and its transport, so that nobody above knows of it: a watch that begins with a list is kept as it comes, and
//! begins with what was kept where no server is reached; it ends with the revision of that, from which the watch goes on once a server is there,
//! as after any other break. Tokens of service accounts are kept as well: a pod that mounts one cannot start without.
//!
//! Its files hold Secrets. They are for their owner alone, and not encrypted: a key would have to lie beside them
//! (docs/decisions/what-a-node-keeps.md).

mod entry;
mod event;
mod journal;
mod tee;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use api::task::Group;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::Notify, time::Instant};
use tower::{BoxError, Service};

use entry::Entry;
use tee::{News, Tee};

/// Changes are written at most so often, each object once: cards wear out.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// What nobody asked for so long is removed.
const FORGET_AFTER: Duration = Duration::from_secs(25 * 3600);
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Collections, single objects and tokens that are kept. Where there are more, those that were not asked for for longest make room; none that is watched.
const ENTRIES_MAX: usize = 4096;
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(60);
/// A token's answer is no larger.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// The watch of this node's pods begins so.
const PODS: &str = "/api/v1/pods?";
/// The collections whose watches are kept: what a node sees.
const COLLECTIONS: [&str; 6] = ["pods", "nodes", "services", "configmaps", "secrets", "endpointslices"];

/// The files of one node. Cloning shares them.
#[derive(Clone)]
pub struct NodeCache(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    doomed: Mutex<Doomed>,
    dirty: Notify,
    /// Until then a server is waited for, before what was kept is taken.
    waits_until: Instant,
    /// A server has answered since the start.
    met: AtomicBool,
}

/// Files that are to go, unless they are an entry's again.
#[derive(Default)]
struct Doomed {
    paths: Vec<PathBuf>,
    /// Tokens of all pods but these, also of earlier runs: the beginnings of their names.
    tokens_but: Option<HashSet<String>>,
}

/// A transport whose answers are kept.
#[derive(Clone)]
pub struct Cached<S> {
    inner: S,
    cache: NodeCache,
}

/// A body, whoever tells it.
pub type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// What of a request concerns us.
enum Asked {
    /// A watch that begins with a list.
    Listing(String),
    /// A watch that goes on from a revision.
    Resuming(String, String),
    /// A token; the body of its request is part of the name.
    Token(TokenKey),
    Other,
}

impl NodeCache {
    /// Makes the directory where it is missing, for its owner alone; changes are written while `group` lives, and when it ends.
    /// For `wait` a server is waited for before what was kept is taken.
    ///
    /// # Errors
    /// It cannot be made, or closed to others.
    pub fn open(dir: &Path, wait: Duration, group: &Group) -> io::Result<Self> {
        journal::private_dir(dir)?;
        let shared = Shared {
            dir: dir.to_owned(),
            entries: Mutex::default(),
            doomed: Mutex::default(),
            dirty: Notify::new(),
            waits_until: Instant::now() + wait,
            met: AtomicBool::new(false),
        };
        let cache = Self(Arc::new(shared));
        group.spawn_careful(cache.clone().keep(group.clone()));
        Ok(cache)
    }

    /// The same transport, with answers kept here.
    pub fn over<S>(&self, inner: S) -> Cached<S> {
        Cached { inner, cache: self.clone() }
    }

    async fn keep(self, group: Group) {
        let (mut forget, mut retry) = (Instant::now() + FORGET_EVERY, None::<Instant>);
        loop {
            let due = retry.map_or(forget, |retry| retry.min(forget));
            tokio::select! {
                () = group.stopping() => { self.flush().await; return; },
                () = self.0.dirty.notified(), if retry.is_none() => {}
                () = tokio::time::sleep_until(due) => {
                    if forget <= Instant::now() {
                        forget = Instant::now() + FORGET_EVERY;
                        self.forget().await;
                        continue;
                    }
                }
            }
            if retry.is_none() {
                tokio::select! {
                    () = group.stopping() => {}
                    () = tokio::time::sleep(FLUSH_EVERY) => {}
                }
            }
            // A disk that is full is not asked with every change.
            retry = (!self.flush().await).then(|| Instant::now() + RETRY);
        }
    }

    /// False where something is to be written again.
    async fn flush(&self) -> bool {
        let all: Vec<Arc<Entry>> = self.0.entries.lock().values().cloned().collect();
        let cache = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            cache.remove_doomed();
            // Each is tried, whatever became of the others.
            all.iter().filter(|entry| !entry.flush()).count() == 0
        });
        written.await.unwrap_or_else(|error| {
            tracing::error!(%error, "keeping what servers told failed");
            true
        })
    }

    fn remove_doomed(&self) {
        let Doomed { mut paths, tokens_but } = std::mem::take(&mut *self.0.doomed.lock());
        if let Some(pods) = tokens_but {
            match journal::tokens_but(&self.0.dir, &pods) {
                Ok(tokens) => paths.extend(tokens),
                Err(error) => tracing::warn!(%error, "tokens of pods that are gone cannot be looked for"),
            }
        }
        let needed: HashSet<PathBuf> = self.0.entries.lock().values().map(|entry| entry.path().to_owned()).collect();
        for path in paths.iter().filter(|path| !needed.contains(*path)) {
            let removed = std::fs::remove_file(path);
            if let Err(error) = removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }) {
                tracing::warn!(file = %path.display(), %error, "what is not needed any more cannot be removed");
            }
        }
    }

    /// Removes what nobody needs: also what earlier runs left.
    async fn forget(&self) {
        if !self.0.met.load(Ordering::Relaxed) {
            return;
        }
        self.0.entries.lock().retain(|_, entry| entry.is_open() || entry.idle() < FORGET_AFTER);
        let needed: Vec<PathBuf> = self.0.entries.lock().values().map(|entry| entry.path().to_owned()).collect();
        let dir = self.0.dir.clone();
        let removed = tokio::task::spawn_blocking(move || journal::remove_others(&dir, &needed, FORGET_AFTER)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "what is not needed any more cannot be removed");
        }
    }

    fn entry(&self, key: &str) -> Option<Arc<Entry>> {
        self.entry_of(key, None)
    }

    /// `pod`: whose token it is, by namespace and name.
    fn entry_of(&self, key: &str, pod: Option<&str>) -> Option<Arc<Entry>> {
        let mut entries = self.0.entries.lock();
        if let Some(entry) = entries.get(key) {
            entry.touch();
            return Some(entry.clone());
        }
        if entries.len() >= ENTRIES_MAX {
            let idle = entries.iter().filter(|(_, entry)| !entry.is_open()).max_by_key(|(_, entry)| entry.idle());
            let idle = idle.map(|(key, _)| key.clone())?;
            self.doom(entries.remove(&idle));
        }
        let name = match pod {
            Some(pod) => format!("{}{}", token_prefix(pod), hexadecimal(key, 16)),
            None => hexadecimal(key, 16),
        };
        let entry = Arc::new(Entry::new(self.0.dir.join(name), key, pod.map(str::to_owned)));
        entries.insert(key.to_owned(), entry.clone());
        Some(entry)
    }

    fn doom(&self, gone: impl IntoIterator<Item = Arc<Entry>>) {
        self.0.doomed.lock().paths.extend(gone.into_iter().map(|entry| entry.path().to_owned()));
        self.0.dirty.notify_one();
    }

    /// What is known of pods: the tokens of those that are gone go, too.
    fn pods(&self, news: &News<'_>) {
        let is_gone = |pod: &str| match news {
            News::Listed(all) => !all.contains_key(pod),
            News::Gone(gone) => *gone == pod,
            News::Put => false,
        };
        let gone: Vec<Arc<Entry>> =
            self.0.entries.lock().extract_if(|_, entry| entry.pod().is_some_and(is_gone)).map(|(_, entry)| entry).collect();
        self.doom(gone);
        if let News::Listed(all) = news {
            self.0.doomed.lock().tokens_but = Some(all.keys().map(|pod| token_prefix(pod)).collect());
        }
    }

    /// Whether what is kept of a collection is behind, so that it has to be listed again.
    fn is_to_relist(&self, key: &str) -> bool {
        let entry = self.0.entries.lock().get(key).cloned();
        // Where no server was met, a list would be had from nowhere.
        self.0.met.load(Ordering::Relaxed) && entry.is_some_and(|entry| entry.is_to_relist())
    }

    /// Whether what was kept may stand in for a server: not before one had its time to answer.
    fn stands_in(&self) -> bool {
        self.0.met.load(Ordering::Relaxed) || Instant::now() >= self.0.waits_until
    }

    /// A watch that begins with what was kept, if there is any.
    async fn again(&self, key: &str) -> Option<Response<Answer>> {
        let entry = self.entry(key).filter(|_| self.stands_in())?;
        let lines = tokio::task::spawn_blocking(move || entry.told()).await.ok()??;
        tracing::info!(what = key, "no server answers; going on with what was kept");
        Some(Response::new(whole(lines)))
    }

    async fn token(&self, key: &TokenKey, answer: Response<Answer>) -> Result<Response<Answer>, BoxError> {
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        if body.len() <= TOKEN_BYTES_MAX
            && let Some(entry) = self.entry_of(&key.name, key.pod.as_deref())
        {
            let kept = body.clone();
            let written = tokio::task::spawn_blocking(move || entry.replace(&kept)).await?;
            if let Err(error) = written {
                tracing::warn!(%error, "a token cannot be kept");
            }
        }
        Ok(Response::from_parts(head, whole(body)))
    }

    async fn token_again(&self, key: &TokenKey) -> Option<Response<Answer>> {
        let entry = self.entry_of(&key.name, key.pod.as_deref()).filter(|_| self.stands_in())?;
        let body = tokio::task::spawn_blocking(move || entry.single()).await.ok()??;
        let mut answer = Response::new(whole(body));
        *answer.status_mut() = http::StatusCode::CREATED;
        Some(answer)
    }
}

impl<S, B> Service<Request<Body>> for Cached<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut inner, cache, asked) = (self.inner.clone(), self.cache.clone(), asked(&request));
        Box::pin(async move {
            let (asked, request) = match asked {
                Asked::Token(_) => named_token(request).await?,
                other => (other, request),
            };
            if matches!(&asked, Asked::Resuming(key, _) if cache.is_to_relist(key)) {
                return Ok(expired());
            }
            let answer = inner.call(request).await.map(|answer| answer.map(|body| body.map_err(Into::into).boxed_unsync()));
            let is_answer = answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error());
            if is_answer && !matches!(asked, Asked::Other) {
                cache.0.met.store(true, Ordering::Relaxed);
            }
            match (asked, answer) {
                (Asked::Token(key), Ok(answer)) if answer.status().is_success() => cache.token(&key, answer).await,
                (Asked::Token(key), answer) if !is_answer => cache.token_again(&key).await.map_or(answer, Ok),
                (Asked::Listing(key), Ok(answer)) if answer.status().is_success() => Ok(cache.teed(&key, None, answer)),
                (Asked::Resuming(key, from), Ok(answer)) if answer.status().is_success() => Ok(cache.teed(&key, Some(&from), answer)),
                (Asked::Listing(key), answer) if !is_answer => cache.again(&key).await.map_or(answer, Ok),
                (_, answer) => answer,
            }
        })
    }
}

impl NodeCache {
    fn teed(&self, key: &str, from: Option<&str>, answer: Response<Answer>) -> Response<Answer> {
        let Some(entry) = self.entry(key) else { return answer };
        let (cache, are_pods) = (self.clone(), key.starts_with(PODS));
        let tell = move |news: News<'_>| {
            if are_pods {
                cache.pods(&news);
            }
            cache.0.dirty.notify_one();
        };
        answer.map(|body| Tee::new(body, entry, from, tell).boxed_unsync())
    }
}

/// What the API server answers to who asks from a revision that is gone: the client lists again.
fn expired() -> Response<Answer> {
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: what came after it was not kept","reason":"Expired","code":410}"#;
    let mut answer = Response::new(whole(status));
    *answer.status_mut() = http::StatusCode::GONE;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

fn whole(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Which token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TokenKey {
    /// Of its entry.
    name: String,
    /// The pod that it is bound to: it ends with it.
    pod: Option<String>,
}

/// Whom a token is for stands in the body.
async fn named_token(request: Request<Body>) -> Result<(Asked, Request<Body>), BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let digest = api::hex(Sha256::digest(&body));
    let key = TokenKey { name: format!("{}#{digest}", head.uri.path()), pod: pod_of(head.uri.path(), &body) };
    Ok((Asked::Token(key), Request::from_parts(head, Body::from(body.to_vec()))))
}

fn pod_of(path: &str, body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let bound = &body["spec"]["boundObjectRef"];
    let (_, rest) = path.split_once("/namespaces/")?;
    let (namespace, _) = rest.split_once('/')?;
    let name = bound["name"].as_str().filter(|name| !name.is_empty() && bound["kind"] == "Pod")?;
    Some(format!("{namespace}/{name}"))
}

/// Of the names of files with tokens of that pod.
fn token_prefix(pod: &str) -> String {
    format!("{}{}-", journal::TOKEN, hexadecimal(pod, 8))
}

/// The beginning of the SHA-256.
fn hexadecimal(text: &str, bytes: usize) -> String {
    api::hex(&Sha256::digest(text.as_bytes())[..bytes])
}

fn asked(request: &Request<Body>) -> Asked {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if request.method() == Method::POST && path.contains("/serviceaccounts/") && path.ends_with("/token") {
        return Asked::Token(TokenKey::default());
    }
    let parameter = |name: &str| query.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
    let is_kept = path.rsplit('/').next().is_some_and(|resource| COLLECTIONS.contains(&resource));
    if request.method() != Method::GET || !is_kept || parameter("watch").is_none_or(|watch| watch != "true" && watch != "1") {
        return Asked::Other;
    }
    let key = format!("{path}?{}", parameter("fieldSelector").unwrap_or_default());
    match (parameter("sendInitialEvents"), parameter("resourceVersion")) {
        (Some("true"), _) => Asked::Listing(key),
        (_, Some(from)) => Asked::Resuming(key, from.to_owned()),
        _ => Asked::Other,
    }
}

#[cfg(test)]
mod tests;
