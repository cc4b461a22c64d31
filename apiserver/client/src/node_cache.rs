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
    collections::HashMap,
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
use tee::Tee;

/// Changes are written at most so often, each object once: cards wear out.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// What nobody asked for so long is removed.
const FORGET_AFTER: Duration = Duration::from_secs(25 * 3600);
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Collections, single objects and tokens that are kept; more are not.
const ENTRIES_MAX: usize = 4096;
/// A token's answer is no larger.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// The collections whose watches are kept: what a node sees.
const COLLECTIONS: [&str; 6] = ["pods", "nodes", "services", "configmaps", "secrets", "endpointslices"];

/// The files of one node. Cloning shares them.
#[derive(Clone)]
pub struct Shelf(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    dirty: Notify,
    /// Until then a server is waited for, before what was kept is taken.
    waits_until: Instant,
    /// A server has answered since the start.
    met: AtomicBool,
}

/// A transport whose answers are kept.
#[derive(Clone)]
pub struct Shelved<S> {
    inner: S,
    shelf: Shelf,
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
    Token,
    Other,
}

impl Shelf {
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
            dirty: Notify::new(),
            waits_until: Instant::now() + wait,
            met: AtomicBool::new(false),
        };
        let shelf = Self(Arc::new(shared));
        group.spawn_careful(shelf.clone().keep(group.clone()));
        Ok(shelf)
    }

    /// The same transport, with answers kept here.
    pub fn over<S>(&self, inner: S) -> Shelved<S> {
        Shelved { inner, shelf: self.clone() }
    }

    async fn keep(self, group: Group) {
        let mut forget = Instant::now() + FORGET_EVERY;
        loop {
            tokio::select! {
                () = group.stopping() => return self.flush().await,
                () = self.0.dirty.notified() => {}
                () = tokio::time::sleep_until(forget) => {
                    forget = Instant::now() + FORGET_EVERY;
                    self.forget().await;
                    continue;
                }
            }
            tokio::select! {
                () = group.stopping() => {}
                () = tokio::time::sleep(FLUSH_EVERY) => {}
            }
            self.flush().await;
        }
    }

    async fn flush(&self) {
        let all: Vec<Arc<Entry>> = self.0.entries.lock().values().cloned().collect();
        let written = tokio::task::spawn_blocking(move || all.iter().for_each(|entry| entry.flush())).await;
        if let Err(error) = written {
            tracing::error!(%error, "keeping what servers told failed");
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
        let mut entries = self.0.entries.lock();
        if let Some(entry) = entries.get(key) {
            entry.touch();
            return Some(entry.clone());
        }
        if entries.len() >= ENTRIES_MAX {
            return None;
        }
        let name: String = Sha256::digest(key.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let entry = Arc::new(Entry::new(self.0.dir.join(name), key));
        entries.insert(key.to_owned(), entry.clone());
        Some(entry)
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

    async fn token(&self, key: &str, answer: Response<Answer>) -> Result<Response<Answer>, BoxError> {
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        if body.len() <= TOKEN_BYTES_MAX
            && let Some(entry) = self.entry(key)
        {
            let kept = body.clone();
            let written = tokio::task::spawn_blocking(move || entry.replace(&kept)).await?;
            if let Err(error) = written {
                tracing::warn!(%error, "a token cannot be kept");
            }
        }
        Ok(Response::from_parts(head, whole(body)))
    }

    async fn token_again(&self, key: &str) -> Option<Response<Answer>> {
        let entry = self.entry(key).filter(|_| self.stands_in())?;
        let body = tokio::task::spawn_blocking(move || entry.single()).await.ok()??;
        let mut answer = Response::new(whole(body));
        *answer.status_mut() = http::StatusCode::CREATED;
        Some(answer)
    }
}

impl<S, B> Service<Request<Body>> for Shelved<S>
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
        let (mut inner, shelf, asked) = (self.inner.clone(), self.shelf.clone(), asked(&request));
        Box::pin(async move {
            let (asked, request) = match asked {
                Asked::Token => named_token(request).await?,
                other => (other, request),
            };
            let key = match &asked {
                Asked::Other => None,
                Asked::Token => request.extensions().get::<TokenKey>().map(|key| key.0.clone()),
                Asked::Listing(key) | Asked::Resuming(key, _) => Some(key.clone()),
            };
            let answer = inner.call(request).await.map(|answer| answer.map(|body| body.map_err(Into::into).boxed_unsync()));
            let Some(key) = key else { return answer };
            let is_answer = answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error());
            if is_answer {
                shelf.0.met.store(true, Ordering::Relaxed);
            }
            match (asked, answer) {
                (Asked::Token, Ok(answer)) if answer.status().is_success() => shelf.token(&key, answer).await,
                (Asked::Token, answer) if !is_answer => shelf.token_again(&key).await.map_or(answer, Ok),
                (Asked::Listing(_), Ok(answer)) if answer.status().is_success() => Ok(shelf.teed(&key, None, answer)),
                (Asked::Resuming(_, from), Ok(answer)) if answer.status().is_success() => Ok(shelf.teed(&key, Some(&from), answer)),
                (Asked::Listing(_), answer) if !is_answer => shelf.again(&key).await.map_or(answer, Ok),
                (_, answer) => answer,
            }
        })
    }
}

impl Shelf {
    fn teed(&self, key: &str, from: Option<&str>, answer: Response<Answer>) -> Response<Answer> {
        let Some(entry) = self.entry(key) else { return answer };
        let shelf = self.clone();
        let tell = move || shelf.0.dirty.notify_one();
        answer.map(|body| Tee::new(body, entry, from, tell).boxed_unsync())
    }
}

fn whole(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The name of a token's entry.
#[derive(Clone)]
struct TokenKey(String);

/// Whom a token is for stands in the body.
async fn named_token(request: Request<Body>) -> Result<(Asked, Request<Body>), BoxError> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    head.extensions.insert(TokenKey(format!("{}#{digest}", head.uri.path())));
    Ok((Asked::Token, Request::from_parts(head, Body::from(body.to_vec()))))
}

fn asked(request: &Request<Body>) -> Asked {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if request.method() == Method::POST && path.contains("/serviceaccounts/") && path.ends_with("/token") {
        return Asked::Token;
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
