//! `metadata` of an object: read, filled in by the system, validated. Source: apimachinery `pkg/api/validation/objectmeta.go`.

use std::collections::HashSet;

use api::{
    field_errors::FieldErrors,
    k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    name_rules, selector,
    time::{Timestamp, rfc3339},
};
use rand::Rng;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    kind::{Finalizers, Kind, MetaCheck, Scope},
    names,
};

pub(super) const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// No vowels and none of `0 1 3`, so that no words come out (apimachinery `pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const BASE_LENGTH_MAX: usize = 63 - SUFFIX_LENGTH;

/// The metadata map, made where it is missing or no map.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let meta = object.as_object_mut().expect("was just made an object").entry("metadata").or_insert_with(|| json!({}));
    if !meta.is_object() {
        *meta = json!({});
    }
    meta.as_object_mut().expect("was just made an object")
}

/// A field of the metadata; `None` where absent or null.
pub(crate) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(name).filter(|value| !value.is_null())
}

/// A text of the metadata, empty where absent.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    field(object, name).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = field(object, "finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a creator may not set.
pub(crate) fn wipe(object: &mut Value) {
    let meta = of(object);
    for name in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        meta.shift_remove(name);
    }
    meta.retain(|_, value| !value.is_null());
}

/// What the system sets on a new object.
pub(crate) fn fill(object: &mut Value, now: Timestamp) {
    let meta = of(object);
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), rfc3339(now).into());
}

/// Its deletion begins, and ends `seconds` from `now` where nothing else holds it.
pub(crate) fn mark_deleted(object: &mut Value, now: Timestamp, seconds: i64) {
    let generation = field(object, "generation").and_then(Value::as_i64).filter(|generation| *generation > 0);
    let at = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    let meta = of(object);
    meta.insert("deletionTimestamp".into(), rfc3339(at).into());
    meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
    if let Some(generation) = generation {
        meta.insert("generation".into(), (generation + 1).into());
    }
}

/// `base` and five random characters.
pub(crate) fn generated(base: &str) -> String {
    let mut end = base.len().min(BASE_LENGTH_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut random = rand::rng();
    let suffix = (0..SUFFIX_LENGTH).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    base[..end].chars().chain(suffix).collect()
}

/// Carries over what an update cannot change, where the updater left it out.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    let keep = |name: &str| field(old, name).cloned();
    let (uid, created, generation) = (keep("uid"), keep("creationTimestamp"), keep("generation"));
    let (deleted, grace) = (keep("deletionTimestamp"), keep("deletionGracePeriodSeconds"));
    let meta = of(new);
    for name in ["selfLink", "generation"] {
        meta.shift_remove(name);
    }
    meta.retain(|_, value| !value.is_null());
    let missing = |meta: &Map<String, Value>, name: &str| meta.get(name).and_then(Value::as_str).is_none_or(str::is_empty);
    if missing(meta, "uid") {
        set(meta, "uid", uid);
    }
    set(meta, "creationTimestamp", created);
    set(meta, "generation", generation);
    if deleted.is_some() {
        set(meta, "deletionTimestamp", deleted);
    }
    if grace.is_some() && !meta.contains_key("deletionGracePeriodSeconds") {
        set(meta, "deletionGracePeriodSeconds", grace);
    }
}

fn set(meta: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(meta.insert(name.to_owned(), value)),
        None => drop(meta.shift_remove(name)),
    }
}

/// Reads the metadata as its type.
///
/// # Errors
/// What has the wrong type.
pub(crate) fn typed(object: &Value) -> Result<ObjectMeta, String> {
    match object.get("metadata") {
        None | Some(Value::Null) => Ok(ObjectMeta::default()),
        Some(meta) => ObjectMeta::deserialize(meta).map_err(|error| format!("metadata: {error}")),
    }
}

