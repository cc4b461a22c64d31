//! A pod's uid -> nothing left of its volumes: torn down by their plugins, unmounted, deleted. Works from what is there, not from objects.
//!
//! Upstream: `reconstruct.go` in `pkg/kubelet/volumemanager/reconciler`, `pkg/kubelet/kubelet_volumes.go`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    mount_table,
    node_volumes::NodeVolumes,
    plugin::{Host, Mode, VolumeToUnmount, blocking},
    plugins::Table,
    removal::remove_all,
};
use crate::dirs;

/// A plugin's name and a volume's.
type Names = (String, String, Mode);

/// # Errors
/// The directory that stays, and why; nothing of it is deleted while anything below it is still mounted, or a plugin fails.
pub async fn all(plugins: Table, nodes: &NodeVolumes, host: &Host, uid: &str) -> Result<(), (PathBuf, String)> {
    let (pod_dir, private) = (dirs::pod(&host.root_dir, uid), host.private.of_pod(uid));
    let failed = |why: String| (pod_dir.clone(), why);
    let (root, pod_uid) = (host.root_dir.clone(), uid.to_owned());
    let present = move || present(&root, &pod_uid).map_err(|e| format!("failed to see the pod's volumes: {e}"));
    let mut there = blocking(present).await.map_err(failed)?;
    nodes.look_again(host).await;
    for used in nodes.of_pod(uid).await {
        let (name, mode) = (used.user.volume, used.user.mode);
        let dir = mode.dir(&host.root_dir, uid, &used.plugin, &name);
        let volume = VolumeToUnmount { pod_uid: uid.into(), name: name.clone(), mode, dir, node: Some(used.volume) };
        there.insert((used.plugin, name, mode), volume);
    }
    for ((plugin, name, _), volume) in &there {
        // Of a kind that is not known there are mounts and files, and those go below.
        let Some(plugin) = plugins.iter().find(|known| known.name() == plugin) else { continue };
        if plugin.node().is_some() && volume.node.is_none() {
            // From the record the plugin would know what it is to take away. While that may be one that cannot be read, what is mounted stays: whoever
            // detaches would have it under a live mount.
            if let Some(why) = nodes.unread(plugin.name()) {
                return Err(failed(format!("UnmountVolume.TearDown failed for volume {name:?} : {why}")));
            }
            tracing::error!(uid, plugin = plugin.name(), volume = name, "a volume goes without its plugin: it has no record");
            continue;
        }
        let torn_down = plugin.tear_down(host, volume).await;
        torn_down.map_err(|why| failed(format!("UnmountVolume.TearDown failed for volume {name:?} : {why}")))?;
    }
    for dir in [pod_dir.clone(), private] {
        let at = dir.clone();
        blocking(move || remove(&dir)).await.map_err(|why| (at, why))?;
    }
    nodes.release(host, uid).await.map_err(failed)
}

/// The volumes that have a place below the pod's directory.
///
/// # Errors
/// What the file system says: what is not seen would go without its plugin.
fn present(root_dir: &Path, uid: &str) -> io::Result<BTreeMap<Names, VolumeToUnmount>> {
    let mut found = BTreeMap::new();
    for (mode, root) in [(Mode::Filesystem, dirs::volumes(root_dir, uid)), (Mode::Block, dirs::devices(root_dir, uid))] {
        for dir in names(&root)? {
            let Some(plugin) = dir.strip_prefix(dirs::PLUGIN) else { continue };
            for name in names(&root.join(&dir))? {
                let dir = mode.dir(root_dir, uid, plugin, &name);
                let volume = VolumeToUnmount { pod_uid: uid.into(), name: name.clone(), mode, dir, node: None };
                found.insert((plugin.to_owned(), name, mode), volume);
            }
        }
    }
    Ok(found)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}

/// Unmounts all below a directory, then deletes it.
fn remove(dir: &Path) -> Result<(), String> {
    if !dir.exists() {
        return Ok(());
    }
    mount_table::unmount_below(dir).map_err(|e| format!("unmount: {e}"))?;
    // A bind mount still there would have its source's files deleted.
    let left = mount_table::below(dir).map_err(|e| e.to_string())?;
    if let Some(point) = left.first() {
        return Err(format!("{} is still mounted", point.display()));
    }
    remove_all(dir).map_err(|e| e.to_string())
}
