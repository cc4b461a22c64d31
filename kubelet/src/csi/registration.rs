//! Sockets below `plugins_registry` -> drivers that are registered, as long as their socket is there.
//!
//! The kernel tells of sockets that come and go; nothing is polled. Subdirectories are not looked into.
//! Source: `pkg/kubelet/pluginmanager/{pluginwatcher,operationexecutor,reconciler}`, `RegistrationHandler` in `pkg/volume/csi/csi_plugin.go`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::task::Group;
use csi::{Driver, Info, Plugin, v1::NodeGetInfoRequest};
use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::sync::oneshot;

use super::{Csi, drivers, node_info::Said};
use crate::inotify::Watcher;

/// Sockets that are looked at; whoever makes more is root here.
const SOCKETS_MAX: usize = 256;
/// A socket is there a moment before somebody listens.
const SETTLE: Duration = Duration::from_millis(50);
/// Upstream's first pause after a plugin that failed, and its longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);
/// After the directory could not be watched.
const WATCH_PAUSE: Duration = Duration::from_secs(10);
/// Taking a driver that left off the node's objects is tried so often; it is put right with the next that registers.
const LEAVE_TRIES: u32 = 5;
/// Of a driver's labels: upstream has no bound, and a node's metadata has one of 256 KiB for annotations.
const TOPOLOGY_MAX: usize = 64;

/// The only type of plugin that there is a handler for.
const CSI_PLUGIN: &str = "CSIPlugin";

