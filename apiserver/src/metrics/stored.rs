//! The caches -> how many objects of each resource there are, how large they are, and how many watch them: read when somebody asks.
//!
//! Source: apiserver `pkg/storage/etcd3/metrics` and `pkg/endpoints/metrics`.

use std::fmt::Write;

use super::head;
use crate::engine::Engine;

/// One resource as it is kept.
struct Kept {
    group: String,
    version: String,
    resource: String,
    objects: usize,
    bytes: usize,
    watches: usize,
}

type Column = (&'static str, &'static str, fn(&Kept) -> (String, usize));

const COLUMNS: [Column; 4] = [
    (
        "apiserver_longrunning_requests",
        "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
        |kept| {
            let Kept { group, version, resource, .. } = kept;
            let named = format!(
                "group=\"{group}\",resource=\"{resource}\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"{version}\""
            );
            (format!("component=\"apiserver\",{named}"), kept.watches)
        },
    ),
    (
        "apiserver_resource_objects",
        "Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        |kept| (kept.labels(), kept.objects),
    ),
    (
        "apiserver_resource_size_estimate_bytes",
        "Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
        |kept| (kept.labels(), kept.bytes),
    ),
    (
        "apiserver_storage_objects",
        "[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        |kept| {
            let dot = if kept.group.is_empty() { "" } else { "." };
            (format!("resource=\"{}{dot}{}\"", kept.resource, kept.group), kept.objects)
        },
    ),
];

impl Kept {
    fn labels(&self) -> String {
        format!("group=\"{}\",resource=\"{}\"", self.group, self.resource)
    }
}

pub fn text(engine: &Engine, out: &mut String) {
    let registry = engine.registry();
    let all = registry.caches().iter().map(|cache| {
        let ((objects, bytes), kind) = (cache.size(), &cache.kind);
        let (group, version, resource) = (kind.group.to_string(), kind.version.to_string(), kind.plural.to_string());
        Kept { group, version, resource, objects, bytes, watches: cache.watches() }
    });
    let mut all: Vec<Kept> = all.collect();
    all.sort_by(|a, b| (&a.group, &a.resource).cmp(&(&b.group, &b.resource)));
    for (name, help, value) in COLUMNS {
        head(out, name, "gauge", help);
        for (labels, value) in all.iter().map(value) {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    }
}
