//! The real containerd under our supervision: needs root, containerd and runc.

use std::{collections::HashMap, path::Path, time::Duration};

use api::task::Group;
use cri::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, Runtime, SecurityProfile, security_profile::ProfileType,
};
use kubelet::containerd::{self, Layout};

/// On the host's network, under the profile of our pause program.
fn host_network_sandbox(dir: &Path, layout: &Layout) -> PodSandboxConfig {
    let namespaces = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
    let localhost_ref = layout.pause_profile().display().to_string();
    let profile = SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref };
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        seccomp: Some(profile),
        ..LinuxSandboxSecurityContext::default()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 }),
        log_directory: dir.join("logs").to_string_lossy().into(),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() }),
        ..PodSandboxConfig::default()
    }
}

/// A containerd that was started, and the id of a sandbox that runs in it.
async fn with_a_sandbox(dir: &Path, layout: &Layout, group: &Group) -> (Runtime, String) {
    let runtime = containerd::start(layout.clone(), group).await.unwrap();
    let request = RunPodSandboxRequest { config: Some(host_network_sandbox(dir, layout)), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    (runtime, id)
}

async fn remove(runtime: &Runtime, id: String) {
    runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
}

/// The kernel's word on a sandbox's process.
async fn process_status(runtime: &Runtime, id: &str) -> HashMap<String, String> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
    let info = runtime.pod_sandbox_status(request).await.unwrap().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", info["pid"])).unwrap();
    status.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.into(), v.trim().into())).collect()
}

/// A call of the program's own that the filter forbids would show as a process that is busy, or gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_pause_program_sleeps_under_its_filter() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
    let group = Group::new();
    let (runtime, id) = with_a_sandbox(dir.path(), &layout, &group).await;
    let sleeps = async {
        loop {
            let status = process_status(&runtime, &id).await;
            if status["Name"] == "pause" && status["State"].starts_with('S') {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(10), sleeps).await.expect("it sleeps");
    assert_eq!((status["Seccomp"].as_str(), status["NoNewPrivs"].as_str()), ("2", "1"));
    let ignored = u64::from_str_radix(&status["SigIgn"], 16).unwrap();
    assert!(ignored & (1 << 16) != 0, "SIGCHLD");
    remove(&runtime, id).await;
    group.drain(Duration::from_secs(5)).await;
    containerd::stop(&layout).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_outlives_our_group_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
    let group = Group::new();
    let (_, id) = with_a_sandbox(dir.path(), &layout, &group).await;
    assert!(group.drain(Duration::from_secs(5)).await);
    assert!(containerd::is_running(&layout));

    let group = Group::new();
    let runtime = containerd::start(layout.clone(), &group).await.unwrap();
    let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().items;
    assert_eq!(
        sandboxes.iter().map(|s| (s.id.as_str(), s.state())).collect::<Vec<_>>(),
        [(id.as_str(), cri::PodSandboxState::SandboxReady)]
    );
    remove(&runtime, id).await;
    group.drain(Duration::from_secs(5)).await;
    containerd::stop(&layout).await.unwrap();
    assert!(!containerd::is_running(&layout));
}
