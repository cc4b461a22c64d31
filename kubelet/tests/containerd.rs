//! The real containerd under our supervision: needs root, containerd and runc.

use std::{path::Path, time::Duration};

use api::task::Group;
use cri::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest,
};
use kubelet::containerd::{self, Layout};

fn host_network_sandbox(dir: &Path) -> PodSandboxConfig {
    let namespaces = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..LinuxSandboxSecurityContext::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 }),
        log_directory: dir.join("logs").to_string_lossy().into(),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() }),
        ..PodSandboxConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_outlives_our_group_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
    let group = Group::new();
    let runtime = containerd::start(layout.clone(), Path::new("/bin/true"), &group).await.unwrap();
    let request = RunPodSandboxRequest { config: Some(host_network_sandbox(dir.path())), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    assert!(group.drain(Duration::from_secs(5)).await);
    assert!(containerd::is_running(&layout));

    let group = Group::new();
    let runtime = containerd::start(layout.clone(), Path::new("/bin/true"), &group).await.unwrap();
    let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().items;
    assert_eq!(
        sandboxes.iter().map(|s| (s.id.as_str(), s.state())).collect::<Vec<_>>(),
        [(id.as_str(), cri::PodSandboxState::SandboxReady)]
    );
    runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
    group.drain(Duration::from_secs(5)).await;
    containerd::stop(&layout).await.unwrap();
    assert!(!containerd::is_running(&layout));
}
