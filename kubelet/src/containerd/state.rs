//! The directory of what runs -> a file system in memory, where it is on a disk.
//!
//! What is in it means nothing after a reboot. Each pod makes and removes some hundred small files there: on flash that is wear for nothing,
//! and ext4 looks long for free inodes where many were deleted a moment ago.

use std::{fs, os::unix::fs::symlink, path::Path};

use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
};

use super::{Error, Layout, Process, at};

/// linux/magic.h: `TMPFS_MAGIC`
const TMPFS: i64 = 0x0102_1994;

/// What containerd keeps with its images, but is state: how each container fares (written anew, and synced, at each step of its life), and
/// working directories of shims. Not what containers may write to (their hosts and resolv.conf): that must not fill the memory.
const STATE_IN_ROOT: [&str; 2] = ["io.containerd.grpc.v1.cri/containers", "io.containerd.runtime.v2.task"];

/// Once for each boot, and never over the state of something that runs. Where it cannot be mounted, the state stays on the disk.
///
/// # Errors
/// A directory cannot be made.
pub fn in_memory(layout: &Layout) -> Result<(), Error> {
    let dir = &layout.state;
    fs::create_dir_all(dir).map_err(at(dir))?;
    if super::is_running(layout) || !Process::shims(layout).is_empty() {
        return Ok(());
    }
    if !is_in_memory(dir)
        && let Err(error) = mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0711")
    {
        tracing::warn!(%error, dir = %dir.display(), "containerd's state is on the disk");
    }
    STATE_IN_ROOT.iter().try_for_each(|name| link(&layout.root.join(name), &dir.join("root").join(name)))
}

/// A link to `to`, which is made, in place of a directory.
fn link(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(at(to))?;
    if fs::read_link(from).is_ok_and(|found| found == to) {
        return Ok(());
    }
    if let Some(parent) = from.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    // Of an earlier version: nothing runs, so it is of containers that are gone.
    let _ = fs::remove_dir_all(from);
    let _ = fs::remove_file(from);
    symlink(to, from).map_err(at(from))
}

fn is_in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|found| found.f_type == TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::unmount_below;

    /// Root, as all tests that mount.
    #[tokio::test]
    async fn it_is_mounted_once_and_goes_with_what_is_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::under(&dir.path().join("data"), &dir.path().join("run"));
        fs::create_dir_all(&layout.state).unwrap();
        fs::write(layout.state.join("of-the-last-boot"), "").unwrap();
        let statuses = layout.root.join(STATE_IN_ROOT[0]);
        fs::create_dir_all(statuses.join("of-a-container")).unwrap();
        in_memory(&layout).unwrap();
        fs::write(statuses.join("of-a-container"), "").unwrap();
        in_memory(&layout).unwrap();
        assert!(is_in_memory(&layout.state) && is_in_memory(&statuses));
        assert!(statuses.join("of-a-container").is_file(), "made once");
        assert!(!layout.state.join("of-the-last-boot").exists());
        unmount_below(&layout.state).unwrap();
        assert!(layout.state.join("of-the-last-boot").exists(), "one mount");
    }
}
