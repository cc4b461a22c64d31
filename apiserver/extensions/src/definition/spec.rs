//! A CustomResourceDefinition -> what is wrong with its names, versions and conversion. Source: `pkg/apis/apiextensions/validation/validation.go`.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use kinds::common::{Path, Read, name_rules, not_supported, unchanged};
use serde_json::{Value, json};

use super::{field_path, open_api};
use crate::{
    names::label_1035,
    naming::{self, Approval},
};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const SELECTABLE_FIELDS_MAX: usize = 8;
const DEPRECATION_WARNING_MAX: usize = 256;

/// `validateCustomResourceDefinitionSpec` and `...SpecUpdate`
pub fn spec(object: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    group(spec.text("group"), path.field("group"), causes);
    match spec.text("scope") {
        "" => causes.required(path.field("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => not_supported(other, &["Cluster", "Namespaced"], path.field("scope"), causes),
    }
    versions(spec, old, path.field("versions"), causes);
    let at = path.field("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if spec.at("names").text(field).is_empty() {
            causes.required(at.field(field), "");
        }
    }
    names(spec.at("names"), at, causes);
    Shared::of(spec.list("versions")).valid(spec, old, causes);
    conversion(spec.at("conversion"), path.field("conversion"), causes);
    let Some(old) = old else { return };
    let was = old.at("spec");
    if naming::is_true(old, "Established") {
        unchanged(spec.at("scope"), was.at("scope"), path.field("scope"), causes);
        unchanged(spec.at("names").at("kind"), was.at("names").at("kind"), at.field("kind"), causes);
    }
    unchanged(spec.at("group"), was.at("group"), path.field("group"), causes);
    unchanged(spec.at("names").at("plural"), was.at("names").at("plural"), at.field("plural"), causes);
}

/// `ValidateCustomResourceDefinitionNames`
pub fn names(names: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    for field in ["plural", "singular"] {
        label(names.text(field), path.field(field), causes);
    }
    for field in ["kind", "listKind"] {
        let (text, errors) = (names.text(field), label_1035(&names.text(field).to_lowercase()));
        if !text.is_empty() && !errors.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", errors.join(","));
            causes.invalid(path.field(field), text, &why);
        }
    }
    let each = |field: &str, causes: &mut FieldErrors| {
        for (index, name) in names.list(field).iter().enumerate() {
            let (name, errors) = (name.as_str().unwrap_or(""), label_1035(name.as_str().unwrap_or("")));
            if !errors.is_empty() {
                causes.invalid(path.field(field).index(index), name, &errors.join(","));
            }
        }
    };
    each("shortNames", causes);
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        causes.invalid(path.field("listKind"), names.text("listKind"), "kind and listKind may not be the same");
    }
    each("categories", causes);
}

