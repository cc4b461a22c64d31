//! Security contexts -> who a container runs as, and what it may do.
//!
//! Source: `pkg/kubelet/kuberuntime/security_context.go`, `security_context_others.go`, `helpers.go`, `pkg/securitycontext/util.go`.

use std::path::Path;

use api::k8s::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use cri::security_profile::ProfileType;

use crate::{context::NodeContext, meta};

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The sandbox's context: the pod's, under a seccomp profile that knows its program, or the runtime's own.
///
/// # Errors
/// Upstream's words for what the runtime cannot be asked for.
pub fn of_sandbox(node: &NodeContext, pod: &Pod) -> Result<cri::LinuxSandboxSecurityContext, String> {
    let context = meta::spec(pod).and_then(|s| s.security_context.as_ref());
    Ok(cri::LinuxSandboxSecurityContext {
        privileged: meta::containers(pod).any(|c| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true))),
        seccomp: Some(match &node.sandbox_profile {
            Some(path) => localhost(path.display().to_string()),
            None => profile(ProfileType::RuntimeDefault),
        }),
        namespace_options: Some(namespaces(pod)?),
        run_as_user: context.and_then(|c| c.run_as_user).map(int64),
        run_as_group: context.and_then(|c| c.run_as_group).map(int64),
        selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux),
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context)?,
        ..cri::LinuxSandboxSecurityContext::default()
    })
}

/// A container's context: its own fields over the pod's.
///
/// # Errors
/// Upstream's words for what the runtime cannot be asked for.
pub fn of_container(
    node: &NodeContext,
    pod: &Pod,
    container: &Container,
    image: &cri::Image,
) -> Result<cri::LinuxContainerSecurityContext, String> {
    let of_pod = meta::spec(pod).and_then(|s| s.security_context.as_ref());
    let own = effective(of_pod, container.security_context.as_ref());
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let by_image = own.run_as_user.is_none();
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(capabilities),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces(pod)?),
        selinux_options: own.se_linux_options.as_ref().map(selinux),
        run_as_user: own.run_as_user.or_else(|| image_uid(image)).map(int64),
        run_as_group: own.run_as_group.map(int64),
        run_as_username: if by_image && image.uid.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod)?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked { Vec::new() } else { masked_paths() },
        readonly_paths: if unmasked { Vec::new() } else { READ_ONLY.map(String::from).into() },
        seccomp: Some(seccomp(own.seccomp_profile.as_ref(), &node.root_dir.join("seccomp"))?),
        apparmor: own.app_armor_profile.as_ref().map(apparmor).transpose()?,
        ..with_old_apparmor(own.app_armor_profile.as_ref())
    })
}

/// Refuses what would run as root against `runAsNonRoot`.
///
/// # Errors
/// Upstream's words.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &cri::Image) -> Result<(), String> {
    let of_pod = meta::spec(pod).and_then(|s| s.security_context.as_ref());
    let own = effective(of_pod, container.security_context.as_ref());
    if own.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", meta::format(pod), container.name);
    if let Some(user) = own.run_as_user {
        let broken = format!("container's runAsUser breaks non-root policy {place}");
        return if user == 0 { Err(broken) } else { Ok(()) };
    }
    match image_uid(image) {
        None => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
        Some(0) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        Some(uid) if !(0..=i64::from(i32::MAX)).contains(&uid) => Err(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({})): must be between 0 and 2147483647, inclusive {place}",
            i32::MAX
        )),
        Some(_) => Ok(()),
    }
}

fn effective(pod: Option<&PodSecurityContext>, container: Option<&SecurityContext>) -> SecurityContext {
    let mut own = container.cloned().unwrap_or_default();
    let Some(pod) = pod else { return own };
    own.run_as_user = own.run_as_user.or(pod.run_as_user);
    own.run_as_group = own.run_as_group.or(pod.run_as_group);
    own.run_as_non_root = own.run_as_non_root.or(pod.run_as_non_root);
    own.se_linux_options = own.se_linux_options.or_else(|| pod.se_linux_options.clone());
    own.seccomp_profile = own.seccomp_profile.or_else(|| pod.seccomp_profile.clone());
    own.app_armor_profile = own.app_armor_profile.or_else(|| pod.app_armor_profile.clone());
    own
}

