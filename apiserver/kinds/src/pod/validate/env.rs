//! Environment variables and their sources -> what is wrong with them; and the downward API's references, which volumes share.

use std::collections::HashMap;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Whole, no_backsteps, require};
use crate::common::{Path, Read, name_rules, not_supported, resources::quantity, well_formed};

/// Fields that the downward API offers to variables.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that it offers to volumes.
const VOLUME_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that are known, wherever they may be used.
const KNOWN: &[&str] = &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

type Check = fn(&Value, Path<'_>, &mut FieldErrors);

/// Where a downward API reference stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Variable,
    Volume,
}

/// `ValidateEnv`
pub fn variables(variables: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, variable) in variables.iter().enumerate() {
        let at = path.index(i);
        match variable.text("name") {
            "" => causes.required(at.field("name"), ""),
            name => well_formed(name, name_rules::env_name(name), at.field("name"), causes),
        }
        if let Some(source) = variable.at("valueFrom") {
            value_from(source, variable.text("value"), at.field("valueFrom"), causes);
        }
    }
}

/// `ValidateEnvFrom`
pub fn sources(sources: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            well_formed(prefix, name_rules::env_name(prefix), at.field("prefix"), causes);
        }
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            let Some(reference) = source.at(field) else { continue };
            count += 1;
            let ref_path = at.field(field);
            if require(reference, "name", ref_path, causes) {
                let name = reference.text("name");
                well_formed(name, name_rules::dns_subdomain(name), ref_path.field("name"), causes);
            }
        }
        match count {
            0 => causes.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => causes.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

/// `validateObjectFieldSelector`
pub fn field_ref(reference: &Value, place: Place, path: Path<'_>, causes: &mut FieldErrors) {
    if !require(reference, "apiVersion", path, causes) || !require(reference, "fieldPath", path, causes) {
        return;
    }
    let (version, field) = (reference.text("apiVersion"), reference.text("fieldPath"));
    let allowed = if place == Place::Variable { FIELDS } else { VOLUME_FIELDS };
    let fail =
        |why: &str, causes: &mut FieldErrors| causes.invalid(path.field("fieldPath"), field, &format!("error converting fieldPath: {why}"));
    if version != "v1" {
        return fail(&format!("unsupported pod version: {version}"), causes);
    }
    if let Some((base, key)) = subscript(field) {
        match base {
            "metadata.annotations" => well_formed_key(&key.to_lowercase(), path, causes),
            "metadata.labels" => well_formed_key(key, path, causes),
            _ => fail(&format!("field label does not support subscript: {field}"), causes),
        }
        return;
    }
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    if allowed.contains(&field) {
        return;
    }
    if FIELDS.contains(&field) || VOLUME_FIELDS.contains(&field) || KNOWN.contains(&field) {
        not_supported(field, allowed, path.field("fieldPath"), causes);
    } else {
        fail(&format!("field label not supported: {field}"), causes);
    }
}

/// `validateContainerResourceFieldSelector`
pub fn resource_field_ref(reference: &Value, place: Place, path: Path<'_>, causes: &mut FieldErrors) {
    let resource = reference.text("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if place == Place::Volume && reference.text("containerName").is_empty() {
        causes.required(path.field("containerName"), "");
    } else if resource.is_empty() {
        causes.required(path.field("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        not_supported(resource, RESOURCES, path.field("resource"), causes);
    }
    divisor(resource, reference.at("divisor"), path.field("divisor"), causes);
}

/// `validateFileKeyRefVolumes`: a variable's file comes from an emptyDir of the pod.
pub fn file_volumes(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut volumes: HashMap<&str, &Value> = HashMap::new();
    for volume in whole.spec.list("volumes") {
        volumes.entry(volume.text("name")).or_insert(volume);
    }
    for (list, i, container) in whole.containers() {
        for (j, variable) in container.list("env").iter().enumerate() {
            let Some(reference) = variable.at("valueFrom").at("fileKeyRef") else { continue };
            let name = reference.text("volumeName");
            let at = format!("{}.env[{j}].valueFrom.fileKeyRef.volumeName", path.field(list).index(i));
            match volumes.get(name) {
                None => causes.not_found(at, name),
                Some(v) if v.at("emptyDir").is_none() => causes.invalid(at, name, "referenced volume must be of type emptyDir"),
                Some(_) => {}
            }
        }
    }
}

/// `validateEnvVarValueFrom`
fn value_from(source: &Value, value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let mut count = 0;
    let checks: [(&str, Check); 5] = [
        ("fieldRef", |r, p, c| field_ref(r, Place::Variable, p, c)),
        ("resourceFieldRef", |r, p, c| resource_field_ref(r, Place::Variable, p, c)),
        ("configMapKeyRef", key_ref),
        ("secretKeyRef", key_ref),
        ("fileKeyRef", file_key_ref),
    ];
    for (field, check) in checks {
        if let Some(reference) = source.at(field) {
            count += 1;
            check(reference, path.field(field), causes);
        }
    }
    if count == 0 {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        causes.invalid(path, "", text);
    } else if !value.is_empty() {
        causes.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        causes.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// `validateConfigMapKeySelector`, `validateSecretKeySelector`
fn key_ref(reference: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let name = reference.text("name");
    well_formed(name, name_rules::dns_subdomain(name), path.field("name"), causes);
    match reference.text("key") {
        "" => causes.required(path.field("key"), ""),
        key => well_formed(key, name_rules::config_key(key), path.field("key"), causes),
    }
}

/// `validateFileKeySelector`
fn file_key_ref(reference: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if require(reference, "key", path, causes) {
        let key = reference.text("key");
        well_formed(key, name_rules::env_name(key), path.field("key"), causes);
    }
    super::label(reference.text("volumeName"), path.field("volumeName"), causes);
    if require(reference, "path", path, causes) {
        no_backsteps(reference.text("path"), path.field("path"), causes);
    }
}

/// `validateContainerResourceDivisor`
fn divisor(resource: &str, divisor: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(wanted) = divisor.and_then(quantity).filter(|q| !q.is_zero()) else { return };
    let text = wanted.to_string();
    let (allowed, name) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => ("1m, 1", "cpu"),
        "memory" => (BYTES, "memory"),
        "ephemeral-storage" => (BYTES, "local ephemeral storage"),
        r if r.starts_with("hugepages-") => (BYTES, "hugepages"),
        _ => return,
    };
    if allowed.split(", ").any(|a| a == text) {
        return;
    }
    let shown = if name == "cpu" { "1m and 1" } else { allowed };
    causes.invalid(path, resource, &format!("only divisor's values {shown} are supported with the {name} resource"));
}

fn well_formed_key(key: &str, path: Path<'_>, causes: &mut FieldErrors) {
    well_formed(key, name_rules::qualified(key), path, causes);
}

/// `metadata.labels['app']` -> (`metadata.labels`, `app`).
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (base, rest) = field.split_once("['")?;
    Some((base, rest.strip_suffix("']")?)).filter(|(base, _)| !base.is_empty())
}
