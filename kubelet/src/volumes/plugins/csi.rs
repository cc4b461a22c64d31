//! csi, and claims of volumes of drivers -> staged once on the node and published to each pod, by the driver.
//!
//! The driver is given paths of ours alone. What it is asked for is asked again until it says that it is done, and what it made is undone by it: a pod's
//! directory is deleted only once nothing is mounted there. SELinux contexts are not given to drivers.
//! Source: `csi_attacher.go`, `csi_mounter.go`, `csi_block.go` in `pkg/volume/csi`.

mod expand;
mod paths;
mod publish;
mod spec;

use std::{collections::HashMap, path::Path};

use api::k8s::api::core::v1::{PersistentVolume, Volume};
use async_trait::async_trait;
use csi::v1::{NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use podspec::csi::{PREFIX, attachment_name, is_attachable};
use serde_json::Value;

use self::spec::{ATTACHABLE, Recorded, Spec};
use crate::volumes::{
    claims, mount_table,
    plugin::{Attached, Host, Identity, Mode, Mounted, NodePlugin, NodeVolume, VolumePlugin, VolumeToMount, VolumeToUnmount},
};

/// In the names of directories, and of volumes that are in use.
pub const NAME: &str = "csi";

pub struct Csi;

#[async_trait]
impl VolumePlugin for Csi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn can_support(&self, volume: &Volume, claimed: Option<&PersistentVolume>) -> bool {
        volume.csi.is_some() || claimed.and_then(|volume| volume.spec.as_ref()?.csi.as_ref()).is_some()
    }

    fn supports_block(&self) -> bool {
        true
    }

    fn node(&self) -> Option<&dyn NodePlugin> {
        Some(self)
    }

    async fn found(&self, volume: &VolumeToMount) -> Option<Mounted> {
        volume.node.as_ref()?;
        let read_only = claims::is_read_only(&volume.volume) || volume.volume.csi.as_ref().is_some_and(|csi| csi.read_only == Some(true));
        paths::found(volume).await.map(|path| Mounted { path, read_only })
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        Box::pin(publish::first(&volume)).await
    }

    async fn tear_down(&self, host: &Host, volume: &VolumeToUnmount) -> Result<(), String> {
        let Some(node) = &volume.node else { return Ok(()) };
        let of = Recorded::of(node)?;
        let target = paths::target(volume.mode, &volume.dir, &node.staging, &volume.pod_uid);
        if !paths::is_asked(target.clone()).await? {
            // Whoever it is of, it may never have been here.
            return Ok(());
        }
        let request = NodeUnpublishVolumeRequest { volume_id: of.handle.into(), target_path: paths::text(&target)? };
        let driver =
            host.csi.drivers.get(of.driver).await.map_err(|why| format!("Unmounter.TearDownAt failed to get CSI client: {why}"))?;
        driver.node_unpublish_volume(request).await.map_err(|error| error.to_string())?;
        paths::unpublished(target).await
    }

    async fn tend(&self, volume: &VolumeToMount) -> Result<(), String> {
        let Some(node) = &volume.node else { return Ok(()) };
        let of = Recorded::of(node)?;
        if volume.host().csi.drivers.registered(of.driver).is_none() {
            return Ok(());
        }
        if volume.mode == Mode::Filesystem {
            Box::pin(publish::again(volume, &of)).await?;
        }
        if of.is_ephemeral { Ok(()) } else { Box::pin(expand::while_used(volume)).await }
    }
}

#[async_trait]
impl NodePlugin for Csi {
    fn identify(&self, volume: &VolumeToMount) -> Result<Identity, String> {
        Spec::of(volume).map(|spec| spec.identity())
    }

    fn found_again(&self, host: &Host, node: &NodeVolume) {
        if node.attributes.contains_key(ATTACHABLE) {
            host.csi.in_use.add(&in_use(node));
        }
    }

    async fn attach(&self, node: &NodeVolume, volume: &VolumeToMount) -> Result<Attached, String> {
        let (host, spec) = (volume.host(), Spec::of(volume)?);
        if spec.is_ephemeral {
            return Ok(Attached::default());
        }
        if !is_attachable(host.csi.objects.driver(&spec.driver).await?.as_ref()) {
            return Ok(Attached::default());
        }
        host.csi.in_use.attached(&in_use(node)).await?;
        attachment(host, &spec).await?;
        Ok(Attached { device: None, attributes: [(ATTACHABLE.to_owned(), String::new())].into() })
    }

