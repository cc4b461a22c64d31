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
    root.join(plugin).join(api::hex(Sha256::digest(handle)))
}

/// Where a volume of that directory is staged.
pub fn staging(dir: &Path) -> PathBuf {
    dir.join("globalmount")
}

/// Writes the record, beside what is staged: that is not looked at, since it may be the mount of a server that is gone. The record is there whole,
/// or the old one is.
///
/// # Errors
/// What the file system says.
pub fn write(dir: &Path, record: &Record) -> io::Result<()> {
    builder().recursive(true).create(dir)?;
    let new = dir.join(FILE_NEW);
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_data()?;
    fs::rename(new, dir.join(FILE))?;
    fs::File::open(dir)?.sync_all()
}

/// Makes the place to stage a volume that has its record, where nothing is there; what is there is for the plugin to judge.
///
/// # Errors
/// What the file system says.
pub fn make_staging(dir: &Path) -> io::Result<()> {
    match builder().create(staging(dir)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Deletes the record of a volume that is unstaged, and its directories; what else is in them is nobody's to delete. It may stay beside the
/// record, and then the directory does.
///
/// # Errors
/// Something is mounted there or left where it was staged, or what the file system says.
pub fn remove(dir: &Path) -> io::Result<()> {
    let staging = staging(dir);
    if mount_table::is_mounted(&staging)? {
        return Err(io::Error::other(format!("{} is still mounted", staging.display())));
    }
    gone(fs::remove_dir(&staging))?;
    gone(fs::remove_file(dir.join(FILE_NEW)))?;
    gone(fs::remove_file(dir.join(FILE)))?;
    match gone(fs::remove_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(dir = %dir.display(), "files of others are left where a volume had its record");
            Ok(())
        }
        done => done,
    }
}

/// What there is of records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub records: Vec<Record>,
    /// A record's directory, or one above it, that cannot be read: what is staged there, and for whom, is not known. Where there is none, these are all.
    pub unread: BTreeSet<PathBuf>,
}

/// The record of a volume; `None` where it has none: one that was never finished, of which nothing was done, or that was all but deleted.
///
/// # Errors
/// It is there and cannot be read: what is staged, and for whom, is not known.
pub fn read(root: &Path, dir: &Path) -> io::Result<Option<Record>> {
    let text = match fs::read(dir.join(FILE)) {
        Err(error) if is_none(&error) => return Ok(None),
        text => text?,
    };
    let record: Record = serde_json::from_slice(&text)?;
    if directory(root, &record.plugin, &record.handle) == dir {
        Ok(Some(record))
    } else {
        Err(io::Error::other("it is of another directory"))
    }
}

/// All records below `root`. What cannot be read is logged and left alone, and so is what it stands for.
pub fn all(root: &Path) -> Found {
    let mut found = Found::default();
    for plugin in found.entries(root) {
        for dir in found.entries(&plugin) {
            match read(root, &dir) {
                Ok(record) => found.records.extend(record),
                Err(error) => found.missed(&dir, &error),
            }
        }
    }
    found
}

impl Found {
    fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
        match entries {
            Err(error) if !is_none(&error) => {
                self.missed(dir, &error);
                Vec::new()
            }
            entries => entries.unwrap_or_default(),
        }
    }

    fn missed(&mut self, dir: &Path, error: &io::Error) {
        tracing::error!(dir = %dir.display(), %error, "failed to read the record of a staged volume");
        self.unread.insert(dir.to_owned());
    }
}

/// It is not there, or in its place is a file, below which nothing can be.
fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn builder() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o750);
    builder
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
            make_staging(&place(handle)).unwrap();
        }
        fs::write(place("torn").join(FILE), "{").unwrap();
        fs::create_dir_all(dir.path().join("p/unfinished/globalmount")).unwrap();
        fs::write(dir.path().join("p/file"), "").unwrap();
        let mut found = all(dir.path());
        found.records.sort_by(|a, b| a.handle.cmp(&b.handle));
        assert_eq!(found, Found { records: vec![record("../.."), record("one")], unread: [place("torn")].into() });
        assert_eq!(all(&dir.path().join("none")), Found::default());
        // A directory that does not say what is in it.
        symlink(dir.path().join("loop"), dir.path().join("loop")).unwrap();
        assert_eq!(all(dir.path()).unread, [dir.path().join("loop"), place("torn")].into());
        assert_eq!(all(&dir.path().join("loop")).unread, [dir.path().join("loop")].into());
        assert_eq!(read(dir.path(), &place("none")).unwrap(), None);
        read(dir.path(), &place("torn")).unwrap_err();
        fs::write(place("torn").join(FILE), fs::read(place("one").join(FILE)).unwrap()).unwrap();
        read(dir.path(), &place("torn")).unwrap_err();
        fs::write(staging(&place("one")).join("data"), "").unwrap();
        remove(&place("one")).unwrap_err();
        assert!(staging(&place("one")).join("data").exists() && place("one").join(FILE).exists());
        fs::remove_file(staging(&place("one")).join("data")).unwrap();
        remove(&place("one")).unwrap();
        remove(&place("one")).unwrap();
        assert!(!place("one").exists());
        // What is left beside the record does not keep it.
        fs::write(place("../..").join("notes"), "").unwrap();
        remove(&place("../..")).unwrap();
        remove(&place("../..")).unwrap();
        assert_eq!(read(dir.path(), &place("../..")).unwrap(), None);
        assert!(place("../..").join("notes").exists());
    }

    #[test]
    fn what_is_staged_is_not_looked_at_when_the_record_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (place, mut record) = (
            directory(dir.path(), "p", "h"),
            Record { plugin: "p".into(), handle: "h".into(), attributes: BTreeMap::new(), device: None, users: BTreeSet::new() },
        );
        write(&place, &record).unwrap();
        make_staging(&place).unwrap();
        // As the mount of a server that is gone: it is there, and is no directory for who asks.
        fs::remove_dir(staging(&place)).unwrap();
        fs::write(staging(&place), "").unwrap();
        record.device = Some("/dev/x".into());
        write(&place, &record).unwrap();
        make_staging(&place).unwrap();
        assert_eq!(all(dir.path()), Found { records: vec![record], unread: BTreeSet::new() });
    }
}
