//! Directory + fsGroup -> everything in it owned by that group, with the bits the group needs.
//!
//! Source: `changeFilePermission` in `pkg/volume/volume_linux.go`.

use std::{io, os::unix::fs::MetadataExt, path::Path};

use api::k8s::api::core::v1::Pod;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{AtFlags, CWD, Gid, Mode, Stat, chmod, chownat, fchmod, fchown, fstat},
    io::Errno,
};

use super::tree::{self, Visitor, pin};
use crate::meta;

/// What the group may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// Changes `path` and all below it; links themselves, never what they point to, whoever else writes there meanwhile: what is changed is what
/// was looked at. A directory is changed after what is in it, so that one that is as wanted (`OnRootMismatch`) was gone through to its end.
///
/// # Errors
/// What the file system says, but for files that vanish below `path`; a directory that was moved to another while its content was changed.
pub fn apply(path: &Path, group: u32, access: Access) -> io::Result<()> {
    let mut change = Change { group: Gid::from_raw(group), bits: if access == Access::ReadOnly { 0o440 } else { 0o660 } };
    let pinned = pin(CWD, path)?;
    let there = fstat(&pinned)?;
    if !tree::kind(&there).is_dir() {
        return Ok(change.file(&pinned, &there)?);
    }
    Ok(tree::walk(tree::open(path)?, &mut change)?)
}

/// Gives all to a pod's group to read and write, unless its policy leaves alone what looks as if it were. Source: `skipPermissionChange` there.
///
/// # Errors
/// As [`apply`].
pub fn apply_as_wanted(path: &Path, group: u32, pod: &Pod) -> io::Result<()> {
    let policy = meta::spec(pod).and_then(|spec| spec.security_context.as_ref()?.fs_group_change_policy.as_deref());
    let root = std::fs::metadata(path)?;
    if policy == Some("OnRootMismatch") && root.gid() == group && root.mode() & 0o2770 == 0o2770 {
        return Ok(());
    }
    apply(path, group, Access::ReadWrite)
}

struct Change {
    group: Gid,
    /// Those of files.
    bits: u32,
}

impl Visitor for Change {
    /// What a pinned descriptor stands for, by way of the kernel's own link to it: a name could be another's by now.
    fn file(&mut self, pinned: &OwnedFd, there: &Stat) -> Result<(), Errno> {
        chownat(pinned, c"", None, Some(self.group), AtFlags::EMPTY_PATH)?;
        if tree::kind(there).is_symlink() {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(there.st_mode & 0o7777 | self.bits);
        chmod(format!("/proc/self/fd/{}", pinned.as_raw_fd()), mode)
    }

    fn directory(&mut self, dir: &OwnedFd) -> Result<(), Errno> {
        let there = fstat(dir)?;
        fchown(dir, None, Some(self.group))?;
        fchmod(dir, Mode::from_raw_mode(there.st_mode & 0o7777 | self.bits | 0o2110))
    }
}

/// The pod's `fsGroup`.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = meta::spec(pod)?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The one user that all containers run as; `None` where one has none or they differ. Source: `FsUserFrom` in `pkg/volume/util/util.go`.
pub fn fs_user(pod: &Pod) -> Option<i64> {
    let of_pod = meta::spec(pod).and_then(|s| s.security_context.as_ref()?.run_as_user);
    let mut users = meta::containers(pod).map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;
    use crate::{
        container_config::testing::pod,
        volumes::testing::{deep, on_small_stack, quick_dir},
    };

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn make(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn all_below_is_the_groups_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("volume"), dir.path().join("other"));
        // Root gives to any group, others to their own.
        let own = fs::metadata(dir.path()).unwrap();
        let group = if own.uid() == 0 { 4321 } else { own.gid() };
        for made in [&volume.join("a/b"), &other] {
            fs::create_dir_all(made).unwrap();
            fs::set_permissions(made, fs::Permissions::from_mode(0o700)).unwrap();
        }
        make(&volume.join("a/b/file"), 0o604);
        make(&other.join("secret"), 0o600);
        symlink(&other, volume.join("a/dir")).unwrap();
        symlink(other.join("secret"), volume.join("a/b/link")).unwrap();
        apply(&volume, group, Access::ReadWrite).unwrap();
        assert_eq!((mode(&volume.join("a/b")), mode(&volume.join("a/b/file"))), (0o2770, 0o664));
        assert_eq!((mode(&other), mode(&other.join("secret"))), (0o700, 0o600));
        for path in ["", "a", "a/b", "a/b/file", "a/b/link", "a/dir"] {
            assert_eq!(fs::symlink_metadata(volume.join(path)).unwrap().gid(), group, "{path}");
        }
        assert_eq!((fs::metadata(&other).unwrap().gid(), fs::metadata(other.join("secret")).unwrap().gid()), (own.gid(), own.gid()));
        apply(&volume.join("a/dir"), group, Access::ReadWrite).unwrap();
        assert_eq!(mode(&other), 0o700);
    }

    #[test]
    fn what_is_swapped_or_vanishes_between_two_steps_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("volume"), dir.path().join("other"));
        fs::create_dir_all(volume.join("swapped")).unwrap();
        fs::create_dir(volume.join("gone")).unwrap();
        fs::create_dir(&other).unwrap();
        make(&volume.join("file"), 0o600);
        make(&other.join("secret"), 0o600);
        let root = tree::open(&volume).unwrap();
        let mut change = Change { group: Gid::from_raw(fs::metadata(&volume).unwrap().gid()), bits: 0o660 };
        let mut level = tree::files(&root, &mut change).unwrap();
        level.left.sort();
        assert_eq!(level.left, [c"gone".to_owned(), c"swapped".to_owned()]);
        fs::remove_dir(volume.join("gone")).unwrap();
        fs::remove_dir(volume.join("swapped")).unwrap();
        symlink(&other, volume.join("swapped")).unwrap();
        assert!(level.left.iter().all(|name| tree::enter(&root, name.as_c_str()).unwrap().is_none()));
        // What was looked at is changed, not what has its name now.
        let pinned = pin(&root, c"file").unwrap();
        fs::remove_file(volume.join("file")).unwrap();
        symlink(other.join("secret"), volume.join("file")).unwrap();
        change.file(&pinned, &fstat(&pinned).unwrap()).unwrap();
        assert_eq!((fstat(&pinned).unwrap().st_mode & 0o7777, mode(&other.join("secret"))), (0o660, 0o600));
        apply(&dir.path().join("none"), change.group.as_raw(), Access::ReadWrite).unwrap_err();
    }

    #[test]
    fn depth_takes_no_stack() {
        let dir = quick_dir();
        let group = fs::metadata(dir.path()).unwrap().gid();
        deep(dir.path(), 20_000);
        let volume = dir.path().to_owned();
        on_small_stack(move || apply(&volume, group, Access::ReadOnly)).unwrap();
        assert_eq!(mode(&dir.path().join("d")) & 0o2110, 0o2110);
        crate::volumes::removal::remove_all(&dir.path().join("d")).unwrap();
    }

    #[test]
    fn the_user_is_that_of_all_containers() {
        assert_eq!(fs_user(&pod(r#"{"securityContext":{"runAsUser":5},"containers":[{"name":"a"},{"name":"b"}]}"#)), Some(5));
        assert_eq!(fs_user(&pod(r#"{"containers":[{"name":"a","securityContext":{"runAsUser":5}},{"name":"b"}]}"#)), None);
    }
}