/// `ValidateCustomResourceDefinitionStoredVersions`
pub fn stored_versions(object: &Value, causes: &mut FieldErrors) {
    let path = Path::new("status.storedVersions");
    let stored = object.at("status").list("storedVersions");
    if stored.is_empty() {
        return causes.invalid(path, Value::Null, "must have at least one stored version");
    }
    let versions = object.at("spec").list("versions");
    for version in versions.iter().filter(|version| version.is_true("storage")) {
        let name = version.text("name");
        if stored.iter().all(|stored| stored != name) {
            causes.invalid(path, stored.to_vec(), &format!("must have the storage version {name}"));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        if versions.iter().all(|version| version.text("name") != name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            causes.invalid(path.index(index), name, &why);
        }
    }
}

/// `validateAPIApproval`
pub fn approval(object: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
    if !naming::is_protected(object.at("spec").text("group")) {
        return;
    }
    let (state, why) = naming::approval(object);
    if old.is_some_and(|old| naming::approval(old).0 == state) {
        return;
    }
    match state {
        Approval::Missing => causes.required(naming::APPROVAL_FIELD, &why),
        Approval::Invalid => {
            let found = object.at("metadata").at("annotations").text("api-approved.kubernetes.io");
            causes.invalid(naming::APPROVAL_FIELD, found, &why);
        }
        Approval::Bypassed | Approval::Approved => {}
    }
}

fn group(group: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = name_rules::dns_subdomain(group);
    match () {
        () if group.is_empty() => causes.required(path, ""),
        () if !errors.is_empty() => causes.invalid(path, group, &errors.join(",")),
        () if !group.contains('.') => causes.invalid(path, group, "should be a domain with at least one dot"),
        () => {}
    }
}

fn label(text: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = label_1035(text);
    if !text.is_empty() && !errors.is_empty() {
        causes.invalid(path, text, &errors.join(","));
    }
}

fn versions(spec: Option<&Value>, old: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let versions = spec.list("versions");
    for (index, version) in versions.iter().enumerate() {
        if version.at("schema").at("openAPIV3Schema").is_none() {
            let at = path.index(index);
            causes.required(at.field("schema").field("openAPIV3Schema"), "");
        }
    }
    let shared = Shared::of(versions);
    let mut seen = HashSet::new();
    let mut are_unique = true;
    for (index, version) in versions.iter().enumerate() {
        let (at, name) = (path.index(index), version.text("name"));
        are_unique &= seen.insert(name);
        let errors = label_1035(name);
        if !errors.is_empty() {
            causes.invalid(at.field("name"), name, &errors.join(","));
        }
        let was = old.at("spec").list("versions").iter().find(|old| old.text("name") == name);
        one_version(version, was, &shared, at, causes);
    }
    if !are_unique {
        causes.invalid(path, shared.shown(versions), "must contain unique version names");
    }
    if versions.iter().filter(|version| version.is_true("storage")).count() != 1 {
        causes.invalid(path, shared.shown(versions), "must have exactly one version marked as storage version");
    }
}

/// What all versions have the same: upstream moves it out of them, and speaks of it once.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    fields: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Self {
        let is_same = |name: &str| {
            let first = versions.first().at(name);
            first.is_some_and(|first| *first != Value::Array(Vec::new())) && versions.iter().all(|version| version.at(name) == first)
        };
        Self {
            schema: is_same("schema"),
            subresources: is_same("subresources"),
            columns: is_same("additionalPrinterColumns"),
            fields: is_same("selectableFields"),
        }
    }

    /// The versions as upstream's internal type prints them (`CustomResourceDefinitionVersion`), without what it has moved out of them. Schemas that
    /// differ are shown as they were sent.
    fn shown(&self, versions: &[Value]) -> Value {
        let one = |version: &Value| {
            let of = |field: &str, is_moved: bool| version.at(field).filter(|_| !is_moved);
            json!({
                "Name": version.text("name"),
                "Served": version.is_true("served"),
                "Storage": version.is_true("storage"),
                "Deprecated": version.is_true("deprecated"),
                "DeprecationWarning": version.at("deprecationWarning"),
                "Schema": of("schema", self.schema),
                "Subresources": of("subresources", self.subresources),
                "AdditionalPrinterColumns": of("additionalPrinterColumns", self.columns),
                "SelectableFields": of("selectableFields", self.fields),
            })
        };
        versions.iter().map(one).collect()
    }

    /// What is wrong with what is shared, told where upstream has it.
    fn valid(&self, spec: Option<&Value>, old: Option<&Value>, causes: &mut FieldErrors) {
        let Some(version) = spec.list("versions").first() else { return };
        let was = old.at("spec").list("versions").iter().find(|old| old.text("name") == version.text("name"));
        let others = Self { schema: !self.schema, subresources: !self.subresources, columns: !self.columns, fields: !self.fields };
        parts(version, was, &others, (Path::new("spec"), "validation"), causes);
    }
}

/// `validateCustomResourceDefinitionVersion`
fn one_version(version: &Value, was: Option<&Value>, shared: &Shared, path: Path<'_>, causes: &mut FieldErrors) {
    deprecation(version, path.field("deprecationWarning"), causes);
    parts(version, was, shared, (path, "schema"), causes);
}

