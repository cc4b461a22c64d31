//! Directory + fsGroup -> everything in it owned by that group, with the bits the group needs.
//!
//! Source: `changeFilePermission` in `pkg/volume/volume_linux.go`.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

use api::k8s::api::core::v1::Pod;

use crate::meta;

/// What the group may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// Changes `path` and all below it; links themselves, never what they point to.
///
/// # Errors
/// What the file system says.
pub fn apply(path: &Path, group: u32, access: Access) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if there.is_symlink() {
        return Ok(());
    }
    let bits = if access == Access::ReadOnly { 0o440 } else { 0o660 };
    let bits = if there.is_dir() { bits | 0o2110 } else { bits };
    fs::set_permissions(path, fs::Permissions::from_mode((there.mode() & 0o7777) | bits))?;
    if there.is_dir() {
        for entry in fs::read_dir(path)? {
            apply(&entry?.path(), group, access)?;
        }
    }
    Ok(())
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
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn the_user_is_that_of_all_containers() {
        assert_eq!(fs_user(&pod(r#"{"securityContext":{"runAsUser":5},"containers":[{"name":"a"},{"name":"b"}]}"#)), Some(5));
        assert_eq!(fs_user(&pod(r#"{"containers":[{"name":"a","securityContext":{"runAsUser":5}},{"name":"b"}]}"#)), None);
    }
}
