//! Impersonation headers -> the user that a request runs as, if its sender may be that user for this very request.
//!
//! Source: KEP-5284, apiserver `pkg/endpoints/filters/impersonation/{constrained_impersonation,mode}.go`.

mod headers;

use std::sync::Arc;

use api::Status;

use super::{auth, info::RequestInfo};
use crate::{
    engine::Engine,
    identity::{ANONYMOUS, Attributes, UNAUTHENTICATED, User},
};

const AUTHENTICATION: &str = "authentication.k8s.io";
const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups or extra values on it is asked first whether the sender may be in all of them.
const MANY: usize = 4;

/// The user that the request's headers name, if they name one, and the verb of the way in which that was allowed, empty for `impersonate`.
///
/// # Errors
/// 400 for headers that cannot be read or name nobody, 403 where the sender may not, in the words of the first way that was tried.
pub(crate) async fn acting(
    engine: &Engine,
    info: &RequestInfo,
    headers: &http::HeaderMap,
    sender: &User,
) -> Result<Option<Acting>, Status> {
    let Some(wanted) = headers::wanted(headers)? else { return Ok(None) };
    let mut first = None;
    for mode in MODES {
        if !mode.applies(&wanted, sender) {
            continue;
        }
        // Few requests come here, and all would carry the room that it takes.
        match Box::pin((Trial { engine, mode, sender }).run(info, &wanted)).await {
            Ok(user) => return Ok(Some(Acting { user: user.into(), constraint: mode.constraint() })),
            Err(status) => drop(first.get_or_insert(status)),
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom a request runs as, who is not its sender.
pub(crate) struct Acting {
    pub user: Arc<User>,
    pub constraint: &'static str,
}

/// A way to be somebody else: the narrower ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account, the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither node nor service account.
    UserInfo,
    /// The verb `impersonate`, whatever is then done.
    Legacy,
}

const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "impersonate",
        }
    }

    /// As audit events name it.
    fn constraint(self) -> &'static str {
        if self == Self::Legacy { "" } else { self.verb() }
    }

    fn applies(self, wanted: &User, sender: &User) -> bool {
        let alone = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node(&wanted.name), service_account(&wanted.name));
        match self {
            Self::AssociatedNode => alone && node.is_some_and(|node| runs_on(sender, node)),
            Self::ArbitraryNode => alone && node.is_some(),
            Self::ServiceAccount => alone && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }
}

/// Whether one sender may be one user, in one way.
struct Trial<'a> {
    engine: &'a Engine,
    mode: Mode,
    sender: &'a User,
}

