//! The entries of an object <-> those of its scale: who owns the count of replicas. Source: apimachinery `pkg/util/managedfields/scalehandler.go`.

use serde_json::Value;

use super::{
    FIELD,
    entries::{Entry, Managed, Source, Who},
    put,
};
use crate::{
    engine::meta,
    fields::{Element, Path, Set},
    kind::{Kind, ScalePaths},
};

/// Of a Scale.
const VERSION: &str = "autoscaling/v1";

/// Puts into the scale who owns its replicas.
pub(in crate::engine) fn of_object(paths: &ScalePaths, object: &Value, scale: &mut Value) {
    let replicas = replicas(paths);
    let entries = decoded(object).0.into_iter().filter(|entry| entry.set().has(&replicas));
    let in_scale = Set::named(&[&["spec", "replicas"]]);
    let entries = entries.map(|entry| {
        let who = Who { version: if entry.who.version.is_empty() { String::new() } else { VERSION.into() }, ..entry.who };
        Entry::new(who, VERSION, entry.time, in_scale.clone())
    });
    put(scale, Managed(entries.collect()).encode());
}

/// Puts into the object who owns its replicas by the scale.
pub(in crate::engine) fn of_scale(kind: &Kind, paths: &ScalePaths, scale: &Value, object: &mut Value) {
    let (path, version) = (replicas(paths), kind.api_version());
    let replicas = Set::of([path.clone()]);
    let in_scale = Set::named(&[&["spec", "replicas"]]);
    let mut scaled = decoded(scale);
    scaled.0.retain(|entry| entry.meets(&in_scale));
    let mut managed = decoded(object);
    for entry in managed.0.iter_mut().filter(|entry| entry.set().has(&path)) {
        let is_same = |other: &Entry| {
            let (one, other) = (&entry.who, &other.who);
            one.manager == other.manager && one.operation == other.operation && one.subresource == other.subresource
        };
        match scaled.0.iter().position(is_same) {
            Some(at) => drop(scaled.0.remove(at)),
            None => entry.take_away(&[&replicas]),
        }
    }
    // Upstream takes the time from the object's own entries, which know nothing of who is new: such a one has none.
    managed.0.extend(scaled.0.into_iter().map(|entry| {
        let own = if entry.who.version.is_empty() { String::new() } else { version.clone() };
        Entry::new(Who { version: own, ..entry.who }, &version, None, replicas.clone())
    }));
    put(object, managed.encode());
}

fn decoded(object: &Value) -> Managed {
    meta::field(object, FIELD).and_then(|list| Managed::decode(list.clone(), Source::Store).ok()).unwrap_or_default()
}

fn replicas(paths: &ScalePaths) -> Path {
    paths.spec_replicas.split('/').skip(1).map(Element::field).collect()
}
