//! A volume of a pod as it is served -> what of it says where the pod can run.

use api::k8s::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, EphemeralVolumeSource, GCEPersistentDiskVolumeSource, ISCSIVolumeSource, ImageVolumeSource,
    PersistentVolumeClaimVolumeSource, RBDVolumeSource,
};
use podspec::claims::name_for_pod;
use serde::{Deserialize, Serialize};

use super::or_default;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "WireVolume")]
pub struct Volume {
    pub name: String,
    pub ephemeral: Option<Box<EphemeralVolumeSource>>,
    pub image: Option<Box<ImageVolumeSource>>,
    pub persistent_volume_claim: Option<Box<PersistentVolumeClaimVolumeSource>>,
    pub disk: Option<Box<Disk>>,
}

/// A disk that not all pods of a node may have, named by the pod itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Disk {
    Gce { name: String, read_only: bool },
    Aws { id: String },
    Iscsi { iqn: String, read_only: bool },
    Rbd { monitors: Vec<String>, pool: String, image: String, read_only: bool },
}

impl Volume {
    /// The name of the claim that it is, if it is one, and whether that is made for the pod of this name.
    pub fn claim(&self, pod: &str) -> Option<(String, bool)> {
        match (&self.persistent_volume_claim, &self.ephemeral) {
            (Some(claim), _) => Some((claim.claim_name.clone(), false)),
            (None, Some(_)) => Some((name_for_pod(pod, &self.name), true)),
            (None, None) => None,
        }
    }

    /// It can be had on any node, beside any other.
    pub(super) fn is_anywhere(&self) -> bool {
        self.persistent_volume_claim.is_none() && self.ephemeral.is_none() && self.image.is_none() && self.disk.is_none()
    }
}

/// As it is on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireVolume {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    ephemeral: Option<Box<EphemeralVolumeSource>>,
    image: Option<Box<ImageVolumeSource>>,
    persistent_volume_claim: Option<Box<PersistentVolumeClaimVolumeSource>>,
    gce_persistent_disk: Option<GCEPersistentDiskVolumeSource>,
    aws_elastic_block_store: Option<AWSElasticBlockStoreVolumeSource>,
    iscsi: Option<ISCSIVolumeSource>,
    rbd: Option<RBDVolumeSource>,
}

impl From<WireVolume> for Volume {
    fn from(of: WireVolume) -> Self {
        let is = |said: Option<bool>| said.unwrap_or_default();
        let gce = of.gce_persistent_disk.map(|disk| Disk::Gce { name: disk.pd_name, read_only: is(disk.read_only) });
        let aws = of.aws_elastic_block_store.map(|disk| Disk::Aws { id: disk.volume_id });
        let iscsi = of.iscsi.map(|disk| Disk::Iscsi { iqn: disk.iqn, read_only: is(disk.read_only) });
        let rbd = of.rbd.map(|disk| Disk::Rbd {
            monitors: disk.monitors,
            pool: disk.pool.unwrap_or_default(),
            image: disk.image,
            read_only: is(disk.read_only),
        });
        let disk = gce.or(aws).or(iscsi).or(rbd).map(Box::new);
        Self { name: of.name, ephemeral: of.ephemeral, image: of.image, persistent_volume_claim: of.persistent_volume_claim, disk }
    }
}