/// An image that names no user runs as root.
fn image_uid(image: &cri::Image) -> Option<i64> {
    image.uid.as_ref().map(|uid| uid.value).or_else(|| image.username.is_empty().then_some(0))
}

fn namespaces(pod: &Pod) -> Result<cri::NamespaceOption, String> {
    use cri::NamespaceMode::{Container as Own, Node, Pod as Shared};
    let Some(spec) = meta::spec(pod) else { return Ok(cri::NamespaceOption::default()) };
    if spec.host_users == Some(false) {
        return Err("user namespaces (hostUsers: false) are not supported".into());
    }
    let mode = |host: Option<bool>, else_| if host == Some(true) { Node } else { else_ };
    let pid = if spec.share_process_namespace == Some(true) { Shared } else { Own };
    Ok(cri::NamespaceOption {
        network: mode(spec.host_network, Shared) as i32,
        pid: mode(spec.host_pid, pid) as i32,
        ipc: mode(spec.host_ipc, Shared) as i32,
        ..cri::NamespaceOption::default()
    })
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: Option<&PodSecurityContext>) -> Result<i32, String> {
    let Some(name) = context.and_then(|c| c.supplemental_groups_policy.as_deref()) else { return Ok(0) };
    let policy = cri::SupplementalGroupsPolicy::from_str_name(name);
    policy.map(|p| p as i32).ok_or_else(|| format!("unsupported supplementalGroupsPolicy: {name}"))
}

fn capabilities(list: &Capabilities) -> cri::Capability {
    cri::Capability {
        add_capabilities: list.add.clone().unwrap_or_default(),
        drop_capabilities: list.drop.clone().unwrap_or_default(),
        ..cri::Capability::default()
    }
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    cri::SeLinuxOption { user: text(&options.user), role: text(&options.role), r#type: text(&options.type_), level: text(&options.level) }
}

fn seccomp(wanted: Option<&SeccompProfile>, root: &Path) -> Result<cri::SecurityProfile, String> {
    let Some(wanted) = wanted else { return Ok(profile(ProfileType::Unconfined)) };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault)),
        "Localhost" => {
            let name = wanted.localhost_profile.as_deref().filter(|n| !n.is_empty());
            let name = name.ok_or("localhostProfile must be set if seccompProfile type is Localhost.")?;
            Ok(localhost(root.join(name).display().to_string()))
        }
        _ => Ok(profile(ProfileType::Unconfined)),
    }
}

fn apparmor(wanted: &AppArmorProfile) -> Result<cri::SecurityProfile, String> {
    match (wanted.type_.as_str(), &wanted.localhost_profile) {
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault)),
        ("Unconfined", _) => Ok(profile(ProfileType::Unconfined)),
        ("Localhost", Some(name)) => Ok(localhost(name.clone())),
        ("Localhost", None) => Err("missing localhost apparmor profile name".into()),
        (other, _) => Err(format!("unknown AppArmor profile type: {other}")),
    }
}

/// Runtimes before containerd 1.6 read the profile from the older field only; upstream fills both.
#[allow(deprecated)]
fn with_old_apparmor(wanted: Option<&AppArmorProfile>) -> cri::LinuxContainerSecurityContext {
    let name = match wanted.map(|w| (w.type_.as_str(), w.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => "runtime/default".to_owned(),
        Some(("Unconfined", _)) => "unconfined".to_owned(),
        Some(("Localhost", Some(name))) => format!("localhost/{name}"),
        _ => String::new(),
    };
    cri::LinuxContainerSecurityContext { apparmor_profile: name, ..cri::LinuxContainerSecurityContext::default() }
}

fn masked_paths() -> Vec<String> {
    let mut paths: Vec<String> = MASKED.map(String::from).into();
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten().map(|entry| entry.path());
    let throttles = cpus.map(|dir| dir.join("thermal_throttle")).filter(|p| p.exists());
    paths.extend(throttles.map(|p| p.display().to_string()));
    paths
}

fn profile(kind: ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() }
}

