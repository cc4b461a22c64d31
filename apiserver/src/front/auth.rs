//! A request at the door -> who asks, and whether they may. Source: apiserver `pkg/endpoints/filters`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use api::{GroupResource, Status, seldom::Seldom};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header, request::Parts};

use super::info::RequestInfo;
use crate::{
    audit::Audit,
    engine::Engine,
    front_proxy::{self, FrontProxy, RequestHeader},
    identity::{ANONYMOUS, Attributes, Decision, Peer, UNAUTHENTICATED, User, Verdict},
};

/// Of each word of a request that its refusal repeats. No name of an object is longer.
const REPEATED_BYTES_MAX: usize = 1024;
/// Refused tokens are told of in the log once in this time, with how many there were besides.
const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(10);
/// A browser's token, among the protocols of a WebSocket.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The user behind the request: as a front proxy says, by client certificate, by bearer token, or nobody in particular.
///
/// # Errors
/// 401 for a token that is nobody's, and for who shows none where nobody in particular is let in.
pub(crate) async fn authenticate(engine: &Arc<Engine>, parts: &Parts) -> Result<Arc<User>, Status> {
    if let Some(FrontProxy { believed, .. }) = parts.extensions.get()
        && let Some(user) = believed.user(&parts.headers)?
    {
        return Ok(User::authenticated(user.into()));
    }
    // As upstream: a good certificate speaks before a token does (`authenticator/config.go`).
    if let Some(user) = parts.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref()) {
        return Ok(User::authenticated(user.clone()));
    }
    let token = match bearer(&parts.headers)? {
        None => of_protocol(&parts.headers)?,
        token => token,
    };
    match token {
        Some(token) => by_token(engine, &token).await.map(User::authenticated),
        None if engine.auth.anonymous.is_let_in(parts.uri.path()) => Ok(anonymous().into()),
        None => Err(Status::unauthorized()),
    }
}

/// # Errors
/// 403 in upstream's words; 500 where an authorizer failed.
pub(crate) async fn authorize(engine: &Engine, info: &RequestInfo, user: &User, audit: Option<&Audit>) -> Result<(), Status> {
    let asked = attributes(info, user);
    let verdict = engine.verdict(&asked).await;
    if let Some(audit) = audit {
        audit.annotate(annotations(&verdict));
    }
    as_allowed(&asked, verdict)
}

/// `WithAuthorization` in `filters/authorization.go`.
fn annotations(verdict: &Verdict) -> impl Iterator<Item = (Cow<'static, str>, Cow<'static, str>)> {
    let decided = |word: &'static str| Some((Cow::from("authorization.k8s.io/decision"), Cow::from(word)));
    let (word, reason) = match &verdict.decision {
        Decision::Allow(reason) => (decided("allow"), reason.as_str()),
        _ if !verdict.error.is_empty() => (None, "internal error"),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => (decided("forbid"), reason.as_str()),
    };
    word.into_iter().chain([("authorization.k8s.io/reason".into(), reason.to_owned().into())])
}

/// The same request under another verb (`withAuthorization` in `endpoints/handlers/update.go`).
///
/// # Errors
/// 403 in upstream's words; 500 where an authorizer failed.
pub(crate) async fn authorize_as(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    let asked = Attributes { verb, ..attributes(info, user) };
    as_allowed(&asked, engine.verdict(&asked).await)
}

/// A verb that is needed besides the request's own (`ensureAuthorizedForVerb` in `pkg/registry/core/pod/rest/authorize.go`).
///
/// # Errors
/// 403, with the authorizers' reason alone; 500 where an authorizer failed, be it allowed.
pub(crate) async fn authorize_also(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    if info.verb == verb {
        return Ok(());
    }
    let verdict = engine.verdict(&Attributes { verb, ..attributes(info, user) }).await;
    match verdict.is_allowed() {
        _ if !verdict.error.is_empty() => Err(Status::internal(verdict.error)),
        true => Ok(()),
        false => Err(Status::forbidden(&GroupResource::new(&info.group, &info.resource), &info.name, verdict.reason())),
    }
}

/// May this be done, where a write asks for more than its request said? For validation, which cannot wait: a webhook among the
/// authorizers keeps a thread meanwhile.
///
/// # Errors
/// 403 in upstream's words, also where an authorizer failed.
pub fn allowed_at_once(engine: &Engine, asked: &Attributes<'_>) -> Result<(), Status> {
    or_refused(asked, &engine.verdict_at_once(asked))
}

/// May the sender be somebody else?
///
/// # Errors
/// 403 in upstream's words, also where an authorizer failed.
pub(super) async fn allowed(engine: &Engine, asked: &Attributes<'_>) -> Result<(), Status> {
    or_refused(asked, &engine.verdict(asked).await)
}

