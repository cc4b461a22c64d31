//! A pod and a level -> what of it the level does not allow. Source: `pod-security-admission/policy`.
//!
//! Checks of the baseline come first, each list in the order of upstream's ids; a check holds from the minor version it names on.

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, LevelVersion};
use crate::common::Read;

/// The last version that changed a check: later ones have its rules.
const NEWEST: u32 = 35;

/// What a check finds: a reason and, in brackets, the detail.
type Finding = Option<(String, String)>;
type Check = fn(&Pod<'_>) -> Finding;

/// A check in one range of versions: from the first one on, up to (and without) the second.
struct Versioned {
    from: u32,
    until: u32,
    /// From this version on the restricted level has a check of its own in its place.
    replaced: u32,
    check: Check,
}

const NEVER: u32 = u32::MAX;

const fn since(from: u32, check: Check) -> Versioned {
    Versioned { from, until: NEVER, replaced: NEVER, check }
}

const fn between(from: u32, until: u32, check: Check) -> Versioned {
    Versioned { from, until, replaced: NEVER, check }
}

const fn replaced(from: u32, until: u32, replaced: u32, check: Check) -> Versioned {
    Versioned { from, until, replaced, check }
}

const BASELINE: &[Versioned] = &[
    since(0, baseline::app_armor),
    replaced(0, NEVER, 22, baseline::capabilities),
    since(0, baseline::host_namespaces),
    replaced(0, NEVER, 0, baseline::host_path_volumes),
    since(0, baseline::host_ports),
    since(34, baseline::host_probes),
    since(0, baseline::privileged),
    replaced(0, 35, 35, baseline::proc_mount),
    replaced(35, NEVER, 35, |pod| if pod.has_own_users() { None } else { baseline::proc_mount(pod) }),
    between(0, 31, |pod| baseline::se_linux(pod, &baseline::SE_LINUX_TYPES[..4])),
    since(31, |pod| baseline::se_linux(pod, baseline::SE_LINUX_TYPES)),
    replaced(0, 19, 19, baseline::seccomp_annotations),
    replaced(19, NEVER, 19, baseline::seccomp),
    between(0, 27, |pod| baseline::sysctls(pod, &baseline::SYSCTLS[..5])),
    between(27, 29, |pod| baseline::sysctls(pod, &baseline::SYSCTLS[..6])),
    between(29, 32, |pod| baseline::sysctls(pod, &baseline::SYSCTLS[..10])),
    since(32, |pod| baseline::sysctls(pod, baseline::SYSCTLS)),
    since(0, baseline::windows_host_process),
];

const RESTRICTED: &[Versioned] = &[
    between(8, 25, restricted::privilege_escalation),
    since(25, |pod| if pod.is_windows() { None } else { restricted::privilege_escalation(pod) }),
    between(22, 25, restricted::capabilities),
    since(25, |pod| if pod.is_windows() { None } else { restricted::capabilities(pod) }),
    since(35, baseline::proc_mount),
    since(0, restricted::volumes),
    between(0, 35, restricted::run_as_non_root),
    since(35, |pod| if pod.has_own_users() { None } else { restricted::run_as_non_root(pod) }),
    between(23, 35, restricted::run_as_user),
    since(35, |pod| if pod.has_own_users() { None } else { restricted::run_as_user(pod) }),
    between(19, 25, restricted::seccomp),
    since(25, |pod| if pod.is_windows() { None } else { restricted::seccomp(pod) }),
];

/// A pod, or a template of pods.
#[derive(Clone, Copy)]
pub struct Pod<'v> {
    pub annotations: Option<&'v Value>,
    pub spec: Option<&'v Value>,
}

/// All that the level does not allow: reasons with their details.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<(String, String)>);

