//! The directory of what runs -> a file system in memory, where it is on a disk.
//!
//! What is in it means nothing after a reboot. Each pod makes and removes some hundred small files there: on flash that is wear for nothing,
//! and ext4 looks long for free inodes where many were deleted a moment ago.

use std::path::Path;

use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
};

use super::{Error, Layout, Process, at};

/// linux/magic.h: `TMPFS_MAGIC`
const TMPFS: i64 = 0x0102_1994;

/// Once for each boot, and never over the state of something that runs. Where it cannot be mounted, the state stays on the disk.
///
/// # Errors
/// The directory cannot be made.
pub fn in_memory(layout: &Layout) -> Result<(), Error> {
    let dir = &layout.state;
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    if is_in_memory(dir) || super::is_running(layout) || !Process::shims(layout).is_empty() {
        return Ok(());
    }
    if let Err(error) = mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0711") {
        tracing::warn!(%error, dir = %dir.display(), "failed to mount a tmpfs for containerd's state; using the disk");
    }
    Ok(())
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
        std::fs::create_dir_all(&layout.state).unwrap();
        std::fs::write(layout.state.join("of-the-last-boot"), "").unwrap();
        in_memory(&layout).unwrap();
        in_memory(&layout).unwrap();
        assert!(is_in_memory(&layout.state));
        assert_eq!(std::fs::read_dir(&layout.state).unwrap().count(), 0);
        unmount_below(&layout.state).unwrap();
        assert!(layout.state.join("of-the-last-boot").exists(), "one mount");
    }
}
