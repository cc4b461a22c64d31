//! Pod + container + node -> what the runtime makes: PodSandboxConfig and ContainerConfig.
//!
//! Source: `generatePodSandboxConfig` in `pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`, `generateContainerConfig` in
//! `kuberuntime_container.go`, `generateLinuxContainerConfig` in `kuberuntime_container_linux.go`.

mod command;
mod devices;
pub(crate) mod expand;
mod hostname;
mod hosts;
mod mounts;
pub mod qos;
mod rehearse;
pub(crate) mod resources;
mod sandbox;
mod security;
mod subpath;
pub(crate) mod testing;

use std::{fmt::Display, path::Path};

use api::{faults::catch, k8s::api::core::v1::Container};

pub(crate) use self::rehearse::rehearse;
pub use self::{
    expand::expand,
    hostname::Hostname,
    qos::{QosClass, class},
    resources::{Limits, QUOTA_PERIOD_US, cpu_request_milli, requests, shares},
    sandbox::{dns_warnings, sandbox},
};
use crate::{
    context::PodContext,
    downward::{Allocatable, Facts},
    env::{self, Environment},
};

/// Why there is no config. The text is upstream's: the container waits with [`ConfigError::reason`] and this message.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    File { what: String, source: std::io::Error },
}

impl ConfigError {
    /// The reason of the container's waiting state.
    pub fn reason(&self) -> &'static str {
        "CreateContainerConfigError"
    }
}

/// The config of one container, but for what names it (metadata, labels, annotations, log path: [`crate::labels`]). Makes what it mounts:
/// its termination log, hosts file, subPath binds.
///
/// # Errors
/// [`ConfigError`] in upstream's words; nothing was asked of the runtime yet.
pub async fn container(cx: &PodContext, container: &Container, image: &cri::Image) -> Result<cri::ContainerConfig, ConfigError> {
    let (cx, container, image) = (cx.clone(), container.clone(), image.clone());
    let made = tokio::task::spawn_blocking(move || catch("pods", || made(&cx, &container, &image))).await;
    let failed = |why: &dyn Display| Err(ConfigError::Refused(format!("container config: {why}")));
    made.map_or_else(|ended| failed(&ended), |made| made.unwrap_or_else(|panic| failed(&panic)))
}

fn made(cx: &PodContext, container: &Container, image: &cri::Image) -> Result<cri::ContainerConfig, ConfigError> {
    security::verify_non_root(&cx.pod, container, image).map_err(ConfigError::Refused)?;
    let environment = environment(cx, container)?;
    let (command, args) = command::expanded(container, &environment);
    Ok(cri::ContainerConfig {
        image: Some(image_spec(container, image)),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        devices: devices::of(cx, container)?,
        mounts: mounts::of(cx, container, &environment)?,
        envs: environment.into_iter().map(|(key, value)| cri::KeyValue { key, value: value.into() }).collect(),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(linux(cx, container, image)?),
        stop_signal: command::stop_signal(container),
        ..cri::ContainerConfig::default()
    })
}

/// What the node and the runtime say that fields and resources of the pod are read with.
pub fn facts(cx: &PodContext) -> Facts {
    let allocatable = cx.node_object.as_ref().and_then(|n| n.status.as_ref()).and_then(|s| s.allocatable.as_ref());
    let get = |name| qos::amount(allocatable, name);
    Facts {
        host_ips: cx.node.node_ips.iter().map(ToString::to_string).collect(),
        pod_ips: cx.pod_ips.clone(),
        allocatable: Allocatable {
            cpu_milli: get("cpu").map_or(0, api::quantity::Quantity::milli),
            memory_bytes: get("memory").map_or(cx.node.memory_capacity_bytes, api::quantity::Quantity::units),
            ephemeral_storage_bytes: get("ephemeral-storage").map_or(0, api::quantity::Quantity::units),
        },
    }
}

fn environment(cx: &PodContext, container: &Container) -> Result<Environment, ConfigError> {
    let fetched = cx.volumes.as_ref().map(|v| v.fetched()).transpose().map_err(ConfigError::Refused)?.unwrap_or_default();
    let facts = facts(cx);
    env::build(env::Input {
        pod: &cx.pod,
        container,
        facts: &facts,
        fetched: &fetched,
        services: &cx.services,
        master_namespace: &cx.node.master_service_namespace,
    })
    .map_err(ConfigError::Refused)
}

