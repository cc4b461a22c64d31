//! What the baseline level does not allow. Source: `pod-security-admission/policy/check_*.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, Pod, containers, found, plural, quoted, seccomp_finding, setters};
use crate::common::Read;

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// In the order in which versions came to allow them: 1.0 four, 1.31 all.
pub const SE_LINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// The same: 1.0 five, 1.27 six, 1.29 ten, 1.32 all.
pub const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub fn app_armor(pod: &Pod<'_>) -> Finding {
    let mut values = BTreeSet::new();
    let mut is_bad = |holder: Option<&Value>| {
        let Some(profile) = holder.at("appArmorProfile") else { return false };
        let typ = profile.text("type").to_owned();
        let bad = !matches!(typ.as_str(), "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(typ);
        }
        bad
    };
    let is_pod = is_bad(pod.security());
    let names = pod.bad(|container| is_bad(container.at("securityContext")));
    let is_allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let entries = pod.annotations.and_then(Value::as_object).into_iter().flatten();
    let annotations: BTreeSet<String> = entries
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .map(|(key, value)| (key, value.as_str().unwrap_or("")))
        .filter(|(_, value)| !is_allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let by_annotation = (!annotations.is_empty()).then(|| plural(annotations.len(), "annotation", "annotations").to_owned());
    let who: Vec<String> = setters(is_pod, &names).into_iter().chain(by_annotation).collect();
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = values.iter().chain(&annotations).map(String::as_str).collect();
    let reason = plural(all.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(all)))
}

pub fn capabilities(pod: &Pod<'_>) -> Finding {
    let mut added = BTreeSet::new();
    let names = pod.bad(|container| {
        let add = container.at("securityContext").at("capabilities").list("add").iter().filter_map(Value::as_str);
        let before = added.len();
        let bad: Vec<&str> = add.filter(|capability| !CAPABILITIES.contains(capability)).collect();
        added.extend(bad.iter().copied());
        added.len() > before || !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(added));
    found("non-default capabilities", detail)
}

pub fn host_namespaces(pod: &Pod<'_>) -> Finding {
    let all = [("hostNetwork", "hostNetwork=true"), ("hostPID", "hostPID=true"), ("hostIPC", "hostIPC=true")];
    let set: Vec<&str> = all.into_iter().filter(|(field, _)| pod.spec.is_true(field)).map(|(_, text)| text).collect();
    if set.is_empty() { None } else { found("host namespaces", set.join(", ")) }
}

pub fn host_path_volumes(pod: &Pod<'_>) -> Finding {
    let volumes = pod.spec.list("volumes").iter().filter(|volume| volume.at("hostPath").is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.text("name")).collect();
    if names.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(names.iter().copied())))
}

pub fn host_ports(pod: &Pod<'_>) -> Finding {
    let mut ports = BTreeSet::new();
    let names = pod.bad(|container| {
        let mut is_bad = false;
        for port in container.list("ports").iter().filter_map(|port| port.int("hostPort")).filter(|port| *port != 0) {
            ports.insert(port.to_string());
            is_bad = true;
        }
        is_bad
    });
    if names.is_empty() {
        return None;
    }
    let (uses, what) = (plural(names.len(), "uses", "use"), plural(ports.len(), "hostPort", "hostPorts"));
    let all: Vec<&str> = ports.iter().map(String::as_str).collect();
    found("hostPort", format!("{} {uses} {what} {}", containers(&names), all.join(", ")))
}

pub fn host_probes(pod: &Pod<'_>) -> Finding {
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in pod.containers() {
        let lifecycle = container.at("lifecycle");
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| container.at(probe));
        let handlers = ["postStart", "preStop"].map(|handler| lifecycle.at(handler));
        for handler in probes.into_iter().chain(handlers) {
            for host in ["httpGet", "tcpSocket"].map(|way| handler.at(way).text("host")).into_iter().filter(|host| !host.is_empty()) {
                names.insert(container.text("name"));
                hosts.insert(host);
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let uses = plural(names.len(), "uses", "use");
    let what = plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts");
    found("probe or lifecycle host", format!("{} {uses} {what} {}", containers(&names), quoted(hosts)))
}

pub fn privileged(pod: &Pod<'_>) -> Finding {
    let names = pod.bad(|container| container.at("securityContext").is_true("privileged"));
    if names.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

pub fn proc_mount(pod: &Pod<'_>) -> Finding {
    let mut types = BTreeSet::new();
    let names = pod.bad(|container| {
        let mount = container.at("securityContext").at("procMount").and_then(Value::as_str);
        mount.filter(|mount| *mount != "Default").map(|mount| types.insert(mount)).is_some()
    });
    if names.is_empty() {
        return None;
    }
    found("procMount", format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(types)))
}

pub fn se_linux(pod: &Pod<'_>, allowed: &[&str]) -> Finding {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |holder: Option<&Value>| {
        let options = holder.at("seLinuxOptions");
        let typ = options.text("type").to_owned();
        let (sets_type, sets_user, sets_role) =
            (!allowed.contains(&typ.as_str()), !options.text("user").is_empty(), !options.text("role").is_empty());
        if sets_type {
            types.insert(typ);
        }
        user |= sets_user;
        role |= sets_role;
        sets_type || sets_user || sets_role
    };
    let is_pod = is_bad(pod.security());
    let names = pod.bad(|container| is_bad(container.at("securityContext")));
    let who = setters(is_pod, &names)?;
    let typed = format!("{} {}", plural(types.len(), "type", "types"), quoted(types.iter().map(String::as_str)));
    let data: Vec<String> = [(!types.is_empty(), typed), (user, "user may not be set".into()), (role, "role may not be set".into())]
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, text)| text)
        .collect();
    found("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

/// Before there was a field.
pub fn seccomp_annotations(pod: &Pod<'_>) -> Finding {
    let keys = pod.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", container.text("name")));
    let is_allowed = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let bad: BTreeSet<String> = std::iter::once(SECCOMP_POD.to_owned())
        .chain(keys)
        .filter_map(|key| {
            let value = pod.annotations.at(&key)?.as_str().unwrap_or("");
            (!is_allowed(value)).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let all: Vec<&str> = bad.iter().map(String::as_str).collect();
    found("seccompProfile", format!("forbidden {} {}", plural(bad.len(), "annotation", "annotations"), all.join(", ")))
}

pub fn seccomp(pod: &Pod<'_>) -> Finding {
    seccomp_finding(pod)
}

pub fn sysctls(pod: &Pod<'_>, allowed: &[&str]) -> Finding {
    let all = pod.security().list("sysctls").iter().map(|sysctl| sysctl.text("name"));
    let bad: Vec<&str> = all.filter(|name| !allowed.contains(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

pub fn windows_host_process(pod: &Pod<'_>) -> Finding {
    let is_bad = |holder: Option<&Value>| holder.at("windowsOptions").is_true("hostProcess");
    let names = pod.bad(|container| is_bad(container.at("securityContext")));
    let who = setters(is_bad(pod.security()), &names)?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
