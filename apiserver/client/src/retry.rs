//! A request that the server refuses for now -> the same request again, when the server said so; one that nobody answers -> an error.
//!
//! Source: client-go `rest/with_retry.go`. kube's own policy also repeats what was refused without a word about when.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{RETRY_AFTER, USER_AGENT},
};
use kube::{Client, client::Body};
use tower::{BoxError, Service, ServiceExt};

use crate::told;

/// How often one request is repeated (client-go's `maxRetries`).
const RETRIES_MAX: u32 = 10;
/// No server's word makes us wait longer; ours says half a minute at most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Until an answer begins, that of a watch too: a server gives a request 60 s, and begins a watch at once. A line that was cut while the request was on its
/// way, or a server that stands still, must not hold up for ever who asks.
const HEAD_BOUND: Duration = Duration::from_secs(75);

/// A client over `service` that waits out refusals (429, and 5xx, with `Retry-After`), and waits for no answer for ever. `agent` is who it says it is: what
/// it writes is owned under that name (`metadata.managedFields`).
pub fn patient<S, B>(service: S, agent: &str) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let agent = HeaderValue::from_str(agent).unwrap_or_else(|_| HeaderValue::from_static("skiff"));
    Client::new(Patient { service, agent }, "default")
}

/// The name of the upstream program that works as this user.
#[must_use]
pub fn agent_of(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some(user) if user.starts_with("serviceaccount:") => "kube-controller-manager",
        Some(user) if user.starts_with("node:") => "kubelet",
        Some(program) => program,
        None => user,
    }
}

/// Whether a request that ended so may have been carried out all the same: there was no answer, or one that leaves it open.
#[must_use]
pub fn is_open(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Whether the same request may be answered later: there was no answer, or one that says "not now".
#[must_use]
pub fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        // A server that is not the one that we trust will not become it.
        kube::Error::Service(error) => !error.to_string().contains("certificate"),
        kube::Error::HyperError(_) => true,
        _ => false,
    }
}

#[derive(Clone)]
struct Patient<S> {
    service: S,
    agent: HeaderValue,
}

impl<S, B> Service<Request<Body>> for Patient<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.agent.clone());
        Box::pin(ask(self.service.clone(), request))
    }
}

async fn ask<S, B>(mut service: S, mut request: Request<Body>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    for _ in 0..RETRIES_MAX {
        // What is sent as a stream cannot be sent again.
        let Some(copy) = copy(&request) else { break };
        let answer = once(&mut service, request).await?;
        let Some(wait) = wait_of(&answer) else { return Ok(answer) };
        told::repeated(answer.status(), copy.method(), copy.uri());
        drop(answer);
        tokio::time::sleep(wait).await;
        request = copy;
    }
    once(&mut service, request).await
}

async fn once<S, B>(service: &mut S, request: Request<Body>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let asked = told::Asked::new(&request);
    let answer = async { service.ready().await?.call(request).await };
    let answer = match tokio::time::timeout(HEAD_BOUND, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err("the API server did not answer in time".into()),
    };
    asked.ended(answer.as_ref().ok().map(Response::status));
    answer
}

fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    Some(copy)
}

/// When it may be asked again; `None` where this is the answer.
fn wait_of<B>(answer: &Response<B>) -> Option<Duration> {
    let refused = answer.status() == StatusCode::TOO_MANY_REQUESTS || answer.status().is_server_error();
    let after = answer.headers().get(RETRY_AFTER).filter(|_| refused)?;
    after.to_str().ok()?.parse().ok().map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tokio::time::Instant;

    use super::*;

    /// Asks a server that refuses `refusals` times: the last code, how often it was asked, and the seconds that took.
    async fn asked(refusals: u32, code: u16, after: Option<&'static str>) -> (u16, u32, u64) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = asked.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/pods"));
            assert_eq!(request.headers().get(USER_AGENT).unwrap(), agent_of("system:node:a"));
            let refuses = counted.fetch_add(1, Ordering::Relaxed) < refusals;
            let mut answer = Response::builder().status(if refuses { code } else { 201 });
            if let Some(after) = after.filter(|_| refuses) {
                answer = answer.header(RETRY_AFTER, after);
            }
            std::future::ready(Ok::<_, Infallible>(answer.body(Body::from(b"{}".to_vec())).unwrap()))
        });
        let began = Instant::now();
        let request = Request::post("/pods").body(Body::from(b"{}".to_vec())).unwrap();
        let answer = patient(server, "kubelet").send(request).await.unwrap();
        (answer.status().as_u16(), asked.load(Ordering::Relaxed), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_nobody_answers_ends() {
        let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let began = Instant::now();
        let request = Request::get("/api/v1/pods?watch=true").body(Vec::new()).unwrap();
        let error = patient(silent, "kubelet").request_stream(request).await.err().unwrap();
        assert!(may_pass(&error) && is_open(&error), "{error}");
        assert_eq!(began.elapsed(), HEAD_BOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_now_is_asked_again_when_the_server_said() {
        assert_eq!(asked(0, 429, Some("1")).await, (201, 1, 0));
        assert_eq!(asked(2, 429, Some("3")).await, (201, 3, 6));
        assert_eq!(asked(1, 503, Some("1")).await, (201, 2, 1));
        assert_eq!(asked(1, 429, None).await, (429, 1, 0), "an eviction that a budget refuses, say");
        assert_eq!(asked(1, 429, Some("soon")).await, (429, 1, 0));
        assert_eq!(asked(1, 409, Some("1")).await, (409, 1, 0));
        assert_eq!(asked(u32::MAX, 429, Some("1")).await, (429, 11, 10), "not for ever");
        assert_eq!(asked(1, 429, Some("18446744073709551615")).await, (201, 2, 60));
    }
}
