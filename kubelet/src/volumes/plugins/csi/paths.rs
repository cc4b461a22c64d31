//! Where a driver puts what it makes: always below the node's own directory, and looked at before it is trusted.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::still_mounted;
use crate::{
    meta,
    volumes::plugin::{Mode, NodeVolume, VolumeToMount, blocking},
};

/// A look at what a driver mounted, whose server may be gone.
const LOOK_BOUND: Duration = Duration::from_secs(30);
/// Beside a pod's mount, once it is as it is to be.
const DONE: &str = "vol_data.json";
/// Beside where a volume is staged, from before its driver is asked to until it has undone it.
const STAGING: &str = "staging";

/// Where it is published: `<dir>/mount`; of a block volume, a file beside where it is staged. What is around it is there from before a driver is asked
/// until it has undone it all.
pub fn target(mode: Mode, dir: &Path, staging: &Path, pod_uid: &str) -> PathBuf {
    match mode {
        Mode::Filesystem => dir.join("mount"),
        Mode::Block => published(staging).join(pod_uid).join("device"),
    }
}

fn published(staging: &Path) -> PathBuf {
    staging.with_file_name("publish")
}

/// As it stands in a request.
pub fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no UTF-8", path.display()))
}

/// Makes what is around it; what is there itself is the driver's.
pub async fn prepare(target: PathBuf) -> Result<(), String> {
    blocking(move || {
        let parent = target.parent().unwrap_or(&target);
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(parent);
        made.map_err(|error| format!("failed to create dir {:?}: {error}", parent.display()))
    })
    .await
}

/// Whether a driver was asked to publish there.
pub async fn is_asked(target: PathBuf) -> Result<bool, String> {
    blocking(move || Ok(target.parent().is_some_and(Path::exists))).await
}

/// Notes that a driver is asked to stage there.
pub async fn note_staging(staging: &Path) -> Result<(), String> {
    let note = staging.with_file_name(STAGING);
    blocking(move || fs::write(&note, "").map_err(|error| format!("{}: {error}", note.display()))).await
}

/// Whether it was.
pub async fn is_staging(staging: &Path) -> Result<bool, String> {
    let note = staging.with_file_name(STAGING);
    blocking(move || Ok(note.exists())).await
}

/// Looks whether the driver has published what it said.
pub async fn check(mode: Mode, target: PathBuf) -> Result<(), String> {
    bounded(move || {
        let there = fs::symlink_metadata(&target).map_err(|error| format!("the driver published nothing: {error}"))?.file_type();
        match mode {
            Mode::Filesystem if there.is_dir() => Ok(()),
            Mode::Filesystem => Err("the driver published no directory".into()),
            Mode::Block if there.is_block_device() => Ok(()),
            Mode::Block => Err("the driver published no block device".into()),
        }
    })
    .await
}

/// Notes that all is done that is to be done for the pod.
pub async fn done(target: PathBuf, data: serde_json::Value) -> Result<(), String> {
    blocking(move || {
        let (new, file) = (target.with_file_name(format!("{DONE}.tmp")), target.with_file_name(DONE));
        fs::write(&new, data.to_string()).and_then(|()| fs::rename(&new, &file)).map_err(|error| format!("{}: {error}", file.display()))
    })
    .await
}

/// What an earlier run has published for the pod, all of it, and is there still.
pub async fn found(volume: &VolumeToMount) -> Option<PathBuf> {
    let (mode, dir) = (volume.mode, volume.dir(super::NAME));
    let target = target(mode, &dir, &volume.node.as_ref()?.staging, meta::uid(volume.pod()));
    let look = move || {
        let is_there = match mode {
            Mode::Filesystem => target.with_file_name(DONE).exists() && still_mounted(&target).is_err(),
            Mode::Block => {
                let is_device = fs::symlink_metadata(&target).is_ok_and(|there| there.file_type().is_block_device());
                is_device && fs::read_link(&dir).is_ok_and(|path| path == target)
            }
        };
        Ok(is_there.then_some(target))
    };
    bounded(look).await.ok().flatten()
}

/// Takes away what a driver may leave of what it has unpublished.
pub async fn unpublished(target: PathBuf) -> Result<(), String> {
    bounded(move || {
        still_mounted(&target)?;
        // Never what is in it: a directory that is not empty is in its driver's hands.
        let is_dir = fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir());
        let gone = if is_dir { fs::remove_dir(&target) } else { fs::remove_file(&target) };
        absent(gone, &target)?;
        absent(fs::remove_file(target.with_file_name(DONE)), &target)?;
        let around = target.parent().unwrap_or(&target);
        absent(fs::remove_dir(around), around)
    })
    .await
}

/// The same of a volume that is unstaged.
pub async fn unstaged(node: &NodeVolume) -> Result<(), String> {
    let (staging, publish) = (node.staging.clone(), published(&node.staging));
    bounded(move || {
        still_mounted(&staging)?;
        absent(fs::remove_dir(&publish), &publish)?;
        absent(fs::remove_file(staging.with_file_name(STAGING)), &staging)
    })
    .await
}

fn absent(done: io::Result<()>, path: &Path) -> Result<(), String> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        _ => Ok(()),
    }
}

/// A thread that hangs at a mount is given up; its task waits no longer.
async fn bounded<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let done = tokio::time::timeout(LOOK_BOUND, blocking(work)).await;
    done.unwrap_or_else(|_| Err("the file system did not answer in time".into()))
}
