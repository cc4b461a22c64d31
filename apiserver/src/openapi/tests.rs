//! The documents of a small table read back, in every form.

use std::borrow::Cow;

use api::time::Timestamp;

use super::*;
use crate::{
    kind::{Conversion, Finalizers, Handler, Scope, Storage, Strategy, Subresource, names},
    schema::{Schema, Tables},
};

struct NoStrategy;

impl Strategy for NoStrategy {
    fn cells(&self, _object: &Value, _now: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

fn table() -> Vec<Arc<Kind>> {
    let thing = Kind {
        group: "x.k8s.io".into(),
        version: "v1".into(),
        kind: "Thing".into(),
        plural: "things".into(),
        singular: "thing".into(),
        short_names: names(&[]),
        categories: names(&[]),
        scope: Scope::Namespaced,
        verbs: names(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        storage: Storage::Kept { prefix: "things".into(), ttl_seconds: None },
        conversion: Conversion::None,
        read: None,
        subresources: vec![Subresource {
            name: "status".into(),
            body: api::Gvk::new("x.k8s.io", "v1", "Thing"),
            schema: Schema::Open,
            verbs: names(&["get", "patch", "update"]),
            handler: Handler::Status,
        }],
        columns: Cow::Borrowed(&[]),
        fields: Cow::Borrowed(&[]),
        schema: Schema::BuiltIn { tables: definitions(), name: "io.k8s.api.x.v1.Thing".into() },
        generation: true,
        finalizers: Finalizers::Any,
        strategy: Arc::new(NoStrategy),
    };
    vec![Arc::new(thing)]
}

fn world() -> World {
    static NONE: std::sync::LazyLock<Arc<Table>> = std::sync::LazyLock::new(Arc::default);
    World { kinds: table(), table: NONE.clone() }
}

fn definitions() -> &'static Tables {
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.";
    let mut all = json!({
        "io.k8s.api.x.v1.Thing": {"type": "object", "description": "A thing.", "properties": {
            "spec": {"$ref": "#/definitions/io.k8s.api.x.v1.Spec", "description": "Its spec."},
            "kind": {"type": "string"},
        }, "x-kubernetes-group-version-kind": [{"group": "x.k8s.io", "version": "v1", "kind": "Thing"}]},
        "io.k8s.api.x.v1.Spec": {"type": "object", "required": ["port"], "properties": {
            "port": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString"},
            "names": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }},
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
        "io.k8s.api.x.v1.Unused": {"type": "object"},
    });
    for name in ["DeleteOptions", "Status", "Patch", "ListMeta", "WatchEvent", "APIResourceList"] {
        all[format!("{meta}{name}")] = json!({"type": "object"});
    }
    let kinds = ["", "apps", "x.k8s.io"].map(|group| json!({"group": group, "version": "v1", "kind": "DeleteOptions"}));
    all[format!("{meta}DeleteOptions")]["x-kubernetes-group-version-kind"] = json!(kinds);
    let list = json!({"$ref": format!("#/definitions/{meta}ListMeta"), "default": {}});
    all["io.k8s.api.x.v1.ThingList"] = json!({"type": "object", "properties": {"metadata": list, "default": {"type": "string", "default": ""}},
        "x-kubernetes-group-version-kind": [{"group": "x.k8s.io", "version": "v1", "kind": "ThingList"}]});
    let parameter = |name: &str| json!({"name": name, "type": "string", "description": "A parameter."});
    all["#patch"] = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter).into_iter().collect();
    all["#list"] = ["continue", "limit"].map(parameter).into_iter().collect();
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(all.to_string().as_bytes()).unwrap();
    Box::leak(Box::new(Tables::new("", "", Vec::leak(out.finish().unwrap()))))
}

fn built(wanted: &Document) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(build(&world(), wanted).unwrap().as_ref()).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn v3_has_operations_that_name_the_kind_and_schemas_that_close() {
    let document: Value = serde_json::from_slice(&built(&Document::V3 { place: "apis/x.k8s.io/v1".into() })).unwrap();
    let patch = &document["paths"]["/apis/x.k8s.io/v1/namespaces/{namespace}/things/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "x.k8s.io", "version": "v1", "kind": "Thing"}));
    assert_eq!(patch["operationId"], "patchXV1NamespacedThing");
    let names: Vec<&str> = patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(!schemas.contains_key("io.k8s.api.x.v1.Unused"));
    let spec = &schemas["io.k8s.api.x.v1.Thing"]["properties"]["spec"];
    assert_eq!(*spec, json!({"description": "Its spec.", "allOf": [{"$ref": "#/components/schemas/io.k8s.api.x.v1.Spec"}]}));
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["oneOf"][0]["type"], "integer");
    assert_eq!(schemas["io.k8s.api.x.v1.ThingList"]["properties"]["metadata"]["default"], json!({}));
    let deletes = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
    assert_eq!(deletes.as_array().unwrap().len(), 2, "{deletes}");
    let watch = &document["paths"]["/apis/x.k8s.io/v1/watch/things"];
    assert_eq!((&watch["get"]["x-kubernetes-action"], watch["get"].get("parameters")), (&json!("watchlist"), None));
    let shared: Vec<&str> = watch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(shared, ["continue", "limit", "pretty"]);
    assert!(document["paths"]["/apis/x.k8s.io/v1/"]["get"].is_object());
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(schemas.contains_key(reference), "{reference}");
    }
}

