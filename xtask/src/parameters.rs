//! `swagger.json` of a checkout -> parameters of queries, of which no definition tells: those of verbs (`#list` and the like; any kind's are the same)
//! and of streams (`#pods/exec` and the like), each a list of names, types and descriptions.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::definitions::document;

const ANY: &str = "/api/v1/namespaces/{namespace}/pods";

pub fn read(upstream: &Path) -> Map<String, Value> {
    let v2 = document(&upstream.join("api/openapi-spec/swagger.json"));
    let (collection, item) = (&v2["paths"][ANY], &v2["paths"][format!("{ANY}/{{name}}")]);
    let verbs = [
        ("#create", &collection["post"]),
        ("#update", &item["put"]),
        ("#patch", &item["patch"]),
        ("#delete", &item["delete"]),
        ("#list", &collection["get"]),
        ("#deletecollection", &collection["delete"]),
    ];
    let mut out: Map<String, Value> = verbs.iter().map(|(name, operation)| ((*name).to_owned(), queries(&v2, operation))).collect();
    for (path, item) in v2["paths"].as_object().into_iter().flatten() {
        let Some((before, sub)) = path.split_once("/{name}/").filter(|(_, sub)| !sub.contains('/')) else { continue };
        let is_stream = item["get"]["x-kubernetes-action"] == "connect" || item["get"]["responses"]["200"]["schema"]["type"] == "string";
        if is_stream {
            let plural = before.rsplit('/').next().unwrap_or_default();
            out.insert(format!("#{plural}/{sub}"), queries(&v2, item));
        }
    }
    out
}

/// What an operation or a path takes in its query, but for `pretty`, which all take.
fn queries(document: &Value, of: &Value) -> Value {
    let all = of["parameters"].as_array().into_iter().flatten().map(|parameter| resolved(document, parameter));
    let own = all.filter(|parameter| parameter["in"] == "query" && parameter["name"] != "pretty");
    own.map(|p| json!({"name": p["name"], "type": p["type"], "description": p["description"]})).collect::<Vec<_>>().into()
}

fn resolved<'d>(document: &'d Value, parameter: &'d Value) -> &'d Value {
    match parameter["$ref"].as_str().and_then(|to| to.strip_prefix("#/parameters/")) {
        Some(name) => &document["parameters"][name],
        None => parameter,
    }
}
