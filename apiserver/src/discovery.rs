//! The table of kinds, and what other servers serve -> discovery documents: legacy ones per path, and aggregated ones.
//!
//! Sources: apiserver `pkg/endpoints/discovery`, KEP-3352 (aggregated discovery); kube-aggregator `pkg/apiserver/handler_apis.go`. Groups come in the
//! order of their priorities, and in the table's where there are none.

mod aggregated;
mod legacy;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    future::ready,
    sync::Arc,
};

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    body::{Response, empty, full},
    delegation::{Delegations, Table},
    engine::Engine,
    front::{negotiate::Format, render},
    kind::Kind,
    non_resource::{Router, non_resource_routes},
    schema::Schema,
    wire,
};

const ACCEPTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Serves `/api`, `/apis` and what lies below them up to the version.
#[derive(Default)]
pub struct Discovery {
    pages: Mutex<Option<Arc<Pages>>>,
    delegations: Arc<Delegations>,
}

/// All documents of one state of the table.
struct Pages {
    kinds: Vec<Arc<Kind>>,
    table: Arc<Table>,
    legacy: HashMap<String, Bytes>,
    aggregated: HashMap<(&'static str, &'static str), Page>,
}

struct Page {
    bytes: Bytes,
    etag: HeaderValue,
}

/// All that lead to a document, as long as there is one. (Resources lie deeper.)
const PATHS: [&str; 11] = [
    "/",
    "/api",
    "/api/",
    "/api/{version}",
    "/api/{version}/",
    "/apis",
    "/apis/",
    "/apis/{group}",
    "/apis/{group}/",
    "/apis/{group}/{version}",
    "/apis/{group}/{version}/",
];

impl Discovery {
    /// With the group versions of others, and everybody's priorities.
    pub fn new(delegations: Arc<Delegations>) -> Self {
        Self { delegations, ..Self::default() }
    }

    /// Serves the documents of `engine`'s kinds.
    pub fn routes(self, engine: Arc<Engine>) -> Router {
        let discovery = Arc::new(self);
        non_resource_routes(&PATHS, move |request| ready(discovery.reply(&engine, &request)))
    }

    fn reply(&self, engine: &Engine, request: &Parts) -> Option<Response> {
        let path = request.uri.path().trim_end_matches('/');
        if path.is_empty() && request.method == Method::GET {
            let pages = self.pages(engine.kinds());
            return Some(wire::reply(StatusCode::OK, "application/json", full(pages.root().to_string())));
        }
        let pages = self.pages(engine.kinds());
        let Some(legacy) = pages.legacy.get(path) else {
            return pages.has_built_in_above(path).then(|| wire::refusal(&Status::no_such_path()));
        };
        if request.method != Method::GET && request.method != Method::HEAD {
            return Some(wire::refusal(&Status::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )));
        }
        Some(pages.reply(path, legacy, request))
    }

    /// The pages of the table as it is now; the last ones where it is the same.
    fn pages(&self, kinds: Vec<Arc<Kind>>) -> Arc<Pages> {
        let (table, mut held) = (self.delegations.table(), self.pages.lock());
        match &*held {
            Some(pages) if same(&pages.kinds, &kinds) && Arc::ptr_eq(&pages.table, &table) => pages.clone(),
            _ => held.insert(Arc::new(Pages::of(kinds, table))).clone(),
        }
    }
}

impl Pages {
    fn of(kinds: Vec<Arc<Kind>>, table: Arc<Table>) -> Self {
        let groups = groups(&kinds, &table);
        let legacy =
            legacy::documents(&kinds, &groups).into_iter().map(|(path, document)| (path, Bytes::from(document.to_string()))).collect();
        let mut pages = HashMap::new();
        for root in ["/api", "/apis"] {
            for version in aggregated::VERSIONS {
                pages.insert((root, version), Page::of(&aggregated::document(&kinds, &table, &groups, (root, version))));
            }
        }
        drop(groups);
        Self { kinds, table, legacy, aggregated: pages }
    }

    /// What `/` tells: the paths that can be asked (upstream's `pkg/server/routes/index.go`).
    fn root(&self) -> Value {
        let others = [
            "/.well-known/openid-configuration",
            "/healthz",
            "/livez",
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ];
        let remote = self.table.versions().iter().filter(|of| of.remote.is_some());
        let remote: Vec<String> = remote.map(|of| format!("/apis/{}/{}", of.group, of.version)).collect();
        let paths: BTreeSet<&str> = self.legacy.keys().chain(&remote).map(String::as_str).chain(others).collect();
        json!({ "paths": paths })
    }