fn or_refused(asked: &Attributes<'_>, verdict: &Verdict) -> Result<(), Status> {
    if verdict.is_allowed() { Ok(()) } else { Err(refused(asked, &verdict.why())) }
}

/// Where an authorizer failed and no other allows, it is not known whether it would have been allowed: that is no refusal.
fn as_allowed(asked: &Attributes<'_>, verdict: Verdict) -> Result<(), Status> {
    match verdict.decision {
        Decision::Allow(_) => Ok(()),
        _ if !verdict.error.is_empty() => Err(Status::internal(verdict.error)),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refused(asked, &reason)),
    }
}

/// The token that the request bears. A header is bytes: what is no text is a token all the same, and nobody's.
///
/// # Errors
/// 401 for a token that is no text.
fn bearer(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Status> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let mut parts = value.as_bytes().trim_ascii().splitn(3, |byte| *byte == b' ');
    match (parts.next(), parts.next()) {
        (Some(scheme), Some(token)) if scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty() => {
            std::str::from_utf8(token).map(|token| Some(token.into())).map_err(|_| Status::unauthorized())
        }
        _ => Ok(None),
    }
}

/// The token that a browser sends among the protocols that its WebSocket may speak (`pkg/authentication/request/websocket/protocol.go`): it can send no
/// header of its own. The word is none of the protocols that are spoken here, so that it is never chosen and answered.
///
/// # Errors
/// 401 for a token that cannot be read, for a second one, and for one without a protocol that could be spoken.
fn of_protocol(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Status> {
    if !headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Ok(None);
    }
    let mut encoded = offered(headers).filter_map(|word| word.strip_prefix(TOKEN_PROTOCOL));
    let Some(first) = encoded.next() else { return Ok(None) };
    if encoded.next().is_some() || offered(headers).all(|word| word.starts_with(TOKEN_PROTOCOL)) {
        return Err(Status::unauthorized());
    }
    let token = BASE64_URL_SAFE_NO_PAD.decode(first).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let token = token.ok_or_else(Status::unauthorized)?;
    Ok((!token.is_empty()).then_some(token.into()))
}

