//! Names in one directory -> bytes that last: every call on files that the store makes, so that tests can make each of them fail.

use std::{
    fmt, fs,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One directory without directories in it.
pub trait Files: fmt::Debug + Send + Sync {
    /// Where a name is, for messages.
    fn path(&self, name: &str) -> PathBuf;
    fn names(&self) -> io::Result<Vec<String>>;
    /// # Errors
    /// `NotFound` where there is no such file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn OneFile>>;
    /// An empty file, for its owner alone, in the place of what has that name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn OneFile>>;
    /// In the place of what has the new name. An error means that nothing was renamed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names made, changed and removed so far last.
    fn sync(&self) -> io::Result<()>;
}

/// An open file; it stays what it is when its name goes to another.
pub trait OneFile: fmt::Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    /// # Errors
    /// `UnexpectedEof` where the file ends before `out` is full.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// All of `bytes`. After an error any part of them may be there.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// What was written so far lasts. After an error it is not known what does, and a second call that succeeds says nothing about it.
    fn sync(&self) -> io::Result<()>;
    /// What is read from here on comes from the disk, not from the page cache, which also holds what a failed sync left behind. The kernel
    /// takes it as advice.
    fn forget(&self) -> io::Result<()>;
    /// False where another process has it locked. The lock lasts as long as the open file.
    fn try_lock(&self) -> io::Result<bool>;
}

/// The files of a real directory.
#[derive(Clone, Debug)]
pub struct Dir {
    path: PathBuf,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    All,
    Reading,
}

#[derive(Debug)]
struct Real(File);

impl Dir {
    /// Made for its owner alone where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        make_dirs(path)?;
        Ok(Self { path: path.to_owned(), access: Access::All })
    }

    /// For looking only: files cannot be written through it.
    pub fn read_only(path: &Path) -> Self {
        Self { path: path.to_owned(), access: Access::Reading }
    }
}

impl Files for Dir {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OneFile>> {
        let file = OpenOptions::new().read(true).write(self.access == Access::All).open(self.path(name))?;
        Ok(Arc::new(Real(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OneFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(self.path(name))?;
        Ok(Arc::new(Real(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl OneFile for Real {
    fn size(&self) -> io::Result<u64> {
        self.0.metadata().map(|meta| meta.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget(&self) -> io::Result<()> {
        rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?;
        // All of it is read next, page by page: in large pieces that takes a fraction of the time.
        Ok(rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::WillNeed)?)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// All of a file.
///
/// # Errors
/// `NotFound` where there is none.
pub fn read(files: &dyn Files, name: &str) -> io::Result<Vec<u8>> {
    whole(&*files.open(name)?)
}

pub(crate) fn whole(file: &dyn OneFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read(0, &mut bytes)?;
    Ok(bytes)
}

/// Replaces one file as a whole, and makes it last: it is never half there, and after an error it is as it was, or new.
///
/// # Errors
/// As of any of the calls.
pub fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = format!(".{name}.new");
    write_new(files, &beside, bytes)?;
    files.rename(&beside, name)?;
    files.sync()
}

/// A new file that holds `bytes` and whose content lasts; its name does once the directory is synced.
pub(crate) fn write_new(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = files.create(name)?;
    file.write(0, bytes)?;
    file.sync()
}

/// Replaces many files as one: whenever this is interrupted, [`settle`] makes all of them new, or leaves all as they were.
///
/// # Errors
/// As of any of the calls; [`settle`] then knows what to do.
pub fn replace_all(files: &dyn Files, set: &[(String, String)]) -> io::Result<()> {
    if set.is_empty() {
        return Ok(());
    }
    settle(files)?;
    for (name, text) in set {
        write_new(files, &beside(name), text.as_bytes())?;
    }
    files.sync()?;
    // From here on the new ones are the files.
    files.create(DECIDED)?;
    files.sync()?;
    settle(files)
}

/// Says that all new files of a set stand beside the old ones.
const DECIDED: &str = ".set-is-whole";

fn beside(name: &str) -> String {
    format!(".{name}.new")
}

/// All of a file, as it will be once what was interrupted is ended: for those who only look.
///
/// # Errors
/// `NotFound` where there is none.
pub fn read_settled(files: &dyn Files, name: &str) -> io::Result<Vec<u8>> {
    let (names, new) = (files.names()?, beside(name));
    let decided = names.iter().any(|name| name == DECIDED) && names.contains(&new);
    read(files, if decided { &new } else { name })
}

/// Ends what an interrupted [`replace_all`] began.
///
/// # Errors
/// As of any of the calls; it can be called again.
pub fn settle(files: &dyn Files) -> io::Result<()> {
    // Seen is not yet durable: an earlier life may have ended before its sync did.
    files.sync()?;
    let names = files.names()?;
    let new = names.iter().filter_map(|name| Some((name, name.strip_prefix('.')?.strip_suffix(".new")?)));
    if !names.iter().any(|name| name == DECIDED) {
        // Not whole: it never was.
        return new.into_iter().try_for_each(|(name, _)| files.remove(name));
    }
    for (name, place) in new {
        files.rename(name, place)?;
    }
    files.sync()?;
    files.remove(DECIDED)?;
    files.sync()
}

/// Directories for their owner alone, whose names last.
fn make_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dirs(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_not_whole_never_was_and_a_whole_one_is_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let files = Dir::open(&dir.path().join("a/b")).unwrap();
        let set = |text: &str| [("x".to_owned(), text.to_owned()), ("y".to_owned(), text.to_owned())];
        replace_all(&files, &set("1")).unwrap();
        write_new(&files, ".x.new", b"2").unwrap();
        settle(&files).unwrap();
        assert_eq!(read(&files, "x").unwrap(), b"1");
        for name in [".x.new", ".y.new"] {
            write_new(&files, name, b"3").unwrap();
        }
        files.create(DECIDED).unwrap();
        assert_eq!((read(&files, "x").unwrap(), read_settled(&files, "x").unwrap()), (b"1".to_vec(), b"3".to_vec()));
        settle(&files).unwrap();
        assert_eq!((read(&files, "x").unwrap(), read(&files, "y").unwrap()), (b"3".to_vec(), b"3".to_vec()));
        let mut names = files.names().unwrap();
        names.sort();
        assert_eq!(names, ["x", "y"]);
    }

    #[test]
    fn files_and_directories_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let files = Dir::open(&dir.path().join("a/b")).unwrap();
        replace(&files, "x", b"1").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path().join("a")), mode(&files.path("x"))), (0o700, 0o600));
    }
}
