//! What must not touch the disk (secrets, tokens) -> directories in one tmpfs of the node's.
//!
//! Upstream mounts one for each volume. Every process of a container's start reads the whole mount table, several times: one mount a pod less
//! of five. Containers only read these volumes; all of them together may take half of the machine's memory, as each may upstream.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::{empty_dir, mount_table};

/// `<root>/private`, with a directory for each pod.
pub struct Private {
    dir: PathBuf,
    mounting: Mutex<()>,
}

impl Private {
    pub fn below(root_dir: &Path) -> Self {
        Self { dir: root_dir.join("private"), mounting: Mutex::new(()) }
    }

    /// The mount point, which has a directory for each pod's uid.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a pod's volumes are.
    pub fn of_pod(&self, uid: &str) -> PathBuf {
        self.dir.join(uid)
    }

    /// Makes the directory of a volume, at or below [`Private::of_pod`], once.
    ///
    /// # Errors
    /// What the system says.
    pub fn make(&self, volume: &Path) -> Result<(), String> {
        self.mount().map_err(|e| format!("mount tmpfs: {e}"))?;
        empty_dir::make(volume).map_err(|e| e.to_string())
    }

    fn mount(&self) -> io::Result<()> {
        let _alone = self.mounting.lock();
        if mount_table::is_mounted(&self.dir)? {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        empty_dir::tmpfs(&self.dir, None, 0o700)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn all_volumes_are_in_one_mount() {
        let root = tempfile::tempdir().unwrap();
        let private = Private::below(root.path());
        let made = std::thread::scope(|scope| {
            let all = ["a", "b"].map(|uid| scope.spawn(|| private.make(&private.of_pod(uid).join("secret/s"))));
            all.map(|thread| thread.join().unwrap())
        });
        if let Some(Err(error)) = made.iter().find(|made| made.is_err()) {
            return eprintln!("skipped: {error}");
        }
        let mode = fs::metadata(&private.dir).unwrap().permissions().mode();
        let mounts = mount_table::below(root.path());
        mount_table::unmount_below(root.path()).unwrap();
        assert_eq!(mounts.unwrap(), std::slice::from_ref(&private.dir));
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(fs::read_dir(&private.dir).unwrap().count(), 0, "nothing was on the disk");
    }
}