/// The words of `Sec-WebSocket-Protocol`.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Takes out what said who asks, now that it is known: whoever is called in the course of the request (a pod, a node, another API server) is not to
/// read it. `Authorization` goes where calls are made: what is served here may look at it.
pub(super) fn forget(headers: &mut HeaderMap, believed: Option<&RequestHeader>) {
    front_proxy::strip_standard(headers);
    if let Some(believed) = believed {
        believed.strip(headers);
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return;
    }
    let kept: Vec<&str> = offered(headers).filter(|word| !word.starts_with(TOKEN_PROTOCOL)).collect();
    let kept = HeaderValue::try_from(kept.join(", ")).ok().filter(|kept| !kept.is_empty());
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(kept) = kept {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

async fn by_token(engine: &Arc<Engine>, token: &str) -> Result<Arc<User>, Status> {
    let mut why = vec!["invalid bearer token".to_owned()];
    for authenticator in &engine.auth.authenticators {
        match authenticator.token(engine, token, &[]).await {
            Ok(Some(known)) => return Ok(known.user),
            Ok(None) => {}
            Err(status) => why.push(status.message),
        }
    }
    tell_refused(&why);
    Err(Status::unauthorized())
}

/// As upstream (`WithAuthentication` in `filters/authentication.go`), but not each: anybody can send any number of them.
fn tell_refused(why: &[String]) {
    static TOLD: Seldom = Seldom::new(REFUSALS_TOLD_EVERY);
    let error = one_of(why);
    match TOLD.due() {
        Some(untold) => tracing::error!(error, untold, "Unable to authenticate the request"),
        None => tracing::debug!(error, "Unable to authenticate the request"),
    }
}

/// `[a, b]` (`Aggregate.Error`), no longer than a refusal: tokens say what stands in it.
fn one_of(why: &[String]) -> String {
    cut(&format!("[{}]", why.join(", "))).to_owned()
}

fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

pub(super) fn attributes<'a>(info: &'a RequestInfo, user: &'a User) -> Attributes<'a> {
    Attributes {
        user,
        verb: &info.verb,
        resource_request: info.resource_request,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        fields: info.authorized_fields(),
        labels: info.authorized_labels(),
    }
}

pub(super) fn refused(asked: &Attributes<'_>, reason: &str) -> Status {
    let words = format!("{}{}{reason}", refusal_words(asked), if reason.is_empty() { "" } else { ": " });
    Status::forbidden(&GroupResource::new(cut(asked.group), cut(asked.resource)), cut(asked.name), &words)
}

/// As much of a word of the request as a refusal repeats: strangers are refused, and what they wait for is kept for them.
fn cut(word: &str) -> &str {
    word.get(..word.floor_char_boundary(REPEATED_BYTES_MAX)).unwrap_or_default()
}

fn refusal_words(asked: &Attributes<'_>) -> String {
    let [verb, group, namespace, path] = [asked.verb, asked.group, asked.namespace, asked.path].map(cut);
    let user = cut(&asked.user.name);
    let clean = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !asked.resource_request {
        return clean(format!("User {user:?} cannot {verb} path {path:?}"));
    }
    let mut resource = cut(asked.resource).to_owned();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", cut(asked.subresource));
    }
    let place = if namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {namespace:?}") };
    clean(format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_tells_of_a_token_is_bounded() {
        let why = |more: &str| one_of(&["invalid bearer token".into(), more.into()]);
        assert_eq!(why("no such issuer"), "[invalid bearer token, no such issuer]");
        assert_eq!(why(&"x".repeat(1 << 20)).len(), REPEATED_BYTES_MAX);
    }

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let user = User { name: "x".into(), ..User::default() };
        let mut asked = Attributes {
            user: &user,
            verb: "list",
            resource_request: true,
            resource: "pods",
            namespace: "default",
            ..Attributes::default()
        };
        let words = r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!(refused(&asked, "").message, words);
        asked.namespace = "";
        assert!(refused(&asked, "").message.ends_with("at the cluster scope"));
        let path = Attributes { resource_request: false, resource: "", verb: "get", path: "/x", ..asked };
        assert_eq!(refused(&path, "").message, r#"forbidden: User "x" cannot get path "/x""#);
    }

    #[test]
    fn a_refusal_is_short_however_long_the_request_was() {
        let long = "&\u{e9}".repeat(100_000);
        let user = User { name: long.clone(), ..User::default() };
        for resource_request in [false, true] {
            let asked = Attributes {
                user: &user,
                resource_request,
                verb: "get",
                group: &long,
                version: &long,
                resource: &long,
                subresource: &long,
                namespace: &long,
                name: &long,
                path: &long,
                ..Attributes::default()
            };
            let size = refused(&asked, "").body().to_string().len();
            assert!(size < 40 * REPEATED_BYTES_MAX, "{size}");
        }
    }

    #[test]
    fn only_bearer_tokens_are_tokens() {
        let headers = |value: &[u8]| HeaderMap::from_iter([(header::AUTHORIZATION, http::HeaderValue::from_bytes(value).unwrap())]);
        let token = |value: &str| bearer(&headers(value.as_bytes())).unwrap().map(Cow::into_owned);
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token(" bearer abc def").as_deref(), Some("abc"));
        assert_eq!(token("Bearer stra\u{df}e").as_deref(), Some("stra\u{df}e"));
        for none in ["Basic abc", "Bearer ", "Bearer  abc", "Bearer", ""] {
            assert_eq!(token(none), None, "{none}");
        }
        assert_eq!(bearer(&headers(b"Bearer \xff")).unwrap_err().code, 401);
    }

    #[test]
    fn a_browser_sends_its_token_among_the_protocols() {
        let headers = |upgrade: &'static str, protocols: &str| {
            let pairs = [(header::UPGRADE, upgrade.to_owned()), (header::SEC_WEBSOCKET_PROTOCOL, protocols.to_owned())];
            HeaderMap::from_iter(pairs.map(|(name, value)| (name, value.parse().unwrap())))
        };
        let offered = format!("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.{}", BASE64_URL_SAFE_NO_PAD.encode("a.b.c"));
        assert_eq!(of_protocol(&headers("WebSocket", &offered)).unwrap().as_deref(), Some("a.b.c"));
        for none in [("SPDY/3.1", offered.as_str()), ("websocket", "v4"), ("websocket", "v4, base64url.bearer.authorization.k8s.io.")] {
            assert_eq!(of_protocol(&headers(none.0, none.1)).unwrap(), None, "{none:?}");
        }
        let alone = offered.split(", ").nth(1).unwrap();
        for bad in [alone, "v4, base64url.bearer.authorization.k8s.io.!", &format!("{offered}, {alone}")] {
            assert_eq!(of_protocol(&headers("websocket", bad)).unwrap_err().code, 401, "{bad}");
        }
    }

    #[test]
    fn who_asks_is_forgotten_once_it_is_known() {
        let mut believed = RequestHeader::standard(String::new());
        believed.username = vec!["x-user".parse().unwrap()];
        let pairs = [
            ("sec-websocket-protocol", "chat, base64url.bearer.authorization.k8s.io.YQ, v2"),
            ("x-remote-user", "a"),
            ("x-user", "b"),
            ("x-keep", "c"),
        ];
        let mut headers = HeaderMap::from_iter(pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())));
        forget(&mut headers, Some(&believed));
        assert_eq!(
            (headers.len(), &headers["sec-websocket-protocol"], &headers["x-keep"]),
            (2, &"chat, v2".parse().unwrap(), &"c".parse().unwrap())
        );
    }
}