#[test]
fn v2_has_the_definitions_as_they_are() {
    let document: Value = serde_json::from_slice(&built(&Document::V2)).unwrap();
    assert_eq!(document["definitions"]["io.k8s.api.x.v1.Spec"]["properties"]["names"]["x-kubernetes-list-type"], "set");
    assert_eq!(document["definitions"]["io.k8s.api.x.v1.ThingList"]["x-kubernetes-group-version-kind"][0]["kind"], "ThingList");
    let list = &document["definitions"]["io.k8s.api.x.v1.ThingList"]["properties"];
    assert_eq!((list["metadata"].get("default"), &list["default"]), (None, &json!({"type": "string"})));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/apis/x.k8s.io/v1/things") && paths.contains_key("/version/"));
    assert_eq!(paths["/apis/x.k8s.io/v1/namespaces/{namespace}/things"]["delete"]["x-kubernetes-action"], "deletecollection");
}

/// Field numbers and payloads of a protobuf message that has only varints and lengths.
fn fields(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut rest = bytes;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        if tag & 7 == 0 {
            varint(&mut rest);
            continue;
        }
        assert_eq!(tag & 7, 2);
        let length = usize::try_from(varint(&mut rest)).unwrap();
        let (payload, after) = rest.split_at(length);
        rest = after;
        out.push((tag >> 3, payload));
    }
    out
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn one(bytes: &[u8], field: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(f, _)| *f == field).map(|(_, payload)| payload).unwrap()
}

/// The value of an entry of a map.
fn entry<'b>(bytes: &'b [u8], field: u64, name: &str) -> &'b [u8] {
    let found = fields(bytes).into_iter().find(|(f, payload)| *f == field && one(payload, 1) == name.as_bytes());
    one(found.unwrap().1, 2)
}

#[test]
fn gnostics_protobuf_reads_back() {
    let document = built(&Document::V2Gnostic);
    assert_eq!(one(&document, 1), b"2.0");
    let spec = entry(one(&document, 9), 1, "io.k8s.api.x.v1.Spec");
    assert_eq!(one(spec, 19), b"port");
    assert_eq!(one(one(spec, 22), 1), b"object");
    let properties = one(spec, 25);
    let reference = one(entry(properties, 1, "port"), 1);
    assert_eq!(reference, b"#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString");
    let names = entry(properties, 1, "names");
    assert_eq!(one(one(one(one(names, 23), 1), 22), 1), b"string");
    assert_eq!(one(entry(names, 31, "x-kubernetes-list-type"), 2), b"\"set\"");
    let labels = entry(properties, 1, "labels");
    assert_eq!(one(one(one(one(labels, 21), 1), 22), 1), b"string");
    let item = entry(one(&document, 8), 2, "/apis/x.k8s.io/v1/namespaces/{namespace}/things/{name}");
    let patch = one(item, 8);
    assert_eq!(one(patch, 5), b"patchXV1NamespacedThing");
    let parameters: Vec<&[u8]> = fields(patch).into_iter().filter(|(f, _)| *f == 8).map(|(_, p)| one(p, 1)).collect();
    assert_eq!(one(one(parameters[0], 1), 2), b"body");
    assert_eq!(one(one(one(parameters[1], 2), 3), 4), b"dryRun");
}

#[tokio::test]
async fn the_root_leads_to_documents_that_may_be_kept_forever() {
    let handler = OpenApi::default();
    let state = world();
    let told = handler.told(&state);
    assert!(Arc::ptr_eq(&told, &handler.told(&state)), "worked out once");
    let root: Value = serde_json::from_slice(&told.root).unwrap();
    let url = root["paths"]["apis/x.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let ask = |url: &str| http::Request::get(url).body(()).unwrap().into_parts().0;
    let served = handler.v3(world(), "apis/x.k8s.io/v1", &ask(&url)).await.unwrap().unwrap();
    assert_eq!(served.status(), StatusCode::OK);
    assert!(served.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let stale = handler.v3(world(), "apis/x.k8s.io/v1", &ask("/openapi/v3/apis/x.k8s.io/v1?hash=OLD")).await.unwrap().unwrap();
    assert_eq!((stale.status(), stale.headers()[header::LOCATION].to_str().unwrap()), (StatusCode::MOVED_PERMANENTLY, url.as_str()));
    assert!(handler.v3(world(), "apis/none/v1", &ask("/")).await.unwrap().is_none());
    assert!(!Arc::ptr_eq(&told, &handler.told(&world())), "of another state anew");
}
