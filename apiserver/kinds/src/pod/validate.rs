//! A pod -> all that is wrong with it, in upstream's words. Source: `pkg/apis/core/validation/validation.go`.

use std::collections::{HashMap, HashSet};

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::{
    common::{Path, Read, name_rules, no_backsteps, not_supported, one_of, read, require, selector, well_formed},
    net,
};

pub mod affinity;
pub mod annotations;
mod claims;
mod containers;
mod env;
pub mod ephemeral;
mod mounts;
mod ports;
mod probes;
mod projected;
pub mod resize;
mod resources;
mod scheduling;
mod security;
pub mod status;
pub mod update;
mod volume_files;
mod volumes;
mod windows;

pub use affinity::node_selector;
pub use resources::limits;
pub use scheduling::tolerations;

/// A name -> what is wrong with it.
type Rule = fn(&str) -> Vec<String>;

/// Whose spec is looked at: some rules are for pods alone, so that templates of old stay valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Pod,
    Template,
}

/// What the parts of a spec must know of the whole.
struct Whole<'v> {
    owner: Owner,
    spec: &'v Value,
    /// The well-formed volumes by name.
    volumes: HashMap<&'v str, &'v Value>,
    /// Names in `spec.resourceClaims`.
    claims: HashSet<&'v str>,
}

/// `validatePodMetadataAndSpec`, but for the metadata that all kinds have.
pub fn pod(pod: &Value, causes: &mut FieldErrors) {
    let found = pod.get("spec").unwrap_or(&Value::Null);
    let told = pod.at("metadata").at("annotations");
    annotations::validate(told, found, Path::new("metadata.annotations"), causes);
    let path = Path::new("spec");
    claims::of_mirror(pod, causes);
    spec(found, Owner::Pod, path, causes);
    if !read::name(pod).is_empty() {
        volumes::claim_names(read::name(pod), found.list("volumes"), path.field("volumes"), causes);
    }
    if found.text("serviceAccountName").is_empty() {
        projected::tokens_need_account(found, path.field("volumes"), causes);
    }
}

