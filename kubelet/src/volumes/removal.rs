//! A directory -> nothing left of it, however deep it is and whatever containers have made in it.
//!
//! In place of std's `remove_dir_all`, whose stack and descriptors grow with the depth of the tree: a container makes it as deep as it likes.

use std::{
    ffi::{CStr, CString},
    io,
    path::Path,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat},
    io::Errno,
};

/// Names of directories that were moved up and are remembered; the others are found again.
const NAMES_MAX: usize = 1024;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory and all below it; links themselves, never what they point to. Full directories below the first level are moved up to
/// it, and so no more than four descriptors are open. Nothing that is mounted below is entered. Where one thing stays the others go.
///
/// # Errors
/// The first that the file system says, a mount point (EBUSY) among it; none where there is nothing.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let top = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut removal = Removal { top, moved: 0, is_any_removed: false, failed: None };
    while removal.pass()? {
        if let Some(error) = removal.failed.take().filter(|_| !removal.is_any_removed) {
            return Err(error.into());
        }
    }
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

struct Removal {
    top: OwnedFd,
    /// Directories were moved up to names of numbers below this one.
    moved: u64,
    /// In this pass.
    is_any_removed: bool,
    failed: Option<Errno>,
}

impl Removal {
    /// Goes through the top once; whether anything was there.
    fn pass(&mut self) -> io::Result<bool> {
        (self.is_any_removed, self.failed) = (false, None);
        let (mut is_any, mut names) = (false, Vec::new());
        let mut entries = Dir::read_from(&self.top)?;
        while let Some(name) = next(&mut entries)? {
            is_any = true;
            names.push(name);
            while let Some(name) = names.pop() {
                let done = self.remove(&name, &mut names);
                self.note(done);
            }
        }
        Ok(is_any)
    }

    fn note(&mut self, done: Result<(), Errno>) {
        match done {
            Ok(()) => self.is_any_removed = true,
            Err(error) => self.failed = self.failed.or(Some(error)),
        }
    }

    /// One entry of the top. Directories in it that are not empty are moved to the top, and `names`.
    fn remove(&mut self, name: &CStr, names: &mut Vec<CString>) -> Result<(), Errno> {
        // Not empty, and so no mount point, of which the kernel says so first, unless it is one by now.
        if remove_one(&self.top, name)? {
            return Ok(());
        }
        let mut child = Dir::new(openat2(&self.top, name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV)?)?;
        while let Some(below) = next(&mut child)? {
            match remove_one(child.fd()?, &below) {
                Ok(false) => match self.move_up(child.fd()?, &below) {
                    Ok(moved) if names.len() < NAMES_MAX => names.push(moved),
                    Ok(_) => {}
                    Err(error) => self.note(Err(error)),
                },
                done => self.note(done.map(drop)),
            }
        }
        unlinkat(&self.top, name, AtFlags::REMOVEDIR)
    }

    fn move_up(&mut self, dir: impl AsFd, name: &CStr) -> Result<CString, Errno> {
        loop {
            let free = CString::new(format!("removed-{}", self.moved)).map_err(|_| Errno::INVAL)?;
            self.moved += 1;
            match renameat(&dir, name, &self.top, free.as_c_str()) {
                // Somebody's, or of a removal that did not come to its end.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                done => return done.map(|()| free),
            }
        }
    }
}

/// Whether it is gone: `false` of a directory that is not empty.
fn remove_one(dir: impl AsFd, name: &CStr) -> Result<bool, Errno> {
    let why = match unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // POSIX' word for directories is the second.
        Err(why @ (Errno::ISDIR | Errno::PERM)) => why,
        Err(why) => return Err(why),
    };
    match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::NOTDIR) => Err(why),
        Err(why) => Err(why),
    }
}

/// The next entry's name.
fn next(dir: &mut Dir) -> Result<Option<CString>, Errno> {
    while let Some(entry) = dir.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::volumes::testing::{deep, on_small_stack, quick_dir};

    #[test]
    fn depth_takes_no_stack() {
        let dir = quick_dir();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        deep(&volume, 20_000);
        let removed = volume.clone();
        on_small_stack(move || remove_all(&removed)).unwrap();
        assert!(!volume.exists());
        remove_all(&volume).unwrap();
    }

    #[test]
    fn links_go_and_what_they_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("volume"), dir.path().join("other"));
        fs::create_dir_all(volume.join("a/b/c")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        for link in ["link", "a/link", "a/b/link", "a/b/c/link"] {
            symlink(&other, volume.join(link)).unwrap();
        }
        remove_all(&volume).unwrap();
        assert!(!volume.exists() && other.join("kept").exists());
        symlink(&other, &volume).unwrap();
        remove_all(&volume).unwrap_err();
        assert!(other.join("kept").exists());
    }

    #[test]
    fn names_that_directories_are_moved_to_may_be_taken() {
        let dir = quick_dir();
        let volume = dir.path().join("volume");
        for at in 0..20 {
            fs::create_dir_all(volume.join(format!("a/{at}/b/c"))).unwrap();
            fs::create_dir_all(volume.join(format!("removed-{at}/removed-{at}/full"))).unwrap();
        }
        fs::write(volume.join("removed-20"), "").unwrap();
        remove_all(&volume).unwrap();
        assert!(!volume.exists());
    }

    #[test]
    fn more_directories_than_are_remembered_go() {
        let dir = quick_dir();
        let volume = dir.path().join("volume");
        for at in 0..NAMES_MAX + 20 {
            fs::create_dir_all(volume.join(format!("a/{at}/b"))).unwrap();
        }
        remove_all(&volume).unwrap();
        assert!(!volume.exists());
    }

    #[test]
    fn what_is_mounted_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, other) = (dir.path().join("volume"), dir.path().join("other"));
        for made in [volume.join("a/b/point"), volume.join("point"), other.clone()] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(other.join("kept"), "").unwrap();
        let points = [volume.join("a/b/point"), volume.join("point")];
        for point in &points {
            if rustix::mount::mount_bind(&other, point).is_err() {
                eprintln!("not run: this user may mount nothing");
                return;
            }
        }
        let why = remove_all(&volume).unwrap_err();
        let left = crate::volumes::mount_table::below(&volume).unwrap();
        assert!(other.join("kept").exists());
        for point in &left {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        assert_eq!((why.raw_os_error(), left.len()), (Some(Errno::BUSY.raw_os_error()), 2));
        remove_all(&volume).unwrap();
        assert!(!volume.exists() && other.join("kept").exists());
    }
}
