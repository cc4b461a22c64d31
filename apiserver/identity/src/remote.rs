//! A kubeconfig, or an authority -> one who is asked over TLS: bounded in time, in the size of what is answered, and in how many ask at once.
//!
//! Sources: apiserver `pkg/util/webhook/webhook.go`, client-go. A redirect is no answer.

use std::{fmt, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use api::task::Group;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, request};
use http_body_util::{BodyExt, Limited};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

/// Of an answer: a user of many groups, a set of keys.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Of an answer that is a refusal, what is told of it.
const TOLD_BYTES_MAX: usize = 256;
/// Who asks one remote at a time; others wait for them.
pub(crate) const ASKING_MAX: usize = 128;
/// Between attempts, and how many there are (`DefaultAuthWebhookRetryBackoff`).
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_millis(750), Duration::from_millis(1125), Duration::from_millis(1687)];

/// How many may ask at a time. Clones share it: one who is asked at many addresses may have one for all of them.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ASKING_MAX)))
    }
}

/// One who is asked.
pub struct Remote {
    /// Scheme, host and port.
    origin: Uri,
    client: Client,
    path: String,
    turns: Turns,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub why: String,
    is_passing: bool,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

fn failed(why: impl fmt::Display) -> Unanswered {
    Unanswered { why: why.to_string(), is_passing: false }
}

impl Remote {
    /// Whom a kubeconfig's current context names: its server is asked at the very path that it has. Plugins (`exec`, `auth-provider`) are not run.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn of_kubeconfig(file: &Path, group: &Group) -> Result<Self, String> {
        let named = |why: &dyn fmt::Display| format!("{}: {why}", file.display());
        let read = Kubeconfig::read_from(file).map_err(|error| named(&error))?;
        if read.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()).any(|user| user.exec.is_some() || user.auth_provider.is_some())
        {
            return Err(named(&"exec and auth-provider plugins are not supported: name a certificate, a token or a tokenFile"));
        }
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| named(&error))?;
        Self::of_config(config, Turns::default(), group).map_err(|error| named(&error))
    }

    /// Whoever is at `origin` (`https://name:port`) and shows a certificate of `authorities`; without any, of those that the machine trusts.
    ///
    /// # Errors
    /// It is no address.
    pub fn of_origin(origin: &Uri, authorities: Option<&[CertificateDer<'static>]>, turns: &Turns, group: &Group) -> Result<Self, String> {
        let mut config = Config::new(origin.clone());
        config.root_cert = authorities.map(|all| all.iter().map(|one| one.to_vec()).collect());
        Self::of_config(config, turns.clone(), group)
    }

    fn of_config(mut config: Config, turns: Turns, group: &Group) -> Result<Self, String> {
        let parts = config.cluster_url.clone().into_parts();
        let path = parts.path_and_query.as_ref().map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned());
        let origin = Uri::builder().scheme(parts.scheme.ok_or("the server's URL has no scheme")?);
        let origin = origin.authority(parts.authority.ok_or("the server's URL has no host")?).path_and_query("/").build();
        let origin = origin.map_err(|error| error.to_string())?;
        config.cluster_url = origin.clone();
        config.default_retry = false;
        let client = ClientBuilder::try_from((config, InGroup(group.clone()))).map_err(|error| chained(&error))?.build();
        Ok(Self { origin, client, path: if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path }, turns })
    }

    /// Whom it asks, for the log: no more than its kubeconfig says, and no credentials.
    pub fn url(&self) -> String {
        let host = self.origin.authority().map_or("", |whole| whole.as_str().rsplit('@').next().unwrap_or_default());
        format!("{}://{host}{}", self.origin.scheme_str().unwrap_or_default(), self.path.split('?').next().unwrap_or_default())
    }

    /// Posts JSON and brings back JSON. What passes is tried again, for `whole` altogether; each try has `bound`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn post(&self, body: &Value, bound: Duration, whole: Duration) -> Result<Value, Unanswered> {
        let end = Instant::now() + whole;
        let text = body.to_string();
        for pause in PAUSES.into_iter().map(Some).chain([None]) {
            let left = end.saturating_duration_since(Instant::now());
            let request = Request::post(&self.path).header(header::CONTENT_TYPE, "application/json");
            let answered = self.within(bound.min(left), self.ask(request, text.clone().into_bytes())).await;
            match (answered, pause) {
                (Err(error), Some(pause)) if error.is_passing && Instant::now() + pause < end => sleep(pause).await,
                (Err(error), _) => return Err(error),
                (Ok(bytes), _) => return serde_json::from_slice(&bytes).map_err(failed),
            }
        }
        Err(failed("no attempt was made"))
    }

    /// Posts JSON once; what is answered to it is no matter.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub async fn send(&self, body: Bytes, bound: Duration) -> Result<(), Unanswered> {
        let request = Request::post(&self.path).header(header::CONTENT_TYPE, "application/json");
        self.within(bound, self.ask(request, body)).await.map(drop)
    }

    /// # Errors
    /// There is no answer, or one that is no 200.
    pub async fn get(&self, bearer: Option<&str>, bound: Duration) -> Result<Vec<u8>, Unanswered> {
        let mut request = Request::builder().method(Method::GET).uri(&self.path);
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.within(bound, self.ask(request, Vec::new())).await
    }

    async fn within<T>(&self, bound: Duration, ask: impl Future<Output = Result<T, Unanswered>>) -> Result<T, Unanswered> {
        let turn = async {
            // Never closed.
            let _turn = self.turns.0.acquire().await;
            ask.await
        };
        timeout(bound, turn).await.unwrap_or_else(|_| Err(failed("context deadline exceeded")))
    }

    async fn ask(&self, request: request::Builder, body: impl Into<Bytes>) -> Result<Vec<u8>, Unanswered> {
        let request = request
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("kube-apiserver skiff/", env!("CARGO_PKG_VERSION")));
        let body: Bytes = body.into();
        let request = request.body(Body::from(body.to_vec())).map_err(failed)?;
        let answer = self.client.send(request).await.map_err(|error| {
            let why = chained(&error);
            Unanswered { is_passing: why.contains("onnection reset"), why }
        })?;
        let code = answer.status();
        let is_passing = matches!(
            code,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(failed)?.to_bytes();
        if code.is_success() {
            return Ok(body.to_vec());
        }
        let told = String::from_utf8_lossy(body.get(..body.len().min(TOLD_BYTES_MAX)).unwrap_or_default()).into_owned();
        Err(Unanswered { why: format!("{code}: {}", told.trim()), is_passing })
    }
}

/// The certificates of a PEM bundle.
///
/// # Errors
/// There is none in it.
pub fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() { Err("data does not contain any valid RSA or ECDSA certificates".into()) } else { Ok(all) }
}

/// An error with what caused it: `client error (Connect)` alone says little.
fn chained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Connections are tasks of the server's group.
#[derive(Clone)]
struct InGroup(Group);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for InGroup {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }
}
