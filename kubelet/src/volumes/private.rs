//! What must not touch the disk (secrets, tokens) -> directories in one tmpfs of the node's.
//!
//! Upstream mounts one for each volume. Every process of a container's start reads the whole mount table, several times: one mount a pod less
//! of five. Containers only read these volumes; all of them together may take half of the machine's memory, as each may upstream. What is
//! shared is divided: a pod has its bound, and so have all pods of one namespace.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use api::k8s::api::core::v1::Pod;
use parking_lot::Mutex;

use super::{directories, mount_table};
use crate::meta;

/// Most that a pod's files in memory may take, in bytes as [`super::payload::size`] counts them.
pub const POD_BYTES_MAX: u64 = 64 << 20;
/// The pods of one namespace may take this part of the file system.
const NAMESPACE_PART: u64 = 4;

/// `<root>/private`, with a directory for each pod.
pub struct Private {
    dir: PathBuf,
    mounting: Mutex<()>,
    /// By uid.
    taken: Mutex<HashMap<String, Taken>>,
}

/// What one pod takes.
#[derive(Default)]
struct Taken {
    namespace: String,
    volumes: HashMap<PathBuf, u64>,
}

impl Taken {
    fn bytes(&self) -> u64 {
        self.volumes.values().sum()
    }
}

impl Private {
    pub fn below(root_dir: &Path) -> Self {
        Self { dir: root_dir.join("private"), mounting: Mutex::new(()), taken: Mutex::default() }
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
        directories::make(volume).map_err(|e| e.to_string())
    }

    /// Notes that the files of a volume will take so many bytes; before they are written.
    ///
    /// # Errors
    /// There is no room for them: what the pod or its namespace already has stays as it is.
    pub fn admit(&self, pod: &Pod, volume: &Path, bytes: u64) -> Result<(), String> {
        let file_system = rustix::fs::statvfs(&self.dir).map(|of| of.f_blocks.saturating_mul(of.f_frsize)).map_err(|e| e.to_string())?;
        self.take(pod, volume, bytes, file_system / NAMESPACE_PART)
    }

    /// The pod's files are gone.
    pub fn forget(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }

    fn take(&self, pod: &Pod, volume: &Path, bytes: u64, namespace_bytes_max: u64) -> Result<(), String> {
        let (uid, namespace) = (meta::uid(pod), meta::namespace(pod));
        let mut taken = self.taken.lock();
        let before = taken.get(uid).and_then(|pod| pod.volumes.get(volume)).copied().unwrap_or_default();
        let of_pod = taken.get(uid).map_or(0, Taken::bytes) - before + bytes;
        let of_namespace = taken.values().filter(|pod| pod.namespace == namespace).map(Taken::bytes).sum::<u64>() - before + bytes;
        if of_pod > POD_BYTES_MAX {
            return Err(format!(
                "secrets, tokens and downward API files of the pod take {of_pod} bytes of memory, more than {POD_BYTES_MAX}"
            ));
        }
        if of_namespace > namespace_bytes_max {
            let what = "secrets, tokens and downward API files of the namespace's pods";
            return Err(format!("{what} on this node take {of_namespace} bytes of memory, more than {namespace_bytes_max}"));
        }
        let pod = taken.entry(uid.to_owned()).or_insert_with(|| Taken { namespace: namespace.to_owned(), ..Taken::default() });
        pod.volumes.insert(volume.to_owned(), bytes);
        Ok(())
    }

    fn mount(&self) -> io::Result<()> {
        let _alone = self.mounting.lock();
        if mount_table::is_mounted(&self.dir)? {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        directories::tmpfs(&self.dir, None, 0o700)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_shared_is_divided() {
        let private = Private::below(Path::new("/nowhere"));
        let pod = |namespace: &str, uid: &str| {
            let json = format!(r#"{{"metadata":{{"namespace":"{namespace}","uid":"{uid}"}}}}"#);
            serde_json::from_str::<Pod>(&json).unwrap()
        };
        let namespace_max = 3 * POD_BYTES_MAX / 2;
        let take = |namespace: &str, uid: &str, volume: &str, bytes: u64| {
            private.take(&pod(namespace, uid), Path::new(volume), bytes, namespace_max)
        };
        take("a", "1", "v", POD_BYTES_MAX).unwrap();
        assert!(take("a", "1", "w", 1).unwrap_err().contains("of the pod take"));
        take("a", "1", "v", POD_BYTES_MAX).unwrap();
        take("a", "1", "v", POD_BYTES_MAX / 2).unwrap();
        take("a", "1", "w", POD_BYTES_MAX / 2).unwrap();
        take("a", "2", "v", POD_BYTES_MAX / 2).unwrap();
        assert!(take("a", "3", "v", 1).unwrap_err().contains("of the namespace's pods"));
        take("b", "4", "v", POD_BYTES_MAX).unwrap();
        private.forget("2");
        take("a", "3", "v", 1).unwrap();
    }

    #[test]
    fn all_volumes_are_in_one_mount() {
        let root = tempfile::tempdir().unwrap();
        let private = Private::below(root.path());
        let made = std::thread::scope(|scope| {
            let all = ["a", "b"].map(|uid| scope.spawn(|| private.make(&private.of_pod(uid).join("secret/s"))));
            all.map(|thread| thread.join().unwrap())
        });
        made.into_iter().for_each(Result::unwrap);
        let mode = fs::metadata(&private.dir).unwrap().permissions().mode();
        let mounts = mount_table::below(root.path());
        mount_table::unmount_below(root.path()).unwrap();
        assert_eq!(mounts.unwrap(), std::slice::from_ref(&private.dir));
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(fs::read_dir(&private.dir).unwrap().count(), 0, "nothing was on the disk");
    }
}
