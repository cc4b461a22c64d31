//! `authorizer.group('apps').resource('deployments').check('create').allowed()` -> what the server's authorizers say.
//!
//! Source: apiserver `pkg/cel/library/authz.go`.

use std::rc::Rc;

use api::name_rules;

use super::{
    judge::{Authority, Check},
    value::{Failure, Meter, V},
};

/// What one question costs (`library/cost.go`).
const CHECK_COST: usize = 350_000;

/// `authorizer.requestResource`
pub fn of_request<'v>(authority: &Authority<'v>) -> V<'v> {
    V::Check(authority.clone(), authority.request.clone())
}

pub fn call<'v>(run: &mut Meter, name: &str, arguments: &[V<'v>]) -> Result<Option<V<'v>>, Failure> {
    Ok(match arguments {
        [V::Authorizer(authority), V::Text(text)] => Some(begun(authority, name, text)?),
        [V::Authorizer(authority), V::Text(namespace), V::Text(account)] if name == "serviceAccount" => {
            if !name_rules::dns_subdomain(account).is_empty() {
                return Failure::of("Invalid service account name");
            }
            if !name_rules::dns_label(namespace).is_empty() {
                return Failure::of("Invalid service account namespace");
            }
            let account = Some(Rc::new((namespace.to_string(), account.to_string())));
            Some(V::Authorizer(Authority { account, ..authority.clone() }))
        }
        [V::Check(authority, check), V::Text(text)] => Some(asked(run, authority, check, name, text)?),
        [V::Decision(verdict)] => match name {
            "allowed" => Some(V::Bool(verdict.allowed)),
            "reason" => Some(V::text(verdict.reason.as_str())),
            "errored" => Some(V::Bool(verdict.error.is_some())),
            "error" => Some(V::text(verdict.error.as_deref().unwrap_or_default())),
            _ => None,
        },
        _ => None,
    })
}

fn begun<'v>(authority: &Authority<'v>, name: &str, text: &str) -> Result<V<'v>, Failure> {
    let check = match name {
        "path" if text.trim().is_empty() => return Failure::of("path must not be empty"),
        "path" => Check { path: text.to_owned(), ..Check::default() },
        "group" => Check { group: text.to_owned(), ..Check::default() },
        _ => return Failure::no_overload(),
    };
    Ok(V::Check(authority.clone(), Rc::new(check)))
}

fn asked<'v>(run: &mut Meter, authority: &Authority<'v>, check: &Rc<Check>, name: &str, text: &str) -> Result<V<'v>, Failure> {
    let is_of_resource = check.path.is_empty() && !check.resource.is_empty();
    if name == "check" && (is_of_resource || !check.path.is_empty()) {
        run.spend(CHECK_COST)?;
        let account = authority.account.as_deref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        return Ok(V::Decision(Rc::new(authority.judge.judge(account, check, text))));
    }
    let mut next = (**check).clone();
    let part = match name {
        "resource" if text.trim().is_empty() => return Failure::of("resource must not be empty"),
        "resource" if check.path.is_empty() && !is_of_resource => &mut next.resource,
        "subresource" if is_of_resource => &mut next.subresource,
        "namespace" if is_of_resource => &mut next.namespace,
        "name" if is_of_resource => &mut next.name,
        "fieldSelector" if is_of_resource => &mut next.fields,
        "labelSelector" if is_of_resource => &mut next.labels,
        _ => return Failure::no_overload(),
    };
    text.clone_into(part);
    Ok(V::Check(authority.clone(), Rc::new(next)))
}