/// The parts that are not left to another place; the schema stands under the word given.
fn parts(version: &Value, was: Option<&Value>, left: &Shared, (path, word): (Path<'_>, &str), causes: &mut FieldErrors) {
    let subresources = version.at("subresources");
    if let Some(schema) = version.at("schema").at("openAPIV3Schema").filter(|_| !left.schema) {
        let at = path.field(word);
        open_api::schema(
            schema,
            was.at("schema").at("openAPIV3Schema"),
            subresources.at("status").is_some(),
            at.field("openAPIV3Schema"),
            causes,
        );
    }
    if let Some(scale) = subresources.at("scale").filter(|_| !left.subresources) {
        let at = path.field("subresources");
        scale_paths(scale, at, causes);
    }
    for (index, column) in version.list("additionalPrinterColumns").iter().enumerate().filter(|_| !left.columns) {
        let at = path.field("additionalPrinterColumns");
        printer_column(column, at.index(index), causes);
    }
    let fields = version.list("selectableFields");
    if !fields.is_empty() && !left.fields {
        selectable(fields, version.at("schema").at("openAPIV3Schema"), path.field("selectableFields"), causes);
    }
}

fn deprecation(version: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(warning) = version.at("deprecationWarning").and_then(Value::as_str) else { return };
    if !version.is_true("deprecated") {
        return causes.invalid(path, warning, "can only be set for deprecated versions");
    }
    if warning.len() > DEPRECATION_WARNING_MAX {
        causes.invalid(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        causes.invalid(path, warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        causes.invalid(path, warning, &why);
    }
}

/// `ValidateCustomResourceDefinitionSubresources`
fn scale_paths(scale: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let rules: [(&str, &str, &[&str], &str); 3] = [
        ("specReplicasPath", "scale.specReplicasPath", &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", "scale.statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", "scale.labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, place, roots, why) in rules {
        let (text, at) = (scale.text(field), path.field(place));
        match () {
            () if text.is_empty() && field == "labelSelectorPath" => {}
            () if text.is_empty() => causes.required(at, ""),
            () if !text.starts_with('.') => causes.invalid(at, text, "must be a simple json path starting with ."),
            () if !roots.iter().any(|root| text.starts_with(root)) => causes.invalid(at, text, why),
            () => {}
        }
    }
}

/// `ValidateCustomResourceColumnDefinition`
fn printer_column(column: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let among = |words: &[&str]| format!("must be one of {}", words.join(","));
    if column.text("name").is_empty() {
        causes.required(path.field("name"), "");
    }
    match column.text("type") {
        "" => causes.required(path.field("type"), &among(&COLUMN_TYPES)),
        other if !COLUMN_TYPES.contains(&other) => causes.invalid(path.field("type"), other, &among(&COLUMN_TYPES)),
        _ => {}
    }
    match column.text("format") {
        other if !other.is_empty() && !COLUMN_FORMATS.contains(&other) => {
            causes.invalid(path.field("format"), other, &among(&COLUMN_FORMATS));
        }
        _ => {}
    }
    match column.text("jsonPath") {
        "" => causes.required(path.field("JSONPath"), ""),
        other if !other.starts_with('.') => causes.invalid(path.field("JSONPath"), other, "must be a simple json path starting with ."),
        _ => {}
    }
}

/// `ValidateCustomResourceSelectableFields`
fn selectable(fields: &[Value], schema: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(schema) = schema else {
        return causes.invalid(path, "", "may only be set when `version.schema.openAPIV3Schema` is not included");
    };
    let mut seen = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (text, at) = (field.text("jsonPath"), path.index(index));
        let at = at.field("jsonPath");
        if text.is_empty() {
            causes.required(at, "");
            continue;
        }
        let is_listed = text.contains('[');
        let names = if is_listed { Err("does not refer to a valid field".to_owned()) } else { field_path::parse(text) };
        let found = names.and_then(|names| field_path::find(schema, &names).map(|found| (names, found)));
        let (names, found) = match found {
            Ok(found) => found,
            Err(why) => {
                causes.invalid(at, text, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if names.first().is_some_and(|first| first == "metadata") {
            causes.invalid(at, text, "must not point to fields in metadata");
        }
        if !matches!(found.text("type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            causes.invalid(at, text, why);
        }
        if !seen.insert(names) {
            causes.duplicate(at, text);
        }
    }
    if seen.len() > SELECTABLE_FIELDS_MAX {
        causes.too_many(path, seen.len(), SELECTABLE_FIELDS_MAX);
    }
}

/// `validateCustomResourceConversion`
fn conversion(conversion: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(conversion) = conversion else { return };
    let webhook = conversion.at("webhook");
    let (client, reviews) = (webhook.at("clientConfig"), webhook.list("conversionReviewVersions"));
    let (client_path, review_path) = (path.field("webhookClientConfig"), path.field("conversionReviewVersions"));
    match conversion.text("strategy") {
        "" => causes.required(path.field("strategy"), ""),
        "None" => {}
        "Webhook" => {
            match client {
                None => causes.required(client_path, "required when strategy is set to Webhook"),
                Some(client) => webhook_client(client, client_path, causes),
            }
            return review_versions(reviews, review_path, causes);
        }
        other => not_supported(other, &["None", "Webhook"], path.field("strategy"), causes),
    }
    if client.is_some() {
        causes.forbidden(client_path, "should not be set when strategy is not set to Webhook");
    }
    if !reviews.is_empty() {
        causes.forbidden(review_path, "should not be set when strategy is not set to Webhook");
    }
}

fn webhook_client(client: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    match (client.at("url").and_then(Value::as_str), client.at("service")) {
        (Some(_), Some(_)) | (None, None) => causes.required(path, "exactly one of url or service is required"),
        (Some(url), None) => {
            let at = path.field("url");
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if scheme != "https" {
                causes.invalid(at, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
            }
            if host.is_empty() {
                causes.invalid(at, host, &format!("host must be specified{FORM}"));
            }
            if let Some((user, _)) = host.split_once('@') {
                causes.invalid(at, user, "user information is not permitted in the URL");
            }
            if let Some((_, fragment)) = rest.split_once('#').filter(|(_, fragment)| !fragment.is_empty()) {
                causes.invalid(at, fragment, "fragments are not permitted in the URL");
            }
            if let Some((_, query)) = rest.split('#').next().unwrap_or_default().split_once('?').filter(|(_, query)| !query.is_empty()) {
                causes.invalid(at, query, "query parameters are not permitted in the URL");
            }
        }
        (None, Some(service)) => {
            let at = path.field("service");
            for field in ["name", "namespace"] {
                if service.text(field).is_empty() {
                    causes.required(at.field(field), "");
                }
            }
            if let Some(port) = service.int("port").filter(|port| !(1..=65535).contains(port)) {
                causes.invalid(at.field("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
            }
        }
    }
}

fn review_versions(versions: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    if versions.is_empty() {
        return causes.required(path, "");
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or("");
        if !seen.insert(version) {
            causes.invalid(path.index(index), version, "duplicate version");
            continue;
        }
        for why in label_1035(version) {
            causes.invalid(path.index(index), version, &why);
        }
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        causes.invalid(path, versions.to_vec(), "must include at least one of v1, v1beta1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_the_internal_type_has_them() {
        let spec = json!({"versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]});
        let mut causes = FieldErrors::default();
        versions(Some(&spec), None, Path::new("spec.versions"), &mut causes);
        let shown = r#"[{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]"#;
        let wanted = format!("Invalid value: {shown}: must have exactly one version marked as storage version");
        assert_eq!(causes.0.iter().map(|cause| cause.message.as_str()).collect::<Vec<_>>(), [wanted]);
    }
}
