//! Method and path -> what is asked. Source: apiserver `pkg/endpoints/request/requestinfo.go`.

use http::Method;

use super::query::{Query, decode};
use crate::metrics::Observed;

/// What a request is about (`RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub resource_request: bool,
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource.
    pub rest: String,
    pub path: String,
    pub field_selector: String,
}

/// Subresources of a namespace; anything else under it is a resource of its own.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl Info {
    pub fn new(method: &Method, raw_path: &str, query: &Query) -> Self {
        let path = decode(raw_path);
        let other = Self { verb: method.as_str().to_ascii_lowercase(), path: path.clone(), ..Self::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", rest @ ..] if rest.len() >= 2 => ("", rest),
            ["apis", group, rest @ ..] if rest.len() >= 2 => (*group, rest),
            _ => return other,
        };
        let [version, rest @ ..] = rest else { return other };
        let mut info = Self { resource_request: true, group: group.to_owned(), version: (*version).to_owned(), ..other };
        let rest = info.set_verb(method, rest);
        let rest = info.set_namespace(rest);
        info.set_resource(rest);
        info.name_verb(query);
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            query.get("fieldSelector").clone_into(&mut info.field_selector);
        }
        info
    }

    /// Streams and other requests without an end of their own.
    pub fn is_long_running(&self) -> bool {
        let streams = ["attach", "exec", "proxy", "log", "portforward"];
        matches!(self.verb.as_str(), "watch" | "proxy") || streams.contains(&self.subresource.as_str())
    }

    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
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
        let scope = match (self.name.is_empty(), self.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let (group, version) = (self.group.as_str(), self.version.as_str());
        let (resource, subresource) = (self.resource.as_str(), self.subresource.as_str());
        Observed { verb, group, version, resource, subresource, scope, ..Observed::default() }
    }

    fn set_verb<'a, 'p>(&mut self, method: &Method, parts: &'a [&'p str]) -> &'a [&'p str] {
        if let [verb @ ("watch" | "proxy"), rest @ ..] = parts
            && !rest.is_empty()
        {
            self.verb = (*verb).to_owned();
            return rest;
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
        parts
    }

    fn set_namespace<'a, 'p>(&mut self, parts: &'a [&'p str]) -> &'a [&'p str] {
        let ["namespaces", namespace, rest @ ..] = parts else { return parts };
        self.namespace = (*namespace).to_owned();
        match rest.first() {
            Some(next) if !NAMESPACE_SUBRESOURCES.contains(next) => rest,
            _ => parts,
        }
    }

    fn set_resource(&mut self, parts: &[&str]) {
        let part = |at: usize| parts.get(at).map(|part| (*part).to_owned()).unwrap_or_default();
        self.resource = part(0);
        self.name = part(1);
        if !matches!(self.verb.as_str(), "watch" | "proxy") {
            self.subresource = part(2);
            self.rest = parts.get(3..).unwrap_or_default().join("/");
        }
    }

    fn name_verb(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => {
                self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
                let fields = api::selector::Fields::parse(query.get("fieldSelector")).ok();
                let name = fields.as_ref().and_then(|fields| fields.exact("metadata.name"));
                if let Some(name) = name.filter(|name| crate::names::path_segment_error(name).is_none()) {
                    self.name = name.to_owned();
                }
            }
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, target: &str) -> Info {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Info::new(&method.parse().unwrap(), path, &Query::parse(Some(query)))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // method, path -> verb group version namespace resource name subresource rest
        let cases = [
            ("GET /api/v1/namespaces", "list||v1||namespaces|||"),
            ("GET /api/v1/namespaces/a", "get||v1|a|namespaces|a||"),
            ("PUT /api/v1/namespaces/a/finalize", "update||v1|a|namespaces|a|finalize|"),
            ("GET /api/v1/namespaces/a/pods", "list||v1|a|pods|||"),
            ("GET /api/v1/namespaces/a/pods?watch=1", "watch||v1|a|pods|||"),
            ("GET /api/v1/namespaces/a/pods/b", "get||v1|a|pods|b||"),
            ("GET /api/v1/namespaces/a/pods/b/proxy/c/d", "get||v1|a|pods|b|proxy|c/d"),
            ("DELETE /apis/g/v1/namespaces/a/xs", "deletecollection|g|v1|a|xs|||"),
            ("GET /apis/g/v1/xs", "list|g|v1||xs|||"),
            ("GET /api/v1/watch/namespaces/a/pods/b", "watch||v1|a|pods|b||"),
            ("GET /api/v1/pods?fieldSelector=metadata.name%3Db", "list||v1||pods|b||"),
            ("POST /api/v1/namespaces/a/pods/b/binding", "create||v1|a|pods|b|binding|"),
        ];
        for (request, wanted) in cases {
            let (method, target) = request.split_once(' ').unwrap();
            let i = info(method, target);
            let got = [i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest].join("|");
            assert!(i.resource_request);
            assert_eq!(got, wanted, "{request}");
        }
    }

    #[test]
    fn other_paths_are_about_no_resource() {
        for path in ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/g", "/apis/g/v1", "/version/x/y/z"] {
            let i = info("GET", path);
            assert!(!i.resource_request, "{path}");
            assert_eq!((i.verb.as_str(), i.path.as_str()), ("get", path));
        }
    }
}
