//! A request at the door -> who asks, and whether they may. Source: apiserver `pkg/endpoints/filters`.

use std::sync::Arc;

use api::{GroupResource, Status};
use http::{HeaderMap, header, request::Parts};

use super::info::Info;
use crate::{
    engine::Engine,
    identity::{Attributes, Decision, Peer, User},
};

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";
const MASTERS: &str = "system:masters";

/// The user behind the request: by client certificate, by bearer token, or nobody in particular.
///
/// # Errors
/// 401 for a token that is nobody's.
pub(crate) async fn authenticate(engine: &Arc<Engine>, parts: &Parts) -> Result<User, Status> {
    // As upstream: a good certificate speaks before a token does (`authenticator/config.go`).
    if let Some(user) = parts.extensions.get::<Peer>().and_then(|peer| peer.certificate.clone()) {
        return Ok(authenticated(user));
    }
    match bearer(&parts.headers) {
        Some(token) => by_token(engine, token).await.map(authenticated),
        None => Ok(anonymous()),
    }
}

/// The user that the request wants to be, if the one it comes from may.
pub(crate) fn impersonate(engine: &Engine, headers: &HeaderMap, user: User) -> Result<User, Status> {
    let wanted = wanted(headers)?;
    let Some(wanted) = wanted else { return Ok(user) };
    for asked in impersonations(&wanted, &user) {
        if !matches!(engine.authorize(&asked), Decision::Allow(_)) {
            return Err(refused(&asked, ""));
        }
    }
    Ok(completed(wanted))
}

/// # Errors
/// 403 in upstream's words.
pub(crate) fn authorize(engine: &Engine, info: &Info, user: &User) -> Result<(), Status> {
    let asked = attributes(info, user);
    match engine.authorize(&asked) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refused(&asked, &reason)),
    }
}

/// Whether the user stands above the limits on requests in flight.
pub(crate) fn is_exempt(user: &User) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start().split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

async fn by_token(engine: &Arc<Engine>, token: &str) -> Result<User, Status> {
    for authenticator in &engine.gates.authenticators {
        match authenticator.token(engine, token, &[]).await {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(status) => tracing::debug!(%status, "token refused"),
        }
    }
    Err(Status::unauthorized())
}

fn authenticated(mut user: User) -> User {
    let known = [AUTHENTICATED, UNAUTHENTICATED].iter().any(|group| user.groups.iter().any(|g| g == group));
    if !known && user.name != ANONYMOUS {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

fn attributes(info: &Info, user: &User) -> Attributes {
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
        field_selector: info.field_selector.clone(),
    }
}

fn refused(asked: &Attributes, reason: &str) -> Status {
    let words = format!("{}{}{reason}", refusal_words(asked), if reason.is_empty() { "" } else { ": " });
    Status::forbidden(&GroupResource::new(&asked.group, &asked.resource), &asked.name, &words)
}

fn refusal_words(asked: &Attributes) -> String {
    let Attributes { user, verb, group, namespace, path, .. } = asked;
    let clean = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !asked.resource_request {
        return clean(format!("User {:?} cannot {verb} path {path:?}", user.name));
    }
    let mut resource = asked.resource.clone();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", asked.subresource);
    }
    let place = if namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {namespace:?}") };
    clean(format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}", user.name))
}

/// The user that the headers name; `None` where they name nobody.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let texts = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect::<Vec<_>>();
    let mut user = User {
        name: texts("impersonate-user").into_iter().next().unwrap_or_default(),
        uid: texts("impersonate-uid").into_iter().next().unwrap_or_default(),
        groups: texts("impersonate-group"),
        ..User::default()
    };
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix("impersonate-extra-") {
            user.extra.insert(super::query::decode(key), texts(name.as_str()));
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request("requested impersonation of groups, uid or extra without impersonating a user"))
}

/// What the impersonator must be allowed.
fn impersonations(wanted: &User, user: &User) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, namespace: &str, name: &str, subresource: &str| Attributes {
        user: user.clone(),
        verb: "impersonate".into(),
        resource_request: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        path: String::new(),
        field_selector: String::new(),
    };
    let mut asked = vec![match service_account(&wanted.name) {
        Some((namespace, name)) => ask("", "serviceaccounts", namespace, name, ""),
        None => ask("", "users", "", &wanted.name, ""),
    }];
    asked.extend(wanted.groups.iter().map(|group| ask("", "groups", "", group, "")));
    if !wanted.uid.is_empty() {
        asked.push(ask("authentication.k8s.io", "uids", "", &wanted.uid, ""));
    }
    for (key, values) in &wanted.extra {
        asked.extend(values.iter().map(|value| ask("authentication.k8s.io", "userextras", "", value, key)));
    }
    asked
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// With the groups that come with a name by itself.
fn completed(mut user: User) -> User {
    if user.name == ANONYMOUS {
        if user.groups.is_empty() {
            user.groups.push(UNAUTHENTICATED.into());
        }
        return user;
    }
    if user.groups.is_empty()
        && let Some((namespace, _)) = service_account(&user.name)
    {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    authenticated(user)
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
    fn only_bearer_tokens_are_tokens() {
        let headers = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer  abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&headers("Bearer ")), None);
    }
}
