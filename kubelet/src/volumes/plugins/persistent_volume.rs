//! persistentVolumeClaim and ephemeral -> the volume that the claim is bound to: a directory or a device of this node.
//!
//! A pod's place for it is a link to where it is, but for the file system of a device, which is mounted there: taking the pod away leaves the
//! volume. Source: `pkg/volume/local/local.go`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use api::k8s::api::core::v1::{LocalVolumeSource, PersistentVolume, Pod, Volume};
use async_trait::async_trait;
use parking_lot::Mutex;
use podspec::claims::{LOCAL_PROVISIONER, PROVISIONED_BY, annotation};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use tokio::sync::OwnedMutexGuard;

use super::host_path;
use crate::{
    dirs,
    volumes::{
        claims,
        device::{self, FileSystem},
        local_storage, mount_table,
        ownership::{self, fs_group},
        plugin::{Mode, Mounted, VolumePlugin, VolumeToMount, blocking},
        set_up::map,
    },
};

/// In the names of pods' directories.
pub const NAME: &str = "local-volume";
/// The set-up of a large volume for its first pod takes longer: the other is tried again.
const TURN_BOUND: Duration = Duration::from_secs(10);

pub struct PersistentVolumes;

#[async_trait]
impl VolumePlugin for PersistentVolumes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        claims::is_claim(volume)
    }

    async fn found(&self, volume: &VolumeToMount) -> Option<Mounted> {
        let (place, read_only) = (volume.dir(NAME), claims::is_read_only(&volume.volume));
        let found = blocking(move || there(&place).map_err(|e| e.to_string())).await;
        found.ok().flatten().map(|path| Mounted { path, read_only })
    }

    fn supports_block(&self) -> bool {
        true
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        let (link, read_only) = (volume.dir(NAME), claims::is_read_only(&volume.volume));
        let found = volume.persistent().cloned().ok_or("it is not known what the claim is bound to")?;
        let turn = match found.spec.as_ref().and_then(|spec| spec.local.as_ref()) {
            Some(local) => Some(turn(Path::new(&local.path)).await?),
            None => None,
        };
        let (is_file_system, storage) = (volume.mode == Mode::Filesystem, dirs::storage(&volume.host().root_dir));
        let (found, path) = blocking(move || place(&found, volume.mode, &storage).map(|path| (found, path))).await?;
        if is_file_system && turn.is_some() && is_device(&path) {
            mount(&volume, &found, &path, &link, read_only).await?;
            drop(turn);
            return Ok(Mounted { path: link, read_only });
        }
        blocking(move || {
            // Until the link is there, by which the next pod sees that it is not the first.
            let turn = turn;
            if is_file_system {
                if turn.is_some() && !read_only {
                    let is_used = || Ok(local_storage::used(&volume.host().root_dir)?.contains(&path));
                    give_to_group(&path, volume.pod(), is_used)?;
                }
                map(&path, &link).map_err(|e| e.to_string())?;
            }
            Ok(Mounted { path, read_only })
        })
        .await
    }
}

/// What a pod has in its place: what the link there leads to, or what is mounted.
fn there(place: &Path) -> io::Result<Option<PathBuf>> {
    if mount_table::is_mounted(place)? {
        return Ok(Some(place.to_owned()));
    }
    Ok(fs::read_link(place).ok().filter(|path| path.exists()))
}

/// Mounts the file system of a device at the pod's place, by way of another of the pod's own: until all is done, nothing is at the place.
async fn mount(volume: &VolumeToMount, found: &PersistentVolume, device: &Path, place: &Path, read_only: bool) -> Result<(), String> {
    let aside = volume.pod_dir().join("plugins").join(format!("{}{NAME}", dirs::PLUGIN)).join(&volume.volume.name);
    let (at, source, target) = (aside.clone(), device.to_owned(), place.to_owned());
    let made = blocking(move || made(&source, &at, &target).map_err(|e| e.to_string()));
    let (device, is_used, is_aside) = made.await?;
    let spec = found.spec.clone().unwrap_or_default();
    if !is_aside {
        let kind = file_system(spec.local.as_ref());
        let options = spec.mount_options.unwrap_or_default();
        let system = FileSystem { device: &device, kind, options: &options, read_only, is_mounted: is_used };
        let failed =
            |why| format!("local: failed to mount device {} at {} (fstype: {kind}), error {why}", device.display(), place.display());
        system.mount(&aside).await.map_err(failed)?;
    }
    let (pod, place) = (volume.pod().clone(), place.to_owned());
    blocking(move || {
        if !read_only {
            give_to_group(&aside, &pod, || Ok(is_used))?;
        }
        mount_bind(&aside, &place).and_then(|()| unmount(&aside, UnmountFlags::DETACH)).map_err(|e| e.to_string())
    })
    .await
}

