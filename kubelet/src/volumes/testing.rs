//! A kind of volume for tests: disks that the node attaches and stages once for all pods that use one, also as a block device.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{
    k8s::api::core::v1::{PersistentVolume, Pod, Volume, VolumeMount},
    task::Group,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    Manager,
    plugin::{Attached, Host, Identity, Mode, Mounted, NodePlugin, NodeVolume, VolumePlugin, VolumeToMount, VolumeToUnmount},
    plugins::Table,
};
use crate::{container_config, csi::Csi, meta};

/// The disks outside of the node: `<outside>/<disk>` is there while it is attached, `<outside>/<disk>.<pod>` while a pod has it.
pub struct Disks {
    outside: PathBuf,
    /// All calls in order: `stage d`, `set_up d u1 Block`.
    calls: Mutex<Vec<String>>,
    /// The name of the call that fails, half done.
    fails: Mutex<Option<&'static str>>,
    /// What staging and unstaging wait for.
    gate: Semaphore,
}

impl Disks {
    /// It and a table of it alone, for as long as the tests run.
    pub fn table(outside: &Path) -> (&'static Self, Table) {
        let (calls, fails) = (Mutex::default(), Mutex::default());
        let disks: &'static Self = Box::leak(Box::new(Self { outside: outside.to_owned(), calls, fails, gate: Semaphore::new(1 << 20) }));
        (disks, Box::leak(Box::new([disks as &dyn VolumePlugin])))
    }

    /// From now on this call fails, and no other.
    pub fn fail(&self, call: Option<&'static str>) {
        *self.fails.lock() = call;
    }

    /// Staging and unstaging wait from now on; whoever has the permits lets it go on by dropping them.
    pub async fn shut(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.gate.acquire_many(1 << 20).await.unwrap()
    }

    /// Since it was last asked.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }

    pub fn called(&self, call: &str) -> bool {
        self.calls.lock().iter().any(|made| made == call)
    }

    /// What is there of disks outside.
    pub fn there(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.outside).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn call(&self, name: &'static str, about: &str) -> Result<(), String> {
        self.calls.lock().push(format!("{name} {about}"));
        if *self.fails.lock() == Some(name) { Err(format!("{name} is broken")) } else { Ok(()) }
    }

    fn of_pod(&self, disk: &str, uid: &str) -> PathBuf {
        self.outside.join(format!("{disk}.{uid}"))
    }
}

#[async_trait]
impl VolumePlugin for Disks {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.csi.as_ref().is_some_and(|csi| csi.driver == "disk.test")
    }

    fn supports_block(&self) -> bool {
        true
    }

    fn node(&self) -> Option<&dyn NodePlugin> {
        Some(self)
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        let (uid, node) = (meta::uid(volume.pod()), volume.node.as_ref().expect("it has a node plugin"));
        fs::write(self.of_pod(&node.handle, uid), "").unwrap();
        self.call("set_up", &format!("{} {uid} {:?}", node.handle, volume.mode))?;
        if volume.mode == Mode::Block {
            return Ok(Mounted { path: node.device.clone().expect("it was attached"), read_only: false });
        }
        let path = volume.dir(self.name());
        fs::create_dir_all(&path).unwrap();
        fs::copy(node.staging.join("data"), path.join("data")).unwrap();
        Ok(Mounted { path, read_only: false })
    }

    async fn tear_down(&self, _host: &Host, volume: &VolumeToUnmount) -> Result<(), String> {
        let handle = &volume.node.as_ref().expect("it is recorded").handle;
        self.call("tear_down", &format!("{handle} {} {:?}", volume.pod_uid, volume.mode))?;
        let _ = fs::remove_file(self.of_pod(handle, &volume.pod_uid));
        Ok(())
    }
}

#[async_trait]
impl NodePlugin for Disks {
    fn identify(&self, volume: &VolumeToMount) -> Result<Identity, String> {
        let attributes = volume.volume.csi.as_ref().and_then(|csi| csi.volume_attributes.clone()).unwrap_or_default();
        let handle = attributes.get("disk").cloned().ok_or("no disk is named")?;
        Ok(Identity { handle, attributes })
    }

