//! The kernel's mount table -> what is mounted below a directory, and that unmounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

/// All mount points at or below `dir`, innermost first.
///
/// # Errors
/// Where the table cannot be read.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(points(&table).into_iter().rev().filter(|p| p.starts_with(dir)).collect())
}

/// Whether `path` itself is a mount point.
///
/// # Errors
/// Where the table cannot be read.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|p| p == path))
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

fn points(table: &str) -> Vec<PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|p| PathBuf::from(unescaped(p))).collect()
}

/// Space, tab, newline and backslash stand as `\040` and so on.
fn unescaped(text: &str) -> String {
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
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:5 / /a\\040b rw shared:1 - tmpfs x rw\n";
        assert_eq!(points(table), [PathBuf::from("/"), PathBuf::from("/a b")]);
    }
}
