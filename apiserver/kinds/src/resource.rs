//! resource.k8s.io: classes of devices, which there are, who claims them. One file per kind, and what they share.
//!
//! Source: `pkg/apis/resource/validation/validation.go`, `pkg/registry/resource`, `pkg/apis/resource/v1/defaults.go`. Upstream's declarative
//! validations of these kinds only shadow those by hand, which are what is told. Of the feature gates of 1.36 DRAListTypeAttributes and
//! DRANodeAllocatableResources are off: their fields are dropped unless they were there.

mod authorized;
pub mod claim;
pub mod class;
mod config;
mod counters;
mod device;
mod expressions;
mod names;
mod requests;
mod selectors;
pub mod slice;
mod status;
pub mod template;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, hash::Hash};

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::Path;

pub const GROUP: &str = "resource.k8s.io";
const VERSION: &str = "v1";
const PACKAGE: &str = "io.k8s.api.resource.v1";

/// `validateSlice`: of too many none is looked at.
fn each<'v>(
    list: &'v [Value],
    most: usize,
    path: Path<'_>,
    causes: &mut FieldErrors,
    mut check: impl FnMut(&'v Value, Path<'_>, &mut FieldErrors),
) {
    if list.len() > most {
        return causes.too_many(path, list.len(), most);
    }
    for (i, item) in list.iter().enumerate() {
        check(item, path.index(i), causes);
    }
}

/// `validateSet`: each by itself, and then those whose key another has.
fn each_once<'v, K: Hash + Eq + Clone + Into<Value>>(
    list: &'v [Value],
    most: usize,
    path: Path<'_>,
    causes: &mut FieldErrors,
    key: impl Fn(&'v Value) -> K,
    check: impl FnMut(&'v Value, Path<'_>, &mut FieldErrors),
) {
    each(list, most, path, causes, check);
    if list.len() > most {
        return;
    }
    let mut seen = HashSet::new();
    for (i, item) in list.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.clone()) {
            causes.duplicate(path.index(i), key);
        }
    }
}

/// The text of a list's element.
fn as_text(item: &Value) -> &str {
    item.as_str().unwrap_or_default()
}
