//! What is asked -> the kind that serves it, or why nobody does. Pure: the routes that upstream installs, written as a function.
//!
//! Source: apiserver `pkg/endpoints/installer.go`, `pkg/server/handler.go`.

use api::{GroupResource, Status};
use http::Method;

use super::info::RequestInfo;
use crate::{
    body::Response,
    engine::registry::{Registry, Served},
    kind::{Handler, Kind, Scope, Subresource},
    schema::Schema,
    wire,
};

/// Why a request that was allowed leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// The group and version is nobody's.
    Nowhere,
    /// The group and version has no such path.
    Unknown,
    /// The path is there for other methods.
    Method,
    /// The path is below an object of a custom kind, which has no such part.
    NoPart,
    /// A part of a path that names something is empty.
    NoName,
    NoNamespace,
}

impl NoRoute {
    /// # Errors
    /// All but the plain text that upstream's mux says.
    pub fn reply(self, info: &RequestInfo) -> Result<Response, Status> {
        Err(match self {
            Self::Nowhere => return Ok(wire::not_found()),
            Self::Unknown => Status::no_such_path(),
            Self::NoPart => Status::not_found(&GroupResource::new(&info.group, &info.resource), &info.name),
            Self::Method => Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
            Self::NoName => Status::bad_request("name must be provided"),
            Self::NoNamespace => Status::bad_request("Namespace parameter required."),
        })
    }
}

pub(crate) fn find(registry: &Registry, info: &RequestInfo) -> Result<Served, NoRoute> {
    if info.path.starts_with("//") {
        return Err(NoRoute::Nowhere);
    }
    match registry.find(&info.group, &info.version, &info.resource).filter(|served| served.kind.is_served()) {
        Some(served) => fits(&served.kind, info).map(|()| served.clone()),
        None if registry.serves(&info.group, &info.version) => Err(NoRoute::Unknown),
        // Below a group of the binary's own, what is not there is said as objects are said not to be.
        None if registry.has_built_in(&info.group) => Err(NoRoute::Unknown),
        None => Err(NoRoute::Nowhere),
    }
}

/// Whether the kind is served under a path of this form: namespaced objects below a namespace, others below none.
fn fits(kind: &Kind, info: &RequestInfo) -> Result<(), NoRoute> {
    let form = info.form;
    let placed = match kind.scope {
        Scope::Cluster => !form.below_namespace,
        Scope::Namespaced => form.below_namespace || form.depth == 1,
    };
    let is_custom = matches!(kind.schema, Schema::Custom(_));
    if !placed || info.verb == "proxy" {
        return Err(if is_custom { NoRoute::Nowhere } else { NoRoute::Unknown });
    }
    match form.depth {
        1 => collection(kind, info),
        2 => item(kind, info),
        _ => part(kind.subresource(&info.subresource).ok_or(if is_custom { NoRoute::NoPart } else { NoRoute::Unknown })?, info),
    }?;
    let whole = form.depth == 1 && info.method == Method::GET;
    match () {
        () if form.depth > 1 && info.name.is_empty() => Err(NoRoute::NoName),
        () if form.below_namespace && info.namespace.is_empty() && !whole => Err(NoRoute::NoNamespace),
        () => Ok(()),
    }
}

fn collection(kind: &Kind, info: &RequestInfo) -> Result<(), NoRoute> {
    let has = |verb: &str| kind.serves(verb);
    if info.form.verb_in_path {
        return among(info, &[(Method::GET, has("list") && has("watch"))]);
    }
    // Of all namespaces at once there are lists only.
    let one_place = kind.scope == Scope::Cluster || info.form.below_namespace;
    let routes =
        [(Method::GET, has("list")), (Method::POST, one_place && has("create")), (Method::DELETE, one_place && has("deletecollection"))];
    among(info, &routes)
}

fn item(kind: &Kind, info: &RequestInfo) -> Result<(), NoRoute> {
    let has = |verb: &str| kind.serves(verb);
    if info.form.verb_in_path {
        return among(info, &[(Method::GET, has("watch"))]);
    }
    // What makes a custom object takes its name in the path, too (the handler of apiextensions goes by the verb alone).
    let names_new = matches!(kind.schema, Schema::Custom(_)) && has("create");
    let routes = [
        (Method::GET, has("get")),
        (Method::PUT, has("update")),
        (Method::PATCH, has("patch")),
        (Method::DELETE, has("delete")),
        (Method::POST, names_new),
    ];
    among(info, &routes)
}

fn part(sub: &Subresource, info: &RequestInfo) -> Result<(), NoRoute> {
    let takes_path = matches!(&sub.handler, Handler::Connect(connect) if connect.takes_path());
    if info.form.verb_in_path || (info.form.depth > 3 && !takes_path) {
        return Err(NoRoute::Unknown);
    }
    let has = |verb: &str| sub.verbs.iter().any(|served| served == verb);
    let routes = [
        (Method::GET, has("get")),
        (Method::POST, has("create")),
        (Method::PUT, has("update")),
        (Method::PATCH, has("patch")),
        (Method::DELETE, has("delete")),
        (Method::HEAD, takes_path),
        (Method::OPTIONS, takes_path),
    ];
    among(info, &routes)
}

fn among(info: &RequestInfo, routes: &[(Method, bool)]) -> Result<(), NoRoute> {
    let mut served = routes.iter().filter(|(_, served)| *served).peekable();
    match () {
        () if served.peek().is_none() => Err(NoRoute::Unknown),
        () if served.any(|(method, _)| *method == info.method) => Ok(()),
        () => Err(NoRoute::Method),
    }
}