fn localhost(reference: String) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: reference }
}

fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::{context, pod};

    fn of(spec: &str, image: &cri::Image) -> cri::LinuxContainerSecurityContext {
        let dir = tempfile::tempdir().unwrap();
        let p = pod(spec);
        let first = p.spec.as_ref().unwrap().containers[0].clone();
        of_container(&context(p.clone(), dir.path()).node, &p, &first, image).unwrap()
    }

    #[test]
    fn a_containers_fields_win_over_the_pods() {
        let got = of(
            r#"{"securityContext":{"runAsUser":1,"runAsGroup":2,"fsGroup":3,"seccompProfile":{"type":"RuntimeDefault"}},
            "containers":[{"name":"a","securityContext":{"runAsUser":9,"privileged":true,"readOnlyRootFilesystem":true,
            "allowPrivilegeEscalation":false,"capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]},"procMount":"Unmasked"}}]}"#,
            &cri::Image::default(),
        );
        assert_eq!((got.run_as_user.unwrap().value, got.run_as_group.unwrap().value), (9, 2));
        assert!(got.privileged && got.readonly_rootfs && got.no_new_privs);
        assert_eq!(got.supplemental_groups, [3]);
        assert_eq!(got.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert!(got.masked_paths.is_empty() && got.readonly_paths.is_empty());
        assert_eq!(got.seccomp.unwrap().profile_type, ProfileType::RuntimeDefault as i32);
    }

    #[test]
    fn a_sandbox_has_the_profile_of_its_program_or_the_runtimes() {
        let dir = tempfile::tempdir().unwrap();
        let p = pod(r#"{"containers":[{"name":"a"}]}"#);
        let mut node = NodeContext::clone(&context(p.clone(), dir.path()).node);
        assert_eq!(of_sandbox(&node, &p).unwrap().seccomp, Some(profile(ProfileType::RuntimeDefault)));
        node.sandbox_profile = Some("/data/pause.json".into());
        assert_eq!(of_sandbox(&node, &p).unwrap().seccomp, Some(localhost("/data/pause.json".into())));
    }

    #[test]
    fn the_image_names_the_user_where_nobody_else_does() {
        let plain = r#"{"containers":[{"name":"a"}]}"#;
        let named = of(plain, &cri::Image { username: "nginx".into(), ..cri::Image::default() });
        assert_eq!((named.run_as_user, named.run_as_username.as_str()), (None, "nginx"));
        assert_eq!(of(plain, &cri::Image { uid: Some(int64(7)), ..cri::Image::default() }).run_as_user.unwrap().value, 7);
        let root = of(plain, &cri::Image::default());
        assert_eq!(root.run_as_user.unwrap().value, 0);
        assert!(root.masked_paths.contains(&"/proc/kcore".to_owned()));
        assert_eq!(root.seccomp.unwrap().profile_type, ProfileType::Unconfined as i32);
        assert!(root.apparmor.is_none());
    }

    #[test]
    fn non_root_is_verified() {
        let strict = pod(r#"{"securityContext":{"runAsNonRoot":true},"containers":[{"name":"a"}]}"#);
        let c = &strict.spec.as_ref().unwrap().containers[0];
        let check = |image: cri::Image| verify_non_root(&strict, c, &image);
        assert!(check(cri::Image { uid: Some(int64(5)), ..cri::Image::default() }).is_ok());
        assert!(check(cri::Image::default()).unwrap_err().starts_with("container has runAsNonRoot and image will run as root"));
        let named = check(cri::Image { username: "www".into(), ..cri::Image::default() }).unwrap_err();
        assert!(named.starts_with("container has runAsNonRoot and image has non-numeric user (www)"));
        let zero = pod(r#"{"containers":[{"name":"a","securityContext":{"runAsNonRoot":true,"runAsUser":0}}]}"#);
        let c = &zero.spec.as_ref().unwrap().containers[0];
        assert!(verify_non_root(&zero, c, &cri::Image::default()).unwrap_err().contains("breaks non-root policy"));
    }
}
