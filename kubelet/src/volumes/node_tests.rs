//! Volumes that the node has once for its pods: shared, as devices, half done, given up, and found again by the next run of the agent.

use std::{path::Path, sync::Arc, time::Duration};

use api::{k8s::api::core::v1::Pod, task::Group};

use super::{
    Error, Failure, Manager,
    plugin::Mode,
    record,
    testing::{self, Disks, csi, eventually, nobody, pod},
};
use crate::{container_config, dirs};

/// A node, and the disks beside it.
struct Node {
    dir: tempfile::TempDir,
    disks: &'static Disks,
    manager: Manager,
    table: super::plugins::Table,
    group: Group,
}

impl Node {
    fn new() -> Self {
        let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let (disks, table) = Disks::table(&outside);
        let manager = Manager::with(table, dir.path().join("root"), nobody(), csi(&nobody(), &group), &group);
        Self { dir, disks, manager, table, group }
    }

    /// The agent ends and is started again: what it held in memory is gone.
    async fn restarted(self) -> Self {
        assert!(self.group.drain(Duration::from_secs(10)).await);
        let group = Group::new();
        let manager = Manager::with(self.table, self.root(), nobody(), csi(&nobody(), &group), &group);
        Self { manager, group, ..self }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    async fn failures(&self, pod: &Arc<Pod>) -> Vec<Failure> {
        match self.manager.prepare(pod).await {
            Err(Error::SetUp(failures)) => failures,
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }

    fn is_clean(&self) -> bool {
        let empty = |dir: &Path| std::fs::read_dir(dir).map_or(0, Iterator::count) == 0;
        let node = dirs::node_volumes(&self.root()).join("disk");
        self.disks.there().is_empty() && self.manager.present().is_empty() && empty(&node) && empty(&self.root().join("pods"))
    }
}

fn failed(reason: &'static str, message: &str) -> Vec<Failure> {
    vec![Failure { reason, message: message.into() }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_share_a_volume_that_is_staged_once() {
    let node = Node::new();
    let (mounting, mapping) = (pod("u1", Mode::Filesystem), pod("u2", Mode::Block));
    let (mounted, mapped) = tokio::join!(node.manager.prepare(&mounting), node.manager.prepare(&mapping));
    let (mounted, mapped) = (mounted.unwrap(), mapped.unwrap());
    let device = node.dir.path().join("outside/d");
    let data = std::fs::read_to_string(mounted.get("v").unwrap().path.join("data")).unwrap();
    assert_eq!((data.as_str(), mounted.device("v")), (device.to_str().unwrap(), None));
    let link = &mapped.device("v").unwrap().path;
    assert!(link.ends_with("pods/u2/volumeDevices/kubernetes.io~disk/v") && mapped.get("v").is_none());
    assert_eq!(std::fs::read_link(link).unwrap(), device);
    let calls = node.disks.calls();
    assert_eq!(calls[..2], ["attach d", "stage d"], "once for both: {calls:?}");
    assert_eq!(calls.len(), 4, "{calls:?}");
    node.manager.prepare(&mounting).await.unwrap();
    assert_eq!(node.disks.calls(), Vec::<String>::new(), "it is ready");
    // The container that has it as a device.
    let mut cx = container_config::testing::context((*mapping).clone(), node.dir.path());
    cx.volumes = Some(Arc::new(mapped.clone()));
    let config = container_config::container(&cx, &mapping.spec.as_ref().unwrap().containers[0], &cri::Image::default()).await.unwrap();
    let wanted = cri::Device { container_path: "/dev/v".into(), host_path: link.display().to_string(), permissions: "mrw".into() };
    assert_eq!((config.devices, config.mounts.iter().any(|m| m.container_path == "/dev/v")), (vec![wanted], false));
    node.manager.teardown("u1").await.unwrap();
    assert_eq!(node.disks.calls(), ["tear_down d u1 Filesystem"], "the other has it");
    assert_eq!(node.disks.there(), ["d", "d.u2"]);
    node.manager.teardown("u2").await.unwrap();
    assert_eq!(node.disks.calls(), ["tear_down d u2 Block", "unstage d", "detach d d"]);
    assert!(node.is_clean());
    node.manager.teardown("u2").await.unwrap();
    assert_eq!(node.disks.calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_run_staged_is_found_again() {
    let node = Node::new();
    for (uid, mode) in [("u1", Mode::Filesystem), ("u2", Mode::Block)] {
        node.manager.prepare(&pod(uid, mode)).await.unwrap();
    }
    let node = node.restarted().await;
    assert_eq!(node.manager.present(), ["u1", "u2"].map(str::to_owned).into());
    node.disks.calls();
    // One that goes on: what is there is brought about once more, whatever became of it.
    node.manager.prepare(&pod("u2", Mode::Block)).await.unwrap();
    assert_eq!(node.disks.calls(), ["attach d", "stage d", "set_up d u2 Block"]);
    // One of which nothing is known any more but what is on the disk.
    node.manager.teardown("u1").await.unwrap();
    assert_eq!(node.disks.calls(), ["tear_down d u1 Filesystem"]);
    let node = node.restarted().await;
    node.manager.teardown("u2").await.unwrap();
    assert_eq!(node.disks.calls(), ["tear_down d u2 Block", "unstage d", "detach d d"]);
    assert!(node.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_done_is_torn_down_also_after_a_restart() {
    let cases = [
        ("attach", "MountVolume.WaitForAttach", "MapVolume.WaitForAttach"),
        ("stage", "MountVolume.MountDevice", "MapVolume.SetUpDevice"),
        ("set_up", "MountVolume.SetUp", "MapVolume.MapPodDevice"),
    ];
    for (call, mount, map) in cases {
        for restarts in [false, true] {
            let mut node = Node::new();
            node.disks.fail(Some(call));
            let said = |step: &str| format!("{step} failed for volume \"v\" : {call} is broken");
            let (mounting, mapping) = (pod("u1", Mode::Filesystem), pod("u2", Mode::Block));
            assert_eq!(node.failures(&mounting).await, failed("FailedMount", &said(mount)));
            assert_eq!(node.failures(&mapping).await, failed("FailedMapVolume", &said(map)));
            assert!(!node.disks.there().is_empty(), "half done: {call}");
            node.disks.fail(None);
            if restarts {
                node = node.restarted().await;
            }
            node.disks.calls();
            node.manager.teardown("u1").await.unwrap();
            assert!(!node.disks.called("unstage d"), "the other may have it: {call}");
            node.manager.teardown("u2").await.unwrap();
            assert!(node.disks.called("unstage d") && node.disks.called("detach d d"), "{call}");
            assert!(node.is_clean(), "{call} {restarts} {:?}", node.disks.there());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_tried_again_and_so_is_its_end() {
    let node = Node::new();
    let p = pod("u1", Mode::Filesystem);
    node.disks.fail(Some("stage"));
    assert_eq!(node.failures(&p).await.len(), 1);
    node.disks.fail(None);
    assert_eq!(node.failures(&p).await, []);
    for call in ["tear_down", "unstage", "detach"] {
        node.disks.fail(Some(call));
        let error = node.manager.teardown("u1").await.unwrap_err().to_string();
        assert!(error.ends_with(&format!(" : {call} is broken")), "{error}");
        assert_eq!(node.manager.present(), ["u1".to_owned()].into(), "it is not forgotten");
        assert_eq!(node.failures(&p).await, failed("FailedMount", "the pod is being removed"));
    }
    let node = node.restarted().await;
    node.disks.fail(None);
    node.manager.teardown("u1").await.unwrap();
    assert!(node.is_clean());
    assert_eq!(node.failures(&p).await, [], "another begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_teardown_waits_for_what_was_given_up() {
    let node = Node::new();
    let shut = node.disks.shut().await;
    let (manager, p) = (node.manager.clone(), pod("u1", Mode::Filesystem));
    let worker = Group::new();
    worker.spawn(async move { drop(manager.prepare(&p).await) });
    eventually("it is being staged", || node.disks.called("stage d")).await;
    assert!(worker.drain(Duration::from_secs(10)).await, "given up");
    let mut teardown = Box::pin(node.manager.teardown("u1"));
    assert!(futures::poll!(&mut teardown).is_pending());
    assert!(!node.disks.called("unstage d"));
    drop(shut);
    teardown.await.unwrap();
    let calls = node.disks.calls();
    assert_eq!(calls, ["attach d", "stage d", "set_up d u1 Filesystem", "tear_down d u1 Filesystem", "unstage d", "detach d d"]);
    assert!(node.is_clean());
}

#[tokio::test]
async fn what_is_no_block_device_is_said() {
    let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
    let manager = testing::manager(dir.path().to_owned(), nobody(), &group);
    let p = container_config::testing::pod(
        r#"{"containers":[{"name":"a","volumeDevices":[{"name":"e","devicePath":"/dev/e"}]}],"volumes":[{"name":"e","emptyDir":{}}]}"#,
    );
    let Err(Error::SetUp(failures)) = manager.prepare(&Arc::new(p)).await else { panic!("prepared") };
    let wanted = r#"MapVolume.MapPodDevice failed for volume "e" : volumes of type "emptyDir" are no block devices"#;
    assert_eq!(failures, failed("FailedMapVolume", wanted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mount_keeps_no_pod_but_the_last() {
    let node = Node::new();
    for (uid, mode) in [("u1", Mode::Filesystem), ("u2", Mode::Block)] {
        node.manager.prepare(&pod(uid, mode)).await.unwrap();
    }
    // As the mount of a server that is gone: it is there, and is no directory for who asks.
    let staging = record::staging(&record::directory(&dirs::node_volumes(&node.root()), "disk", "d"));
    std::fs::remove_dir_all(&staging).unwrap();
    std::fs::write(&staging, "").unwrap();
    node.manager.teardown("u1").await.unwrap();
    assert_eq!(node.manager.present(), ["u2".to_owned()].into());
    std::fs::remove_file(&staging).unwrap();
    node.manager.teardown("u2").await.unwrap();
    assert!(node.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_not_written_over() {
    let node = Node::new();
    for (uid, mode) in [("u1", Mode::Filesystem), ("u2", Mode::Block)] {
        node.manager.prepare(&pod(uid, mode)).await.unwrap();
    }
    let file = record::directory(&dirs::node_volumes(&node.root()), "disk", "d").join("vol_data.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..20]).unwrap();
    let node = node.restarted().await;
    node.disks.calls();
    for uid in ["u1", "u3"] {
        let failures = node.failures(&pod(uid, Mode::Filesystem)).await;
        let wanted = "MountVolume.MountDevice failed for volume \"v\" : the volume's record in ";
        assert!(failures.len() == 1 && failures[0].message.starts_with(wanted), "{failures:?}");
    }
    // Those that have it keep what they have until it is known.
    for uid in ["u1", "u2"] {
        let failed = node.manager.teardown(uid).await.unwrap_err().to_string();
        assert!(
            failed.contains("UnmountVolume.TearDown failed for volume \"v\" : not all records of the node's volumes can be read: "),
            "{failed}"
        );
        assert!(dirs::pod(&node.root(), uid).exists());
    }
    node.manager.teardown("u3").await.unwrap();
    assert_eq!(node.disks.calls(), Vec::<String>::new(), "it is not unstaged under u2");
    assert_eq!(std::fs::read(&file).unwrap().len(), 20);
    // Once it can be read, it is as if it had always been.
    std::fs::write(&file, whole).unwrap();
    node.manager.prepare(&pod("u3", Mode::Filesystem)).await.unwrap();
    assert_eq!(node.manager.present(), ["u1", "u2", "u3"].map(str::to_owned).into());
    for uid in ["u1", "u3"] {
        node.manager.teardown(uid).await.unwrap();
    }
    assert!(!node.disks.called("unstage d"));
    node.manager.teardown("u2").await.unwrap();
    assert!(node.disks.called("unstage d") && node.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_teardown_goes_on_once_the_record_can_be_read() {
    let node = Node::new();
    node.manager.prepare(&pod("u1", Mode::Filesystem)).await.unwrap();
    let file = record::directory(&dirs::node_volumes(&node.root()), "disk", "d").join("vol_data.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    let node = node.restarted().await;
    node.disks.calls();
    node.manager.teardown("u1").await.unwrap_err();
    std::fs::write(&file, whole).unwrap();
    node.manager.teardown("u1").await.unwrap();
    assert_eq!(node.disks.calls(), ["tear_down d u1 Filesystem", "unstage d", "detach d d"]);
    assert!(node.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_a_driver_whose_record_cannot_be_read_stays_in_use() {
    let node = Node::new();
    let said = vec!["kubernetes.io/csi/d^lost".to_owned()];
    let shown = |node: &Node| node.manager.shared.csi.in_use.shown(Some(&said));
    assert_eq!(shown(&node), Some(Vec::new()));
    let dir = dirs::node_volumes(&node.root()).join("csi/lost");
    std::fs::create_dir_all(dir.join("globalmount")).unwrap();
    std::fs::write(dir.join("vol_data.json"), "{").unwrap();
    let node = node.restarted().await;
    assert_eq!(shown(&node), Some(said.clone()));
    super::tending::look(&node.manager).await;
    assert_eq!(shown(&node), Some(said.clone()));
    std::fs::remove_file(dir.join("vol_data.json")).unwrap();
    super::tending::look(&node.manager).await;
    assert_eq!(shown(&node), Some(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_releases_late_does_not_release_what_came_after() {
    let node = Node::new();
    node.manager.prepare(&pod("u1", Mode::Filesystem)).await.unwrap();
    let (shut, nodes) = (node.disks.shut().await, &node.manager.shared.nodes);
    let host = node.manager.host();
    let (mut first, mut late) = (Box::pin(nodes.release(&host, "u1")), Box::pin(nodes.release(&host, "u1")));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut late).is_pending());
    drop(shut);
    first.await.unwrap();
    node.manager.prepare(&pod("u2", Mode::Filesystem)).await.unwrap();
    late.await.unwrap();
    node.disks.calls();
    node.manager.prepare(&pod("u3", Mode::Block)).await.unwrap();
    assert_eq!(node.disks.calls(), ["set_up d u3 Block"], "it is known to be staged for u2");
    for uid in ["u2", "u3"] {
        node.manager.teardown(uid).await.unwrap();
    }
    assert_eq!(node.disks.there(), ["d.u1"], "which was released, not torn down");
}
