//! A full disk and images that nothing uses -> images removed, the longest unused first.
//!
//! Upstream: `pkg/kubelet/images/image_gc_manager.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use api::{k8s::api::core::v1::ObjectReference, task::Group, time::Timestamp};
use client::Recorder;
use cri::{ImageFsInfoRequest, ImageSpec, ListContainersRequest, ListImagesRequest, RemoveImageRequest, Runtime};

/// Upstream's `ImageGCPeriod`.
const EVERY: Duration = Duration::from_secs(300);
/// Upstream's defaults for `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`.
const HIGH_PERCENT: i64 = 85;
const LOW_PERCENT: i64 = 80;
const AGE_MIN: Duration = Duration::from_secs(120);

/// Removes images of `runtime` while `group` lives, on the node named so; none that has one of the names in `kept`.
pub fn start(runtime: Runtime, recorder: Recorder, node_name: String, kept: BTreeSet<String>, group: &Group) {
    let collector = Collector { runtime, recorder, node_name, kept, image_records: BTreeMap::new() };
    group.spawn_loop("image garbage collection", Box::pin(collector.run()));
}

struct Collector {
    runtime: Runtime,
    recorder: Recorder,
    node_name: String,
    /// Names of images that came from archives.
    kept: BTreeSet<String>,
    image_records: BTreeMap<String, ImageRecord>,
}

/// An image, and since when we know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ImageRecord {
    first_detected: Timestamp,
    /// When something was last seen to run from it.
    last_used: Timestamp,
    size_bytes: i64,
    in_use: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disk {
    capacity: i64,
    available: i64,
}

