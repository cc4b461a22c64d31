//! Claims, volumes and attachments of the API -> calls of the driver's controller, and what came of them written back.
//!
//! What external-provisioner, external-attacher and external-resizer do for others, in the little that one driver needs of them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use csi::{
    tonic::transport::{Channel, Endpoint, Uri},
    v1::{
        CapacityRange, ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
        Topology, TopologyRequirement, Volume, VolumeCapability,
        controller_client::ControllerClient,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode},
    },
};
use e2e::Api;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::resizing;

pub const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
pub const VOLUMES: &str = "/api/v1/persistentvolumes";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const MERGE: &str = "application/merge-patch+json";
/// After something that failed, and where nothing happens.
const AGAIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);

pub struct Sidecar {
    pub name: String,
    pub api: Api,
    pub controller: ControllerClient<Channel>,
}

/// Runs until the process ends.
pub async fn run(name: &str, socket: &Path, api: Api) -> anyhow::Result<()> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let controller = ControllerClient::new(Endpoint::from_static("http://driver").connect_with_connector_lazy(connect));
    let sidecar = Sidecar { name: name.to_owned(), api: api.clone(), controller };
    let changed = Arc::new(Notify::new());
    let watches = [CLAIMS, VOLUMES, ATTACHMENTS].map(|path| watch(&api, path, &changed));
    tokio::join!(sidecar.work(&changed), futures::future::join_all(watches)).0
}

