//! A directory -> the bytes of disk that it takes.
//!
//! Source: `DiskUsage` in `pkg/volume/util/fs/fs.go`.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{Stat, fstat},
    io::Errno,
};

use super::tree::{self, Visitor};

/// For one directory: a disk that is slower is not kept busy by us for longer.
const WALK_BOUND: Duration = Duration::from_secs(30);
/// What `st_blocks` counts in, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// What all below it takes, without what is mounted there; nothing, where it is not there. Counts no further once it is more than `enough`.
///
/// # Errors
/// What the file system says; where it changes under us, or takes too long. Ask again.
pub fn of(path: &Path, enough: u64) -> io::Result<u64> {
    let root = match tree::open(path) {
        Err(Errno::NOENT) => return Ok(0),
        opened => opened?,
    };
    let there = fstat(&root)?;
    let mut sum = Sum { device: there.st_dev, bytes: 0, enough, until: Instant::now() + WALK_BOUND };
    match tree::walk(root, &mut sum) {
        Err(error) if sum.bytes <= enough => Err(error.into()),
        _ => Ok(sum.bytes),
    }
}

struct Sum {
    device: u64,
    bytes: u64,
    enough: u64,
    until: Instant,
}

impl Sum {
    fn add(&mut self, there: &Stat) -> Result<(), Errno> {
        // A file of several names is a share of each of them: all are within the volume, since links lead across no mount. None is remembered.
        let names = if tree::kind(there).is_dir() { 1 } else { there.st_nlink.max(1) };
        self.bytes += u64::try_from(there.st_blocks).unwrap_or(0) * BLOCK / names;
        match () {
            () if self.bytes > self.enough => Err(Errno::FBIG),
            () if Instant::now() > self.until => Err(Errno::TIME),
            () => Ok(()),
        }
    }
}

impl Visitor for Sum {
    fn file(&mut self, _pinned: &OwnedFd, there: &Stat) -> Result<(), Errno> {
        self.add(there)
    }

    fn directory(&mut self, dir: &OwnedFd) -> Result<(), Errno> {
        self.add(&fstat(dir)?)
    }

    fn enters(&self, there: &Stat) -> bool {
        there.st_dev == self.device
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_written_counts_once_and_what_links_lead_to_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("volume"), dir.path().join("other"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("big"), vec![1; 4 << 20]).unwrap();
        symlink(other.join("big"), volume.join("a/link")).unwrap();
        symlink(&other, volume.join("a/dir")).unwrap();
        let empty = of(&volume, u64::MAX).unwrap();
        assert!(empty < 1 << 20, "{empty}");
        fs::write(volume.join("a/b/file"), vec![1; 2 << 20]).unwrap();
        fs::hard_link(volume.join("a/b/file"), volume.join("again")).unwrap();
        let full = of(&volume, u64::MAX).unwrap();
        assert!((2 << 20..3 << 20).contains(&full), "{full}");
        // Holes take nothing.
        fs::File::create(volume.join("holes")).unwrap().set_len(1 << 30).unwrap();
        assert!(of(&volume, u64::MAX).unwrap() < 3 << 20);
        assert!(of(&volume, 1 << 20).unwrap() > 1 << 20);
        assert_eq!(of(&dir.path().join("none"), 0).unwrap(), 0);
    }
}