    /// Whether upstream's routes of a group lie above the path: these say what is not there as objects are said not to be.
    fn has_built_in_above(&self, path: &str) -> bool {
        let group = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["", "api", _] => "",
            ["", "apis", group, _] => group,
            _ => return false,
        };
        self.kinds.iter().any(|kind| kind.group == group && matches!(kind.schema, Schema::BuiltIn { .. }))
    }

    /// One that has the definitions of all tables.
    fn schema(&self) -> Schema {
        self.kinds.iter().map(|kind| &kind.schema).find(|schema| schema.has_protobuf()).cloned().unwrap_or(Schema::Open)
    }

    fn reply(&self, path: &str, legacy: &Bytes, request: &Parts) -> Response {
        let accept = request.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        match choose(accept) {
            Some(Form::Aggregated(version)) => match self.aggregated.iter().find(|((root, v), _)| *root == path && *v == version) {
                Some((_, page)) => page.reply(request),
                // Of one group there is none.
                None => wire::refusal(&Status::not_acceptable(ACCEPTED)),
            },
            Some(Form::Plain) => plain(path, legacy, request),
            Some(Form::Encoded(format)) => match serde_json::from_slice(legacy) {
                Ok(document) => render::encoded(&self.schema(), format, StatusCode::OK, &document),
                Err(error) => wire::refusal(&Status::internal(error)),
            },
            None => wire::refusal(&Status::not_acceptable(ACCEPTED)),
        }
    }
}

impl Page {
    fn of(document: &Value) -> Self {
        let bytes = Bytes::from(document.to_string());
        let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal digits are fit for a header");
        Self { bytes, etag }
    }

    fn reply(&self, request: &Parts) -> Response {
        let known = request.headers.get(header::IF_NONE_MATCH) == Some(&self.etag);
        let mut response =
            if known { Response::new(empty()) } else { wire::reply(StatusCode::OK, aggregated::MEDIA_TYPE, full(self.bytes.clone())) };
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        response
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Plain,
    Aggregated(&'static str),
    /// Plain, in another syntax.
    Encoded(Format),
}

/// The first clause of `Accept` that can be served.
fn choose(accept: &str) -> Option<Form> {
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: HashMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
        let encoded = |format| (!parameters.contains_key("as")).then_some(Form::Encoded(format));
        match media {
            "" | "*/*" | "application/*" | "application/json" => {}
            "application/yaml" => return encoded(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => return encoded(Format::Protobuf),
            _ => return None,
        }
        match parameters.get("as") {
            None => Some(Form::Plain),
            Some(&"APIGroupDiscoveryList") if parameters.get("g") == Some(&"apidiscovery.k8s.io") => {
                aggregated::VERSIONS.iter().find(|v| parameters.get("v") == Some(v)).map(|v| Form::Aggregated(v))
            }
            Some(_) => None,
        }
    })
}

fn plain(path: &str, document: &Bytes, request: &Parts) -> Response {
    let mut response = match path {
        "/api" => wire::json(StatusCode::OK, &legacy::with_address(document, host(request))),
        _ => wire::reply(StatusCode::OK, "application/json", full(document.clone())),
    };
    if path == "/api" || path == "/apis" {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}

fn host(request: &Parts) -> &str {
    let named = request.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    named.or_else(|| request.uri.authority().map(|a| a.as_str())).unwrap_or_default()
}

fn same(a: &[Arc<Kind>], b: &[Arc<Kind>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Group names (`""` for the core) with their versions, the first ones first: by priority, as far as there is one.
fn groups<'a>(kinds: &'a [Arc<Kind>], table: &'a Table) -> Vec<(&'a str, Vec<&'a str>)> {
    let of_kinds = kinds.iter().map(|kind| (kind.group.as_ref(), kind.version.as_ref()));
    let remote = table.versions().iter().filter(|of| of.remote.is_some()).map(|of| (of.group.as_str(), of.version.as_str()));
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (group, version) in of_kinds.chain(remote) {
        let at = *places.entry(group).or_insert_with(|| {
            groups.push((group, Vec::new()));
            groups.len() - 1
        });
        if let Some((_, versions)) = groups.get_mut(at)
            && !versions.contains(&version)
        {
            versions.push(version);
        }
    }
    let (mut of_groups, mut of_versions) = (HashMap::<&str, i64>::new(), HashMap::<(&str, &str), i64>::new());
    for of in table.versions() {
        let highest = of_groups.entry(&of.group).or_insert(of.group_priority);
        *highest = of.group_priority.max(*highest);
        of_versions.insert((&of.group, &of.version), of.version_priority);
    }
    // Who has no priority yet comes last, in the order of the table.
    groups.sort_by_key(|(group, _)| {
        let of_group = of_groups.get(group).copied();
        (Reverse(of_group), if of_group.is_some() { *group } else { "" })
    });
    for (group, versions) in &mut groups {
        versions.sort_by_key(|version| (Reverse(of_versions.get(&(*group, *version)).copied()), Reverse(priority(version))));
    }
    groups
}

/// Stable before beta before alpha, then the higher number. Source: apimachinery `pkg/version/helpers.go`.
fn priority(version: &str) -> (u8, u32, u32) {
    let digits = |text: &str| text.parse::<u32>().unwrap_or(0);
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (word, rank) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (rank, digits(major), digits(minor));
        }
    }
    if rest.bytes().all(|b| b.is_ascii_digit()) { (3, digits(rest), 0) } else { (0, 0, 0) }
}

/// The kinds of a group version, by resource name.
fn resources<'k>(kinds: &'k [Arc<Kind>], group: &str, version: &str) -> Vec<&'k Arc<Kind>> {
    let mut found: Vec<_> = kinds.iter().filter(|k| k.group == group && k.version == version).collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
}

#[cfg(test)]
mod tests;