    async fn stage(&self, node: &NodeVolume, volume: &VolumeToMount) -> Result<(), String> {
        let (host, spec) = (volume.host(), Spec::of(volume)?);
        if spec.is_ephemeral {
            return Ok(());
        }
        let unregistered = |why| format!("attacher.MountDevice failed to create newCsiDriverClient: {why}");
        let driver = host.csi.drivers.get(&spec.driver).await.map_err(unregistered)?;
        let supports = driver.supports().await.map_err(|error| error.to_string())?;
        if !supports.stage {
            return Ok(());
        }
        let publish_context = context(host, node, &spec).await?;
        let request = NodeStageVolumeRequest {
            volume_id: spec.handle.clone(),
            publish_context,
            staging_target_path: paths::text(&node.staging)?,
            volume_capability: Some(spec.capability(volume, supports)),
            secrets: secrets(host, spec.stage_secret.as_ref(), "NodeStageSecretRef").await?,
            volume_context: spec.attributes.clone().into_iter().collect(),
        };
        paths::note_staging(&node.staging).await?;
        driver.node_stage_volume(request).await.map_err(|error| error.to_string())?;
        if volume.mode == Mode::Filesystem { Box::pin(expand::before_use(volume, &node.staging)).await } else { Ok(()) }
    }

    async fn unstage(&self, host: &Host, node: &NodeVolume) -> Result<(), String> {
        let of = Recorded::of(node)?;
        if paths::is_staging(&node.staging).await? {
            let unregistered = |why| format!("attacher.UnmountDevice failed to create newCsiDriverClient: {why}");
            let driver = host.csi.drivers.get(of.driver).await.map_err(unregistered)?;
            let supports = driver.supports().await;
            let unknown = |error| format!("attacher.UnmountDevice failed to check whether STAGE_UNSTAGE_VOLUME set: {error}");
            if supports.map_err(unknown)?.stage {
                let request = NodeUnstageVolumeRequest { volume_id: of.handle.into(), staging_target_path: paths::text(&node.staging)? };
                let unstaged = driver.node_unstage_volume(request).await;
                unstaged.map_err(|error| format!("attacher.UnmountDevice failed: {error}"))?;
            }
        }
        paths::unstaged(node).await
    }

    async fn detach(&self, host: &Host, node: &NodeVolume) -> Result<(), String> {
        host.csi.in_use.remove(&in_use(node));
        Ok(())
    }
}

/// As `volumesInUse` and `volumesAttached` name it. Upstream: `GetUniqueVolumeName`.
fn in_use(node: &NodeVolume) -> String {
    format!("{PREFIX}{}", node.handle)
}

/// The VolumeAttachment, which says that it is attached. Upstream: `WaitForAttach`, `verifyAttachmentStatus`.
async fn attachment(host: &Host, spec: &Spec) -> Result<Value, String> {
    let name = attachment_name(&spec.handle, &spec.driver, &host.csi.node_name);
    let failed = |why| format!("volume {} has GET error for volume attachment {name}: {why}", spec.handle);
    let there = host.csi.objects.attachment(&name).await.map_err(failed)?;
    if !there["metadata"]["deletionTimestamp"].is_null() {
        return Err("volume attachment is being deleted".into());
    }
    if there["status"]["attached"] == true {
        return Ok(there);
    }
    match there["status"]["attachError"]["message"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Err(format!("volume {} is not attached for volume attachment {name}", spec.handle)),
    }
}

/// What the driver's controller said when it attached the volume.
async fn context(host: &Host, node: &NodeVolume, spec: &Spec) -> Result<HashMap<String, String>, String> {
    if !node.attributes.contains_key(ATTACHABLE) {
        return Ok(Default::default());
    }
    let there = attachment(host, spec).await?;
    let metadata = there["status"]["attachmentMetadata"].as_object();
    Ok(metadata.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

/// What is in the Secret that the volume names for a step.
async fn secrets(host: &Host, named: Option<&(String, String)>, what: &str) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = named else { return Ok(Default::default()) };
    let read = host.csi.objects.secret(namespace, name).await;
    read.map(|data| data.into_iter().collect()).map_err(|why| format!("fetching {what} {namespace}/{name} failed: {why}"))
}

/// Something of the pod's volume is there still.
fn still_mounted(path: &Path) -> Result<(), String> {
    match mount_table::is_mounted(path) {
        Ok(false) => Ok(()),
        Ok(true) => Err(format!("the driver has not unmounted {}", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
