//! The table of kinds -> one APIGroupDiscoveryList per root.

use std::sync::Arc;

use api::Gvk;
use serde_json::{Value, json};

use super::resources;
use crate::{
    delegation::Table,
    kind::{Kind, Scope, Subresource},
};

/// Versions of `apidiscovery.k8s.io` that are served, the best first.
pub const VERSIONS: [&str; 1] = ["v2"];

pub const MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `root` is `/api` (the core group) or `/apis` (all others); `groups` come with their versions, in order.
pub fn document(kinds: &[Arc<Kind>], table: &Table, groups: &[(&str, Vec<&str>)], (root, version): (&str, &str)) -> Value {
    let of_core = root == "/api";
    let own = groups.iter().filter(|(name, _)| name.is_empty() == of_core);
    let items: Vec<Value> = own.map(|(name, versions)| group(kinds, table, name, versions)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn group(kinds: &[Arc<Kind>], table: &Table, name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            if let Some(remote) = table.remote(name, version) {
                return Value::clone(&remote.discovery);
            }
            let list: Vec<Value> = resources(kinds, name, version).into_iter().map(|kind| resource(kind)).collect();
            json!({"version": version, "resources": list, "freshness": "Current"})
        })
        .collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn resource(kind: &Kind) -> Value {
    let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut out = json!({
        "resource": kind.plural, "responseKind": response_kind(kind, &kind.gvk()), "scope": scope,
        "singularResource": kind.singular, "verbs": kind.verbs,
    });
    for (key, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out[key] = json!(list);
        }
    }
    if !kind.subresources.is_empty() {
        let mut below: Vec<&Subresource> = kind.subresources.iter().collect();
        below.sort_by(|a, b| a.name.cmp(&b.name));
        let below = below.into_iter();
        out["subresources"] =
            below.map(|sub| json!({"subresource": sub.name, "responseKind": response_kind(kind, &sub.body), "verbs": sub.verbs})).collect();
    }
    out
}

/// Group and version stay empty where they are the resource's own.
fn response_kind(kind: &Kind, body: &Gvk) -> Value {
    if body.group == kind.group && body.version == kind.version {
        return json!({"group": "", "version": "", "kind": body.kind});
    }
    json!({"group": body.group, "version": body.version, "kind": body.kind})
}
