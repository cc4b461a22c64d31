//! Claims on a node: a directory is made, outlives its pods, the agent and the server, and goes with its volume.

use std::{path::Path, sync::Arc, time::Duration};

use api::{k8s::api::core::v1::Pod, task::Group};
use client::kube;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Error, local_storage,
    testing::{self, nobody},
};
use crate::{container_config::testing::pod, dirs};

/// The phase of the volume, and the deletions that were asked for.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(String, Vec<String>)>>);

impl Server {
    fn set(&self, phase: &str) {
        phase.clone_into(&mut self.0.lock().0);
    }

    fn answer(&self, storage: &Path, method: &http::Method, path: &str) -> (u16, Value) {
        if method == http::Method::DELETE {
            self.0.lock().1.push(path.to_owned());
            return (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        }
        let is_on = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
        match path.rsplit('/').next().unwrap_or_default() {
            "data" => (
                200,
                json!({"metadata": {"name": "data", "namespace": "default", "uid": "u"}, "spec": {"volumeName": "pvc-u"}, "status": {"phase": "Bound"}}),
            ),
            "pvc-u" => {
                let by = json!({"pv.kubernetes.io/provisioned-by": "skiff.dev/local"});
                let spec = json!({"claimRef": {"name": "data", "namespace": "default", "uid": "u"}, "local": {"path": storage.join("pvc-u_default_data")},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": is_on}}, "persistentVolumeReclaimPolicy": "Delete"});
                (
                    200,
                    json!({"metadata": {"name": "pvc-u", "uid": "v", "annotations": by}, "spec": spec, "status": {"phase": self.0.lock().0}}),
                )
            }
            name @ ("n1" | "n2") => (200, json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})),
            _ => (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}),
            ),
        }
    }

    fn client(&self, root: &Path) -> kube::Client {
        let (this, storage) = (self.clone(), dirs::storage(root));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (code, body) = this.answer(&storage, request.method(), request.uri().path());
            let reply = http::Response::builder().status(code).body(kube::client::Body::from(body.to_string().into_bytes()));
            async { Ok::<_, std::convert::Infallible>(reply.unwrap()) }
        });
        kube::Client::new(service, "default")
    }
}

fn using(claim: &str, node: &str) -> Arc<Pod> {
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
    Arc::new(pod(
        &json!({"nodeName": node, "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [volume]})
            .to_string(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_outlives_all_but_its_volume() {
    let (dir, group, server) = (tempfile::tempdir().unwrap(), Group::new(), Server::default());
    let root = dir.path().join("kubelet");
    let manager = testing::manager(root.clone(), server.client(&root), &group);
    server.set("Bound");
    let p = using("data", "n1");
    let path = manager.prepare(&p).await.unwrap().get("v").unwrap().path.clone();
    assert_eq!(path, dirs::storage(&root).join("pvc-u_default_data"));
    std::fs::write(path.join("kept"), "x").unwrap();
    // Another run of the agent, without a server.
    let alone = Group::new();
    let next = testing::manager(root.clone(), nobody(), &alone);
    assert_eq!(next.prepare(&p).await.unwrap().get("v").unwrap().path, path);
    // Whatever the volume says: a pod has it.
    server.set("Released");
    local_storage::look(&manager).await;
    assert!(path.join("kept").exists());
    next.teardown("u1").await.unwrap();
    assert!(path.join("kept").exists() && next.present().is_empty());
    server.set("Bound");
    local_storage::look(&manager).await;
    assert!(path.join("kept").exists());
    server.set("Released");
    local_storage::look(&manager).await;
    assert!(!path.exists());
    assert_eq!(server.0.lock().1, ["/api/v1/persistentvolumes/pvc-u"]);
    assert!(group.drain(Duration::from_secs(5)).await && alone.drain(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_this_nodes_is_not_made_here() {
    let (dir, group, server) = (tempfile::tempdir().unwrap(), Group::new(), Server::default());
    let root = dir.path().join("kubelet");
    let manager = testing::manager(root.clone(), server.client(&root), &group);
    server.set("Bound");
    for (p, why) in [
        (using("data", "n2"), "storage node affinity check failed: no matching NodeSelectorTerms"),
        (using("none", "n1"), "error processing PVC default/none: failed to fetch PVC from API server: "),
    ] {
        let Err(Error::SetUp(told)) = manager.prepare(&p).await else { panic!("prepared") };
        assert!(told[0].message.starts_with(&format!("MountVolume.SetUp failed for volume \"v\" : {why}")), "{told:?}");
        assert!(!dirs::storage(&root).exists());
        manager.teardown("u1").await.unwrap();
    }
    assert!(group.drain(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_pod_says_whose_it_is() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (dir, group, server) = (tempfile::tempdir().unwrap(), Group::new(), Server::default());
    let root = dir.path().join("kubelet");
    let manager = testing::manager(root.clone(), server.client(&root), &group);
    server.set("Bound");
    // Root gives to any group, others to their own.
    let own = std::fs::metadata(dir.path()).unwrap();
    let fs_group = if own.uid() == 0 { 4321 } else { own.gid() };
    let of = |uid: &str| {
        let mut p = (*using("data", "n1")).clone();
        p.metadata.uid = Some(uid.into());
        let context = json!({"fsGroup": fs_group});
        p.spec.as_mut().unwrap().security_context = serde_json::from_value(context).unwrap();
        Arc::new(p)
    };
    let path = manager.prepare(&of("u1")).await.unwrap().get("v").unwrap().path.clone();
    let at = |path: &Path| (std::fs::metadata(path).unwrap().gid(), std::fs::metadata(path).unwrap().mode() & 0o7777);
    assert_eq!(at(&path), (fs_group, 0o2777));
    let file = path.join("file");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    manager.prepare(&of("u2")).await.unwrap();
    assert_eq!(at(&file).1, 0o600);
    manager.teardown("u1").await.unwrap();
    manager.prepare(&of("u3")).await.unwrap();
    assert_eq!(at(&file).1, 0o600);
    manager.teardown("u2").await.unwrap();
    manager.teardown("u3").await.unwrap();
    manager.prepare(&of("u4")).await.unwrap();
    assert_eq!(at(&file), (fs_group, 0o660));
    assert!(group.drain(Duration::from_secs(5)).await);
}
