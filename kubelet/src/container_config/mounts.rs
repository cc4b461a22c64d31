//! Container + the pod's volumes -> its mounts: volumes, subPaths, the hosts file, the termination log.
//!
//! Source: `makeMounts` in `pkg/kubelet/kubelet_pods.go` and in `pkg/kubelet/kuberuntime/kuberuntime_container.go`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use api::k8s::api::core::v1::{Container, VolumeMount};

use super::{ConfigError, Hostname, expand::expand, hosts, subpath};
use crate::{context::PodContext, dirs, env::Environment, meta, volumes::Mounted};

const ETC_HOSTS: &str = "/etc/hosts";

/// All mounts of one container, made ready on the host.
///
/// # Errors
/// [`ConfigError`] in upstream's words.
pub fn of(cx: &PodContext, container: &Container, environment: &Environment) -> Result<Vec<cri::Mount>, ConfigError> {
    let listed = container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = Vec::with_capacity(listed.len() + 2);
    for (index, mount) in listed.iter().enumerate() {
        mounts.push(volume(cx, container, mount, index, environment)?);
    }
    let taken = listed.iter().any(|m| m.mount_path == ETC_HOSTS);
    if !taken && (!cx.pod_ips.is_empty() || meta::host_network(&cx.pod)) {
        mounts.push(hosts_file(cx)?);
    }
    if let Some(path) = container.termination_message_path.as_deref().filter(|p| !p.is_empty()) {
        mounts.push(termination_log(cx, container, path)?);
    }
    Ok(mounts)
}

fn volume(
    cx: &PodContext,
    container: &Container,
    mount: &VolumeMount,
    index: usize,
    environment: &Environment,
) -> Result<cri::Mount, ConfigError> {
    let found = cx.volumes.as_ref().and_then(|v| v.get(&mount.name));
    let missing = || ConfigError::Refused(format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name));
    let found = found.ok_or_else(missing)?;
    let sub = sub_path(mount, environment).map_err(ConfigError::Refused)?;
    let host_path = match sub {
        None => found.path.clone(),
        Some(sub) => bind_sub_path(cx, container, mount, index, found, &sub)?,
    };
    if mount.recursive_read_only.as_deref() == Some("Enabled") {
        return Err(ConfigError::Refused(format!(
            "failed to resolve recursive read-only mode: volume {:?} requested recursive read-only mode, but it is not supported by the runtime",
            mount.name
        )));
    }
    Ok(cri::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host_path.display().to_string(),
        readonly: mount.read_only == Some(true) || found.read_only,
        propagation: propagation(mount.mount_propagation.as_deref()).map_err(ConfigError::Refused)? as i32,
        ..cri::Mount::default()
    })
}

/// The path below the volume, `None` for the volume itself.
pub(super) fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, String> {
    let written = mount.sub_path.clone().unwrap_or_default();
    let sub = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => expanded(expression, environment)?,
        None => written,
    };
    if sub.starts_with('/') {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    Ok((!sub.is_empty()).then_some(sub))
}

fn expanded(expression: &str, environment: &Environment) -> Result<String, String> {
    let mut missing = std::collections::BTreeSet::new();
    let text = expand(expression, &mut |name| {
        let value = environment.get(name).cloned().unwrap_or_default();
        if value.is_empty() {
            missing.insert(name.to_owned());
        }
        Some(value)
    });
    let names: Vec<String> = missing.into_iter().collect();
    if names.is_empty() { Ok(text) } else { Err(format!("missing value for {}", names.join(", "))) }
}

fn bind_sub_path(
    cx: &PodContext,
    container: &Container,
    mount: &VolumeMount,
    index: usize,
    volume: &Mounted,
    sub: &str,
) -> Result<PathBuf, ConfigError> {
    let pod_dir = dirs::pod(&cx.node.root_dir, meta::uid(&cx.pod));
    let target = pod_dir.join("volume-subpaths").join(&mount.name).join(&container.name).join(index.to_string());
    subpath::bind(&volume.path, sub, &target).map_err(|error| {
        // As upstream: what exactly failed would tell the pod's author about the host's files.
        tracing::warn!(ns = meta::namespace(&cx.pod), name = meta::name(&cx.pod), volume = mount.name, %error, "failed to prepare subPath");
        let verb = if error.making { "create subPath directory" } else { "prepare subPath" };
        ConfigError::Refused(format!("failed to {verb} for volumeMount {:?} of container {:?}", mount.name, container.name))
    })?;
    Ok(target)
}

