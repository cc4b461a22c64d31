//! A directory -> the bytes of disk that it takes.
//!
//! Source: `DiskUsage` in `pkg/volume/util/fs/fs.go`.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{Stat, fstat},
    io::Errno,
};

use super::tree::{self, Inode, Visitor};

/// Directories that are moved to another while they are looked at: they are remembered, and not counted again there.
const MOVED_MAX: usize = 1024;
/// What `st_blocks` counts in, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// What all below it takes, without what is mounted there; nothing, where it is not there. Counts no further once it is more than `enough`. Where it
/// fails (what the file system says, or it takes longer than `bound`), it is as much as was found, and there is more.
pub fn of(path: &Path, enough: u64, bound: Duration) -> (u64, io::Result<()>) {
    let mut sum = Sum { device: 0, bytes: 0, enough, until: Instant::now() + bound, moved: BTreeSet::new() };
    let walked = sum.walk(path);
    (sum.bytes, walked.map_err(io::Error::from))
}

struct Sum {
    device: u64,
    bytes: u64,
    enough: u64,
    until: Instant,
    moved: BTreeSet<Inode>,
}

impl Sum {
    fn walk(&mut self, path: &Path) -> Result<(), Errno> {
        let root = match tree::open(path) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        self.device = fstat(&root)?.st_dev;
        match tree::walk(root, self) {
            Err(_) if self.bytes > self.enough => Ok(()),
            walked => walked,
        }
    }

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
        there.st_dev == self.device && !self.moved.contains(&Inode::of(there))
    }

    /// Whoever writes there does not end our count so.
    fn vanished(&mut self, dir: Inode, error: Errno) -> Result<(), Errno> {
        if error == Errno::AGAIN {
            self.moved.insert(dir);
        }
        if self.moved.len() > MOVED_MAX { Err(error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn of(path: &Path, enough: u64) -> io::Result<u64> {
        let (bytes, done) = super::of(path, enough, LONG);
        done.map(|()| bytes)
    }

    #[test]
    fn what_was_found_until_it_failed_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        let (bytes, done) = super::of(dir.path(), u64::MAX, Duration::ZERO);
        assert!(bytes >= 1 << 20 && done.is_err(), "{bytes}");
        let loops = dir.path().join("loop");
        symlink(&loops, &loops).unwrap();
        assert_eq!(super::of(&loops, u64::MAX, LONG).0, 0);
        assert!(super::of(&loops, u64::MAX, LONG).1.is_err());
    }

    #[test]
    fn directories_that_are_moved_to_and_fro_do_not_end_the_count() {
        let dir = tempfile::tempdir().unwrap();
        for parent in ["a", "b"] {
            for at in 0..20 {
                fs::create_dir_all(dir.path().join(format!("{parent}/{at}"))).unwrap();
            }
        }
        fs::create_dir_all(dir.path().join("a/moved/below")).unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("kept/file"), vec![1; 1 << 20]).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let [a, b] = ["a/moved", "b/moved"].map(|path| dir.path().join(path));
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&a, &b).and_then(|()| fs::rename(&b, &a)).unwrap();
                }
            });
            let all: Vec<_> = (0..500).map(|_| of(dir.path(), u64::MAX)).collect();
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            for bytes in all {
                let bytes = bytes.unwrap();
                assert!((1 << 20..3 << 20).contains(&bytes), "{bytes}");
            }
        });
    }

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
