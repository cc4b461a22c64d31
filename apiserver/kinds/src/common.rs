//! What strategies share: reading and editing of `Value`, field paths, name rules, label selectors, table columns and cells, and the start of a [`Kind`].
//!
//! - [`Read`]: `object.text("kind")`, `object.list("items")`, `object.int("port")`, ...: absent, null and wrong types all read as absent
//!   (the engine's decoder has already refused wrong types).
//! - [`Path`]: a field path on the stack, written out only when something is wrong: `causes.required(path.field("name"), "")`.
//! - [`edit`]: `child`, `default_to`, `each`: for defaults and prepare hooks.
//! - [`name_rules`]: name rules with upstream's texts, as `Vec<String>` of what is wrong.
//! - [`selector`]: label selectors on `Value`: validation, matching, printing; labels and annotations.
//! - [`resource_names`]: which resources there are without a domain; [`resources`]: canonical quantities; [`query`]: query strings; [`node`]: a node agent's address, proxy names.
//! - [`table`]: columns and cells: `metadata_columns`, `age`, `column`, `containers_cells`.
//! - [`kept`]: a ConfigMap of the server's own; [`amount`]: numbers or percentages; [`conditions`]: lists of `metav1.Condition`; [`diff`]: what a refused update changed;
//!   [`webhook`]: where one is called.
//! - [`kind`], [`view`], [`unchanged`], [`not_negative`] in this file.

use std::{borrow::Cow, sync::Arc};

use api::{
    Gvk, Status,
    field_errors::{FieldErrors, Reason},
};
use apiserver::kind::{Conversion, Finalizers, Handler, Kind, Scope, Storage, Strategy, Subresource, names};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub mod amount;
pub mod conditions;
pub mod diff;
pub mod edit;
pub mod kept;
pub mod node;
pub mod path;
pub mod query;
pub mod read;
pub mod resources;
pub mod selector;
pub mod table;
pub mod webhook;

pub use api::name_rules;
pub use path::Path;
pub use podspec::names as resource_names;
pub use read::Read;

/// All verbs, for [`Kind::verbs`].
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The verbs of an object-shaped subresource (`status`, `scale`).
pub const OBJECT_VERBS: &[&str] = &["get", "patch", "update"];

/// A namespaced kind with all verbs, kept under `/registry/<plural>`, with name and age columns; the caller changes what differs.
/// `schema` is the Go package path of the OpenAPI name: `io.k8s.api.apps.v1`.
pub fn kind(
    group: &'static str,
    version: &'static str,
    name: &'static str,
    plural: &'static str,
    package: &str,
    strategy: impl Strategy + 'static,
) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        kind: name.into(),
        plural: plural.into(),
        singular: name.to_lowercase().into(),
        short_names: names(&[]),
        categories: names(&[]),
        scope: Scope::Namespaced,
        verbs: names(ALL_VERBS),
        storage: Storage::Kept { prefix: plural.into(), ttl_seconds: None },
        conversion: Conversion::None,
        read: None,
        subresources: Vec::new(),
        columns: table::metadata_columns(),
        fields: Cow::Borrowed(&[]),
        schema: crate::schema::built_in(format!("{package}.{name}")),
        generation: false,
        finalizers: Finalizers::Qualified,
        strategy: Arc::new(strategy),
    }
}

/// The `status` subresource of a kind; `body` is the kind itself.
pub fn status(group: &str, version: &str, kind: &str) -> Subresource {
    Subresource {
        name: "status".into(),
        body: Gvk::new(group, version, kind),
        schema: apiserver::schema::Schema::Open,
        verbs: names(OBJECT_VERBS),
        handler: Handler::Status,
    }
}

/// A typed view for the places that read a lot of an object; never stored. Fails with 400 where the types do not fit.
///
/// # Errors
/// `BadRequest` with serde's text.
pub fn view<T: DeserializeOwned>(object: &Value) -> Result<T, Status> {
    T::deserialize(object).map_err(|e| Status::bad_request(e.to_string()))
}

