//! What a kind of volume does on this node: the trait that each has, and what it is given.
//!
//! A kind that needs something of the node itself, once for all pods that use a volume (a device attached, a file system mounted), has a
//! [`NodePlugin`] too. The manager keeps account of who uses what, on disk, so that all of it is undone also by the next run of the agent.
//! Upstream: `VolumePlugin`, `DeviceMountableVolumePlugin`, `AttachableVolumePlugin`, `BlockVolumePlugin` in `pkg/volume/plugins.go`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::{
    faults::catch,
    k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    objects::All,
    payload::{Reading, Tokened},
    private::Private,
};
use crate::{csi::Csi, dirs, downward::Allocatable, meta, tokens::Tokens};

/// One kind of volume. All calls may be made again, after a failure, by a later run of the agent, or while what they made is there: they
/// bring about what is not there yet. A call that waits for others than the file system bounds its waits itself.
#[async_trait]
pub trait VolumePlugin: Sync {
    /// In the names of directories: `empty-dir` for upstream's `kubernetes.io/empty-dir`.
    fn name(&self) -> &'static str;

    /// `claimed`: what a volume that is a claim is bound to.
    fn can_support(&self, volume: &Volume, claimed: Option<&PersistentVolume>) -> bool;

    /// What an earlier run of the agent made ready for the pod, and is there still: it is the pod's, whatever an object says, and where no server or
    /// driver answers. Asked before it is known what a claim is bound to.
    async fn found(&self, _volume: &VolumeToMount) -> Option<Mounted> {
        None
    }

    /// Its content follows objects: it is set up again when they change. What does not is set up once by each run of the agent.
    fn requires_remount(&self) -> bool {
        false
    }

    /// Containers may have it as a device.
    fn supports_block(&self) -> bool {
        false
    }

    /// What it needs of the node before any pod has it.
    fn node(&self) -> Option<&dyn NodePlugin> {
        None
    }

    /// Makes the volume ready for one pod; of a block volume, names the device. What it leaves elsewhere than below [`VolumeToMount::dir`] is
    /// for [`VolumePlugin::tear_down`] to take away, which is called for every volume that has that directory, or is used on the node.
    ///
    /// # Errors
    /// The end of a `FailedMount` event's line; what was done half may stay, and is torn down with the pod.
    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String>;

    /// Takes the volume from one pod. What is mounted below the pod's directory the manager unmounts after this, and deletes the rest.
    ///
    /// # Errors
    /// Nothing is deleted then; it is called again.
    async fn tear_down(&self, _host: &Host, _volume: &VolumeToUnmount) -> Result<(), String> {
        Ok(())
    }

    /// What becomes due while a pod has the volume: called about every minute for volumes that [`VolumePlugin::node`] knows.
    ///
    /// # Errors
    /// It is logged, and called again.
    async fn tend(&self, _volume: &VolumeToMount) -> Result<(), String> {
        Ok(())
    }
}

/// What a volume needs of the node, once for all its pods. The calls for one volume never overlap.
#[async_trait]
pub trait NodePlugin: Sync {
    /// Which of the node's volumes it is. What is staged otherwise for pods that use it as a device has another handle.
    ///
    /// # Errors
    /// The end of an event's line.
    fn identify(&self, volume: &VolumeToMount) -> Result<Identity, String>;

    /// A volume that an earlier run of the agent left.
    fn found_again(&self, _host: &Host, _node: &NodeVolume) {}

    /// Waits until it is attached to this node.
    ///
    /// # Errors
    /// The end of an event's line; it is called again.
    async fn attach(&self, _node: &NodeVolume, _volume: &VolumeToMount) -> Result<Attached, String> {
        Ok(Attached::default())
    }

    /// Makes it ready in [`NodeVolume::staging`], which is there. CSI's `NodeStageVolume`.
    ///
    /// # Errors
    /// The end of an event's line; it is called again, or [`NodePlugin::unstage`] is.
    async fn stage(&self, node: &NodeVolume, volume: &VolumeToMount) -> Result<(), String>;

    /// Once no pod has it; also where staging it failed, or where it is not known how far that came.
    ///
    /// # Errors
    /// It is called again.
    async fn unstage(&self, host: &Host, node: &NodeVolume) -> Result<(), String>;

