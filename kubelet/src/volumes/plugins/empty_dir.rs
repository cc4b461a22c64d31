//! emptyDir -> a directory on disk, or a tmpfs of bounded size.
//!
//! Source: `pkg/volume/emptydir/empty_dir.go`.

use std::{fs, io, path::Path};

use api::{
    k8s::api::core::v1::{EmptyDirVolumeSource, PersistentVolume, Pod, Volume},
    quantity::Quantity,
};
use async_trait::async_trait;

use crate::{
    container_config::resources::Limits,
    downward::Allocatable,
    volumes::{
        directories::{make, tmpfs},
        mount_table,
        ownership::{self, fs_group},
        plugin::{Mounted, VolumePlugin, VolumeToMount, blocking},
    },
};

pub struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        let path = volume.dir(self.name());
        let ready = volume.pod_dir().join("plugins/kubernetes.io~empty-dir").join(&volume.volume.name).join("ready");
        blocking(move || {
            let source = volume.volume.empty_dir.clone().unwrap_or_default();
            set_up(&path, &ready, &source, volume.pod(), volume.host().allocatable)?;
            Ok(Mounted { path, read_only: false })
        })
        .await
    }
}

/// Makes the directory, once: what is in it already stays.
///
/// # Errors
/// Upstream's words, or the system's.
fn set_up(dir: &Path, ready: &Path, source: &EmptyDirVolumeSource, pod: &Pod, allocatable: Allocatable) -> Result<(), String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" if ready.exists() && dir.is_dir() => return Ok(()),
        "" => make(dir).map_err(|e| e.to_string())?,
        "Memory" if mount_table::is_mounted(dir).map_err(|e| e.to_string())? => return Ok(()),
        "Memory" => {
            make(dir).and_then(|()| tmpfs(dir, size(source, pod, allocatable), 0o777)).map_err(|e| format!("mount tmpfs: {e}"))?;
        }
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    if let Some(group) = fs_group(pod) {
        ownership::apply(dir, group, ownership::Access::ReadWrite).map_err(|e| e.to_string())?;
    }
    mark(ready).map_err(|e| e.to_string())
}

/// The smallest of what the volume, the pod and the node allow.
pub fn size(source: &EmptyDirVolumeSource, pod: &Pod, allocatable: Allocatable) -> Option<i64> {
    let own = source.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map(Quantity::units);
    let node = Some(allocatable.memory_bytes);
    [own, Limits::of_pod(pod).memory_bytes, node].into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

fn mark(ready: &Path) -> io::Result<()> {
    if let Some(parent) = ready.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(ready, "")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn the_smallest_limit_holds() {
        let source = |limit: &str| serde_json::from_str(&format!(r#"{{"medium":"Memory","sizeLimit":"{limit}"}}"#)).unwrap();
        let node = Allocatable { memory_bytes: 1 << 30, ..Allocatable::default() };
        let free = pod(r#"{"containers":[{"name":"a"}]}"#);
        let limited = pod(r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"1Mi"}}}]}"#);
        assert_eq!(size(&source("64Mi"), &free, node), Some(64 << 20));
        assert_eq!(size(&source("0"), &free, node), Some(1 << 30));
        assert_eq!(size(&source("64Mi"), &limited, node), Some(1 << 20));
        assert_eq!(size(&EmptyDirVolumeSource::default(), &free, Allocatable::default()), None);
    }

    #[test]
    fn memory_is_a_tmpfs_of_that_size() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, ready) = (dir.path().join("v"), dir.path().join("ready/v"));
        let source: EmptyDirVolumeSource = serde_json::from_str(r#"{"medium":"Memory","sizeLimit":"1Mi"}"#).unwrap();
        let p = pod(r#"{"securityContext":{"fsGroup":4321},"containers":[{"name":"a"}]}"#);
        set_up(&volume, &ready, &source, &p, Allocatable::default()).unwrap();
        fs::write(volume.join("kept"), "x").unwrap();
        set_up(&volume, &ready, &source, &p, Allocatable::default()).unwrap();
        let there = fs::metadata(&volume).unwrap();
        let kept = volume.join("kept").exists();
        let full = fs::write(volume.join("big"), vec![0u8; 2 << 20]).is_err();
        mount_table::unmount_below(dir.path()).unwrap();
        assert!(kept && full);
        assert_eq!((there.gid(), there.mode() & 0o7777), (4321, 0o2777));
        assert!(!mount_table::is_mounted(&volume).unwrap());
    }

    #[test]
    fn disk_directories_keep_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, ready) = (dir.path().join("v"), dir.path().join("ready/v"));
        let p = pod(r#"{"containers":[{"name":"a"}]}"#);
        let source = EmptyDirVolumeSource::default();
        set_up(&volume, &ready, &source, &p, Allocatable::default()).unwrap();
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o777);
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).unwrap();
        set_up(&volume, &ready, &source, &p, Allocatable::default()).unwrap();
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o700);
        let huge: EmptyDirVolumeSource = serde_json::from_str(r#"{"medium":"HugePages"}"#).unwrap();
        assert_eq!(set_up(&volume, &ready, &huge, &p, Allocatable::default()).unwrap_err(), "unknown storage medium \"HugePages\"");
    }
}