/// `ValidateObjectMeta`.
pub(crate) fn validate(kind: &Kind, meta: &ObjectMeta, causes: &mut FieldErrors) {
    let name = meta.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else if let Some(why) = kind.strategy.name_error(name) {
        causes.invalid("metadata.name", name, &why);
    } else if let Some(why) = names::path_segment_error(name) {
        // `BeforeCreate` asks it of every kind: no path would lead to the object.
        causes.invalid("metadata.name", name, &why);
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (kind.scope, namespace) {
        (Scope::Namespaced, "") => causes.required("metadata.namespace", ""),
        (Scope::Namespaced, ns) => {
            if let Some(why) = names::label_error(ns) {
                causes.invalid("metadata.namespace", ns, &why);
            }
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => causes.forbidden("metadata.namespace", "not allowed on this type"),
    }
    validate_common(meta, causes);
    validate_finalizers(meta, causes);
    if kind.strategy.meta_check() != MetaCheck::None {
        validate_names_of_finalizers(kind, meta, causes);
    }
}

/// What `rest.BeforeUpdate` finds, and then the kind's own `ValidateUpdate`.
pub(crate) fn validate_update(kind: &Kind, (new, old): (&Value, &Value), meta: &ObjectMeta, check: MetaCheck, causes: &mut FieldErrors) {
    let as_new = |causes: &mut FieldErrors| {
        validate_common(meta, causes);
        validate_finalizers(meta, causes);
    };
    as_new(causes);
    validate_change(new, old, meta, causes);
    if matches!(check, MetaCheck::Create | MetaCheck::Both) {
        as_new(causes);
        validate_names_of_finalizers(kind, meta, causes);
    }
    if matches!(check, MetaCheck::Update | MetaCheck::Both) {
        validate_change(new, old, meta, causes);
        validate_names_of_finalizers(kind, meta, causes);
    }
}

/// `validateKubeFinalizerName`
fn validate_names_of_finalizers(kind: &Kind, meta: &ObjectMeta, causes: &mut FieldErrors) {
    const STANDARD: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
    if kind.finalizers == Finalizers::Any {
        return;
    }
    for (i, name) in meta.finalizers.iter().flatten().enumerate() {
        if !name.contains('/') && !STANDARD.contains(&name.as_str()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.invalid(format!("metadata.finalizers[{i}]"), name.as_str(), why);
        }
    }
}

/// `ValidateObjectMetaUpdate`.
fn validate_change(new: &Value, old: &Value, meta: &ObjectMeta, causes: &mut FieldErrors) {
    if field(old, "deletionTimestamp").is_some() {
        let had: HashSet<String> = finalizers(old).into_iter().collect();
        let extra: Vec<String> = finalizers(new).into_iter().filter(|f| !had.contains(f)).map(|f| api::quoted(&f)).collect();
        if !extra.is_empty() {
            let found = format!("[]string{{{}}}", extra.join(", "));
            let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers {found}");
            causes.forbidden("metadata.finalizers", &why);
        }
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if field(new, name) != field(old, name) {
            let value = field(new, name).cloned().unwrap_or_default();
            causes.invalid(format!("metadata.{name}"), value, "field is immutable");
        }
    }
    validate_common(meta, causes);
}

fn validate_common(meta: &ObjectMeta, causes: &mut FieldErrors) {
    for (key, value) in meta.labels.iter().flatten() {
        qualified(key, "metadata.labels", key, causes);
        if !selector::is_label_value(value) {
            let too_long = value.len() > 63;
            let why = if too_long { "must be no more than 63 bytes" } else { selector::LABEL_VALUE_RULE };
            causes.invalid("metadata.labels", value.as_str(), why);
        }
    }
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        qualified(&key.to_lowercase(), "metadata.annotations", key, causes);
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_BYTES_MAX {
        causes.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
    validate_owners(meta.owner_references.as_deref().unwrap_or_default(), causes);
}

fn validate_owners(owners: &[OwnerReference], causes: &mut FieldErrors) {
    let at = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            causes.invalid(format!("{at}.apiVersion"), owner.api_version.as_str(), "version must not be empty");
        }
        for (name, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                causes.invalid(format!("{at}.{name}"), value.as_str(), "must not be empty");
            }
        }
        if name_rules::is_banned_owner(&owner.api_version, &owner.kind) {
            let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
            let why = format!("{group}/{version}, Kind={} is disallowed from being an owner", owner.kind);
            causes.invalid(at, as_go_writes(owner), &why);
        }
        if owner.controller != Some(true) {
            continue;
        }
        let this = format!("{}/{}", owner.kind, owner.name);
        if let Some(first) = &controller {
            // All of the references are shown with each.
            if causes.is_full() {
                return;
            }
            let why = format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}");
            causes.invalid(at, owners.iter().map(as_go_writes).collect::<Value>(), &why);
        } else {
            controller = Some(this);
        }
    }
}

/// Its fields in the order of the type there.
fn as_go_writes(owner: &OwnerReference) -> Value {
    let mut out = json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid});
    for (name, value) in [("controller", owner.controller), ("blockOwnerDeletion", owner.block_owner_deletion)] {
        if let Some(value) = value {
            out[name] = value.into();
        }
    }
    out
}

fn validate_finalizers(meta: &ObjectMeta, causes: &mut FieldErrors) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for name in finalizers {
        qualified(name, "metadata.finalizers", name, causes);
    }
    let has = |wanted: &str| finalizers.iter().any(|f| f == wanted);
    if has(ORPHAN) && has(FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        causes.invalid("metadata.finalizers", json!(finalizers), &why);
    }
}

/// `IsQualifiedName`: all that is wrong with `key`, told of `shown`.
fn qualified(key: &str, at: &str, shown: &str, causes: &mut FieldErrors) {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((_, name)) if name.contains('/') => {
            let why = selector::LABEL_KEY_RULE.replacen("name part must", "a valid label key must", 1);
            causes.invalid(at, shown, &format!("{why} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return;
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    if prefix == Some("") {
        causes.invalid(at, shown, "prefix part must be non-empty");
    } else if let Some(why) = prefix.and_then(names::subdomain_error) {
        causes.invalid(at, shown, &format!("prefix part {}", why.replace("253 characters", "253 bytes")));
    }
    if name.is_empty() {
        causes.invalid(at, shown, "name part must be non-empty");
    } else if name.len() > 63 {
        causes.invalid(at, shown, "name part must be no more than 63 bytes");
    }
    if !selector::is_label_key(name.get(..name.len().min(63)).unwrap_or(name)) {
        causes.invalid(at, shown, selector::LABEL_KEY_RULE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(kind: &str, controller: Option<bool>) -> OwnerReference {
        OwnerReference {
            api_version: "v1".into(),
            kind: kind.into(),
            name: "n".into(),
            uid: "u".into(),
            controller,
            block_owner_deletion: None,
        }
    }

    #[test]
    fn owners_are_shown_in_the_order_of_their_type() {
        let texts = |owners: &[OwnerReference]| {
            let mut causes = FieldErrors::default();
            validate_owners(owners, &mut causes);
            causes.0.iter().map(|cause| cause.text()).collect::<Vec<_>>()
        };
        let one = r#"{"apiVersion":"v1","kind":"A","name":"n","uid":"u","controller":true}"#;
        let why = r#"Only one reference can have Controller set to true. Found "true" in references for A/n and A/n"#;
        let two = [owner("A", Some(true)), owner("A", Some(true))];
        assert_eq!(texts(&two), [format!("metadata.ownerReferences: Invalid value: [{one},{one}]: {why}")]);
    }
}
