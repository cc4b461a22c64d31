//! Directory -> all in it visited, whoever writes there meanwhile.
//!
//! Every step is made from the directory before, and links are never followed. Three descriptors and the names of the directories on the way
//! are held, no stack: a container makes a tree as deep as it likes.

use std::{ffi::CString, os::fd::AsFd, path::Path};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
    path::Arg,
};

/// A directory itself, opened to be read.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is done with each.
pub trait Visitor {
    /// What is no directory, pinned: a link is itself.
    ///
    /// # Errors
    /// They end the walk.
    fn file(&mut self, pinned: &OwnedFd, there: &Stat) -> Result<(), Errno>;

    /// After all that is in it.
    ///
    /// # Errors
    /// They end the walk.
    fn directory(&mut self, dir: &OwnedFd) -> Result<(), Errno>;

    /// Whether a directory is gone through.
    fn enters(&self, _there: &Stat) -> bool {
        true
    }
}

/// A directory that is gone through.
pub struct Level {
    device: u64,
    inode: u64,
    /// Directories in it that are not gone through yet.
    pub left: Vec<CString>,
}

/// The directory, to be walked.
///
/// # Errors
/// Where it is none.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, DIRECTORY, Mode::empty())
}

/// Visits all below `root`, and it at last.
///
/// # Errors
/// The first, but for files that vanish; a directory that was moved to another while its content was visited (EAGAIN).
pub fn walk(root: OwnedFd, visitor: &mut impl Visitor) -> Result<(), Errno> {
    let (mut levels, mut here) = (vec![files(&root, visitor)?], root);
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            if let Some(below) = enter(&here, name)? {
                levels.push(files(&below, visitor)?);
                here = below;
            }
            continue;
        }
        visitor.directory(&here)?;
        levels.pop();
        if let Some(above) = levels.last() {
            here = openat(&here, c"..", DIRECTORY, Mode::empty())?;
            let there = fstat(&here)?;
            if (there.st_dev, there.st_ino) != (above.device, above.inode) {
                return Err(Errno::AGAIN);
            }
        }
    }
    Ok(())
}

/// Visits what is no directory, and finds those that are.
///
/// # Errors
/// As [`walk`].
pub fn files(dir: &OwnedFd, visitor: &mut impl Visitor) -> Result<Level, Errno> {
    let there = fstat(dir)?;
    let mut level = Level { device: there.st_dev, inode: there.st_ino, left: Vec::new() };
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let file = match pin(dir, name) {
            Err(Errno::NOENT) => continue,
            pinned => pinned?,
        };
        let there = fstat(&file)?;
        if !kind(&there).is_dir() {
            visitor.file(&file, &there)?;
        } else if visitor.enters(&there) {
            level.left.push(name.to_owned());
        }
    }
    Ok(level)
}

/// Whatever is there, not opened.
///
/// # Errors
/// What the file system says.
pub fn pin(dir: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The directory of that name, `None` where there is none any more.
///
/// # Errors
/// What the file system says.
pub fn enter(dir: impl AsFd, name: impl Arg) -> Result<Option<OwnedFd>, Errno> {
    match openat(dir, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => opened.map(Some),
    }
}

pub fn kind(there: &Stat) -> FileType {
    FileType::from_raw_mode(there.st_mode)
}