    async fn attach(&self, volume: &NodeVolume, _: &VolumeToMount) -> Result<Attached, String> {
        let device = self.outside.join(&volume.handle);
        fs::write(&device, "").unwrap();
        self.call("attach", &volume.handle)?;
        Ok(Attached { device: Some(device), ..Attached::default() })
    }

    async fn stage(&self, volume: &NodeVolume, _: &VolumeToMount) -> Result<(), String> {
        fs::write(volume.staging.join("data"), "half").unwrap();
        self.call("stage", &volume.handle)?;
        let _pass = self.gate.acquire().await.unwrap();
        fs::write(volume.staging.join("data"), volume.device.as_ref().expect("it was attached").to_str().unwrap()).unwrap();
        Ok(())
    }

    async fn unstage(&self, _host: &Host, volume: &NodeVolume) -> Result<(), String> {
        self.call("unstage", &volume.handle)?;
        let _pass = self.gate.acquire().await.unwrap();
        let _ = fs::remove_file(volume.staging.join("data"));
        Ok(())
    }

    async fn detach(&self, _host: &Host, volume: &NodeVolume) -> Result<(), String> {
        self.call("detach", &format!("{} {}", volume.handle, volume.attributes["disk"]))?;
        let _ = fs::remove_file(self.outside.join(&volume.handle));
        Ok(())
    }
}

/// A pod with the disk `d`, mounted or as a device.
pub fn pod(uid: &str, mode: Mode) -> Arc<Pod> {
    let with = match mode {
        Mode::Filesystem => r#""volumeMounts":[{"name":"v","mountPath":"/v"}]"#,
        Mode::Block => r#""volumeDevices":[{"name":"v","devicePath":"/dev/v"}]"#,
    };
    let text = format!(
        r#"{{"metadata":{{"name":"web","namespace":"default","uid":"{uid}"}},"spec":{{"containers":[{{"name":"a",{with}}}],
        "volumes":[{{"name":"v","csi":{{"driver":"disk.test","volumeAttributes":{{"disk":"d"}}}}}}]}}}}"#
    );
    Arc::new(serde_json::from_str(&text).expect("a well-formed pod"))
}

/// A directory in which volumes mount: what is mounted goes with it, also when a test fails.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for temporary files"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it fails the directory stays, and is seen.
        let _ = super::unmount_below(self.path());
    }
}

/// A client of a server that never answers.
pub fn nobody() -> client::kube::Client {
    let never = tower::service_fn(|_: http::Request<client::kube::client::Body>| async {
        std::future::pending::<Result<http::Response<client::kube::client::Body>, std::convert::Infallible>>().await
    });
    client::kube::Client::new(never, "default")
}

/// The volumes of a node without drivers.
pub fn manager(root_dir: PathBuf, client: client::kube::Client, group: &Group) -> Manager {
    let csi = csi(&client, group);
    Manager::new(root_dir, client, csi, group)
}

/// What a node `n1` has to do with drivers.
pub fn csi(client: &client::kube::Client, group: &Group) -> Arc<Csi> {
    let nodes = client::Caches::unfollowed(client.clone(), group.clone()).of();
    Csi::new("n1", client.clone(), nodes, client::Recorder::new(client.clone(), "kubelet", None, group))
}

/// Waits until something holds; some seconds at most.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes `d/d/…`, as deep as said, longer than any path may be.
pub(super) fn deep(dir: &std::path::Path, levels: usize) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = openat(CWD, dir, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&here, c"d", Mode::from_raw_mode(0o700)).unwrap();
        here = openat(&here, c"d", flags, Mode::empty()).unwrap();
    }
}

/// Runs it where recursion does not come far.
pub(super) fn on_small_stack<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap()
}

/// A directory in memory where there is one: a disk may take milliseconds for each directory that goes.
pub(super) fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A pod whose first container has all its volumes.
pub fn mounting(spec: &str) -> Pod {
    let mut pod = container_config::testing::pod(spec);
    let spec = pod.spec.as_mut().unwrap();
    let mount = |name: &str| VolumeMount { name: name.into(), mount_path: format!("/{name}"), ..VolumeMount::default() };
    spec.containers[0].volume_mounts = Some(spec.volumes.iter().flatten().map(|volume| mount(&volume.name)).collect());
    pod
}
