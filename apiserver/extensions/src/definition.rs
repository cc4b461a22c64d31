//! CustomResourceDefinition: the kind that makes kinds, and its strategy.
//!
//! Source: apiextensions-apiserver `pkg/registry/customresourcedefinition`, `pkg/apis/apiextensions/v1/defaults.go`.

mod defaults;
mod field_path;
mod older;
mod open_api;
mod schema_words;
mod spec;
mod structural;

use std::{borrow::Cow, time::Duration};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Finalizers, Kind, Scope, Storage, Strategy, names};
use kinds::common::{
    self, Path, Read, edit,
    read::{name, text_at},
    table::{NAME_COLUMN, column},
};
use serde_json::{Value, json};

use crate::{
    naming::{self, FINALIZER},
    schema::formats,
};

pub const GROUP: &str = "apiextensions.k8s.io";
pub const PLURAL: &str = "customresourcedefinitions";
const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    column(
        "Created At",
        "date",
        "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    ),
];
/// How long the patterns and rules of one definition may take to compile.
const COMPILE_MAX: Duration = Duration::from_secs(10);

pub fn kind() -> Kind {
    let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
    Kind {
        short_names: names(&["crd", "crds"]),
        categories: names(&["api-extensions"]),
        scope: Scope::Cluster,
        storage: Storage::Kept { prefix: "apiextensions.k8s.io/customresourcedefinitions".into(), ttl_seconds: None },
        subresources: vec![common::status(GROUP, "v1", "CustomResourceDefinition")],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        // Its own has no domain.
        finalizers: Finalizers::Any,
        ..common::kind(GROUP, "v1", "CustomResourceDefinition", PLURAL, package, Definitions)
    }
}

struct Definitions;

impl Strategy for Definitions {
    fn shows_status_tables(&self) -> bool {
        false
    }

    fn upgrade(&self) -> Option<fn(Value) -> Value> {
        Some(older::upgraded)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = edit::child(object, "spec") else { return };
        edit::default_to(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            edit::default_to(service, "port", 443);
        }
        if let Some(names) = edit::child(spec, "names") {
            let kind = names.text("kind").to_owned();
            edit::default_text(names, "singular", &kind.to_lowercase());
            if !kind.is_empty() {
                edit::default_text(names, "listKind", &format!("{kind}List"));
            }
        }
        for version in edit::each(spec, "versions") {
            // Go numbers without `omitempty`.
            edit::default_to(version, "served", false);
            edit::default_to(version, "storage", false);
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                schema_words::tidy(schema);
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        let status = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        edit::set(object, "status", status);
        store_version(object);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, _old: &Value) {
        store_version(new);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        let wanted = format!("{}.{}", object.at("spec").at("names").text("plural"), object.at("spec").text("group"));
        if name(object) != wanted && !name(object).is_empty() {
            causes.invalid("metadata.name", name(object), "must be spec.names.plural+\".\"+spec.group");
        }
        whole(object, None, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        whole(new, Some(old), causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        spec::names(new.at("status").at("acceptedNames"), Path::new("status.acceptedNames"), causes);
        // One of a version that is gone is let be where it was so: conditions are written here too.
        if new.at("status").at("storedVersions") != old.at("status").at("storedVersions") {
            spec::stored_versions(new, causes);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let unknown = |object: &Value| {
            let mut out = Vec::new();
            for version in object.at("spec").list("versions") {
                unknown_formats(version.at("schema").at("openAPIV3Schema"), &mut out);
            }
            out
        };
        let had = old.map(unknown).unwrap_or_default();
        unknown(new)
            .into_iter()
            .filter(|format| !had.contains(format))
            .map(|format| format!("unrecognized format {}", api::quoted(&format)))
            .collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    /// It goes once its objects are gone; the finalizer stands in it from the first deletion on.
    fn holds_deletion(&self, object: &Value) -> bool {
        object.at("metadata").at("deletionTimestamp").is_none()
    }

    fn has_own_deletion(&self) -> bool {
        true
    }

    /// The first one only marks.
    fn collects_garbage(&self, object: &Value) -> bool {
        object.at("metadata").at("deletionTimestamp").is_some()
    }

    fn begin_delete(&self, ctx: &Ctx<'_>, object: &mut Value) {
        if let Some(metadata) = edit::child(object, "metadata") {
            // Upstream marks it by itself: no grace, no other generation.
            edit::remove(metadata, "deletionGracePeriodSeconds");
            let generation = metadata.int("generation").unwrap_or(1);
            edit::set(metadata, "generation", (generation - 1).max(1));
            edit::default_to(metadata, "finalizers", json!([]));
            if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut)
                && finalizers.iter().all(|finalizer| finalizer != FINALIZER)
            {
                finalizers.push(FINALIZER.into());
            }
        }
        const WORDS: [&str; 3] =
            ["True", "InstanceDeletionPending", "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"];
        naming::set_condition(object, "Terminating", WORDS, ctx.now);
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![name(object).into(), text_at(object, "/metadata/creationTimestamp").into()]
    }
}

fn whole(object: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
    spec::spec(object, old, causes);
    spec::names(object.at("status").at("acceptedNames"), Path::new("status.acceptedNames"), causes);
    spec::stored_versions(object, causes);
    spec::approval(object, old, causes);
    if object.at("spec").is_true("preserveUnknownFields") && old.is_none_or(|old| !old.at("spec").is_true("preserveUnknownFields")) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.invalid("spec.preserveUnknownFields", true, why);
    }
}

/// The version that is stored is among those that were.
fn store_version(object: &mut Value) {
    let stored = object.at("spec").list("versions").iter().find(|version| version.is_true("storage"));
    let Some(stored) = stored.map(|version| version.text("name").to_owned()) else { return };
    let Some(status) = edit::make_child(object, "status") else { return };
    edit::default_to(status, "storedVersions", json!([]));
    if let Some(versions) = status.get_mut("storedVersions").and_then(Value::as_array_mut)
        && versions.iter().all(|version| *version != *stored)
    {
        versions.push(stored.into());
    }
}

/// `getUnrecognizedFormatsInCRD`
fn unknown_formats(schema: Option<&Value>, out: &mut Vec<String>) {
    let Some(schema) = schema else { return };
    let (typ, format) = (schema.text("type"), schema.text("format"));
    let is_known = match typ {
        _ if format.is_empty() => true,
        "" | "string" => formats::is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !is_known && out.iter().all(|known| known != format) {
        out.push(format.to_owned());
    }
    schema.object("properties").into_iter().flatten().for_each(|(_, schema)| unknown_formats(Some(schema), out));
    for name in ["items", "additionalProperties", "not"] {
        unknown_formats(schema.at(name).filter(|schema| schema.is_object()), out);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        schema.list(name).iter().for_each(|schema| unknown_formats(Some(schema), out));
    }
}
