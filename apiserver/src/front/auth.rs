//! A request at the door -> who asks, and whether they may. Source: apiserver `pkg/endpoints/filters`.

use std::sync::Arc;

use api::{GroupResource, Status};
use http::{HeaderMap, header, request::Parts};

use super::info::RequestInfo;
use crate::{
    audit::Audit,
    engine::Engine,
    front_proxy::FrontProxy,
    identity::{ANONYMOUS, Attributes, Decision, Peer, UNAUTHENTICATED, User},
};

/// Of each word of a request that its refusal repeats. No name of an object is longer.
const REPEATED_BYTES_MAX: usize = 1024;

/// The user behind the request: as a front proxy says, by client certificate, by bearer token, or nobody in particular.
///
/// # Errors
/// 401 for a token that is nobody's.
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
    match bearer(&parts.headers)? {
        Some(token) => by_token(engine, token).await.map(|user| User::authenticated(user.into())),
        None => Ok(anonymous().into()),
    }
}

/// # Errors
/// 403 in upstream's words.
pub(crate) fn authorize(engine: &Engine, info: &RequestInfo, user: &User, audit: Option<&Audit>) -> Result<(), Status> {
    let asked = attributes(info, user);
    let decision = engine.authorize(&asked);
    if let Some(audit) = audit {
        audit.annotate(annotations(&decision));
    }
    as_allowed(&asked, decision)
}

/// `WithAuthorization` in `filters/authorization.go`.
fn annotations(decision: &Decision) -> [(String, String); 2] {
    let (word, reason) = match decision {
        Decision::Allow(reason) => ("allow", reason),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason),
    };
    [("authorization.k8s.io/decision".into(), word.into()), ("authorization.k8s.io/reason".into(), reason.clone())]
}

/// The same request under another verb.
///
/// # Errors
/// 403 in upstream's words.
pub(crate) fn authorize_as(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    allowed(engine, &Attributes { verb, ..attributes(info, user) })
}

/// A verb that is needed besides the request's own (`ensureAuthorizedForVerb` in `pkg/registry/core/pod/rest/authorize.go`).
///
/// # Errors
/// 403, with the authorizers' reason alone.
pub(crate) fn authorize_also(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    if info.verb == verb {
        return Ok(());
    }
    match engine.authorize(&Attributes { verb, ..attributes(info, user) }) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(Status::forbidden(&GroupResource::new(&info.group, &info.resource), &info.name, &reason))
        }
    }
}

/// # Errors
/// 403 in upstream's words.
pub(super) fn allowed(engine: &Engine, asked: &Attributes<'_>) -> Result<(), Status> {
    as_allowed(asked, engine.authorize(asked))
}

fn as_allowed(asked: &Attributes<'_>, decision: Decision) -> Result<(), Status> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refused(asked, &reason)),
    }
}

/// The token that the request bears. A header is bytes: what is no text is a token all the same, and nobody's.
///
/// # Errors
/// 401 for a token that is no text.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let mut parts = value.as_bytes().trim_ascii().splitn(3, |byte| *byte == b' ');
    match (parts.next(), parts.next()) {
        (Some(scheme), Some(token)) if scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty() => {
            std::str::from_utf8(token).map(Some).map_err(|_| Status::unauthorized())
        }
        _ => Ok(None),
    }
}

async fn by_token(engine: &Arc<Engine>, token: &str) -> Result<User, Status> {
    for authenticator in &engine.auth.authenticators {
        match authenticator.token(engine, token, &[]).await {
            Ok(Some(known)) => return Ok(known.user),
            Ok(None) => {}
            Err(status) => tracing::debug!(%status, "token refused"),
        }
    }
    Err(Status::unauthorized())
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
        let token = |value: &str| bearer(&headers(value.as_bytes())).unwrap().map(str::to_owned);
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token(" bearer abc def").as_deref(), Some("abc"));
        assert_eq!(token("Bearer stra\u{df}e").as_deref(), Some("stra\u{df}e"));
        for none in ["Basic abc", "Bearer ", "Bearer  abc", "Bearer", ""] {
            assert_eq!(token(none), None, "{none}");
        }
        assert_eq!(bearer(&headers(b"Bearer \xff")).unwrap_err().code, 401);
    }
}