fn image_spec(container: &Container, image: &cri::Image) -> cri::ImageSpec {
    let user_specified_image = container.image.clone().unwrap_or_default();
    cri::ImageSpec { image: image.id.clone(), user_specified_image, ..cri::ImageSpec::default() }
}

fn linux(cx: &PodContext, container: &Container, image: &cri::Image) -> Result<cri::LinuxContainerConfig, ConfigError> {
    let security = security::of_container(&cx.node, &cx.pod, container, image).map_err(ConfigError::Refused)?;
    let limits = Limits::of_container(&cx.pod, container);
    let mut resources = runtime_resources(limits, cx.node.cpu_cfs_quota);
    resources.oom_score_adj = cx.oom_scores.adj(container);
    kernel_settings(&cx.node.cgroup_root, &mut resources);
    Ok(cri::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) })
}

/// What depends on the kernel's interface: no swap where the kernel keeps account of it; on v2, out of memory, the whole container goes.
fn kernel_settings(cgroup_root: &str, resources: &mut cri::LinuxContainerResources) {
    let mount = Path::new("/sys/fs/cgroup");
    if !mount.join("cgroup.controllers").exists() {
        if mount.join("memory/memory.memsw.limit_in_bytes").exists() {
            resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes;
        }
        return;
    }
    resources.unified.insert("memory.oom.group".into(), "1".into());
    if mount.join(cgroup_root.trim_matches('/')).join("memory.swap.max").exists() {
        resources.unified.insert("memory.swap.max".into(), "0".into());
    }
}

fn runtime_resources(limits: Limits, cfs_quota: bool) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_shares: limits.cpu_shares,
        cpu_period: if cfs_quota { QUOTA_PERIOD_US } else { 0 },
        cpu_quota: if cfs_quota { limits.cpu_quota_us.unwrap_or(0) } else { 0 },
        memory_limit_in_bytes: limits.memory_bytes.unwrap_or(0),
        ..cri::LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::{context, pod};

    fn config(spec: &str) -> Result<cri::ContainerConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let p = pod(spec);
        let first = p.spec.as_ref().unwrap().containers[0].clone();
        made(&context(p, dir.path()), &first, &cri::Image { id: "sha256:1".into(), ..cri::Image::default() })
    }

    #[test]
    fn a_container_reads_as_written() {
        let got = config(
            r#"{"containers":[{"name":"a","image":"busybox","command":["sh","-c","echo $(X) $$(X)"],"args":["$(Y)"],
            "env":[{"name":"X","value":"1"}],"workingDir":"/w","tty":true,"stdin":true,"stdinOnce":true,
            "ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1","memory":"64Mi"}},
            "lifecycle":{"stopSignal":"SIGRTMIN+3"}}],"terminationGracePeriodSeconds":30}"#,
        )
        .unwrap();
        assert_eq!(got.command, ["sh", "-c", "echo 1 $(X)"]);
        assert_eq!(got.args, ["$(Y)"]);
        assert_eq!((got.tty, got.stdin, got.stdin_once, got.working_dir.as_str()), (true, true, true, "/w"));
        assert_eq!(got.stop_signal, 38);
        let image = got.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "busybox"));
        let resources = got.linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (1024, 100_000, 100_000));
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words() {
        let text = |spec: &str| config(spec).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"containers":[{"name":"a","securityContext":{"runAsNonRoot":true}}]}"#),
            "container has runAsNonRoot and image will run as root (pod: \"web_default(u1)\", container: a)"
        );
        assert_eq!(
            text(r#"{"containers":[{"name":"a","env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"c","key":"k"}}}]}]}"#),
            "configmap \"c\" not found"
        );
        assert_eq!(
            text(r#"{"containers":[{"name":"a","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}"#),
            "cannot find volume \"v\" to mount into container \"a\""
        );
        assert_eq!(
            text(r#"{"containers":[{"name":"a","volumeDevices":[{"name":"v","devicePath":"/dev/v"}]}]}"#),
            "cannot find volume \"v\" to pass into container \"a\""
        );
        assert_eq!(
            text(r#"{"containers":[{"name":"a","volumeDevices":[{"name":"v","devicePath":"dev/v"}]}]}"#),
            "error DevicePath `dev/v` must be an absolute path"
        );
    }
}
