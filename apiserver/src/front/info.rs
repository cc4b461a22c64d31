//! Method, path and query -> what is asked: the one value that the authorizer judges and the handler acts on, and nothing beside it.
//!
//! Source: apiserver `pkg/endpoints/request/requestinfo.go`; for the selectors `listOpts` in `pkg/endpoints/handlers/get.go`.

use api::{
    Status,
    selector::{Fields, Labels},
};
use http::Method;

use super::query::{Query, decoded};
use crate::{fairness::RequestDigest, identity::User, metrics::Observed};

/// What a request is about (`RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub resource_request: bool,
    pub method: Method,
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Also of a request about a namespace itself: its own name.
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource.
    pub rest: String,
    /// Decoded.
    pub path: String,
    pub form: Form,
    pub selectors: Selectors,
}

/// How the path is built, as routes are told apart by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// The resource stands below `namespaces/<namespace>/`.
    pub below_namespace: bool,
    /// The verb stands in the path: `watch/...`, or `proxy/...`, which nobody serves any more.
    pub verb_in_path: bool,
    /// How many parts the path has from the resource on.
    pub depth: usize,
}

/// Which objects a list, a watch or a deletecollection is about, the name in the path included. An error is what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selectors {
    pub fields: Result<Fields, String>,
    pub labels: Result<Labels, String>,
}

impl Default for Selectors {
    fn default() -> Self {
        Self { fields: Ok(Fields::default()), labels: Ok(Labels::default()) }
    }
}

/// Subresources of a namespace; anything else under it is a resource of its own.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];
const NAME: &str = "metadata.name";

/// `validConnectRequests` of `pkg/endpoints/metrics/metrics.go`.
const CONNECTS: [&str; 5] = ["log", "exec", "portforward", "attach", "proxy"];

impl RequestInfo {
    /// Takes out of `query` what it reads of it, so that nobody reads it a second time.
    ///
    /// # Errors
    /// 400 for a path that cannot be decoded, 500 for a special verb about nothing.
    pub fn new(method: &Method, raw_path: &str, query: &mut Query) -> Result<Self, Status> {
        let path = decoded(raw_path).ok_or_else(|| Status::bad_request(format!("invalid URL path {raw_path:?}")))?;
        let verb = method.as_str().to_ascii_lowercase();
        let mut info = Self { method: method.clone(), verb, path: path.clone(), ..Self::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", rest @ ..] if rest.len() >= 2 => ("", rest),
            ["apis", group, rest @ ..] if rest.len() >= 2 => (*group, rest),
            _ => return Ok(info),
        };
        let [version, rest @ ..] = rest else { return Ok(info) };
        info.resource_request = true;
        group.clone_into(&mut info.group);
        (*version).clone_into(&mut info.version);
        let rest = info.set_verb(method, rest)?;
        let rest = info.set_namespace(rest);
        info.set_resource(rest);
        info.set_selection(query);
        Ok(info)
    }

    /// The namespace that what is asked about lies in; empty for the cluster. A namespace itself lies in none.
    pub fn place(&self) -> &str {
        if self.form.below_namespace { &self.namespace } else { "" }
    }

    /// The labels selected, likewise.
    pub fn authorized_labels(&self) -> Option<&Labels> {
        self.selectors.labels.as_ref().ok().filter(|labels| !labels.is_empty() && !self.form.verb_in_path)
    }

    /// The fields selected, as authorizers may rely on them (`verbViaPathPrefix` has none: it is about one name or about all).
    pub fn authorized_fields(&self) -> Option<&Fields> {
        self.selectors.fields.as_ref().ok().filter(|_| !self.form.verb_in_path)
    }