impl Trial<'_> {
    async fn run(&self, info: &RequestInfo, wanted: &User) -> Result<User, Status> {
        if self.mode != Mode::Legacy {
            let asked = auth::attributes(info, self.sender);
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), asked.verb);
            self.ask(Attributes { verb: &verb, ..asked }).await?;
        }
        let mut user = wanted.clone();
        self.name(wanted, &mut user).await?;
        if !wanted.uid.is_empty() {
            self.ask(self.about(AUTHENTICATION, "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(wanted).await?;
        Ok(completed(user))
    }

    /// The group of users and groups.
    fn group(&self) -> &'static str {
        if self.mode == Mode::Legacy { "" } else { AUTHENTICATION }
    }

    fn about<'a>(&'a self, group: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes {
            user: self.sender,
            verb: self.mode.verb(),
            resource_request: true,
            group,
            version: "v1",
            resource,
            name,
            ..Attributes::default()
        }
    }

    fn about_extra<'a>(&'a self, key: &'a str, value: &'a str) -> Attributes<'a> {
        Attributes { subresource: key, ..self.about(AUTHENTICATION, "userextras", value) }
    }

    async fn ask(&self, asked: Attributes<'_>) -> Result<(), Status> {
        if self.mode != Mode::AssociatedNode {
            return auth::allowed(self.engine, &asked).await;
        }
        // Which node it is has been seen to; the rest holds for the account wherever it runs.
        let keys = asked.user.extra.keys().cloned().collect();
        let user = User { extra: [(NODE_KEYS.to_owned(), keys)].into(), ..asked.user.clone() };
        let name = if asked.verb == self.mode.verb() { "*" } else { asked.name };
        auth::allowed(self.engine, &Attributes { user: &user, name, ..asked }).await
    }

    async fn name(&self, wanted: &User, user: &mut User) -> Result<(), Status> {
        let mut asked = self.about(self.group(), "users", &wanted.name);
        let node = node(&wanted.name).filter(|_| self.mode != Mode::Legacy);
        if let Some(node) = node {
            (asked.resource, asked.name) = ("nodes", node);
            user.groups = vec![NODES.into()];
        }
        if let Some((namespace, name)) = service_account(&wanted.name) {
            (asked.resource, asked.namespace, asked.name) = ("serviceaccounts", namespace, name);
            if wanted.groups.is_empty() {
                user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        self.ask(asked).await
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(auth::refused(&self.about(self.group(), "groups", ""), "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == MASTERS) {
                return Err(auth::refused(
                    &self.about(self.group(), "groups", MASTERS),
                    "impersonating the system:masters group is not allowed",
                ));
            }
            if groups.len() >= MANY && self.ask(self.about(self.group(), "groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.ask(self.about(self.group(), "groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &User) -> Result<(), Status> {
        if wanted.extra.is_empty() {
            return Ok(());
        }
        if self.mode != Mode::Legacy {
            if let Some(why) = wanted.extra.iter().find_map(|(key, values)| extra_error(key, values)) {
                return Err(auth::refused(&self.about_extra("", ""), &why));
            }
            let many = wanted.extra.len() >= MANY || wanted.extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.ask(self.about_extra("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.ask(self.about_extra(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// `validateExtra`
fn extra_error(key: &str, values: &[String]) -> Option<String> {
    let invalid = |value: &str, why: &str| {
        Some(format!("impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {value:?}: {why}"))
    };
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".into());
    }
    let Some((domain, path)) = key.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
        return invalid(key, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    if let Some(why) = crate::names::subdomain_error(domain) {
        return invalid(domain, &why);
    }
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || br"/-._~%!$&'()*+,;=:".contains(&byte)) {
        return invalid(path, r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')");
    }
    match () {
        () if values.is_empty() => Some("impersonating empty values in extra is not allowed".into()),
        () if values.iter().any(String::is_empty) => Some("impersonating the empty string value in extra is not allowed".into()),
        () => None,
    }
}

fn runs_on(sender: &User, node: &str) -> bool {
    let told = sender.extra.get(NODE_NAME).map(Vec::as_slice);
    service_account(&sender.name).is_some() && matches!(told, Some([only]) if only == node)
}

fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| crate::names::subdomain_error(name).is_none())
}

/// Namespace and name of the service account that a user is (`SplitUsername`).
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let good = crate::names::label_error(namespace).is_none() && crate::names::subdomain_error(name).is_none();
    good.then_some((namespace, name))
}

/// With the group that everybody is in by itself.
fn completed(mut user: User) -> User {
    let is_in = |user: &User, group: &str| user.groups.iter().any(|g| g == group);
    if user.name == ANONYMOUS {
        if !is_in(&user, UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.into());
        }
        return user;
    }
    Arc::unwrap_or_clone(User::authenticated(user.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..User::default() }
    }

    #[test]
    fn a_name_says_what_its_user_is() {
        assert_eq!(service_account("system:serviceaccount:a:b"), Some(("a", "b")));
        assert_eq!(service_account("system:serviceaccount:a:b.c"), Some(("a", "b.c")));
        for no in ["system:serviceaccount:a:b:c", "system:serviceaccount::b", "system:serviceaccount:a:", "system:serviceaccount:A:b", "x"]
        {
            assert_eq!(service_account(no), None, "{no}");
        }
        assert_eq!((node("system:node:n.1"), node("system:node:"), node("system:node:N")), (Some("n.1"), None, None));
    }

    #[test]
    fn groups_come_with_a_name() {
        assert_eq!(completed(user("jane", &[])).groups, ["system:authenticated"]);
        assert_eq!(completed(user("jane", &["g"])).groups, ["g", "system:authenticated"]);
        assert_eq!(completed(user("jane", &["system:unauthenticated"])).groups, ["system:unauthenticated"]);
        assert_eq!(completed(user(ANONYMOUS, &["g"])).groups, ["g", "system:unauthenticated"]);
    }

    #[test]
    fn the_ways_are_tried_from_the_narrowest_on() {
        let mut sender = user("system:serviceaccount:a:agent", &[]);
        sender.extra.insert(NODE_NAME.into(), vec!["n".into()]);
        let ways = |wanted: User| MODES.into_iter().filter(|mode| mode.applies(&wanted, &sender)).collect::<Vec<_>>();
        assert_eq!(ways(user("system:node:n", &[])), [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(ways(user("system:node:m", &[])), [Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(ways(user("system:node:n", &["g"])), [Mode::Legacy]);
        assert_eq!(ways(user("system:serviceaccount:a:b", &[])), [Mode::ServiceAccount, Mode::Legacy]);
        assert_eq!(ways(user("jane", &["g"])), [Mode::UserInfo, Mode::Legacy]);
    }

    #[test]
    fn extra_keys_are_paths_below_a_domain() {
        let values = ["v".to_owned()];
        assert_eq!(extra_error("acme.io/foo", &values), None);
        for bad in ["", "foo", "/foo", "acme.io/", "Acme.io/foo", "acme.io/fo o"] {
            assert!(extra_error(bad, &values).is_some(), "{bad}");
        }
        assert!(extra_error("acme.io/foo", &[]).is_some() && extra_error("acme.io/foo", &[String::new()]).is_some());
    }
}
