//! The documents of a small table, and how the door chooses among them.

use std::borrow::Cow;

use api::time::Timestamp;
use serde_json::json;

use super::*;
use crate::kind::{Conversion, Finalizers, Handler, Scope, Storage, Strategy, Subresource, names};

struct NoStrategy;

impl Strategy for NoStrategy {
    fn cells(&self, _object: &Value, _now: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: "thing".into(),
        short_names: names(&["th"]),
        categories: names(&["all"]),
        scope: Scope::Namespaced,
        verbs: names(&["get", "list"]),
        storage: Storage::Kept { prefix: plural.into(), ttl_seconds: None },
        conversion: Conversion::None,
        read: None,
        subresources: Vec::new(),
        columns: Cow::Borrowed(&[]),
        fields: Cow::Borrowed(&[]),
        schema: crate::schema::Schema::Open,
        generation: false,
        finalizers: Finalizers::Any,
        strategy: Arc::new(NoStrategy),
    }
}

fn table() -> Vec<Arc<Kind>> {
    let body = |group, version, kind| api::Gvk::new(group, version, kind);
    let mut pod = kind("", "v1", "Pod", "pods");
    pod.subresources = vec![
        Subresource {
            name: "status".into(),
            body: body("", "v1", "Pod"),
            schema: crate::schema::Schema::Open,
            verbs: names(&["get"]),
            handler: Handler::Status,
        },
        Subresource {
            name: "eviction".into(),
            body: body("policy", "v1", "Eviction"),
            schema: crate::schema::Schema::Open,
            verbs: names(&["create"]),
            handler: Handler::Object,
        },
    ];
    let mut seen = kind("x.io", "v1beta1", "Pod", "pods");
    seen.storage = Storage::As { group: "".into(), version: "v1".into(), plural: "pods".into() };
    [pod, seen, kind("x.io", "v1", "Thing", "things")].into_iter().map(Arc::new).collect()
}

fn document(path: &str) -> Value {
    let pages = Pages::of(table(), Arc::default());
    serde_json::from_slice(pages.legacy.get(path).unwrap()).unwrap()
}

#[test]
fn resources_are_listed_with_their_subresources() {
    assert_eq!(
        document("/api/v1"),
        json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "thing", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"], "shortNames": ["th"], "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8="},
            {"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]},
            {"name": "pods/status", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]},
        ]})
    );
    assert_eq!(document("/apis/x.io/v1beta1")["resources"][0]["storageVersionHash"], "xPOwRZ+Yhw8=");
}

#[test]
fn groups_prefer_their_most_stable_version() {
    let group = json!({
        "name": "x.io", "preferredVersion": {"groupVersion": "x.io/v1", "version": "v1"},
        "versions": [{"groupVersion": "x.io/v1", "version": "v1"}, {"groupVersion": "x.io/v1beta1", "version": "v1beta1"}],
    });
    assert_eq!(document("/apis")["groups"], json!([group]));
    assert_eq!(document("/apis/x.io")["versions"], group["versions"]);
    let mut versions = ["v1alpha2", "v2", "v1beta1", "foo", "v10", "v1beta2"];
    versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
    assert_eq!(versions, ["v10", "v2", "v1beta2", "v1beta1", "v1alpha2", "foo"]);
}

#[test]
fn aggregated_discovery_tells_all_in_one() {
    let (kinds, none) = (table(), Table::default());
    let document = |root| aggregated::document(&kinds, &none, &groups(&kinds, &none), (root, "v2"));
    let core = document("/api");
    let resource = &core["items"][0]["versions"][0]["resources"][0];
    assert_eq!(resource["responseKind"], json!({"group": "", "version": "", "kind": "Pod"}));
    assert_eq!(
        resource["subresources"][0],
        json!({"subresource": "eviction", "responseKind": {"group": "policy", "version": "v1", "kind": "Eviction"}, "verbs": ["create"]})
    );
    let others = document("/apis");
    assert_eq!(others["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(others["items"][0]["versions"][0]["version"], "v1");
}

#[test]
fn the_first_form_that_can_be_served_is_chosen() {
    let all = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let table = [
        (all, Some(Form::Aggregated("v2"))),
        ("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json", Some(Form::Plain)),
        ("application/vnd.kubernetes.protobuf", Some(Form::Encoded(Format::Protobuf))),
        ("*/*", Some(Form::Plain)),
    ];
    for (accept, form) in table {
        assert_eq!(choose(accept), form, "{accept}");
    }
}

#[test]
fn a_known_etag_is_answered_with_304() {
    let pages = Pages::of(table(), Arc::default());
    let ask = |etag: Option<&HeaderValue>| {
        let mut request = http::Request::get("/apis").header(header::ACCEPT, aggregated::MEDIA_TYPE);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        pages.reply("/apis", pages.legacy.get("/apis").unwrap(), &parts)
    };
    let first = ask(None);
    assert_eq!(first.headers()[header::CONTENT_TYPE], aggregated::MEDIA_TYPE);
    assert_eq!(ask(first.headers().get(header::ETAG)).status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn the_root_names_every_path() {
    let pages = Pages::of(table(), Arc::default());
    let paths = pages.root();
    for path in ["/api", "/api/v1", "/apis", "/readyz"] {
        assert!(paths["paths"].as_array().unwrap().contains(&json!(path)), "{path}");
    }
}
