//! The table of kinds -> APIVersions, APIGroupList, APIGroup and APIResourceList, by path.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::resources;
use crate::kind::{Kind, Scope, Storage, Subresource};

/// `groups`: with their versions, in order.
pub fn documents(kinds: &[Arc<Kind>], groups: &[(&str, Vec<&str>)]) -> Vec<(String, Value)> {
    let core: Vec<&str> = groups.iter().find(|(group, _)| group.is_empty()).map(|(_, versions)| versions.clone()).unwrap_or_default();
    let named: Vec<_> = groups.iter().filter(|(group, _)| !group.is_empty()).collect();
    let mut out = vec![
        ("/api".to_owned(), json!({"kind": "APIVersions", "versions": core, "serverAddressByClientCIDRs": []})),
        (
            "/apis".to_owned(),
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named.iter().map(|(g, v)| group(g, v)).collect::<Vec<_>>()}),
        ),
    ];
    for (name, versions) in named {
        let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
        if let (Value::Object(document), Value::Object(group)) = (&mut document, group(name, versions)) {
            document.extend(group);
        }
        out.push((format!("/apis/{name}"), document));
    }
    for (group, versions) in groups {
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        out.extend(versions.iter().map(|version| (format!("{root}/{version}"), list(kinds, group, version))));
    }
    out
}

/// The address that the client used is the one it is told.
pub fn with_address(document: &[u8], address: &str) -> Value {
    let mut document: Value = serde_json::from_slice(document).expect("our own document is JSON");
    document["serverAddressByClientCIDRs"] = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
    document
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Value {
    let mut entries = Vec::new();
    for kind in resources(kinds, group, version) {
        entries.push(resource(kinds, kind));
        let mut below: Vec<_> = kind.subresources.iter().collect();
        below.sort_by(|a, b| a.name.cmp(&b.name));
        entries.extend(below.into_iter().map(|sub| subresource(kind, sub)));
    }
    let mut document = json!({"kind": "APIResourceList", "groupVersion": api::names::api_version(group, version), "resources": entries});
    if !group.is_empty() {
        document["apiVersion"] = "v1".into();
    }
    document
}

fn resource(kinds: &[Arc<Kind>], kind: &Kind) -> Value {
    let mut out = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.scope == Scope::Namespaced,
        "kind": kind.kind, "verbs": kind.verbs,
    });
    for (key, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out[key] = json!(list);
        }
    }
    if let Some(hash) = storage_version_hash(kinds, kind) {
        out["storageVersionHash"] = hash.into();
    }
    out
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut out = json!({
        "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.scope == Scope::Namespaced,
        "kind": sub.body.kind, "verbs": sub.verbs,
    });
    if sub.body.group != kind.group || sub.body.version != kind.version {
        out["group"] = sub.body.group.as_str().into();
        out["version"] = sub.body.version.as_str().into();
    }
    out
}

/// Source: apiserver `pkg/endpoints/discovery/storageversionhash.go`.
fn storage_version_hash(kinds: &[Arc<Kind>], kind: &Kind) -> Option<String> {
    let stored = match &kind.storage {
        Storage::Kept { .. } => kind,
        Storage::As { group, version, plural } => {
            kinds.iter().find(|k| k.group == *group && k.version == *version && k.plural == *plural)?
        }
        Storage::Nowhere => return None,
    };
    let digest = Sha256::digest(format!("{}/{}/{}", stored.group, stored.version, stored.kind));
    digest.get(..8).map(|head| STANDARD.encode(head))
}
