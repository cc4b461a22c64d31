//! A node's root directory and a pod -> where the pod's files stand.
//!
//! As upstream's, so that its tools find them. Source: `pkg/kubelet/kubelet_getters.go`.

use std::path::{Path, PathBuf};

/// Before a plugin's name: `kubernetes.io/`, as a directory's name can have it.
pub const PLUGIN: &str = "kubernetes.io~";

/// `<root>/pods/<uid>`.
pub fn pod(root_dir: &Path, uid: &str) -> PathBuf {
    root_dir.join("pods").join(uid)
}

/// Where a pod has a volume: `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.
pub fn volume(root_dir: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    volumes(root_dir, uid).join(format!("{PLUGIN}{plugin}")).join(name)
}

/// The link to a block volume's device: `<root>/pods/<uid>/volumeDevices/kubernetes.io~<plugin>/<name>`.
pub fn device(root_dir: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    devices(root_dir, uid).join(format!("{PLUGIN}{plugin}")).join(name)
}

/// Has a directory for each plugin, named with [`PLUGIN`].
pub fn volumes(root_dir: &Path, uid: &str) -> PathBuf {
    pod(root_dir, uid).join("volumes")
}

/// As [`volumes`], for block devices.
pub fn devices(root_dir: &Path, uid: &str) -> PathBuf {
    pod(root_dir, uid).join("volumeDevices")
}

/// Where this node's own volumes are, beside all that is the agent's: nothing here is deleted with pods.
pub fn storage(root_dir: &Path) -> PathBuf {
    root_dir.with_file_name("storage")
}

/// What was made in [`storage`], a file each: its disk may be away, and then an empty directory in its place would part the data.
pub fn storage_made(storage: &Path) -> PathBuf {
    storage.with_file_name("storage.made")
}

/// Where plugins have the sockets that they register with.
pub fn plugins_registry(root_dir: &Path) -> PathBuf {
    root_dir.join("plugins_registry")
}

/// Where volumes are that the node has once for all pods; has a directory for each plugin.
pub fn node_volumes(root_dir: &Path) -> PathBuf {
    root_dir.join("plugins/kubernetes.io")
}
