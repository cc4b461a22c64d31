//! The directory of all pods -> a shared mount, so that what a container mounts with `Bidirectional` propagation shows on the node and in others.
//!
//! Source: `doMakeRShared` in `pkg/volume/util/hostutil/hostutil_linux.go`. Where systemd is, `/` is shared already, and nothing is done.

use std::{fs, io, path::Path};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::mount_table;

/// Once for each boot, before anything is mounted below: of what is, the new mount would have a second one, and the first could not be unmounted by its
/// path any more. It is undone by [`super::unmount_below`].
///
/// # Errors
/// What the system says; containers then have no such volumes.
pub fn make_shared(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let dir = &fs::canonicalize(dir)?;
    if is_shared(&fs::read_to_string("/proc/self/mountinfo")?, dir) {
        return Ok(());
    }
    if !mount_table::below(dir)?.is_empty() {
        return Err(io::Error::other("volumes are mounted there already: it is done after the next boot"));
    }
    mount_bind(dir, dir)?;
    mount_change(dir, MountPropagationFlags::SHARED).or_else(|error| {
        unmount(dir, UnmountFlags::DETACH)?;
        Err(error.into())
    })
}

/// Whether the mount that a directory is on is one whose mounts others see.
fn is_shared(table: &str, dir: &Path) -> bool {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let point = mount_table::unescaped(fields.next()?).into_owned();
        // After the options, up to a dash.
        let shared = fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
        dir.starts_with(&point).then_some((point.len(), shared))
    });
    // Of two at one point the later one is above.
    mounts.max_by_key(|(length, _)| *length).is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::unmount_below;

    #[test]
    fn the_mount_that_is_above_counts() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 x rw\n2 1 0:5 / /a\\040b rw - tmpfs x rw\n3 1 0:6 / /a\\040b rw shared:2 master:3 - tmpfs x rw\n4 1 0:6 / /c rw - tmpfs shared:x rw\n";
        for (dir, shared) in [("/d", true), ("/a b/x", true), ("/c/x", false), ("/cd", true)] {
            assert_eq!(is_shared(table, Path::new(dir)), shared, "{dir}");
        }
        assert!(!is_shared("", Path::new("/")));
    }

    /// Root, as all tests that mount.
    #[test]
    fn it_is_made_shared_once_and_not_over_what_is_mounted_below() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("kubelet");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::write(root.join("kept"), "").unwrap();
        let mounted = || crate::volumes::directories::tmpfs(&root.join("in"), None, 0o755).unwrap();
        if !is_shared(&fs::read_to_string("/proc/self/mountinfo").unwrap(), &fs::canonicalize(&root).unwrap()) {
            mounted();
            let refused = make_shared(&root).map_err(|error| error.to_string());
            unmount_below(&root).unwrap();
            assert_eq!(refused.unwrap_err(), "volumes are mounted there already: it is done after the next boot");
        }
        make_shared(&root).unwrap();
        mounted();
        fs::write(root.join("in/seen"), "").unwrap();
        let first = mount_table::below(&root).unwrap().len();
        make_shared(&root).unwrap();
        let (second, seen) = (mount_table::below(&root).unwrap().len(), root.join("in/seen").exists() && root.join("kept").exists());
        let shared = is_shared(&fs::read_to_string("/proc/self/mountinfo").unwrap(), &fs::canonicalize(&root).unwrap());
        unmount_below(&root).unwrap();
        assert!(shared && seen && mount_table::below(&root).unwrap().is_empty());
        assert_eq!(first, second);
    }
}
