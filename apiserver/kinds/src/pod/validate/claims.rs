//! Claims to devices of a pod, of its containers and in its status -> what is wrong with them. Source: `validatePodResourceClaims`,
//! `validateResourceClaimNames`, `validatePodResourceClaimStatuses`, `validatePodExtendedResourceClaimStatus`.

use std::collections::{BTreeSet, HashMap, HashSet};

use api::{
    annotations::CONFIG_MIRROR,
    field_errors::{FieldErrors, Reason},
};
use serde_json::{Value, json};

use crate::common::{Path, Read, name_rules, well_formed};

/// Of a pod; templates are no mirror pods.
pub fn of_mirror(pod: &Value, causes: &mut FieldErrors) {
    if pod.at("metadata").at("annotations").at(CONFIG_MIRROR).is_some() && !pod.at("spec").list("resourceClaims").is_empty() {
        causes.forbidden("", "static pods do not support resource claims");
    }
}

/// `spec.resourceClaims`
pub fn of_pod(claims: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let (at, name) = (path.index(i), claim.text("name"));
        match name {
            "" => causes.required(at.field("name"), ""),
            name if !seen.insert(name) => causes.duplicate(at.field("name"), name),
            name => well_formed(name, name_rules::dns_label(name), at.field("name"), causes),
        }
        let (claim_name, template) = (claim.at("resourceClaimName"), claim.at("resourceClaimTemplateName"));
        let shown = || json!({"Name": name, "ResourceClaimName": claim_name, "ResourceClaimTemplateName": template});
        match (claim_name, template) {
            (Some(_), Some(_)) => {
                causes.invalid(at, shown(), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified");
            }
            (None, None) => causes.invalid(at, shown(), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => {}
        }
        for (field, name) in [("resourceClaimName", claim_name), ("resourceClaimTemplateName", template)] {
            if let Some(name) = name.and_then(Value::as_str) {
                well_formed(name, name_rules::dns_subdomain(name), at.field(field), causes);
            }
        }
    }
}

/// `resources.claims` of a container; `known` are the names of the pod's.
pub fn of_container(claims: &[Value], known: &HashSet<&str>, path: Path<'_>, causes: &mut FieldErrors) {
    // Claims that are named as a whole, and the requests of those that are not.
    let (mut whole, mut parts): (HashSet<&str>, HashMap<&str, BTreeSet<&str>>) = Default::default();
    for (i, claim) in claims.iter().enumerate() {
        let (at, name, request) = (path.index(i), claim.text("name"), claim.text("request"));
        if name.is_empty() {
            causes.required(at, "");
            continue;
        }
        match request {
            _ if whole.contains(name) => causes.duplicate(at, name),
            "" => {
                parts.get(name).into_iter().flatten().for_each(|_| causes.duplicate(at, name));
                whole.insert(name);
            }
            request => {
                well_formed(request, name_rules::dns_label(request), at.field("request"), causes);
                if !parts.entry(name).or_default().insert(request) {
                    causes.duplicate(at, format!("{name}/{request}"));
                }
            }
        }
        if !known.contains(name) {
            let names: BTreeSet<&str> = known.iter().copied().filter(|name| !name.is_empty()).collect();
            let all: Vec<&str> = names.into_iter().collect();
            let which = if all.is_empty() { " which is empty".to_owned() } else { format!(": {}", all.join(", ")) };
            causes.push(Reason::NotFound, at, format!("Not found: {name:?}: must be one of the names in pod.spec.resourceClaims{which}"));
        }
    }
}

/// What became of the claims: `status.resourceClaimStatuses`.
pub fn statuses(statuses: &[Value], claims: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let known: HashSet<&str> = claims.iter().map(|claim| claim.text("name")).collect();
    let mut seen = HashSet::new();
    for (i, status) in statuses.iter().enumerate() {
        let (at, name) = (path.index(i), status.text("name"));
        if !known.contains(name) {
            causes.invalid(at.field("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
        if let Some(claim) = status.at("resourceClaimName").and_then(Value::as_str) {
            well_formed(claim, name_rules::dns_subdomain(claim), at.field("resourceClaimName"), causes);
        }
    }
}

/// The claim that stands for extended resources: `status.extendedResourceClaimStatus`.
pub fn extended(status: &Value, spec: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    const RESOURCE: &str =
        "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
    const CONTAINER: &str = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
    let containers: HashMap<&str, &Value> =
        spec.list("initContainers").iter().chain(spec.list("containers")).map(|container| (container.text("name"), container)).collect();
    let (mappings, list) = (status.list("requestMappings"), path.field("requestMappings"));
    if mappings.is_empty() {
        causes.required(list, "at least one request mapping is required");
    }
    let mut seen = HashSet::new();
    for (i, mapping) in mappings.iter().enumerate() {
        let at = list.index(i);
        let [container, resource, request] = ["containerName", "resourceName", "requestName"].map(|field| mapping.text(field));
        match containers.get(container) {
            None => causes.invalid(at.field("containerName"), container, CONTAINER),
            Some(of) if of.at("resources").at("requests").at(resource).is_none() => {
                causes.invalid(at.field("resourceName"), resource, RESOURCE);
            }
            Some(_) => {}
        }
        well_formed(request, name_rules::dns_label(request), path.field("requestName"), causes);
        if !seen.insert((container, resource, request)) {
            for (field, value) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                causes.duplicate(at.field(field), value);
            }
        }
    }
    match (status.text("resourceClaimName"), path.field("resourceClaimName")) {
        ("", at) => causes.required(at, ""),
        (name, at) => well_formed(name, name_rules::dns_subdomain(name), at, causes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|cause| cause.text()).collect()
    }

    #[test]
    fn claims_of_pods_name_one_object_each() {
        let of = |claims: Value| told(|causes| of_pod(claims.as_array().unwrap(), Path::new("spec.resourceClaims"), causes));
        assert!(of(json!([{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "x"}])).is_empty());
        assert_eq!(
            of(json!([{"name": "a"}, {"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "y"}])),
            [
                r#"spec.resourceClaims[0]: Invalid value: {"Name":"a","ResourceClaimName":null,"ResourceClaimTemplateName":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"#,
                "spec.resourceClaims[1].name: Duplicate value: \"a\"",
                r#"spec.resourceClaims[1]: Invalid value: {"Name":"a","ResourceClaimName":"x","ResourceClaimTemplateName":"y"}: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"#,
            ]
        );
        assert_eq!(of(json!([{"resourceClaimName": "x"}])), ["spec.resourceClaims[0].name: Required value"]);
        let mirror = json!({"metadata": {"annotations": {CONFIG_MIRROR: "x"}}, "spec": {"resourceClaims": [{"name": "a"}]}});
        assert_eq!(told(|causes| of_mirror(&mirror, causes)), [": Forbidden: static pods do not support resource claims"]);
    }

    #[test]
    fn claims_of_containers_are_the_pods() {
        let of = |claims: Value, known: &[&str]| {
            told(|causes| of_container(claims.as_array().unwrap(), &known.iter().copied().collect(), Path::new("c"), causes))
        };
        assert!(of(json!([{"name": "a"}, {"name": "b", "request": "r"}, {"name": "b", "request": "s"}]), &["a", "b"]).is_empty());
        assert_eq!(
            of(json!([{"name": "a"}]), &[]),
            ["c[0]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty"]
        );
        assert_eq!(
            of(json!([{"name": "z"}]), &["b", "a"]),
            ["c[0]: Not found: \"z\": must be one of the names in pod.spec.resourceClaims: a, b"]
        );
        let overlapping =
            json!([{"name": "a", "request": "r"}, {"name": "a", "request": "r"}, {"name": "a"}, {"name": "a", "request": "s"}]);
        let wanted = ["c[1]: Duplicate value: \"a/r\"", "c[2]: Duplicate value: \"a\"", "c[3]: Duplicate value: \"a\""];
        assert_eq!(of(overlapping, &["a"]), wanted);
    }

    #[test]
    fn statuses_match_the_spec() {
        let claims = json!([{"name": "a", "resourceClaimTemplateName": "t"}]);
        let of = |list: Value| told(|causes| statuses(list.as_array().unwrap(), claims.as_array().unwrap(), Path::new("s"), causes));
        assert!(of(json!([{"name": "a", "resourceClaimName": "a-x"}])).is_empty());
        assert_eq!(
            of(json!([{"name": "b"}, {"name": "b"}])),
            [
                "s[0].name: Invalid value: \"b\": must match the name of an entry in `spec.resourceClaims`",
                "s[1].name: Invalid value: \"b\": must match the name of an entry in `spec.resourceClaims`",
                "s[1].name: Duplicate value: \"b\"",
            ]
        );
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
        let mapped = |container: &str, resource: &str| {
            let status = json!({"resourceClaimName": "x", "requestMappings": [{"containerName": container, "resourceName": resource, "requestName": "r"}]});
            told(|causes| extended(&status, Some(&spec), Path::new("s"), causes))
        };
        assert!(mapped("c", "example.com/gpu").is_empty());
        assert!(mapped("d", "example.com/gpu")[0].starts_with("s.requestMappings[0].containerName: Invalid value: \"d\""));
        assert!(mapped("c", "example.com/tpu")[0].starts_with("s.requestMappings[0].resourceName: Invalid value"));
    }
}
