//! The kinds of volumes that this node has: one file and one line each.

mod config_map;
mod csi;
mod downward_api;
mod empty_dir;
mod host_path;
mod persistent_volume;
mod projected;
mod secret;

use api::k8s::api::core::v1::{Pod, Volume};

use super::{
    payload::{Payload, Reading},
    plugin::VolumePlugin,
};
use crate::downward::Allocatable;

pub use persistent_volume::NAME as LOCAL_VOLUME;

pub type Table = &'static [&'static dyn VolumePlugin];

/// A volume is the first's that supports it.
pub const TABLE: Table = &[
    &config_map::ConfigMap,
    // Before claims of other kinds.
    &csi::Csi,
    &downward_api::DownwardApi,
    &empty_dir::EmptyDir,
    &host_path::HostPath,
    &persistent_volume::PersistentVolumes,
    &projected::Projected,
    &secret::Secret,
];

/// What a volume shows of objects; `None` where its files are not ours to write. For the fuzz targets.
pub fn payload(volume: &Volume, reading: &Reading<'_>) -> Option<Result<Payload, String>> {
    let all = [config_map::payload, downward_api::payload, projected::payload, secret::payload];
    all.into_iter().find_map(|payload| payload(volume, reading))
}

/// What bounds an emptyDir in memory, in bytes. For the fuzz targets.
pub fn memory_bytes(volume: &Volume, pod: &Pod, allocatable: Allocatable) -> Option<i64> {
    empty_dir::size(volume.empty_dir.as_ref()?, pod, allocatable)
}
