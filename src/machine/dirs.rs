//! Where things are kept, and the guard that nobody else's data is touched.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use store::files::{self, Dir, Files};

/// Says that a directory is ours, and in which layout.
const MARK: &str = "skiff-data";
const LAYOUT: &str = "1\n";
/// What an interrupted start leaves while it makes the mark.
const MARK_BESIDE: &str = ".skiff-data.new";

/// The layout of the data directory.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub root: PathBuf,
}

impl Dirs {
    pub fn new(data_dir: Option<&Path>) -> Self {
        let root = data_dir.map_or_else(default_root, Path::to_path_buf);
        // Paths go into configurations of other programs: they must not depend on where we were started.
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// Makes the directory ours, or refuses.
    ///
    /// # Errors
    /// It holds somebody else's files, or was written in a newer layout; it is then left untouched.
    pub fn claim(&self) -> anyhow::Result<()> {
        let mark = self.root.join(MARK);
        match fs::read_to_string(&mark) {
            Ok(text) if text == LAYOUT => return Ok(()),
            Ok(text) if text.is_empty() => {}
            Ok(text) => bail!(
                "{} has layout {:?}, this skiff knows {:?}: it was left untouched. Use the skiff that wrote it, or name another --data-dir.",
                self.root.display(),
                text.trim(),
                LAYOUT.trim()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", mark.display())),
        }
        let dir = Dir::open(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        // An empty mark is what older skiffs left when they were killed while they made it.
        if dir.names()?.iter().any(|name| ![MARK, MARK_BESIDE].contains(&name.as_str()) && !self.is_only_images(name)) {
            bail!(
                "{} is not empty and is not skiff's: it was left untouched. Name another --data-dir, or empty it if nothing in it is needed.",
                self.root.display()
            );
        }
        // Others may pass through, as into a container's files, but not look around.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o711))?;
        files::replace(&dir, MARK, LAYOUT.as_bytes()).with_context(|| format!("writing {}", mark.display()))
    }

    /// Archives for the first start are put there before there is anything else.
    fn is_only_images(&self, name: &str) -> bool {
        let names = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        self.root.join(name) == self.agent() && names(self.agent()).all(|name| self.agent().join(name) == self.images())
    }

    /// Makes the store's directory, and closes it to others: it holds the Secrets. etcd keeps its own so as well.
    ///
    /// # Errors
    /// It cannot be made, or is not ours to close.
    pub fn private_store(&self) -> anyhow::Result<PathBuf> {
        let store = self.store();
        let made = fs::create_dir_all(&store).and_then(|()| fs::set_permissions(&store, fs::Permissions::from_mode(0o700)));
        made.with_context(|| format!("making {}", store.display()))?;
        Ok(store)
    }

    pub fn is_ours(&self) -> bool {
        self.root.join(MARK).exists()
    }

    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// Who the machine is, as a node of a cluster that others run.
    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// Archives of images, imported when the node starts.
    pub fn images(&self) -> PathBuf {
        kubelet::config::archive_dir(&self.agent())
    }

    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("skiff.log")
    }

    /// The process that runs on this directory: its id, as text.
    pub fn pid(&self) -> PathBuf {
        self.root.join("skiff.pid")
    }

    /// The administrator's kubeconfig, as the running server wrote it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/skiff".into();
    }
    std::env::home_dir().unwrap_or_default().join(".local/share/skiff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_refused_and_left_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("member"), "etcd's").unwrap();
        let error = Dirs::new(Some(dir.path())).claim().unwrap_err();
        assert!(error.to_string().contains("left untouched"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn images_for_the_first_start_may_be_there_and_nothing_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        fs::create_dir_all(dirs.images()).unwrap();
        fs::write(dirs.images().join("all.tar"), "").unwrap();
        dirs.claim().unwrap();
        assert!(dirs.is_ours());
        fs::remove_file(dir.path().join(MARK)).unwrap();
        fs::write(dirs.agent().join("member"), "another's").unwrap();
        assert!(dirs.claim().is_err());
    }

    #[test]
    fn a_first_start_that_was_killed_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARK_BESIDE), "").unwrap();
        fs::write(dir.path().join(MARK), "").unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        dirs.claim().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(MARK)).unwrap(), LAYOUT);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_store_is_closed_to_others_even_where_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        fs::create_dir(dirs.store()).unwrap();
        fs::set_permissions(dirs.store(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = dirs.private_store().unwrap();
        assert_eq!(fs::metadata(store).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn our_own_directory_is_claimed_again() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(&dir.path().join("new")));
        dirs.claim().unwrap();
        dirs.claim().unwrap();
        fs::write(dirs.root.join(MARK), "99\n").unwrap();
        assert!(dirs.claim().unwrap_err().to_string().contains("layout"));
    }
}