/// Watches until `group` stops.
pub fn start(dir: PathBuf, csi: Arc<Csi>, group: &Group) {
    let mut watch = Watch { dir, csi, group: group.clone(), there: BTreeMap::new() };
    group.spawn_loop(
        "plugin watcher",
        Box::pin(async move {
            loop {
                if let Err(error) = watch.run().await {
                    tracing::error!(%error, dir = %watch.dir.display(), "failed to watch for plugins; retrying");
                }
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        }),
    );
}

struct Watch {
    dir: PathBuf,
    csi: Arc<Csi>,
    group: Group,
    there: BTreeMap<PathBuf, Socket>,
}

/// One that is served by a task of its own, which hears that it is gone when this is dropped.
struct Socket {
    mark: Mark,
    _there: oneshot::Sender<()>,
}

/// By which a socket is told from another that has its name later.
type Mark = (u64, i64, i64);

impl Watch {
    /// Returns where the directory itself went.
    async fn run(&mut self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir)?;
        let watcher = Watcher::new()?;
        let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
        watcher.add(&self.dir, entries | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR)?;
        loop {
            self.look()?;
            let events = watcher.next().await?;
            if events.iter().any(|event| event.flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED)) {
                return Ok(());
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Whatever the events were: what is there is served, and nothing else. Where it cannot be read nobody has left.
    fn look(&mut self) -> io::Result<()> {
        let found = sockets(&self.dir)?;
        self.there.retain(|path, socket| found.get(path) == Some(&socket.mark));
        for (path, mark) in found {
            if self.there.contains_key(&path) {
                continue;
            }
            let (there, gone) = oneshot::channel();
            self.group.spawn(Box::pin(serve(path.clone(), self.csi.clone(), gone)));
            self.there.insert(path, Socket { mark, _there: there });
        }
        Ok(())
    }
}

fn sockets(dir: &Path) -> io::Result<BTreeMap<PathBuf, Mark>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let there = match fs::symlink_metadata(entry.path()) {
            Ok(there) => there,
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if found.len() < SOCKETS_MAX && there.file_type().is_socket() && !is_hidden {
            found.insert(entry.path(), (there.ino(), there.mtime(), there.mtime_nsec()));
        }
    }
    Ok(found)
}

/// One socket, from its first sight until it is gone. What was begun is ended.
async fn serve(path: PathBuf, csi: Arc<Csi>, mut gone: oneshot::Receiver<()>) {
    let mut pause = RETRY_FIRST;
    loop {
        match register(&path, &csi).await {
            Ok(name) => {
                tracing::info!(driver = name, socket = %path.display(), "a CSI driver registered");
                let _ = gone.await;
                return leave(&path, &csi, &name).await;
            }
            Err(why) => tracing::warn!(socket = %path.display(), why, "a plugin did not register; retrying"),
        }
        tokio::select! {
            _ = &mut gone => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
    }
}

/// The name of the driver.
async fn register(path: &Path, csi: &Csi) -> Result<String, String> {
    let plugin = Plugin::at(path);
    let info = plugin.info().await;
    let info = info.map_err(|why| {
        format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {}, err: {why}", path.display())
    })?;
    let taken = take(path, csi, &info).await;
    let told = plugin.notify(taken.as_ref().map(drop).map_err(String::as_str)).await;
    taken?;
    if let Err(why) = told {
        leave(path, csi, &info.name).await;
        return Err(format!("RegisterPlugin error -- failed to send registration status at socket {}, err: {why}", path.display()));
    }
    Ok(info.name)
}

async fn take(path: &Path, csi: &Csi, info: &Info) -> Result<(), String> {
    if info.r#type != CSI_PLUGIN {
        let kind: String = info.r#type.chars().take(64).collect();
        return Err(format!("RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {}", path.display()));
    }
    let invalid = |why: String| format!("RegisterPlugin error -- plugin validation failed with err: {why}");
    let failed = |why: String| format!("RegisterPlugin error -- plugin registration failed with err: {why}");
    let endpoint = if info.endpoint.is_empty() { Ok(path.to_owned()) } else { drivers::socket(&info.endpoint) };
    let endpoint = endpoint.map_err(invalid)?;
    csi.drivers.judge(&info.name, &info.supported_versions).map_err(invalid)?;
    let said = asked(&endpoint).await.map_err(failed)?;
    let _alone = csi.changing.lock().await;
    // Another may have come meanwhile.
    let version = csi.drivers.judge(&info.name, &info.supported_versions).map_err(invalid)?;
    csi.node_info.install(&info.name, &said).await.map_err(failed)?;
    csi.drivers.put(&info.name, &endpoint, version, path);
    Ok(())
}

async fn asked(endpoint: &Path) -> Result<Said, String> {
    let info = Driver::at(endpoint).node_get_info(NodeGetInfoRequest {}).await.map_err(|error| error.to_string())?;
    let topology: BTreeMap<String, String> = info.accessible_topology.unwrap_or_default().segments.into_iter().collect();
    if topology.len() > TOPOLOGY_MAX {
        return Err(format!("the driver says more than {TOPOLOGY_MAX} segments of topology"));
    }
    Ok(Said { node_id: info.node_id, volumes_max: info.max_volumes_per_node, topology })
}

/// Its socket is gone.
async fn leave(path: &Path, csi: &Csi, name: &str) {
    let left = {
        let _alone = csi.changing.lock().await;
        csi.drivers.remove(name, path)
    };
    if !left {
        return;
    }
    tracing::info!(driver = name, socket = %path.display(), "a CSI driver left");
    let mut pause = RETRY_FIRST;
    for _ in 0..LEAVE_TRIES {
        let _alone = csi.changing.lock().await;
        if csi.drivers.registered(name).is_some() {
            // It is back, and has said itself what there is to say.
            return;
        }
        match csi.node_info.uninstall(name).await {
            Ok(()) => return,
            Err(why) => tracing::warn!(driver = name, why, "failed to take a CSI driver off the node's objects"),
        }
        drop(_alone);
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::core::v1::Node;
    use client::{Cache, Caches, Recorder};
    use csi::v1::node_service_capability::rpc::Type;
    use door::{Door, until};
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::csi::{
        objects::{JSON, Objects},
        testing::{NAME, TestDriver},
    };

    struct House {
        served: Group,
        dir: tempfile::TempDir,
        admin: Objects,
        csi: Arc<Csi>,
        group: Group,
    }

    impl House {
        async fn new() -> Self {
            let (dir, group, served) = (tempfile::tempdir().unwrap(), Group::new(), Group::new());
            let door = Door::new(&served).await;
            let node = door.client("system:node:n1", &["system:nodes"]);
            let admin = Objects::new(door.admin());
            let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
            admin.ask(Method::POST, "/api/v1/nodes", JSON, Some(&body)).await.unwrap();
            let nodes: Cache<Node> = Caches::unfollowed(node.clone(), group.clone()).of();
            let csi = Csi::new("n1", node.clone(), nodes, Recorder::new(node, "kubelet", None, &group));
            crate::csi::start(&csi, dir.path(), &group);
            Self { served, dir, admin, csi, group }
        }

        async fn drivers(&self) -> Option<Value> {
            let there = self.admin.get("/apis/storage.k8s.io/v1/csinodes/n1").await.unwrap()?;
            Some(there["spec"]["drivers"].clone())
        }

        fn registry(&self) -> PathBuf {
            crate::dirs::plugins_registry(self.dir.path())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_driver_is_registered_as_long_as_its_socket_is_there() {
        let house = House::new().await;
        until("the node's CSINode", async || house.drivers().await).await;
        let served = house.served.child();
        let driver = TestDriver::new(&house.dir.path().join("driver"), &[Type::StageUnstageVolume]);
        driver.serve(&served);
        let socket = house.registry().join("disks-reg.sock");
        driver.register(&socket, &served);
        until("it is told", async || driver.told().iter().any(|told| told.plugin_registered).then_some(())).await;
        let wanted = json!([{"name": NAME, "nodeID": "node-1", "topologyKeys": ["disks.example.com/zone"], "allocatable": {"count": 7}}]);
        assert_eq!(house.drivers().await, Some(wanted.clone()));
        let node = house.admin.get("/api/v1/nodes/n1").await.unwrap().unwrap();
        assert_eq!(node["metadata"]["labels"]["disks.example.com/zone"], "a");
        assert_eq!(node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"], format!("{{\"{NAME}\":\"node-1\"}}"));
        assert!(house.csi.drivers.registered(NAME).is_some());
        // Another of its name is not taken while it is there.
        let other = TestDriver::new(&house.dir.path().join("other"), &[Type::StageUnstageVolume]);
        other.serve(&served);
        other.register(&house.registry().join("other.sock"), &served);
        let why = until("it is refused", async || other.told().first().cloned()).await;
        assert!(!why.plugin_registered && why.error.contains("already registered"), "{}", why.error);
        fs::remove_file(house.registry().join("other.sock")).unwrap();
        fs::remove_file(&socket).unwrap();
        until("it left", async || house.drivers().await.filter(|drivers| drivers.as_array().is_none_or(Vec::is_empty))).await;
        assert!(house.csi.drivers.registered(NAME).is_none());
        // The same name, and another socket.
        driver.register(&socket, &served);
        until("it is back", async || (house.drivers().await == Some(wanted.clone())).then_some(())).await;
        // An agent that ends takes nothing off.
        assert!(house.group.drain(Duration::from_secs(10)).await);
        assert_eq!(house.drivers().await, Some(wanted));
        house.served.stop();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn plugins_of_other_types_and_drivers_that_fail_are_told_so() {
        let house = House::new().await;
        until("the directory", async || house.registry().exists().then_some(())).await;
        let device = TestDriver::new(&house.dir.path().join("device"), &[]);
        device.register(&house.registry().join("device.sock"), &house.served);
        let told = until("it is told", async || device.told().first().cloned()).await;
        assert!(told.error.contains("no handler registered for plugin type: DevicePlugin"), "{}", told.error);
        // Registered, but nobody serves where it says.
        let driver = TestDriver::new(&house.dir.path().join("driver"), &[Type::StageUnstageVolume]);
        driver.register(&house.registry().join("driver.sock"), &house.served);
        fs::write(house.registry().join("file"), "").unwrap();
        let told = until("it is told", async || driver.told().first().cloned()).await;
        assert!(!told.plugin_registered && told.error.contains("plugin registration failed"), "{}", told.error);
        // It is tried again.
        driver.serve(&house.served);
        until("it is registered", async || house.csi.drivers.registered(NAME)).await;
        house.group.stop();
        house.served.stop();
    }
}
