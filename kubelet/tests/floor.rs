//! What a pod costs in the runtime alone: raw CRI calls, nothing of ours but the network plugin. A measurement, run by hand:
//!
//! `SKIFF=target/release/skiff cargo test -p kubelet --test floor -- --ignored --nocapture`
//!
//! `WIDTHS="3 3 3"` for other rounds, `TMPDIR` and `RUN_DIR` for containerd's data and its state on other file systems. What containerd inherits (`GOMAXPROCS`, ...) can be set for the test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use api::task::Group;
use cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    RunPodSandboxRequest, Runtime, StartContainerRequest,
};
use kubelet::containerd::{self, Layout};

const IMAGE: &str = "skiff.test/pause:1";

/// The pause image again under another name: small, local, and there anyway.
fn tag(layout: &Layout) {
    let args = ["-n", "k8s.io", "images", "tag", containerd::PAUSE_IMAGE, IMAGE];
    assert!(Command::new("ctr").arg("-a").arg(layout.socket()).args(args).status().unwrap().success());
}

fn sandbox(dir: &Path, n: usize) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: format!("p{n}"), uid: format!("u{n}"), namespace: "n".into(), attempt: 0 }),
        log_directory: dir.join(format!("logs/{n}")).to_string_lossy().into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/skiff-floor".into(), ..LinuxPodSandboxConfig::default() }),
        ..PodSandboxConfig::default()
    }
}

/// Milliseconds of the three calls.
async fn pod(runtime: &Runtime, dir: &Path, n: usize) -> [f64; 3] {
    let config = sandbox(dir, n);
    let began = Instant::now();
    let mut took = Vec::new();
    let mut lap = || took.push(began.elapsed().as_secs_f64() * 1000.0 - took.iter().sum::<f64>());
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    lap();
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        log_path: "c.log".into(),
        ..ContainerConfig::default()
    };
    let request = CreateContainerRequest { pod_sandbox_id, config: Some(container), sandbox_config: Some(config) };
    let container_id = runtime.create_container(request).await.unwrap().container_id;
    lap();
    runtime.start_container(StartContainerRequest { container_id }).await.unwrap();
    lap();
    [took[0], took[1], took[2]]
}

/// A CPU accounting group (cgroup v1) for the runtime, beside the one that its pods are in: all that it starts is counted, to the last child.
struct Accounts([PathBuf; 2]);

impl Accounts {
    /// This process, and with it all that it starts, joins the first.
    fn open() -> Self {
        let accounts = Self(["skiff-floor-runtime", "skiff-floor"].map(|name| Path::new("/sys/fs/cgroup/cpuacct").join(name)));
        accounts.0.iter().for_each(|group| std::fs::create_dir_all(group).unwrap());
        std::fs::write(accounts.0[0].join("cgroup.procs"), std::process::id().to_string()).unwrap();
        accounts
    }

    /// CPU milliseconds so far.
    fn used(&self) -> f64 {
        let used = |group: &PathBuf| std::fs::read_to_string(group.join("cpuacct.usage")).unwrap().trim().parse::<f64>().unwrap();
        self.0.iter().map(used).sum::<f64>() / 1e6
    }

    fn close(self) {
        std::fs::write("/sys/fs/cgroup/cpuacct/cgroup.procs", std::process::id().to_string()).unwrap();
        // The kernel may still hold the last pod's: an empty group costs nothing.
        self.0.iter().for_each(|group| drop(std::fs::remove_dir(group)));
    }
}

async fn remove_all(runtime: &Runtime) {
    for sandbox in runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().items {
        let pod_sandbox_id = sandbox.id;
        runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
        runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    }
}

/// Numbers from the environment.
fn list(name: &str, or: &str) -> Vec<usize> {
    let text = std::env::var(name).unwrap_or_else(|_| or.into());
    text.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn floor() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = std::env::var_os("RUN_DIR").map_or_else(|| dir.path().join("run"), PathBuf::from);
    let layout = Layout::under(&dir.path().join("data"), &run_dir);
    let (group, accounts) = (Group::new(), Accounts::open());
    let runtime = containerd::start(layout.clone(), &group).await.unwrap();
    let plugin = std::env::var_os("SKIFF").map_or_else(|| PathBuf::from("/bin/true"), |p| std::fs::canonicalize(p).unwrap());
    for name in ["skiff-cni", "loopback"] {
        std::os::unix::fs::symlink(&plugin, layout.cni_bin_dir.join(name)).unwrap();
    }
    let conflist = r#"{"cniVersion":"0.4.0","name":"floor","plugins":[{"type":"skiff-cni","bridge":"skiff-floor","ipam":{"type":"skiff-cni","subnet":"10.250.0.0/24","dataDir":"DIR"}}]}"#;
    std::fs::write(layout.cni_conf_dir.join("10.conflist"), conflist.replace("DIR", &dir.path().join("cni").to_string_lossy())).unwrap();
    tag(&layout);
    let ready = async {
        while !runtime.status(cri::StatusRequest::default()).await.unwrap().status.unwrap().conditions.iter().all(|c| c.status) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready).await.expect("a network");
    pod(&runtime, dir.path(), 0).await;
    let (mut all, before) = (Vec::new(), accounts.used());
    for n in 1..=15 {
        all.push(pod(&runtime, dir.path(), n).await);
    }
    let sorted = |f: &dyn Fn(&[f64; 3]) -> f64| {
        let mut values: Vec<f64> = all.iter().map(f).collect();
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2])
    };
    println!("one by one, ms (least, median): whole {:?}", sorted(&|t| t.iter().sum()));
    for (at, name) in ["RunPodSandbox", "CreateContainer", "StartContainer"].into_iter().enumerate() {
        println!("- {name} {:?}", sorted(&|t| t[at]));
    }
    println!("- CPU ms of the runtime for each pod: {:.1}", (accounts.used() - before) / 15.0);
    for (round, width) in list("WIDTHS", "1 2 3 4 8 30").into_iter().enumerate() {
        // Every mount that is left is read by every runc that comes: each round begins with none.
        remove_all(&runtime).await;
        let (from, before, began) = (1000 * (round + 1), accounts.used(), Instant::now());
        let places = tokio::sync::Semaphore::new(width);
        futures::future::join_all((0..30).map(|n| {
            let (runtime, dir, places) = (&runtime, dir.path(), &places);
            async move {
                let _place = places.acquire().await;
                pod(runtime, dir, from + n).await
            }
        }))
        .await;
        let seconds = began.elapsed().as_secs_f64();
        println!("30 pods, {width} at a time: {:.1} pods/s, CPU ms {:.1}", 30.0 / seconds, (accounts.used() - before) / 30.0);
    }
    remove_all(&runtime).await;
    group.drain(Duration::from_secs(5)).await;
    containerd::stop(&layout).await.unwrap();
    containerd::end_shims(&layout).await.unwrap();
    accounts.close();
    let _ = Command::new("ip").args(["link", "delete", "skiff-floor"]).status();
}
