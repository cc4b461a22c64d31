//! Directory + fsGroup -> everything in it owned by that group, with the bits the group needs.
//!
//! Source: `changeFilePermission` in `pkg/volume/volume_linux.go`.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

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