    /// After [`NodePlugin::unstage`].
    ///
    /// # Errors
    /// Both are called again.
    async fn detach(&self, _host: &Host, _node: &NodeVolume) -> Result<(), String> {
        Ok(())
    }
}

/// What attaching a volume has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Where it is a device.
    pub device: Option<PathBuf>,
    /// What else is to be recorded of it, beside [`Identity::attributes`].
    pub attributes: BTreeMap<String, String>,
}

/// How a pod's containers have a volume. Upstream: `volumeMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    Filesystem,
    Block,
}

/// One volume ready on the host: a directory or file to mount, or a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Whether it may only be read, whatever the mount says.
    pub read_only: bool,
}

/// Which volume of the node a pod's volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique among the plugin's: a driver's name and its handle.
    pub handle: String,
    /// What unstaging and detaching it take, when no object names it any more.
    pub attributes: BTreeMap<String, String>,
}

/// A volume that this node has for its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVolume {
    pub handle: String,
    pub attributes: BTreeMap<String, String>,
    /// `<root>/plugins/kubernetes.io/<plugin>/<hash of the handle>/globalmount`.
    pub staging: PathBuf,
    /// Once attached, where it is a device.
    pub device: Option<PathBuf>,
}

/// What all volumes of the node share. Upstream: `VolumeHost`.
#[derive(Clone)]
pub struct Host {
    pub root_dir: PathBuf,
    /// Reads claims and volumes.
    pub client: client::kube::Client,
    pub private: Arc<Private>,
    pub allocatable: Allocatable,
    pub tokens: Tokens,
    /// Drivers that registered here.
    pub csi: Arc<Csi>,
}

/// What a pod's volumes are made from, as it is at one moment.
pub struct Sources {
    pub host: Host,
    pub pod: Arc<Pod>,
    pub objects: All,
    pub tokens: Tokened,
}

/// A claim, and what it is bound to.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
}

/// One volume that a pod is to have.
#[derive(Clone)]
pub struct VolumeToMount {
    pub sources: Arc<Sources>,
    pub volume: Volume,
    pub mode: Mode,
    /// Of a volume that is a claim, once that is known.
    pub claimed: Option<Arc<Claimed>>,
    /// As it was staged, of a plugin that has a [`NodePlugin`]; before that, as an earlier run recorded it.
    pub node: Option<NodeVolume>,
}

/// One volume that a pod had; all that is known of it where the pod's object is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeToUnmount {
    pub pod_uid: String,
    /// In the pod's list of volumes.
    pub name: String,
    pub mode: Mode,
    /// [`VolumeToMount::dir`].
    pub dir: PathBuf,
    pub node: Option<NodeVolume>,
}

impl VolumeToMount {
    pub fn pod(&self) -> &Arc<Pod> {
        &self.sources.pod
    }

    /// What a volume that is a claim is bound to.
    pub fn persistent(&self) -> Option<&PersistentVolume> {
        self.claimed.as_ref().map(|claimed| &claimed.volume)
    }

    pub fn host(&self) -> &Host {
        &self.sources.host
    }

    /// What its files are made from.
    pub fn reading(&self) -> Reading<'_> {
        let Sources { host, pod, objects, tokens } = &*self.sources;
        Reading { pod, all: objects, tokens, allocatable: host.allocatable }
    }

    /// The pod's own place for it: a directory; of a block volume, the link to its device.
    pub fn dir(&self, plugin: &str) -> PathBuf {
        self.mode.dir(&self.host().root_dir, meta::uid(self.pod()), plugin, &self.volume.name)
    }

    /// The pod's own directory.
    pub fn pod_dir(&self) -> PathBuf {
        dirs::pod(&self.host().root_dir, meta::uid(self.pod()))
    }
}

impl Mode {
    /// Where a pod has a volume.
    pub fn dir(self, root_dir: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
        match self {
            Self::Filesystem => dirs::volume(root_dir, uid, plugin, name),
            Self::Block => dirs::device(root_dir, uid, plugin, name),
        }
    }
}

/// File work, on a thread that may wait for the disk. It goes on where its caller is given up.
///
/// # Errors
/// Its own, and where it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let joined = tokio::task::spawn_blocking(|| catch("volumes", work)).await;
    let failed = |why: &dyn std::fmt::Display| Err(format!("volume task failed: {why}"));
    joined.map_or_else(|ended| failed(&ended), |done| done.unwrap_or_else(|panic| failed(&panic)))
}
