//! A volume of the node and who uses it <-> a file beside where it is staged, so that the next run of the agent finds it again.
//!
//! Written before anything is done for a user, and until all of it is undone. Upstream: `vol_data.json` and `pkg/kubelet/volumemanager/reconciler`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{mount_table, plugin::Mode};

const FILE: &str = "vol_data.json";
const FILE_NEW: &str = "vol_data.json.tmp";

/// One volume of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub plugin: String,
    pub handle: String,
    pub attributes: BTreeMap<String, String>,
    /// Once attached, where it is a device.
    pub device: Option<PathBuf>,
    /// Those for which something may have been done.
    pub users: BTreeSet<User>,
}

/// A pod's volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub pod_uid: String,
    /// In the pod's list of volumes.
    pub volume: String,
    pub mode: Mode,
}

/// Where a volume has its record, and is staged. Handles are any text: the directory's name is their hash, as upstream's.
pub fn directory(root: &Path, plugin: &str, handle: &str) -> PathBuf {
    let digest = Sha256::digest(handle);
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    root.join(plugin).join(hash)
}

/// Where a volume of that directory is staged.
pub fn staging(dir: &Path) -> PathBuf {
    dir.join("globalmount")
}

/// Makes the directories and writes the record; it is there whole, or the old one is.
///
/// # Errors
/// What the file system says.
pub fn write(dir: &Path, record: &Record) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(staging(dir))?;
    let new = dir.join(FILE_NEW);
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_data()?;
    fs::rename(new, dir.join(FILE))
}

/// Deletes the record of a volume that is unstaged, and its directories; what is in them stays.
///
/// # Errors
/// Something is mounted there or left there, or what the file system says.
pub fn remove(dir: &Path) -> io::Result<()> {
    let staging = staging(dir);
    if mount_table::is_mounted(&staging)? {
        return Err(io::Error::other(format!("{} is still mounted", staging.display())));
    }
    gone(fs::remove_dir(&staging))?;
    gone(fs::remove_file(dir.join(FILE_NEW)))?;
    gone(fs::remove_file(dir.join(FILE)))?;
    gone(fs::remove_dir(dir))
}

/// All records below `root`. One that cannot be read is logged and left alone, and so is what it stood for.
pub fn all(root: &Path) -> Vec<Record> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let dirs = entries(root).flat_map(|plugin| entries(&plugin).collect::<Vec<_>>());
    let read = |dir: PathBuf| -> Option<Record> {
        let file = dir.join(FILE);
        let text = match fs::read(&file) {
            // One that was never finished, of which nothing was done, or one that was all but deleted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            text => text,
        };
        let record = text.and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
        let record = record.and_then(|r| match directory(root, &r.plugin, &r.handle) == dir {
            true => Ok(r),
            false => Err(io::Error::other("it is of another directory")),
        });
        record.inspect_err(|error| tracing::error!(file = %file.display(), %error, "failed to read the record of a staged volume")).ok()
    };
    dirs.filter_map(read).collect()
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_damage_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let user = User { pod_uid: "u1".into(), volume: "v".into(), mode: Mode::Block };
        let record = |handle: &str| Record {
            plugin: "p".into(),
            handle: handle.into(),
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            device: Some("/dev/x".into()),
            users: [user.clone()].into(),
        };
        let place = |handle: &str| directory(dir.path(), "p", handle);
        for handle in ["one", "../..", "torn"] {
            write(&place(handle), &record(handle)).unwrap();
        }
        fs::write(place("torn").join(FILE), "{").unwrap();
        fs::create_dir_all(dir.path().join("p/unfinished/globalmount")).unwrap();
        let mut found: Vec<Record> = all(dir.path());
        found.sort_by(|a, b| a.handle.cmp(&b.handle));
        assert_eq!(found, [record("../.."), record("one")]);
        assert_eq!(all(&dir.path().join("none")), []);
        fs::write(staging(&place("one")).join("data"), "").unwrap();
        remove(&place("one")).unwrap_err();
        assert!(staging(&place("one")).join("data").exists() && place("one").join(FILE).exists());
        fs::remove_file(staging(&place("one")).join("data")).unwrap();
        remove(&place("one")).unwrap();
        remove(&place("one")).unwrap();
        assert!(!place("one").exists());
    }
}
