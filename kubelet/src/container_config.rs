//! Pod + container + node -> what the runtime is asked to make: PodSandboxConfig and ContainerConfig.
//!
//! Source: `generatePodSandboxConfig` in `pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`, `generateContainerConfig` in
//! `kuberuntime_container.go`, `generateLinuxContainerConfig` in `kuberuntime_container_linux.go`.

mod annotations;
mod command;
mod expand;
mod hostname;
mod hosts;
mod mounts;
mod qos;
mod resources;
mod sandbox;
mod security;
mod subpath;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::k8s::api::core::v1::{Container, Pod};

pub(crate) use self::qos::amount;
pub use self::{
    annotations::hash,
    expand::expand,
    hostname::Hostname,
    qos::{QosClass, oom_score_adj},
    resources::{Limits, QUOTA_PERIOD_US, cpu_request_milli, shares},
    sandbox::{Sandbox, sandbox},
    security::fs_user,
};
use crate::{
    context::{Attempt, PodContext},
    downward::{Allocatable, Facts},
    env::{self, Environment},
    meta,
};

/// Why there is no config. The text is upstream's: the container waits with `CreateContainerConfigError` and this message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {source}")]
    File { what: String, source: std::io::Error },
}

/// The image as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// What the runtime is told to run: its id or reference.
    pub reference: String,
    /// The numeric user that the image names.
    pub uid: Option<i64>,
    /// The user by name, where it is not numeric.
    pub username: String,
}

/// The config of one container. Makes what it mounts: its log directory, termination log, hosts file, subPath binds.
///
/// # Errors
/// [`Error`] in upstream's words; nothing was asked of the runtime yet.
pub fn container(cx: &PodContext, container: &Container, attempt: Attempt, image: &Image) -> Result<cri::ContainerConfig, Error> {
    security::verify_non_root(&cx.pod, container, image).map_err(Error::Refused)?;
    if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Error::Refused(format!("container {:?} asks for block devices, which are not supported", container.name)));
    }
    let environment = environment(cx, container)?;
    let (command, args) = command::expanded(container, &environment);
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: attempt.0 }),
        image: Some(image_spec(container, image)),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts::of(cx, container, &environment)?,
        envs: environment.into_iter().map(|(key, value)| cri::KeyValue { key, value: value.into() }).collect(),
        labels: annotations::container_labels(&cx.pod, container),
        annotations: annotations::container_annotations(&cx.pod, container, attempt),
        log_path: log_path(container, attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(linux(cx, container, image)?),
        stop_signal: command::stop_signal(container),
        ..cri::ContainerConfig::default()
    };
    let dir = log_directory(&cx.node.log_dir, &cx.pod).join(&container.name);
    fs::create_dir_all(&dir).map_err(|source| Error::File {
        what: format!("create container log directory for container {} failed", container.name),
        source,
    })?;
    Ok(config)
}

/// `<log_dir>/<ns>_<name>_<uid>`.
pub fn log_directory(log_dir: &Path, pod: &Pod) -> PathBuf {
    log_dir.join(format!("{}_{}_{}", meta::namespace(pod), meta::name(pod), meta::uid(pod)))
}

/// `<root>/pods/<uid>`.
pub fn pod_directory(root_dir: &Path, uid: &str) -> PathBuf {
    root_dir.join("pods").join(uid)
}

/// What the node and the runtime say that fields and resources of the pod are read with.
pub fn facts(cx: &PodContext) -> Facts {
    let allocatable = cx.node_object.as_ref().and_then(|n| n.status.as_ref()).and_then(|s| s.allocatable.as_ref());
    let get = |name| amount(allocatable, name);
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

fn environment(cx: &PodContext, container: &Container) -> Result<Environment, Error> {
    let fetched = cx.volumes.as_ref().map(|v| v.fetched()).transpose().map_err(Error::Refused)?.unwrap_or_default();
    let facts = facts(cx);
    env::build(env::Input {
        pod: &cx.pod,
        container,
        facts: &facts,
        fetched: &fetched,
        services: &cx.services,
        master_namespace: &cx.node.master_service_namespace,
    })
    .map_err(Error::Refused)
}

fn image_spec(container: &Container, image: &Image) -> cri::ImageSpec {
    let user_specified_image = container.image.clone().unwrap_or_default();
    cri::ImageSpec { image: image.reference.clone(), user_specified_image, ..cri::ImageSpec::default() }
}

fn log_path(container: &Container, attempt: Attempt) -> String {
    format!("{}/{}.log", container.name, attempt.0)
}

fn linux(cx: &PodContext, container: &Container, image: &Image) -> Result<cri::LinuxContainerConfig, Error> {
    let security = security::of_container(&cx.node, &cx.pod, container, image).map_err(Error::Refused)?;
    let limits = Limits::of_container(&cx.pod, container);
    let mut resources = runtime_resources(limits, cx.node.cpu_cfs_quota);
    resources.oom_score_adj = oom_score_adj(&cx.pod, container, cx.node.memory_capacity_bytes);
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // As upstream on cgroup v2: out of memory, the whole container goes.
        resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    Ok(cri::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) })
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

    fn config(spec: &str) -> Result<cri::ContainerConfig, Error> {
        let dir = tempfile::tempdir().unwrap();
        let p = pod(spec);
        let first = p.spec.as_ref().unwrap().containers[0].clone();
        container(&context(p, dir.path()), &first, Attempt(2), &Image { reference: "sha256:1".into(), uid: Some(0), ..Image::default() })
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
        assert_eq!(got.log_path, "a/2.log");
        assert_eq!(got.metadata.unwrap().attempt, 2);
        assert_eq!(got.stop_signal, 38);
        let image = got.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "busybox"));
        assert_eq!(got.labels["io.kubernetes.container.name"], "a");
        assert_eq!(got.annotations["io.kubernetes.container.restartCount"], "2");
        assert_eq!(got.annotations["io.kubernetes.pod.terminationGracePeriod"], "30");
        assert!(got.annotations["io.kubernetes.container.ports"].contains("80"));
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
    }
}