/// Empty is not stated.
fn file_system(local: Option<&LocalVolumeSource>) -> &str {
    local.and_then(|local| local.fs_type.as_deref()).filter(|kind| !kind.is_empty()).unwrap_or(device::DEFAULT)
}

/// Makes the directories that a device is mounted at. The device's own name, whether it is mounted elsewhere, and whether at the first of them.
fn made(device: &Path, aside: &Path, place: &Path) -> io::Result<(PathBuf, bool, bool)> {
    let device = fs::canonicalize(device)?;
    fs::create_dir_all(aside)?;
    fs::create_dir_all(place)?;
    let is_used = mount_table::of_source(&device)?.iter().any(|point| point != aside);
    Ok((device, is_used, mount_table::is_mounted(aside)?))
}

/// Where the volume is on this node. One of ours is made where it is not there.
fn place(volume: &PersistentVolume, mode: Mode, storage: &Path) -> Result<PathBuf, String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(host) = &spec.host_path {
        return match mode {
            Mode::Filesystem => host_path::set_up(host),
            Mode::Block => Err("hostPath volumes are directories: volumeMode Block is not supported".into()),
        };
    }
    let Some(local) = &spec.local else {
        return Err(format!("persistent volumes of type {:?} are not supported", kind(volume)));
    };
    let path = PathBuf::from(&local.path);
    if local.path.split('/').any(|part| part == "..") {
        return Err(format!("invalid path: {} must not contain '..'", local.path));
    }
    if annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PROVISIONER) {
        make(&path, storage)?;
    }
    let there = fs::metadata(&path).map_err(|_| format!("path {:?} does not exist", local.path))?.file_type();
    match mode {
        Mode::Filesystem if !there.is_dir() && !there.is_block_device() => Err("only directory and block device are supported".into()),
        Mode::Block if !there.is_block_device() => Err(format!("path {:?} is no block device", local.path)),
        _ => Ok(path),
    }
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| there.file_type().is_block_device())
}

/// A directory of this node's own storage that everybody may write to, once: nothing else is ever made or opened to all, and what is lost is not
/// made anew.
fn make(path: &Path, storage: &Path) -> Result<(), String> {
    let is_own = path.parent() == Some(storage) && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pvc-"));
    if !is_own {
        return Err(format!("{} is not in this node's storage {}", path.display(), storage.display()));
    }
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let made = dirs::storage_made(storage).join(path.file_name().unwrap_or_default());
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => return note(&made).map_err(failed),
        Ok(_) => return Err(format!("{} is not a directory", path.display())),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) if made.exists() => return Err(format!("path {path:?} does not exist, which had the volume's data: is its disk mounted?")),
        Err(_) => {}
    }
    fs::DirBuilder::new().recursive(true).mode(0o711).create(storage).map_err(failed)?;
    // It is open to all before it has its name: a run that is killed in between leaves none that pods cannot write to.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = storage.join(format!(".{}", name.split('_').next().unwrap_or_default()));
    match fs::create_dir(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => fs::set_permissions(&new, fs::Permissions::from_mode(0o777)).and_then(|()| fs::rename(&new, path)).map_err(failed)?,
    }
    note(&made).map_err(failed)
}

/// That the volume's directory was there once.
fn note(made: &Path) -> std::io::Result<()> {
    if made.exists() {
        return Ok(());
    }
    fs::create_dir_all(made.parent().unwrap_or(Path::new("/")))?;
    fs::write(made, "")
}

/// Gives a local volume to the pod's group, unless another pod has it: whose it is is said by the first, and nothing is changed under those
/// that run. Upstream tells the others with an event.
fn give_to_group(path: &Path, pod: &Pod, is_used: impl FnOnce() -> io::Result<bool>) -> Result<(), String> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    if is_used().map_err(|e| e.to_string())? {
        return Ok(());
    }
    // The volume may be a link to its directory.
    let path = &fs::canonicalize(path).map_err(|e| e.to_string())?;
    ownership::apply_as_wanted(path, group, pod).map_err(|e| e.to_string())
}

/// Waits until no other pod's set-up of that volume is under way. Upstream: `volumeLocks`.
async fn turn(path: &Path) -> Result<OwnedMutexGuard<()>, String> {
    static TURNS: Mutex<BTreeMap<PathBuf, Weak<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let turn = {
        let mut turns = TURNS.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(path).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::default();
            turns.insert(path.to_owned(), Arc::downgrade(&new));
            new
        })
    };
    let turn = tokio::time::timeout(TURN_BOUND, turn.lock_owned()).await;
    turn.map_err(|_| format!("{} is being set up for another pod", path.display()))
}

