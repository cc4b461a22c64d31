//! What a pod costs in the runtime alone: raw CRI calls, nothing of ours but the network plugin. A measurement, run by hand:
//!
//! `SKIFF=target/release/skiff cargo test -p kubelet --test floor -- --ignored --nocapture`

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

/// CPU milliseconds used so far by containerd of `layout` and all that it has started.
fn cpu(layout: &Layout) -> u64 {
    let socket = layout.socket().display().to_string();
    let config = layout.root.join("config.toml").display().to_string();
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if line.contains(&socket) || line.contains(&config) {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            ticks += fields[11..15].iter().map(|f| f.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    ticks * 10
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::cast_precision_loss)]
async fn floor() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
    let group = Group::new();
    let plugin = std::env::var_os("SKIFF").map_or_else(|| PathBuf::from("/bin/true"), |p| std::fs::canonicalize(p).unwrap());
    let runtime = containerd::start(layout.clone(), &plugin, &group).await.unwrap();
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
    let (mut all, before) = (Vec::new(), cpu(&layout));
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
    println!("- CPU ms of the runtime for each pod: {}", (cpu(&layout) - before) as f64 / 15.0);
    for width in [1_usize, 2, 3, 4, 8, 30] {
        let (from, before, began) = (1000 * width, cpu(&layout), Instant::now());
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
        println!("30 pods, {width} at a time: {:.1} pods/s, CPU ms {:.0}", 30.0 / seconds, (cpu(&layout) - before) as f64 / 30.0);
    }
    for sandbox in runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().items {
        let pod_sandbox_id = sandbox.id;
        runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
        runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    }
    group.drain(Duration::from_secs(5)).await;
    containerd::stop(&layout).await.unwrap();
    containerd::end_shims(&layout).await.unwrap();
    let _ = Command::new("ip").args(["link", "delete", "skiff-floor"]).status();
}