    /// Streams and other requests without an end of their own.
    pub fn is_long_running(&self) -> bool {
        let streams = ["attach", "exec", "proxy", "log", "portforward"];
        matches!(self.verb.as_str(), "watch" | "proxy") || streams.contains(&self.subresource.as_str())
    }

    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }

    /// What decides how soon it is served.
    pub fn asked<'a>(&'a self, user: &'a User) -> RequestDigest<'a> {
        let (verb, group, namespace, path) = (self.verb.as_str(), self.group.as_str(), self.namespace.as_str(), self.path.as_str());
        let (resource, subresource) = (self.resource.as_str(), self.subresource.as_str());
        RequestDigest { user, resource_request: self.resource_request, verb, group, resource, subresource, namespace, path }
    }

    /// As metrics tell of it; the code comes later.
    pub fn observed(&self) -> Observed<'_> {
        let verb = match self.verb.as_str() {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        let verb = if CONNECTS.contains(&self.subresource.as_str()) { "CONNECT" } else { verb };
        // As the installer has it: what is made is one.
        let scope = match (self.name.is_empty() && verb != "POST", self.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let (group, version) = (self.group.as_str(), self.version.as_str());
        let (resource, subresource) = (self.resource.as_str(), self.subresource.as_str());
        Observed { verb, group, version, resource, subresource, scope, ..Observed::default() }
    }

    fn set_verb<'a, 'p>(&mut self, method: &Method, parts: &'a [&'p str]) -> Result<&'a [&'p str], Status> {
        if let [verb @ ("watch" | "proxy"), rest @ ..] = parts {
            if rest.is_empty() {
                let why = format!("unable to determine kind and namespace from url, {}", self.path);
                return Err(Status::internal(format!("failed to create RequestInfo: {why}")));
            }
            (*verb).clone_into(&mut self.verb);
            self.form.verb_in_path = true;
            return Ok(rest);
        }
        self.verb = match method.as_str() {
            "POST" => "create",
            "GET" | "HEAD" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        }
        .to_owned();
        Ok(parts)
    }

    fn set_namespace<'a, 'p>(&mut self, parts: &'a [&'p str]) -> &'a [&'p str] {
        let ["namespaces", namespace, rest @ ..] = parts else { return parts };
        self.namespace = (*namespace).to_owned();
        match rest.first() {
            Some(next) if !NAMESPACE_SUBRESOURCES.contains(next) => {
                self.form.below_namespace = true;
                rest
            }
            _ => parts,
        }
    }

    fn set_resource(&mut self, parts: &[&str]) {
        let part = |at: usize| parts.get(at).map(|part| (*part).to_owned()).unwrap_or_default();
        self.form.depth = parts.len();
        self.resource = part(0);
        self.name = part(1);
        if self.verb != "proxy" {
            self.subresource = part(2);
            self.rest = parts.get(3..).unwrap_or_default().join("/");
            if parts.len() > 3 && self.path.ends_with('/') {
                self.rest.push('/');
            }
        }
    }

    /// The verb of a request without a name, and what it selects.
    fn set_selection(&mut self, query: &mut Query) {
        let nameless = self.name.is_empty();
        if nameless && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        } else if nameless && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            return;
        }
        let fields = query.take("fieldSelector").map_or(Ok(Fields::default()), |text| Fields::parse(&text));
        let labels = query.take("labelSelector").map_or(Ok(Labels::default()), |text| Labels::parse(&text));
        drop(query.take("watch"));
        if nameless && !self.form.verb_in_path && self.verb != "deletecollection" {
            let named = fields.as_ref().ok().and_then(|fields| fields.exact(NAME));
            if let Some(name) = named.filter(|name| crate::names::path_segment_error(name).is_none()) {
                name.clone_into(&mut self.name);
            }
        }
        self.selectors = Selectors { fields: fields.and_then(|fields| self.agreed(fields)), labels };
    }

    /// A name in the path is a selection too, and the selector may not say otherwise.
    fn agreed(&self, fields: Fields) -> Result<Fields, String> {
        match () {
            () if self.name.is_empty() => Ok(fields),
            () if fields.is_empty() => Ok(Fields::one(NAME, &self.name)),
            () if fields.exact(NAME) == Some(&self.name) => Ok(fields),
            () => Err("fieldSelector metadata.name doesn't match requested name".into()),
        }
    }
}

#[cfg(test)]
mod tests;