impl Findings {
    pub fn of(pod: &Pod<'_>, lv: LevelVersion) -> Self {
        let version = lv.version.0.min(NEWEST);
        let is_restricted = lv.level == Level::Restricted;
        let holds = |check: &&Versioned| check.from <= version && version < check.until && !(is_restricted && check.replaced <= version);
        let (baseline, restricted): (&[Versioned], &[Versioned]) = match lv.level {
            Level::Privileged => (&[], &[]),
            Level::Baseline => (BASELINE, &[]),
            Level::Restricted => (BASELINE, RESTRICTED),
        };
        Self(baseline.iter().chain(restricted).filter(holds).filter_map(|check| (check.check)(pod)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons alone.
    pub fn reasons(&self) -> String {
        self.0.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Each reason with its detail.
    pub fn details(&self) -> String {
        let one = |(reason, detail): &(String, String)| if detail.is_empty() { reason.clone() } else { format!("{reason} ({detail})") };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl<'v> Pod<'v> {
    /// All containers, as upstream visits them.
    fn containers(&self) -> impl Iterator<Item = &'v Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| spec.list(list))
    }

    fn security(&self) -> Option<&'v Value> {
        self.spec.at("securityContext")
    }

    fn is_windows(&self) -> bool {
        self.spec.at("os").text("name") == "windows"
    }

    /// Whether it has a user namespace (`relaxPolicyForUserNamespacePod`).
    fn has_own_users(&self) -> bool {
        self.spec.flag("hostUsers") == Some(false)
    }

    /// Names of the containers that `is_bad` finds fault with.
    fn bad(&self, mut is_bad: impl FnMut(&'v Value) -> bool) -> Vec<&'v str> {
        self.containers().filter(|container| is_bad(container)).map(|container| container.text("name")).collect()
    }
}

/// `"a", "b"`
fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = items.into_iter().collect();
    if all.is_empty() { String::new() } else { format!("\"{}\"", all.join("\", \"")) }
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names.iter().copied()))
}

/// `pod and container "a"`: who sets something that is not allowed. `None` where nobody does.
fn setters(is_pod: bool, names: &[&str]) -> Option<String> {
    let named = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = is_pod.then(|| "pod".to_owned()).into_iter().chain(named).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn found(reason: &str, detail: String) -> Finding {
    Some((reason.to_owned(), detail))
}

/// What both levels ask of seccomp's types: who sets a bad one.
fn bad_seccomp<'v>(pod: &Pod<'v>) -> Option<(String, BTreeSet<&'v str>)> {
    let mut values = BTreeSet::new();
    let mut is_bad = |holder: Option<&'v Value>| {
        let Some(profile) = holder.at("seccompProfile") else { return false };
        let typ = profile.text("type");
        let bad = !matches!(typ, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(typ);
        }
        bad
    };
    let is_pod = is_bad(pod.security());
    let names = pod.bad(|container| is_bad(container.at("securityContext")));
    setters(is_pod, &names).map(|who| (who, values))
}

fn seccomp_finding(pod: &Pod<'_>) -> Finding {
    let (who, values) = bad_seccomp(pod)?;
    found("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::policy::Version, *};

    fn details(pod: &Value, level: Level, version: u32) -> String {
        let parts = Pod { annotations: pod.at("metadata").at("annotations"), spec: pod.at("spec") };
        Findings::of(&parts, LevelVersion { level, version: Version(version) }).details()
    }

    fn pod(spec: Value, security: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "securityContext": security}]}});
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
        pod
    }

    /// What the restricted level is content with.
    fn safe() -> Value {
        pod(
            json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}),
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}),
        )
    }

    #[test]
    fn each_baseline_check_finds_its_fault() {
        let bare = json!({});
        let cases = [
            (pod(bare.clone(), bare.clone()), ""),
            (
                pod(json!({"hostPID": true, "hostNetwork": true}), json!({"privileged": true})),
                r#"host namespaces (hostNetwork=true, hostPID=true), privileged (container "a" must not set securityContext.privileged=true)"#,
            ),
            (
                pod(bare.clone(), json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
                r#"non-default capabilities (container "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
            ),
            (
                pod(json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "emptyDir": {}}]}), bare.clone()),
                r#"hostPath volumes (volume "v")"#,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}}),
                r#"hostPort (containers "a", "b" use hostPorts 443, 80)"#,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]}}),
                r#"probe or lifecycle host (container "a" uses probe or lifecycle host "h")"#,
            ),
            (
                pod(bare.clone(), json!({"procMount": "Unmasked"})),
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (pod(json!({"hostUsers": false}), json!({"procMount": "Unmasked"})), ""),
            (
                pod(json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}), bare.clone()),
                r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
            ),
            (
                pod(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), bare.clone()),
                r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                pod(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}), bare.clone()),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                pod(
                    json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                    json!({"windowsOptions": {"hostProcess": true}}),
                ),
                r#"hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
            ),
            (
                json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}, "spec": {
                    "containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}}),
                "forbidden AppArmor profiles (container \"a\" and annotation must not set AppArmor profile type to \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
            ),
        ];
        for (pod, wanted) in cases {
            assert_eq!(details(&pod, Level::Baseline, NEVER), wanted);
            assert_eq!(details(&pod, Level::Privileged, NEVER), "");
        }
    }

    #[test]
    fn each_restricted_check_finds_its_fault() {
        assert_eq!(details(&safe(), Level::Restricted, NEVER), "");
        let wanted = r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#;
        assert_eq!(details(&pod(json!({}), json!({})), Level::Restricted, NEVER), wanted);
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 5] = [
            (
                |pod| pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}}]),
                r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#,
            ),
            (|pod| pod["spec"]["securityContext"]["runAsUser"] = json!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
            (
                |pod| pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] = json!(false),
                r#"runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)"#,
            ),
            (
                |pod| pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["CHOWN", "NET_BIND_SERVICE"]),
                r#"unrestricted capabilities (container "a" must not include "CHOWN" in securityContext.capabilities.add)"#,
            ),
            (
                |pod| pod["spec"]["containers"][0]["securityContext"]["procMount"] = json!("Unmasked"),
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
        ];
        for (change, wanted) in cases {
            let mut pod = safe();
            change(&mut pod);
            assert_eq!(details(&pod, Level::Restricted, NEVER), wanted);
        }
    }

    #[test]
    fn older_versions_have_their_own_rules() {
        let bare = pod(json!({}), json!({}));
        assert_eq!(
            details(&bare, Level::Restricted, 7),
            "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)"
        );
        let windows = pod(json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}}), json!({}));
        assert_eq!(details(&windows, Level::Restricted, 25), "");
        assert!(details(&windows, Level::Restricted, 24).contains("allowPrivilegeEscalation"));
        let sysctl = pod(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), json!({}));
        assert_eq!(details(&sysctl, Level::Baseline, 31), "forbidden sysctls (net.ipv4.tcp_rmem)");
        assert_eq!(details(&sysctl, Level::Baseline, 32), "");
        let seccomp = json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(
            details(&seccomp, Level::Baseline, 18),
            "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        );
        assert_eq!(details(&seccomp, Level::Baseline, 19), "");
    }
}
