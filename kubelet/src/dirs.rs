//! A node's root directory and a pod -> where the pod's files stand.
//!
//! As upstream's, so that its tools find them. Source: `pkg/kubelet/kubelet_getters.go`.

use std::path::{Path, PathBuf};

/// `<root>/pods/<uid>`.
pub fn pod(root_dir: &Path, uid: &str) -> PathBuf {
    root_dir.join("pods").join(uid)
}