/// Tells of whatever happens to objects of a kind.
async fn watch(api: &Api, path: &str, changed: &Notify) {
    loop {
        if let Ok(mut watch) = api.watch(&format!("{path}?watch=true")).await {
            while let Ok(Some(_)) = watch.next(Duration::from_secs(600)).await {
                changed.notify_one();
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Sidecar {
    async fn work(&self, changed: &Notify) -> anyhow::Result<()> {
        loop {
            let wait = match self.once().await {
                Ok(()) => AGAIN,
                Err(error) => {
                    eprintln!("{error:#}");
                    RETRY
                }
            };
            let _ = tokio::time::timeout(wait, changed.notified()).await;
        }
    }

    /// Looks at all once. What fails does not keep the rest from being done.
    async fn once(&self) -> anyhow::Result<()> {
        let (claims, volumes, attachments) = (self.list(CLAIMS).await?, self.list(VOLUMES).await?, self.list(ATTACHMENTS).await?);
        let mut done = Ok(());
        for claim in &claims {
            done = done.and(self.provision(claim).await.with_context(|| format!("claim {}", claim["metadata"]["name"])));
            done = done.and(resizing::resize(self, claim, &volumes).await.with_context(|| format!("claim {}", claim["metadata"]["name"])));
        }
        for volume in &volumes {
            done = done.and(self.delete(volume).await.with_context(|| format!("volume {}", volume["metadata"]["name"])));
        }
        for attachment in &attachments {
            let attached = self.attach(attachment, &volumes).await;
            done = done.and(attached.with_context(|| format!("attachment {}", attachment["metadata"]["name"])));
        }
        done
    }

    async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.request("GET", path, &Value::Null).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// # Errors
    /// No answer, or another than that it was done.
    pub async fn request(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let content = if method == "PATCH" { MERGE } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let reply = self.api.send(method, path, &[("content-type", content)], body).await?;
        if reply.status < 300 { Ok(reply.json()) } else { Err(anyhow!("{method} {path}: {} {}", reply.status, reply.text())) }
    }

    /// A claim that waits for a volume of this driver gets one.
    async fn provision(&self, claim: &Value) -> anyhow::Result<()> {
        let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
        let is_ours = metadata["annotations"]["volume.kubernetes.io/storage-provisioner"] == self.name;
        let is_bound = spec["volumeName"].as_str().is_some_and(|name| !name.is_empty());
        if !is_ours || is_bound || !metadata["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let class_name = spec["storageClassName"].as_str().context("it has no class")?;
        let class = self.request("GET", &format!("{CLASSES}/{class_name}"), &Value::Null).await?;
        let node = metadata["annotations"]["volume.kubernetes.io/selected-node"].as_str();
        if class["volumeBindingMode"] == "WaitForFirstConsumer" && node.is_none() {
            return Ok(());
        }
        let name = format!("pvc-{}", metadata["uid"].as_str().context("it has a uid")?);
        let is_block = spec["volumeMode"] == "Block";
        let chosen = node.map(|node| TopologyRequirement {
            requisite: vec![Topology { segments: [(format!("{}/node", self.name), node.to_owned())].into() }],
            preferred: Vec::new(),
        });
        let request = CreateVolumeRequest {
            name: name.clone(),
            capacity_range: Some(CapacityRange { required_bytes: bytes(&spec["resources"]["requests"]["storage"])?, limit_bytes: 0 }),
            volume_capabilities: vec![capability(is_block)],
            accessibility_requirements: chosen,
            ..CreateVolumeRequest::default()
        };
        let made = self.controller.clone().create_volume(request).await?.into_inner().volume.context("a volume was made")?;
        let volume = self.volume(claim, &class, &name, made);
        match self.request("POST", VOLUMES, &volume).await {
            // Made before, and not seen yet.
            Err(error) if error.to_string().contains(": 409 ") => Ok(()),
            made => made.map(drop),
        }
    }

    fn volume(&self, claim: &Value, class: &Value, name: &str, made: Volume) -> Value {
        let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
        let segments = made.accessible_topology.into_iter().flat_map(|topology| topology.segments);
        let terms: Vec<Value> = segments.map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]})).collect();
        json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": self.name}},
            "spec": {
                "accessModes": spec["accessModes"], "capacity": {"storage": size(made.capacity_bytes)}, "volumeMode": spec["volumeMode"],
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata["namespace"], "name": metadata["name"],
                    "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
                "csi": {"driver": self.name, "volumeHandle": made.volume_id, "volumeAttributes": made.volume_context, "fsType": "ext4"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}},
                "persistentVolumeReclaimPolicy": class["reclaimPolicy"], "storageClassName": spec["storageClassName"],
                "mountOptions": class["mountOptions"]}})
    }

    /// A volume that nobody claims any more goes, and then its object.
    async fn delete(&self, volume: &Value) -> anyhow::Result<()> {
        let spec = &volume["spec"];
        let is_ours =
            volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] == self.name && spec["csi"]["driver"] == self.name;
        if !is_ours || volume["status"]["phase"] != "Released" || spec["persistentVolumeReclaimPolicy"] != "Delete" {
            return Ok(());
        }
        let request = DeleteVolumeRequest { volume_id: handle(volume)?, ..DeleteVolumeRequest::default() };
        self.controller.clone().delete_volume(request).await?;
        let name = volume["metadata"]["name"].as_str().context("it has a name")?;
        self.request("DELETE", &format!("{VOLUMES}/{name}"), &Value::Null).await.map(drop)
    }

    /// An attachment is attached, or detached where it goes.
    async fn attach(&self, attachment: &Value, volumes: &[Value]) -> anyhow::Result<()> {
        let (metadata, spec) = (&attachment["metadata"], &attachment["spec"]);
        if spec["attacher"] != self.name {
            return Ok(());
        }
        let path = format!("{ATTACHMENTS}/{}", metadata["name"].as_str().context("it has a name")?);
        let finalizer = format!("external-attacher/{}", self.name.replace('.', "-"));
        let is_held = metadata["finalizers"].as_array().is_some_and(|all| all.iter().any(|one| *one == finalizer));
        let volume = volumes.iter().find(|volume| volume["metadata"]["name"] == spec["source"]["persistentVolumeName"]);
        let node_id = spec["nodeName"].as_str().unwrap_or_default().to_owned();
        if !metadata["deletionTimestamp"].is_null() {
            if !is_held {
                return Ok(());
            }
            if let Some(volume) = volume {
                let request = ControllerUnpublishVolumeRequest { volume_id: handle(volume)?, node_id, ..Default::default() };
                self.controller.clone().controller_unpublish_volume(request).await?;
            }
            return self.request("PATCH", &path, &json!({"metadata": {"finalizers": null}})).await.map(drop);
        }
        if attachment["status"]["attached"] == true {
            return Ok(());
        }
        if !is_held {
            self.request("PATCH", &path, &json!({"metadata": {"finalizers": [finalizer]}})).await?;
        }
        let volume_id = handle(volume.context("its volume is not there")?)?;
        let request =
            ControllerPublishVolumeRequest { volume_id, node_id, volume_capability: Some(capability(false)), ..Default::default() };
        let context = self.controller.clone().controller_publish_volume(request).await?.into_inner().publish_context;
        let status = json!({"status": {"attached": true, "attachmentMetadata": context}});
        self.request("PATCH", &format!("{path}/status"), &status).await.map(drop)
    }
}

pub fn handle(volume: &Value) -> anyhow::Result<String> {
    volume["spec"]["csi"]["volumeHandle"].as_str().map(str::to_owned).context("it has a handle")
}

pub fn bytes(quantity: &Value) -> anyhow::Result<i64> {
    let text = quantity.as_str().context("a size is text")?;
    api::quantity::Quantity::parse(text).map(api::quantity::Quantity::units).map_err(|why| anyhow!("{text}: {why}"))
}

/// As Kubernetes writes sizes: `1Gi`.
pub fn size(bytes: i64) -> String {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(unit, _)| bytes > 0 && bytes % unit == 0);
    unit.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

pub fn capability(is_block: bool) -> VolumeCapability {
    let access_type = if is_block { AccessType::Block(BlockVolume {}) } else { AccessType::Mount(MountVolume::default()) };
    let mode = access_mode::Mode::SingleNodeWriter.into();
    VolumeCapability { access_mode: Some(AccessMode { mode }), access_type: Some(access_type) }
}
