//! A request that was let in -> the delegate's answer, streams and upgrades included.
//!
//! Sources: kube-aggregator `pkg/apiserver/handler_proxy.go`; apimachinery `pkg/util/proxy`, apiserver `pkg/util/proxy` (`NewRequestForProxy`).

use std::{
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use api::{Status, task::Group};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::upgrade;
use tokio::time::{Sleep, sleep};

use super::{
    Delegate,
    places::{Place, Sort},
    refusal,
};
use crate::{
    body::{Body, BoxError, Request, Response, boxed, empty},
    connect::{self, HOP, headers::forwarded_for},
    front::encoded,
    front_proxy::{self, RequestHeader},
    identity::User,
    outbound::Origin,
    stall::Patient,
};

/// Until the head of an answer is there; upstream bounds what is no stream by as much.
const HEAD_BOUND: Duration = Duration::from_secs(60);
/// The same of a group version's discovery, which everybody asks for (`aggregatedDiscoveryTimeout`).
const DISCOVERY_BOUND: Duration = Duration::from_secs(5);
/// How long a body that is no stream may stand still.
const STILL_BOUND: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(60) };
/// Who we are to ourselves, so that a request that comes back is known (RFC 9110 7.6.3).
static PSEUDONYM: LazyLock<String> = LazyLock::new(|| format!("skiff-{:016x}", rand::random::<u64>()));
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What was let in.
pub(crate) struct Asked<'a> {
    pub user: &'a User,
    /// Decoded: what was authorized is what is asked.
    pub path: &'a str,
    pub is_long_running: bool,
    /// Of a priority level without bounds.
    pub is_exempt: bool,
    pub audit_id: HeaderValue,
    /// Front proxies' headers, as they are called here.
    pub believed: Option<Arc<RequestHeader>>,
}

/// Hands the request on. Refusals are in plain text, as upstream's are.
pub(crate) async fn forward(delegate: &Arc<Delegate>, group: &Group, asked: Asked<'_>, request: Request) -> Response {
    let sent = Box::pin(send(delegate, group, &asked, request)).await;
    let mut response = sent.unwrap_or_else(|(code, words)| refusal(code, &words));
    response.extensions_mut().insert(HandedOn);
    response
}

/// What another server answered: it is passed on as it is.
#[derive(Clone, Copy)]
pub(crate) struct HandedOn;

type Refused = (StatusCode, String);

async fn send(delegate: &Arc<Delegate>, group: &Group, asked: &Asked<'_>, mut request: Request) -> Result<Response, Refused> {
    let unavailable = || (StatusCode::SERVICE_UNAVAILABLE, "service unavailable".to_owned());
    if !delegate.is_available.load(super::Relaxed) {
        return Err(unavailable());
    }
    let origin: &Origin = delegate.origin.as_ref().map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why.clone()))?;
    // Who takes such a path apart may come to another place than the one that was authorized.
    if asked.path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err((StatusCode::BAD_REQUEST, "the path must not have a part \".\" or \"..\"".into()));
    }
    if comes_back(request.headers()) {
        return Err((StatusCode::LOOP_DETECTED, "the request came back to the server that handed it on".into()));
    }
    let place = delegate.place().map_err(|why| {
        tracing::debug!(name = delegate.name, why, "nowhere to hand a request on to");
        unavailable()
    })?;
    let wants_upgrade = connect::headers::wants_upgrade(request.headers());
    let sort = if asked.is_long_running || wants_upgrade { Sort::Stream } else { Sort::Request };
    let too_many = || (StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.".to_owned());
    let seat = if asked.is_exempt { None } else { Some(Place::take(delegate, sort, &asked.user.name).ok_or_else(too_many)?) };
    let ours = wants_upgrade.then(|| upgrade::on(&mut request));
    let request = outgoing(&place, asked, request, wants_upgrade).map_err(refused)?;
    let not_reached = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {why}"));
    let bound = if is_discovery(asked.path) { DISCOVERY_BOUND } else { HEAD_BOUND };
    let answer = tokio::time::timeout(bound, origin.send(request)).await;
    let mut answer = answer.map_err(|_| not_reached("context deadline exceeded".into()))?.map_err(not_reached)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = ours else { return Err((StatusCode::BAD_GATEWAY, "the backend switched protocols unasked".into())) };
        let theirs = upgrade::on(&mut answer);
        group.spawn(Box::pin(async move {
            connect::tunnel(ours, theirs).await;
            drop(seat);
        }));
        let mut response = answer.map(|_| empty());
        response.extensions_mut().insert(Patient);
        return Ok(response);
    }
    // `--aggregator-reject-forwarding-redirect`: credentials go where the service is, and nowhere that it names.
    if answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION) {
        return Err((StatusCode::BAD_GATEWAY, "the backend attempted to redirect this request, which is not permitted".into()));
    }
    strip_hop(answer.headers_mut());
    Ok(answer.map(|body| boxed(Passed::new(body, sort, seat))))
}

fn refused(status: Status) -> Refused {
    (StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.message)
}

/// `/apis/GROUP/VERSION` alone.
fn is_discovery(path: &str) -> bool {
    path.starts_with("/apis/") && path.trim_matches('/').split('/').count() == 3
}

fn comes_back(headers: &HeaderMap) -> bool {
    let via = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    via.flat_map(|line| line.split(',')).any(|hop| hop.split_whitespace().nth(1) == Some(PSEUDONYM.as_str()))
}