/// `ValidatePodCreate`: what holds of new pods alone.
pub fn create(pod: &Value, causes: &mut FieldErrors) {
    let (spec, path) = (pod.at("spec"), Path::new("spec"));
    if !spec.list("ephemeralContainers").is_empty() {
        causes.forbidden(path.field("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.text("nodeName").is_empty() && !spec.list("schedulingGates").is_empty() {
        causes.forbidden(path.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::agree(pod.at("metadata").at("annotations"), spec, path, causes);
}

/// `ValidatePodSpec`
pub fn spec(spec: &Value, owner: Owner, path: Path<'_>, causes: &mut FieldErrors) {
    if spec.at("terminationGracePeriodSeconds").is_none() {
        causes.required(path.field("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::all(spec.list("volumes"), owner, path.field("volumes"), causes);
    claims::of_pod(spec.list("resourceClaims"), path.field("resourceClaims"), causes);
    let claims = spec.list("resourceClaims").iter().map(|c| c.text("name")).collect();
    let whole = Whole { owner, spec, volumes, claims };
    containers::regular(&whole, path.field("containers"), causes);
    containers::init(&whole, path.field("initContainers"), causes);
    ephemeral::all(&whole, path.field("ephemeralContainers"), causes);
    resources::pod_level(&whole, path.field("resources"), causes);
    host_network_ports(&whole, path.field("containers"), causes);
    one_of(spec.text("restartPolicy"), &["Always", "OnFailure", "Never"], path.field("restartPolicy"), causes);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec.text("dnsPolicy"), &policies, path.field("dnsPolicy"), causes);
    selector::labels(spec.at("nodeSelector"), path.field("nodeSelector"), causes);
    security::pod(spec, path, causes);
    affinity::validate(spec.at("affinity"), path.field("affinity"), causes);
    dns_config(spec, path.field("dnsConfig"), causes);
    gates(spec, path, causes);
    scheduling::topology_spread(spec.list("topologySpreadConstraints"), path.field("topologySpreadConstraints"), causes);
    windows::host_process(&whole, path, causes);
    security::host_users(&whole, path, causes);
    hostname_override(spec, path.field("hostnameOverride"), causes);
    names(spec, path, causes);
    scheduling::tolerations(spec.list("tolerations"), path.field("tolerations"), causes);
    host_aliases(spec.list("hostAliases"), path.field("hostAliases"), causes);
    if let Some(policy) = spec.at("preemptionPolicy") {
        one_of(policy.as_str().unwrap_or(""), &["PreemptLowerPriority", "Never"], path.field("preemptionPolicy"), causes);
    }
    resources::overhead(spec, path.field("overhead"), causes);
    operating_system(&whole, path, causes);
    env::file_volumes(&whole, path, causes);
}

impl<'v> Whole<'v> {
    /// Every container with its path's list and index, init containers first as upstream visits them.
    fn containers(&self) -> impl Iterator<Item = (&'static str, usize, &'v Value)> {
        let spec = self.spec;
        ["initContainers", "containers"].into_iter().flat_map(move |l| spec.list(l).iter().enumerate().map(move |(i, c)| (l, i, c)))
    }

    /// Those too that debug.
    fn containers_and_ephemeral(&self) -> impl Iterator<Item = (&'static str, usize, &'v Value)> {
        let debug = self.spec.list("ephemeralContainers").iter().enumerate();
        self.containers().chain(debug.map(|(i, container)| ("ephemeralContainers", i, container)))
    }

    fn grace_seconds(&self) -> Option<i64> {
        self.spec.int("terminationGracePeriodSeconds")
    }

    fn os(&self) -> Option<&'v str> {
        self.spec.at("os").map(|os| os.text("name"))
    }

    fn host_users(&self) -> bool {
        self.spec.flag("hostUsers") != Some(false)
    }
}

/// A DNS label that must be there.
fn label(value: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if value.is_empty() {
        causes.required(path, "");
    } else {
        well_formed(value, name_rules::dns_label(value), path, causes);
    }
}

/// `validatePodHostNetworkDeps`
fn host_network_ports(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if !whole.spec.is_true("hostNetwork") {
        return;
    }
    for (i, container) in whole.spec.list("containers").iter().enumerate() {
        let at = path.index(i);
        let list = at.field("ports");
        for (j, port) in container.list("ports").iter().enumerate() {
            let (host, inner) = (port.int("hostPort").unwrap_or(0), port.int("containerPort").unwrap_or(0));
            if (whole.owner == Owner::Pod || host != 0) && host != inner {
                let text = "must match `containerPort` when `hostNetwork` is true";
                causes.invalid(list.index(j).field("hostPort"), host, text);
            }
        }
    }
}

fn gates(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field("readinessGates");
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let name = gate.text("conditionType");
        well_formed(name, name_rules::qualified(name), list.index(i).field("conditionType"), causes);
    }
    let (list, mut seen) = (path.field("schedulingGates"), HashSet::new());
    for (i, gate) in spec.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        well_formed(name, name_rules::qualified(name), list.index(i), causes);
        if !seen.insert(name) {
            causes.duplicate(list.index(i), name);
        }
    }
}

/// Names of other things that a spec holds, and the deadline.
fn names(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let rules: [(&str, Rule); 6] = [
        ("serviceAccountName", name_rules::dns_subdomain),
        ("nodeName", name_rules::dns_subdomain),
        ("hostname", name_rules::dns_label),
        ("subdomain", name_rules::dns_label),
        ("priorityClassName", name_rules::dns_subdomain),
        ("runtimeClassName", name_rules::dns_subdomain),
    ];
    for (field, rule) in rules {
        let name = spec.text(field);
        if !name.is_empty() {
            well_formed(name, rule(name), path.field(field), causes);
        }
    }
    if let Some(seconds) = spec.int("activeDeadlineSeconds") {
        for error in name_rules::in_range(seconds, 1, i64::from(i32::MAX)) {
            causes.invalid(path.field("activeDeadlineSeconds"), seconds, &error);
        }
    }
}

/// `validatePodHostName`
fn hostname_override(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(name) = spec.at("hostnameOverride").and_then(Value::as_str) else { return };
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.is_true(field) {
            causes.forbidden(path, &format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > 64 {
        causes.too_long(path, 64);
    }
    well_formed(name, name_rules::dns_subdomain(name), path, causes);
}

/// `validatePodDNSConfig`
fn dns_config(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let config = spec.at("dnsConfig");
    let servers = config.list("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if config.is_none() {
            return causes.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return causes.required(path.field("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    let list = path.field("nameservers");
    if servers.len() > 3 {
        causes.invalid(list, servers.to_vec(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        well_formed(server, net::ip(server), list.index(i), causes);
    }
    dns_searches(config.list("searches"), path.field("searches"), causes);
    let options = path.field("options");
    for (i, _) in config.list("options").iter().enumerate().filter(|(_, o)| o.text("name").is_empty()) {
        causes.required(options.index(i), "must not be empty");
    }
}

fn dns_searches(searches: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.len() > 32 {
        causes.invalid(path, searches.to_vec(), "must not have more than 32 search paths");
    }
    if texts.join(" ").len() > 2048 {
        causes.invalid(path, searches.to_vec(), "must not have more than 2048 characters (including spaces) in the search list");
    }
    for (i, search) in texts.iter().enumerate().filter(|(_, s)| **s != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        well_formed(name, name_rules::dns_subdomain_with_underscore(name), path.index(i), causes);
    }
}

/// `ValidateHostAliases`
fn host_aliases(aliases: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, alias) in aliases.iter().enumerate() {
        let at = path.index(i);
        let ip = alias.text("ip");
        well_formed(ip, net::ip(ip), at.field("ip"), causes);
        let list = at.field("hostnames");
        for (j, name) in alias.list("hostnames").iter().filter_map(Value::as_str).enumerate() {
            well_formed(name, name_rules::dns_subdomain(name), list.index(j), causes);
        }
    }
}

/// `validateOS` and `validateLinux`
fn operating_system(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(name) = whole.os() else { return };
    let at = path.field("os");
    match name {
        "" => causes.required(at.field("name"), ""),
        "linux" => {}
        "windows" => return,
        other => return not_supported(other, &["linux", "windows"], at, causes),
    }
    let text = "windows options cannot be set for a linux pod";
    if whole.spec.at("securityContext").at("windowsOptions").is_some() {
        causes.forbidden(path.field("securityContext").field("windowsOptions"), text);
    }
    for (list, i, _) in whole.containers().filter(|(_, _, c)| c.at("securityContext").at("windowsOptions").is_some()) {
        causes.forbidden(path.field(list).index(i).field("securityContext").field("windowsOptions"), text);
    }
}

/// A path within a volume: relative, without `..` (`ValidateLocalNonReservedPath`).
fn local_path(target: &str, path: Path<'_>, causes: &mut FieldErrors) {
    descending_path(target, path, causes);
    if target.starts_with("..") && !has_backsteps(target) {
        causes.invalid(path, target, "must not start with '..'");
    }
}

/// `validateLocalDescendingPath`
fn descending_path(target: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if target.starts_with('/') {
        causes.invalid(path, target, "must be a relative path");
    }
    no_backsteps(target, path, causes);
}

fn has_backsteps(target: &str) -> bool {
    target.split('/').any(|part| part == "..")
}

/// File permission bits: 0 to 0777.
fn file_mode(object: &Value, field: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(mode) = object.int(field).filter(|m| !(0..=0o777).contains(m)) {
        causes.invalid(path.field(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

#[cfg(test)]
mod tests;
