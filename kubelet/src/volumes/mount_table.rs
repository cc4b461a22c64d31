//! The kernel's mount table -> what is mounted below a directory, and that unmounted.

use std::{
    borrow::Cow,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, major, minor, statx},
    io::Errno,
    mount::{UnmountFlags, unmount},
};

/// All mount points at or below `dir`, innermost first.
///
/// # Errors
/// Where the table cannot be read.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points = points(&table, dir);
    points.reverse();
    Ok(points)
}

/// Whether `path` itself is a mount point.
///
/// Asks for the path alone: the table grows with every pod, and each look at a pod's volumes would read all of it.
///
/// # Errors
/// Where the path, or (before Linux 5.8) the table, cannot be read.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        Ok(seen) if seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // An older kernel does not say, or does not know the call.
        Ok(_) | Err(Errno::NOSYS) => Ok(below(path)?.iter().any(|p| p == path)),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all at or below `dir`.
///
/// # Errors
/// The first that is refused.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in below(dir)? {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// Where a device is mounted: by its number, since one of the device mapper stands there by another name, or by this name, since a file system may have
/// a number of its own (btrfs).
///
/// # Errors
/// Where the device or the table cannot be read.
pub fn of_source(device: &Path) -> io::Result<Vec<PathBuf>> {
    let there = fs::metadata(device)?;
    let number = there.file_type().is_block_device().then(|| format!("{}:{}", major(there.rdev()), minor(there.rdev())));
    Ok(mounted(&fs::read_to_string("/proc/self/mountinfo")?, device, number.as_deref()))
}

fn mounted(table: &str, device: &Path, number: Option<&str>) -> Vec<PathBuf> {
    let of = |line: &str| {
        let source = line.split_once(" - ")?.1.split(' ').nth(1).map(unescaped)?;
        let mut fields = line.split(' ').skip(2);
        let is_it = fields.next() == number && number.is_some() || Path::new(&*source) == device;
        let point = fields.nth(1).map(unescaped)?;
        is_it.then(|| PathBuf::from(point.into_owned()))
    };
    table.lines().filter_map(of).collect()
}

/// In the table's order, outermost first.
fn points(table: &str, dir: &Path) -> Vec<PathBuf> {
    let all = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    all.filter(|point| Path::new(&**point).starts_with(dir)).map(|point| PathBuf::from(point.into_owned())).collect()
}

/// Space, tab, newline and backslash stand as `\040` and so on.
pub fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    Cow::Owned(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let wanted = [("/proc", true), ("/proc/self", false), ("/", true)];
        for (path, mounted) in wanted {
            assert_eq!(is_mounted(Path::new(path)).unwrap(), mounted, "{path}");
        }
        for name in [".", "link", "none", "none/deeper"] {
            assert!(!is_mounted(&dir.path().join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn the_table_is_read() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:5 / /a\\040b rw shared:1 - tmpfs x rw\n3 1 0:6 / /ab rw - tmpfs x rw\n";
        assert_eq!(points(table, Path::new("/")), [PathBuf::from("/"), PathBuf::from("/a b"), PathBuf::from("/ab")]);
        assert_eq!(points(table, Path::new("/a b")), [PathBuf::from("/a b")]);
        assert_eq!(mounted(table, Path::new("x"), None).len(), 3);
        assert!(mounted(table, Path::new("y"), None).is_empty());
        assert_eq!(mounted(table, Path::new("y"), Some("0:5")), [PathBuf::from("/a b")]);
    }
}