/// `LongName`, a DNS subdomain of which bytes are counted where others tell of characters (`validate.LongName`).
pub fn long_name_error(name: &str) -> Option<String> {
    const BYTES: usize = 253;
    let long = (name.len() > BYTES).then(|| format!("must be no more than {BYTES} bytes"));
    long.or_else(|| name_rules::dns_subdomain(name).into_iter().next())
}

/// `field is immutable` unless both are equal (absent, null and empty are the same).
pub fn unchanged(new: Option<&Value>, old: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    if !read::same(new, old) {
        causes.invalid(path, new.cloned().unwrap_or(Value::Null), "field is immutable");
    }
}

/// As [`unchanged`], with the value as upstream's internal type prints.
pub fn unchanged_as(
    new: Option<&Value>,
    old: Option<&Value>,
    shown: impl Fn(Option<&Value>) -> Value,
    path: Path<'_>,
    causes: &mut FieldErrors,
) {
    if !read::same(new, old) {
        causes.invalid(path, shown(new), "field is immutable");
    }
}

/// `must be greater than or equal to 0` for a number below.
pub fn not_negative(value: Option<i64>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(v) = value.filter(|v| *v < 0) {
        causes.invalid(path, v, "must be greater than or equal to 0");
    }
}

/// One `Invalid` cause per text of a [`name_rules`] rule.
pub fn well_formed(value: &str, errors: Vec<String>, path: Path<'_>, causes: &mut FieldErrors) {
    for error in errors {
        causes.invalid(path, value, &error);
    }
}

/// Requires a field that is not empty, and says whether it is there.
pub fn require(object: &Value, field: &str, path: Path<'_>, causes: &mut FieldErrors) -> bool {
    let there = object.at(field).is_some_and(|v| !read::is_nothing(field, v));
    if !there {
        causes.required(path.field(field), "");
    }
    there
}

/// `validatePathNoBacksteps`
pub fn no_backsteps(target: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if target.split('/').any(|part| part == "..") {
        causes.invalid(path, target, "must not contain '..'");
    }
}

/// One of `allowed`, which are listed in their order; empty is `Required`.
pub fn one_of(value: &str, allowed: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    match value {
        "" => causes.required(path, ""),
        v if allowed.contains(&v) => {}
        v => not_supported(v, allowed, path, causes),
    }
}

/// `Unsupported value` with the supported ones in the order given: upstream sorts some lists and not others.
pub fn not_supported(value: impl Into<Value>, allowed: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    let words: Vec<String> = allowed.iter().map(|w| format!("{w:?}")).collect();
    let message = format!("Unsupported value: {}: supported values: {}", value.into(), words.join(", "));
    causes.push(Reason::NotSupported, path, message);
}

/// Writes of the server's own, each with the name of its object: one that fails is told of and stops none of the others.
///
/// # Errors
/// The first that failed.
pub async fn all_written<F: Future<Output = Result<(), Status>>>(writes: impl IntoIterator<Item = (String, F)>) -> Result<(), Status> {
    let told = |name: String, write: F| async move {
        write
            .await
            .inspect_err(|status| tracing::warn!(name, error = status.message, "failed to bring an object of the server's own up to date"))
    };
    futures::future::join_all(writes.into_iter().map(|(name, write)| told(name, write))).await.into_iter().collect()
}

/// Whether the store did not answer, or not in time: what ails this write ails the next one, and a round of writes ends here.
pub fn is_of_the_store(status: &Status) -> bool {
    matches!(status.code, 503 | 504)
}

/// A write of the server's own, where somebody else was faster: what they wrote is looked at when it is heard of.
///
/// # Errors
/// All others.
pub fn settled(result: Result<(), Status>) -> Result<(), Status> {
    result.or_else(|status| if matches!(status.code, 404 | 409) { Ok(()) } else { Err(status) })
}