/// The request as the delegate gets it: who asks is said by us alone.
fn outgoing(place: &str, asked: &Asked<'_>, request: Request, upgrades: bool) -> Result<http::Request<Body>, Status> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.remove(header::HOST).or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    let query = encoded::query(parts.uri.query());
    let mark = if query.is_empty() { "" } else { "?" };
    let url = format!("https://{place}{}{mark}{query}", encoded::path(asked.path));
    let mut headers = std::mem::take(&mut parts.headers);
    let upgrade = headers.get(header::UPGRADE).cloned().filter(|_| upgrades);
    strip_hop(&mut headers);
    headers.remove(header::UPGRADE);
    headers.remove(header::EXPECT);
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(believed) = &asked.believed {
        believed.strip(&mut headers);
    }
    front_proxy::tell(&mut headers, asked.user)?;
    forwarded_for(&mut headers, &parts.extensions);
    headers.append(header::VIA, HeaderValue::from_str(&format!("1.1 {}", *PSEUDONYM)).map_err(Status::internal)?);
    headers.insert(AUDIT_ID, asked.audit_id.clone());
    headers.insert(header::HOST, HeaderValue::from_str(place).map_err(Status::internal)?);
    headers.insert("x-forwarded-uri", HeaderValue::from_str(&encoded::path(asked.path)).map_err(Status::internal)?);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Some(host) = host {
        headers.insert("x-forwarded-host", host);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    let sort = if asked.is_long_running { Sort::Stream } else { Sort::Request };
    let body = match () {
        () if upgrades => {
            headers.remove(header::CONTENT_LENGTH);
            empty()
        }
        () if body.is_end_stream() => body,
        () => boxed(Passed::new(body, sort, None)),
    };
    let mut sent = http::Request::builder().method(parts.method).uri(url).body(body).map_err(Status::internal)?;
    *sent.headers_mut() = headers;
    Ok(sent)
}

/// Takes out what is of one hop, also what a peer says is (RFC 9110 7.6.1): before anything is added, so that nobody has that taken out.
fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    named.iter().filter(|name| **name != header::UPGRADE).for_each(|name| drop(headers.remove(name)));
    HOP.iter().for_each(|name| drop(headers.remove(name)));
    for name in ["connection", "keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// A body on its way through, of any length; one that is no stream must not stand still.
struct Passed<B> {
    inner: B,
    sort: Sort,
    still: Option<Pin<Box<Sleep>>>,
    _seat: Option<Place>,
}

impl<B> Passed<B> {
    fn new(inner: B, sort: Sort, seat: Option<Place>) -> Self {
        Self { inner, sort, still: None, _seat: seat }
    }
}

impl<B> http_body::Body for Passed<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.still = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.sort == Sort::Stream {
            return Poll::Pending;
        }
        let still = self.still.get_or_insert_with(|| Box::pin(sleep(STILL_BOUND)));
        match still.poll_unpin(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err("a body stood still for too long".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn asked<'a>(user: &'a User, path: &'a str) -> Asked<'a> {
        let mut believed = RequestHeader::standard(String::new());
        believed.username = vec![HeaderName::from_static("x-custom-user")];
        let audit_id = HeaderValue::from_static("id");
        Asked { user, path, is_long_running: false, is_exempt: false, audit_id, believed: Some(Arc::new(believed)) }
    }

    #[test]
    fn who_asks_is_said_by_us_alone() {
        let user = User { name: "jane".into(), groups: vec!["devs".into()], ..User::default() };
        let request = http::Request::post("/apis/a/v1/x%20y?b=2&a=1+1&a=%2F")
            .header("host", "api.example")
            .header("authorization", "Bearer t")
            .header("x-remote-user", "root")
            .header("x-remote-group", "system:masters")
            .header("x-remote-extra-scopes", "all")
            .header("x-custom-user", "root")
            .header("impersonate-user", "root")
            .header("connection", "x-remote-user, x-drop, close")
            .header("x-drop", "1")
            .header("te", "trailers")
            .header("accept", "a/b")
            .body(crate::body::full("abc"))
            .unwrap();
        let sent = outgoing("10.0.0.1:443", &asked(&user, "/apis/a/v1/x y"), request, false).unwrap();
        assert_eq!(sent.uri(), "https://10.0.0.1:443/apis/a/v1/x%20y?a=1+1&a=%2F&b=2");
        let headers = sent.headers();
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join("|");
        assert_eq!([all("x-remote-user"), all("x-remote-group"), all("host"), all("accept")], ["jane", "devs", "10.0.0.1:443", "a/b"]);
        assert_eq!([all("x-forwarded-host"), all("audit-id"), all("x-forwarded-uri")], ["api.example", "id", "/apis/a/v1/x%20y"]);
        for gone in ["authorization", "x-remote-extra-scopes", "x-custom-user", "impersonate-user", "connection", "x-drop", "te"] {
            assert_eq!(all(gone), "", "{gone}");
        }
        assert!(comes_back(headers));
        assert!(!comes_back(&HeaderMap::new()));
    }

    #[test]
    fn discovery_is_three_parts() {
        let yes = ["/apis/a/v1", "/apis/a/v1/"];
        assert!(yes.into_iter().all(is_discovery) && !["/apis/a/v1/x", "/openapi/v3/apis"].into_iter().any(is_discovery));
    }

    #[tokio::test(start_paused = true)]
    async fn only_streams_may_stand_still() {
        let body =
            |sort| Passed::new(http_body_util::StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BoxError>>()), sort, None);
        assert!(body(Sort::Request).frame().await.unwrap().is_err());
        assert!(tokio::time::timeout(2 * STILL_BOUND, body(Sort::Stream).frame()).await.is_err());
    }
}
