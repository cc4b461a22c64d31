//! Security contexts of pods and containers -> what is wrong with them.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Whole, descending_path, windows};
use crate::{
    common::{Path, Read, name_rules, not_supported},
    schema::internal,
};

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// `validatePodSpecSecurityContext`; `path` is the spec's.
pub fn pod(spec: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(context) = spec.at("securityContext") else { return };
    let at = path.field("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], at, causes);
    let groups = at.field("supplementalGroups");
    for (i, group) in context.list("supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        id(group, groups.index(i), causes);
    }
    if spec.is_true("shareProcessNamespace") && spec.is_true("hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.invalid(at.field("shareProcessNamespace"), true, text);
    }
    sysctls(spec, context.list("sysctls"), at.field("sysctls"), causes);
    choice(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], at, causes);
    profiles(context, at, causes);
    choice(context, "supplementalGroupsPolicy", &["Merge", "Strict"], at, causes);
    choice(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], at, causes);
}

/// `ValidateSecurityContext`
pub fn container(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(context) = container.at("securityContext") else { return };
    ids(context, &["runAsUser", "runAsGroup"], path, causes);
    let mount = context.text("procMount");
    choice(context, "procMount", &["Default", "Unmasked"], path, causes);
    if mount == "Unmasked" && whole.host_users() {
        causes.invalid(path.field("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(context.at("seccompProfile"), path.field("seccompProfile"), causes);
    if context.flag("allowPrivilegeEscalation") == Some(false) {
        no_escalation(context, path, causes);
    }
    options_and_profile(context, path, causes);
}

fn no_escalation(context: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if context.is_true("privileged") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        causes.invalid(path, internal::shown("core.SecurityContext", Some(context)), text);
    }
    if context.at("capabilities").list("add").iter().any(|c| c == "CAP_SYS_ADMIN") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        causes.invalid(path, internal::shown("core.SecurityContext", Some(context)), text);
    }
}

/// `validateHostUsers`: a pod with users of its own shares no other namespace with the host.
pub fn host_users(whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if whole.host_users() {
        return;
    }
    let text = "when `hostUsers` is false";
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if whole.spec.is_true(field) {
            causes.forbidden(path.field(shown), text);
        }
    }
    for (list, i, _) in whole.containers().filter(|(_, _, c)| !c.list("volumeDevices").is_empty()) {
        causes.forbidden(path.field(list).index(i).field("volumeDevices"), text);
    }
}

fn ids(context: &Value, fields: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    for field in fields {
        if let Some(number) = context.int(field) {
            id(number, path.field(field), causes);
        }
    }
}

fn id(number: i64, path: Path<'_>, causes: &mut FieldErrors) {
    for error in name_rules::user_id(number) {
        causes.invalid(path, number, &error);
    }
}

/// A word of a fixed set, where it is there at all.
fn choice(context: &Value, field: &str, allowed: &[&str], path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(word) = context.at(field).and_then(Value::as_str).filter(|w| !allowed.contains(w)) {
        not_supported(word, allowed, path.field(field), causes);
    }
}

fn profiles(context: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    seccomp(context.at("seccompProfile"), path.field("seccompProfile"), causes);
    options_and_profile(context, path, causes);
}

fn options_and_profile(context: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    windows::options(context, path, causes);
    if let Some(profile) = context.at("appArmorProfile") {
        app_armor(profile, path.field("appArmorProfile"), causes);
    }
}

/// `validateSeccompProfileField`
fn seccomp(profile: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    let (typ, file, at) = (profile.text("type"), profile.at("localhostProfile"), path.field("localhostProfile"));
    if typ.is_empty() {
        causes.required(path.field("type"), "type is required when seccompProfile is set");
    } else if !PROFILES.contains(&typ) {
        not_supported(typ, PROFILES, path.field("type"), causes);
    }
    match (typ, file.and_then(Value::as_str)) {
        ("Localhost", None) => causes.required(at, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => descending_path(file, at, causes),
        (_, Some(_)) => {
            causes.invalid(at, internal::shown("core.SeccompProfile", Some(profile)), "can only be set when seccomp type is Localhost")
        }
        _ => {}
    }
}

/// `ValidateAppArmorProfileField`
fn app_armor(profile: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (typ, file, at) = (profile.text("type"), profile.at("localhostProfile").and_then(Value::as_str), path.field("localhostProfile"));
    match (typ, file) {
        ("Localhost", None | Some("")) => causes.required(at, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                causes.invalid(at, name, "must not be padded with whitespace");
            }
            if name.len() > 4095 {
                causes.too_long(at, 4095);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => causes.invalid(at, name, "can only be set when AppArmor type is Localhost"),
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => causes.required(path.field("type"), "type is required when appArmorProfile is set"),
        (other, _) => not_supported(other, PROFILES, path.field("type"), causes),
    }
}

/// `validateSysctls`
fn sysctls(spec: &Value, sysctls: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let (name, at) = (sysctl.text("name"), path.index(i));
        let at = at.field("name");
        if name.is_empty() {
            causes.required(at, "");
        } else if !is_sysctl(name) {
            let rule = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            causes.invalid(at, name, &format!("must have at most 253 characters and match regex {rule}"));
        } else if !seen.insert(name) {
            causes.duplicate(at, name);
        }
        shared_sysctl(spec, name, at, causes);
    }
}

/// `ValidateHostSysctl`: a sysctl of a namespace that is the host's is not the pod's to set.
fn shared_sysctl(spec: &Value, name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let dotted = name.replace('/', ".");
    let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
    if spec.is_true("hostNetwork") && dotted.starts_with("net.") {
        causes.invalid(path, name, "may not be specified when 'hostNetwork' is true");
    } else if spec.is_true("hostIPC") && ipc {
        causes.invalid(path, name, "may not be specified when 'hostIPC' is true");
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |p: &str| {
        let bytes = p.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b);
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
