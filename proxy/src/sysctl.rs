//! A kernel setting -> its file under /proc/sys, written only where it differs.

use std::{fs, io, path::Path};

/// `name` with slashes: `net/ipv4/ip_forward`.
///
/// # Errors
/// What the kernel says; a setting that is not there is `NotFound`.
pub fn set(name: &Path, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}