/// The name of the source's field.
fn kind(volume: &PersistentVolume) -> String {
    const OTHERS: [&str; 3] = ["capacity", "claimRef", "nodeAffinity"];
    // By way of text: what makes trees of such wide types is dear to compile.
    let text = serde_json::to_string(&volume.spec).unwrap_or_default();
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let source = fields.into_iter().find(|(name, value)| value.is_object() && !OTHERS.contains(&name.as_str()));
    source.map_or_else(|| "unknown".into(), |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::{Value, json};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_pods_set_up_of_a_volume_waits_for_the_others() {
        let first = turn(Path::new("/turns/a")).await.unwrap();
        turn(Path::new("/turns/b")).await.unwrap();
        assert_eq!(turn(Path::new("/turns//a/")).await.unwrap_err(), "/turns//a/ is being set up for another pod");
        drop(first);
        turn(Path::new("/turns/a")).await.unwrap();
    }

    fn volume(spec: Value, annotations: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "pv", "annotations": annotations}, "spec": spec})).unwrap()
    }

    #[test]
    fn own_directories_are_made_once_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        let of = |path: &Path, by: &str| volume(json!({"local": {"path": path}}), json!({"pv.kubernetes.io/provisioned-by": by}));
        let own = storage.join("pvc-1_n_data");
        assert_eq!(place(&of(&own, LOCAL_PROVISIONER), Mode::Filesystem, &storage).unwrap(), own);
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o777);
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(own.join("kept"), "x").unwrap();
        place(&of(&own, LOCAL_PROVISIONER), Mode::Filesystem, &storage).unwrap();
        assert_eq!((fs::metadata(&own).unwrap().mode() & 0o7777, own.join("kept").exists()), (0o700, true));
        // Its disk is away.
        fs::rename(&own, dir.path().join("away")).unwrap();
        let why = place(&of(&own, LOCAL_PROVISIONER), Mode::Filesystem, &storage).unwrap_err();
        assert!(why.contains("is its disk mounted?") && !own.exists(), "{why}");
        // Elsewhere, by another name, a link, another's.
        for path in [dir.path().join("pvc-2"), storage.join("other"), storage.join("a/pvc-3"), storage.join("../pvc-4")] {
            place(&of(&path, LOCAL_PROVISIONER), Mode::Filesystem, &storage).unwrap_err();
            assert!(!path.exists());
        }
        std::os::unix::fs::symlink("/etc", storage.join("pvc-5")).unwrap();
        place(&of(&storage.join("pvc-5"), LOCAL_PROVISIONER), Mode::Filesystem, &storage).unwrap_err();
        assert_eq!(fs::read_dir(dirs::storage_made(&storage)).unwrap().count(), 1);
        let missing = storage.join("pvc-6");
        let why = place(&of(&missing, "example.com/p"), Mode::Filesystem, &storage).unwrap_err();
        assert_eq!(why, format!("path {missing:?} does not exist"));
    }

    #[test]
    fn what_this_node_cannot_have_is_refused() {
        let storage = Path::new("/nowhere");
        let refused = |spec: Value, mode: Mode| place(&volume(spec, Value::Null), mode, storage).unwrap_err();
        assert_eq!(
            refused(json!({"csi": {"driver": "d", "volumeHandle": "h"}}), Mode::Filesystem),
            "persistent volumes of type \"csi\" are not supported"
        );
        assert_eq!(
            refused(json!({"nfs": {"server": "s", "path": "/"}, "capacity": {"storage": "1"}}), Mode::Filesystem),
            "persistent volumes of type \"nfs\" are not supported"
        );
        assert_eq!(refused(json!({"local": {"path": "/dev/null"}}), Mode::Block), "path \"/dev/null\" is no block device");
        assert_eq!(refused(json!({"local": {"path": "/dev/null"}}), Mode::Filesystem), "only directory and block device are supported");
        assert!(refused(json!({"local": {"path": "/a/../b"}}), Mode::Filesystem).contains("'..'"));
        assert_eq!(
            place(&volume(json!({"hostPath": {"path": "/etc"}}), Value::Null), Mode::Filesystem, storage).unwrap(),
            Path::new("/etc")
        );
    }

    #[test]
    fn a_device_has_the_file_system_that_is_stated() {
        for (stated, wanted) in [(Value::Null, "ext4"), (json!(""), "ext4"), (json!("xfs"), "xfs")] {
            let volume = volume(json!({"local": {"path": "/dev/x", "fsType": stated}}), Value::Null);
            assert_eq!(file_system(volume.spec.unwrap().local.as_ref()), wanted);
        }
    }
}
