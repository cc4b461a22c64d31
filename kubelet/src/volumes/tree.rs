//! Directory -> all in it visited, whoever writes there meanwhile.
//!
//! Every step is made from the directory before, and links are never followed. Four descriptors and the names of the directories on the way
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

    /// A directory was deleted (NOENT) or moved to another (AGAIN) while its content was visited. What else is there is visited where this is no error.
    ///
    /// # Errors
    /// They end the walk.
    fn vanished(&mut self, _dir: Inode, error: Errno) -> Result<(), Errno> {
        Err(error)
    }
}

/// A device, and what is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(u64, u64);

impl Inode {
    pub fn of(there: &Stat) -> Self {
        Self(there.st_dev, there.st_ino)
    }
}

/// A directory that is gone through.
pub struct Level {
    inode: Inode,
    /// In the level above; empty at the root.
    name: CString,
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
/// The first, but for files that vanish; and for directories that do, as [`Visitor::vanished`] has it.
pub fn walk(root: OwnedFd, visitor: &mut impl Visitor) -> Result<(), Errno> {
    let (mut levels, mut here) = (vec![files(&root, visitor)?], openat(&root, c".", DIRECTORY, Mode::empty())?);
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            let Some(below) = enter(&here, name.as_c_str())? else { continue };
            match files(&below, visitor) {
                Ok(level) => {
                    levels.push(Level { name, ..level });
                    here = below;
                }
                Err(Errno::NOENT) => visitor.vanished(Inode::of(&fstat(&below)?), Errno::NOENT)?,
                Err(error) => return Err(error),
            }
            continue;
        }
        visitor.directory(&here)?;
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last() else { break };
        here = match leave(&here, above) {
            Ok(above) => above,
            Err(error @ (Errno::NOENT | Errno::AGAIN)) => {
                visitor.vanished(done.inode, error)?;
                find_again(&root, &mut levels)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// The directory above, where it is still the one that we came from.
fn leave(here: &OwnedFd, above: &Level) -> Result<OwnedFd, Errno> {
    let opened = openat(here, c"..", DIRECTORY, Mode::empty())?;
    if Inode::of(&fstat(&opened)?) == above.inode { Ok(opened) } else { Err(Errno::AGAIN) }
}

/// The deepest directory on the way that is still where it was. The levels below it are given up.
fn find_again(root: &OwnedFd, levels: &mut Vec<Level>) -> Result<OwnedFd, Errno> {
    let mut here = openat(root, c".", DIRECTORY, Mode::empty())?;
    for at in 1..levels.len() {
        match enter(&here, levels[at].name.as_c_str())? {
            Some(below) if Inode::of(&fstat(&below)?) == levels[at].inode => here = below,
            _ => {
                levels.truncate(at);
                break;
            }
        }
    }
    Ok(here)
}

/// Visits what is no directory, and finds those that are.
///
/// # Errors
/// As [`walk`].
pub fn files(dir: &OwnedFd, visitor: &mut impl Visitor) -> Result<Level, Errno> {
    let there = fstat(dir)?;
    let mut level = Level { inode: Inode::of(&there), name: CString::default(), left: Vec::new() };
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// Counts files. At one of a byte it moves the directory that the walk is in, at one of two bytes it deletes it.
    struct Meddler {
        at: PathBuf,
        files: usize,
        moved: usize,
        is_patient: bool,
    }

    impl Visitor for Meddler {
        fn file(&mut self, _pinned: &OwnedFd, there: &Stat) -> Result<(), Errno> {
            self.files += 1;
            match there.st_size {
                1 => fs::rename(self.at.join("a/moved"), self.at.join("moved")).unwrap(),
                2 => fs::remove_dir_all(self.at.join("a/deleted")).unwrap(),
                _ => {}
            }
            Ok(())
        }

        fn directory(&mut self, _dir: &OwnedFd) -> Result<(), Errno> {
            Ok(())
        }

        fn vanished(&mut self, _dir: Inode, error: Errno) -> Result<(), Errno> {
            self.moved += usize::from(error == Errno::AGAIN);
            if self.is_patient { Ok(()) } else { Err(error) }
        }
    }

    #[test]
    fn what_is_beside_a_directory_that_is_moved_or_deleted_is_visited() {
        let walked = |files: &[(&str, &str)], is_patient: bool| {
            let dir = tempfile::tempdir().unwrap();
            for (at, text) in files {
                fs::create_dir_all(dir.path().join(at)).unwrap();
                fs::write(dir.path().join(at).join("file"), text).unwrap();
            }
            let mut meddler = Meddler { at: dir.path().to_owned(), files: 0, moved: 0, is_patient };
            let walked = walk(open(dir.path()).unwrap(), &mut meddler);
            (walked, meddler.files, meddler.moved)
        };
        let others = [("a/before", ""), ("a/z/late", ""), ("b", "")];
        let all = [&others[..], &[("a/moved/below", "1"), ("a/deleted/below", "22")]].concat();
        assert_eq!(walked(&all, true), (Ok(()), 5, 1));
        // One who must see all does not go on.
        assert_eq!(walked(&[("a/moved/below", "1"), others[1]], false).0, Err(Errno::AGAIN));
    }
}
