//! emptyDir -> a directory on disk, a tmpfs of bounded size, or huge pages, as many as the pod asks for.
//!
//! Source: `pkg/volume/emptydir/empty_dir.go`.

use std::{fs, io, path::Path};

use api::{
    k8s::api::core::v1::{EmptyDirVolumeSource, PersistentVolume, Pod, Volume},
    quantity::Quantity,
};
use async_trait::async_trait;
use podspec::Overhead;

use crate::{
    container_config::resources::Limits,
    downward::Allocatable,
    meta,
    volumes::{
        directories::{hugetlbfs, make, tmpfs},
        mount_table,
        ownership::{self, fs_group},
        plugin::{Mounted, VolumePlugin, VolumeToMount, blocking},
    },
};

const HUGE_PAGES: &str = "HugePages";
/// Before the size of a page.
const HUGE_PAGES_OF: &str = "HugePages-";

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
            // As the kernel makes it where no mode is given, and upstream gives none.
            make(dir).and_then(|()| tmpfs(dir, size(source, pod, allocatable), 0o1777)).map_err(|e| format!("mount tmpfs: {e}"))?;
        }
        huge if huge == HUGE_PAGES || huge.starts_with(HUGE_PAGES_OF) => {
            if mount_table::is_mounted(dir).map_err(|e| e.to_string())? {
                return Ok(());
            }
            let (page, bytes) = huge_pages(huge, pod)?;
            make(dir).and_then(|()| hugetlbfs(dir, &page, bytes)).map_err(|e| format!("mount hugetlbfs: {e}"))?;
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

/// The size of a page as it is written, and how many bytes of such the pod asks for. Source: `getPageSizeMountOption`.
fn huge_pages(medium: &str, pod: &Pod) -> Result<(String, i64), String> {
    let asked = meta::spec(pod).map(|spec| podspec::requests(spec, Overhead::Excluded, &[])).unwrap_or_default();
    let mut pages = asked.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("hugepages-")?, bytes.units())));
    let found = match medium.strip_prefix(HUGE_PAGES_OF) {
        None => {
            let first = pages.next();
            if pages.next().is_some() {
                return Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"));
            }
            first
        }
        Some(size) => {
            let wanted = Quantity::parse(size)?.units();
            pages.find(|(name, _)| Quantity::parse(name).is_ok_and(|size| size.units() == wanted))
        }
    };
    let none = || format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages");
    found.map(|(page, bytes)| (page.to_owned(), bytes)).ok_or_else(none)
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
        assert_eq!((there.gid(), there.mode() & 0o7777), (4321, 0o3777));
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
        let other: EmptyDirVolumeSource = serde_json::from_str(r#"{"medium":"Paper"}"#).unwrap();
        assert_eq!(set_up(&volume, &ready, &other, &p, Allocatable::default()).unwrap_err(), "unknown storage medium \"Paper\"");
    }

    #[test]
    fn huge_pages_are_those_that_the_pod_asks_for() {
        let asks =
            |pages: &str| pod(&format!(r#"{{"containers":[{{"name":"a","resources":{{"limits":{{{pages}}},"requests":{{{pages}}}}}}}]}}"#));
        let (one, two) = (asks(r#""hugepages-2Mi":"4Mi""#), asks(r#""hugepages-2Mi":"4Mi","hugepages-1Gi":"1Gi""#));
        assert_eq!(huge_pages("HugePages", &one), Ok(("2Mi".into(), 4 << 20)));
        assert_eq!(huge_pages("HugePages-1024Mi", &two), Ok(("1Gi".into(), 1 << 30)));
        let none = |medium: &str| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages");
        assert_eq!(huge_pages("HugePages-1Gi", &one), Err(none("HugePages-1Gi")));
        assert_eq!(huge_pages("HugePages", &asks("")), Err(none("HugePages")));
        assert_eq!(
            huge_pages("HugePages", &two).unwrap_err(),
            "medium: HugePages can't be used if container requests multiple huge page sizes"
        );
        let dir = tempfile::tempdir().unwrap();
        let (volume, ready) = (dir.path().join("v"), dir.path().join("ready/v"));
        let source: EmptyDirVolumeSource = serde_json::from_str(r#"{"medium":"HugePages"}"#).unwrap();
        if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
            eprintln!("not run: this kernel has no huge pages of 2 MiB");
            return;
        }
        let made = (0..2).try_for_each(|_| set_up(&volume, &ready, &source, &one, Allocatable::default()));
        let mounted = mount_table::below(dir.path()).unwrap();
        mount_table::unmount_below(dir.path()).unwrap();
        made.unwrap();
        assert_eq!(mounted.len(), 1);
    }
}
