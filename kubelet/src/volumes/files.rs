//! Files -> a volume that shows them, on disk or in the node's memory.

use std::path::PathBuf;

use api::k8s::api::core::v1::{Pod, Volume};

use super::{
    atomic, directories, mount_table,
    ownership::fs_group,
    payload::{self, Payload, Reading},
    plugin::{Mounted, VolumeToMount, blocking},
};
use crate::meta;

/// A volume's files; `None` where it is of another kind.
pub type Gather = fn(&Volume, &Reading<'_>) -> Option<Result<Payload, String>>;

/// # Errors
/// Upstream's words, or the system's.
pub async fn on_disk(plugin: &'static str, volume: VolumeToMount, gather: Gather) -> Result<Mounted, String> {
    blocking(move || {
        let (files, path) = (gathered(&volume, gather)?, volume.dir(plugin));
        directories::make(&path).map_err(|e| e.to_string())?;
        filled(path, &files, volume.pod())
    })
    .await
}

/// For what must not touch the disk.
///
/// # Errors
/// Upstream's words, or the system's.
pub async fn in_memory(plugin: &'static str, volume: VolumeToMount, gather: Gather) -> Result<Mounted, String> {
    blocking(move || {
        let files = gathered(&volume, gather)?;
        let (pod, private) = (volume.pod(), &volume.host().private);
        // An earlier version mounted each there; containers that run see that one.
        let old = volume.dir(plugin);
        if mount_table::is_mounted(&old).map_err(|e| e.to_string())? {
            return filled(old, &files, pod);
        }
        let path = private.of_pod(meta::uid(pod)).join(plugin).join(&volume.volume.name);
        private.make(&path)?;
        private.admit(pod, &path, payload::size(&files))?;
        filled(path, &files, pod)
    })
    .await
}

fn gathered(volume: &VolumeToMount, gather: Gather) -> Result<Payload, String> {
    gather(&volume.volume, &volume.reading()).unwrap_or_else(|| Err("the volume is of another kind".into()))
}

fn filled(path: PathBuf, files: &Payload, pod: &Pod) -> Result<Mounted, String> {
    atomic::write(&path, files, fs_group(pod))?;
    Ok(Mounted { path, read_only: true })
}
