//! A request at the door -> who asks, and whether they may. Source: apiserver `pkg/endpoints/filters`.

use std::sync::Arc;

use api::{GroupResource, Status};
use http::{HeaderMap, header, request::Parts};

use super::info::RequestInfo;
use crate::{
    engine::Engine,
    identity::{Attributes, Decision, Peer, User},
};

const AUTHENTICATED: &str = "system:authenticated";
pub(super) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(super) const ANONYMOUS: &str = "system:anonymous";
/// Of each word of a request that its refusal repeats. No name of an object is longer.
const REPEATED_BYTES_MAX: usize = 1024;

/// The user behind the request: by client certificate, by bearer token, or nobody in particular.
///
/// # Errors
/// 401 for a token that is nobody's.
pub(crate) async fn authenticate(engine: &Arc<Engine>, parts: &Parts) -> Result<User, Status> {
    // As upstream: a good certificate speaks before a token does (`authenticator/config.go`).
    if let Some(user) = parts.extensions.get::<Peer>().and_then(|peer| peer.certificate.clone()) {
        return Ok(authenticated(user));
    }
    match bearer(&parts.headers)? {
        Some(token) => by_token(engine, token).await.map(authenticated),
        None => Ok(anonymous()),
    }
}

/// # Errors
/// 403 in upstream's words.
pub(crate) fn authorize(engine: &Engine, info: &RequestInfo, user: &User) -> Result<(), Status> {
    allowed(engine, &attributes(info, user))
}

/// The same request under another verb.
///
/// # Errors
/// 403 in upstream's words.
pub(crate) fn authorize_as(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    allowed(engine, &Attributes { verb: verb.into(), ..attributes(info, user) })
}

/// A verb that is needed besides the request's own (`ensureAuthorizedForVerb` in `pkg/registry/core/pod/rest/authorize.go`).
///
/// # Errors
/// 403, with the authorizers' reason alone.
pub(crate) fn authorize_also(engine: &Engine, info: &RequestInfo, user: &User, verb: &str) -> Result<(), Status> {
    if info.verb == verb {
        return Ok(());
    }
    match engine.authorize(&Attributes { verb: verb.into(), ..attributes(info, user) }) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(Status::forbidden(&GroupResource::new(&info.group, &info.resource), &info.name, &reason))
        }
    }
}

/// # Errors
/// 403 in upstream's words.
pub(super) fn allowed(engine: &Engine, asked: &Attributes) -> Result<(), Status> {
    match engine.authorize(asked) {
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

pub(super) fn authenticated(mut user: User) -> User {
    let known = [AUTHENTICATED, UNAUTHENTICATED].iter().any(|group| user.groups.iter().any(|g| g == group));
    if !known && user.name != ANONYMOUS {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

pub(super) fn attributes(info: &RequestInfo, user: &User) -> Attributes {
    Attributes {
        user: user.clone(),
        verb: info.verb.clone(),
        resource_request: info.resource_request,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        fields: info.authorized_fields(),
    }
}

pub(super) fn refused(asked: &Attributes, reason: &str) -> Status {
    let words = format!("{}{}{reason}", refusal_words(asked), if reason.is_empty() { "" } else { ": " });
    Status::forbidden(&GroupResource::new(cut(&asked.group), cut(&asked.resource)), cut(&asked.name), &words)
}

/// As much of a word of the request as a refusal repeats: strangers are refused, and what they wait for is kept for them.
fn cut(word: &str) -> &str {
    word.get(..word.floor_char_boundary(REPEATED_BYTES_MAX)).unwrap_or_default()
}

fn refusal_words(asked: &Attributes) -> String {
    let [verb, group, namespace, path] = [&asked.verb, &asked.group, &asked.namespace, &asked.path].map(|word| cut(word));
    let user = cut(&asked.user.name);
    let clean = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !asked.resource_request {
        return clean(format!("User {user:?} cannot {verb} path {path:?}"));
    }
    let mut resource = cut(&asked.resource).to_owned();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", cut(&asked.subresource));
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
            user,
            verb: "list".into(),
            resource_request: true,
            resource: "pods".into(),
            namespace: "default".into(),
            ..Attributes::default()
        };
        let words = r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!(refused(&asked, "").message, words);
        asked.namespace.clear();
        assert!(refused(&asked, "").message.ends_with("at the cluster scope"));
        let path = Attributes { resource_request: false, resource: String::new(), verb: "get".into(), path: "/x".into(), ..asked };
        assert_eq!(refused(&path, "").message, r#"forbidden: User "x" cannot get path "/x""#);
    }

    #[test]
    fn a_refusal_is_short_however_long_the_request_was() {
        let long = "&\u{e9}".repeat(100_000);
        for resource_request in [false, true] {
            let asked = Attributes {
                user: User { name: long.clone(), ..User::default() },
                resource_request,
                verb: "get".into(),
                group: long.clone(),
                version: long.clone(),
                resource: long.clone(),
                subresource: long.clone(),
                namespace: long.clone(),
                name: long.clone(),
                path: long.clone(),
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