fn hosts_file(cx: &PodContext) -> Result<cri::Mount, ConfigError> {
    let name = Hostname::of(&cx.pod, &cx.node.cluster_domain).map_err(ConfigError::Refused)?;
    let dir = dirs::pod(&cx.node.root_dir, meta::uid(&cx.pod));
    let path = dir.join("etc-hosts");
    let write = || {
        fs::create_dir_all(&dir)?;
        hosts::write(&path, &cx.pod, &cx.pod_ips, &name)
    };
    write().map_err(|source| ConfigError::File { what: format!("write {}", path.display()), source })?;
    Ok(bound(&path, ETC_HOSTS))
}

/// A file of its own for each attempt, which any user in the container may write.
fn termination_log(cx: &PodContext, container: &Container, at: &str) -> Result<cri::Mount, ConfigError> {
    let dir = dirs::pod(&cx.node.root_dir, meta::uid(&cx.pod)).join("containers").join(&container.name);
    let path = dir.join(format!("{:08x}", rand::random::<u32>()));
    let make = || {
        fs::create_dir_all(&dir)?;
        fs::File::create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|source| ConfigError::File { what: format!("create termination log {}", path.display()), source })?;
    Ok(bound(&path, &absolute(at)))
}

fn bound(host: &Path, container_path: &str) -> cri::Mount {
    cri::Mount { container_path: container_path.into(), host_path: host.display().to_string(), ..cri::Mount::default() }
}

pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

pub(super) fn propagation(mode: Option<&str>) -> Result<cri::MountPropagation, String> {
    match mode {
        None | Some("None") => Ok(cri::MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(cri::MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(cri::MountPropagation::PropagationBidirectional),
        Some(other) => Err(format!("invalid MountPropagation mode: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::{context, pod};

    fn mount(json: &str) -> VolumeMount {
        serde_json::from_str(&format!(r#"{{"name":"v","mountPath":"/v",{json}}}"#)).unwrap()
    }

    #[test]
    fn sub_paths_are_checked_and_expanded() {
        let environment: Environment = [("A".to_owned(), "x".to_owned()), ("EMPTY".to_owned(), String::new())].into();
        let of = |json: &str| sub_path(&mount(json), &environment);
        assert_eq!(of(r#""subPath":"a/b""#), Ok(Some("a/b".into())));
        assert_eq!(of(r#""subPath":"""#), Ok(None));
        assert_eq!(of(r#""subPathExpr":"$(A)/$$(A)""#), Ok(Some("x/$(A)".into())));
        assert_eq!(of(r#""subPathExpr":"$(N)$(EMPTY)""#).unwrap_err(), "missing value for EMPTY, N");
        assert_eq!(of(r#""subPath":"/a""#).unwrap_err(), "error SubPath `/a` must not be an absolute path");
        assert_eq!(of(r#""subPath":"a/../b""#).unwrap_err(), "unable to provision SubPath `a/../b`: must not contain '..'");
    }

    #[test]
    fn files_of_the_pods_own_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let p = pod(r#"{"containers":[{"name":"a","terminationMessagePath":"/dev/termination-log"}]}"#);
        let c = p.spec.as_ref().unwrap().containers[0].clone();
        let mounts = of(&context(p, dir.path()), &c, &Environment::new()).unwrap();
        let paths: Vec<&str> = mounts.iter().map(|m| m.container_path.as_str()).collect();
        assert_eq!(paths, ["/etc/hosts", "/dev/termination-log"]);
        assert!(fs::read_to_string(&mounts[0].host_path).unwrap().contains("10.1.0.5\tweb\n"));
        assert_eq!(fs::metadata(&mounts[1].host_path).unwrap().permissions().mode() & 0o777, 0o666);
    }
}
