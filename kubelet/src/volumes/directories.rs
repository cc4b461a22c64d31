//! A path -> a directory there, on disk or in memory.

use std::{ffi::CString, fs, io, os::unix::fs::PermissionsExt, path::Path};

use rustix::mount::{MountFlags, mount};

/// A directory that everybody may write to.
///
/// # Errors
/// What the file system says.
pub fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

/// Mounts memory, open to whom `mode` says.
///
/// # Errors
/// What the system says.
pub fn tmpfs(dir: &Path, size_bytes: Option<i64>, mode: u32) -> io::Result<()> {
    let (mode, size) = (format!("mode={mode:o}"), size_bytes.map(|bytes| format!("size={bytes}")));
    let options = |first: Option<&str>| {
        let all: Vec<&str> = first.into_iter().chain(size.as_deref()).chain([mode.as_str()]).collect();
        CString::new(all.join(",")).unwrap_or_default()
    };
    // Older kernels do not know `noswap`.
    for text in [options(Some("noswap")), options(None)] {
        match mount("tmpfs", dir, "tmpfs", MountFlags::empty(), text.as_c_str()) {
            Err(rustix::io::Errno::INVAL) => {}
            done => return Ok(done?),
        }
    }
    Err(rustix::io::Errno::INVAL.into())
}

/// Mounts huge pages of that size, so many bytes of them.
///
/// # Errors
/// What the system says.
pub fn hugetlbfs(dir: &Path, page: &str, bytes: i64) -> io::Result<()> {
    let options = CString::new(format!("pagesize={page},size={bytes}")).unwrap_or_default();
    Ok(mount("nodev", dir, "hugetlbfs", MountFlags::empty(), options.as_c_str())?)
}