impl Collector {
    async fn run(mut self) {
        loop {
            if let Err(error) = self.once(Timestamp::now()).await {
                tracing::warn!(node = self.node_name, %error, "image garbage collection failed");
                self.recorder.warning(&self.node(), "ImageGCFailed", error.to_string());
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn once(&mut self, now: Timestamp) -> cri::Result<()> {
        self.look(now).await?;
        let Some(disk) = self.disk().await? else { return Ok(()) };
        let wanted = to_free(disk);
        if wanted <= 0 {
            return Ok(());
        }
        let mut freed = 0;
        for id in candidates(&self.image_records, now) {
            let image = Some(ImageSpec { image: id.clone(), ..ImageSpec::default() });
            self.runtime.remove_image(RemoveImageRequest { image }).await?;
            tracing::info!(image = id, "unused image removed");
            freed += self.image_records.remove(&id).map_or(0, |image| image.size_bytes);
            if freed >= wanted {
                return Ok(());
            }
        }
        let used = 100 - disk.available * 100 / disk.capacity.max(1);
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        tracing::warn!(used, "disk usage stays above the threshold; no unused image is left");
        self.recorder.warning(&self.node(), "FreeDiskSpaceFailed", message);
        Ok(())
    }

    /// Which images there are, and which of them are used.
    async fn look(&mut self, now: Timestamp) -> cri::Result<()> {
        let containers = self.runtime.list_containers(ListContainersRequest::default()).await?.containers;
        let used: BTreeSet<String> = containers.into_iter().flat_map(|c| [c.image_id, c.image_ref]).filter(|r| !r.is_empty()).collect();
        let images = self.runtime.list_images(ListImagesRequest::default()).await?.images;
        let mut records = BTreeMap::new();
        for image in images.into_iter().filter(|image| !is_kept(image, &self.kept)) {
            let in_use = used.contains(&image.id) || image.repo_digests.iter().any(|d| used.contains(d));
            let before = self.image_records.get(&image.id);
            let record = ImageRecord {
                first_detected: before.map_or(now, |b| b.first_detected),
                last_used: if in_use { now } else { before.map_or(Timestamp::UNIX_EPOCH, |b| b.last_used) },
                size_bytes: i64::try_from(image.size).unwrap_or(i64::MAX),
                in_use,
            };
            records.insert(image.id, record);
        }
        self.image_records = records;
        Ok(())
    }

    /// The file system that images are on, if the runtime reports it.
    async fn disk(&self) -> cri::Result<Option<Disk>> {
        let info = self.runtime.image_fs_info(ImageFsInfoRequest {}).await?;
        let mountpoint = info.image_filesystems.into_iter().next().and_then(|f| f.fs_id).map(|id| PathBuf::from(id.mountpoint));
        let Some(stat) = mountpoint.and_then(|path| rustix::fs::statvfs(path).ok()) else { return Ok(None) };
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
        Ok(Some(Disk { capacity: bytes(stat.f_blocks), available: bytes(stat.f_bavail) }))
    }

    fn node(&self) -> ObjectReference {
        let name = Some(self.node_name.clone());
        ObjectReference { kind: Some("Node".into()), name: name.clone(), uid: name, ..ObjectReference::default() }
    }
}

/// Pinned ones, our own pause image, and what came from archives: no registry may have them.
fn is_kept(image: &cri::Image, kept: &BTreeSet<String>) -> bool {
    let is_named = |name: &String| name == crate::containerd::PAUSE_IMAGE || kept.contains(name);
    image.pinned || image.repo_tags.iter().chain(&image.repo_digests).any(is_named)
}

/// Bytes to free so that the low mark is reached; none below the high mark.
fn to_free(disk: Disk) -> i64 {
    let used_percent = 100 - disk.available.min(disk.capacity) * 100 / disk.capacity.max(1);
    if disk.capacity <= 0 || used_percent < HIGH_PERCENT {
        return 0;
    }
    disk.capacity / 100 * (100 - LOW_PERCENT) - disk.available
}

/// Ids of unused images that are old enough, the longest unused first.
fn candidates(records: &BTreeMap<String, ImageRecord>, now: Timestamp) -> Vec<String> {
    let old = |r: &ImageRecord| r.first_detected + AGE_MIN <= now;
    let mut idle: Vec<_> = records.iter().filter(|(_, r)| !r.in_use && old(r)).collect();
    idle.sort_by_key(|(_, r)| (r.last_used, r.first_detected));
    idle.into_iter().map(|(id, _)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_disk_is_freed_from_the_high_to_the_low_mark() {
        for (available, wanted) in [(200, 0), (160, 0), (159, 41), (150, 50), (0, 200)] {
            assert_eq!(to_free(Disk { capacity: 1000, available }), wanted, "{available}");
        }
        assert_eq!(to_free(Disk { capacity: 0, available: 0 }), 0);
    }

    #[test]
    fn what_no_registry_may_have_is_kept() {
        let kept = ["docker.io/library/a:1", "b@sha256:00"].map(str::to_owned).into();
        let image = |tags: &[&str], digests: &[&str], pinned| cri::Image {
            repo_tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: digests.iter().map(|&digest| digest.to_owned()).collect(),
            pinned,
            ..cri::Image::default()
        };
        for (image, wanted) in [
            (image(&["docker.io/library/a:1"], &[], false), true),
            (image(&["other:1", "docker.io/library/a:1"], &[], false), true),
            (image(&[], &["b@sha256:00"], false), true),
            (image(&[crate::containerd::PAUSE_IMAGE], &[], false), true),
            (image(&["docker.io/library/a:2"], &[], true), true),
            (image(&["docker.io/library/a:2"], &["a@sha256:00"], false), false),
        ] {
            assert_eq!(is_kept(&image, &kept), wanted, "{image:?}");
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_new_or_used_stays() {
        let record = |first, used, in_use| ImageRecord { first_detected: at(first), last_used: at(used), size_bytes: 1, in_use };
        let all = [
            ("young", record(950, 0, false)),
            ("used", record(0, 1000, true)),
            ("late", record(0, 500, false)),
            ("early", record(0, 400, false)),
        ];
        let all = all.into_iter().map(|(id, s)| (id.to_owned(), s)).collect();
        assert_eq!(candidates(&all, at(1000)), ["early", "late"]);
    }
}
