//! Files -> a directory that changes all at once: readers see the old files or the new ones, never a mixture.
//!
//! `..data` is a link to a directory named by time, each visible name a link through `..data`; one rename swaps all.
//! Source: `pkg/volume/util/atomic_writer.go`.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

use api::time::Timestamp;

use super::{
    ownership,
    payload::{File, Payload},
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// Makes `target` (which exists) show exactly `payload`, group-owned by `fs_group`. Nothing is written where nothing changed.
///
/// # Errors
/// In upstream's words for paths that no volume may show, else what the file system says.
pub fn write(target: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<(), String> {
    payload.keys().try_for_each(|path| validate(path))?;
    let text = |error: io::Error| error.to_string();
    let old = fs::read_link(target.join(DATA)).ok();
    let same = old.as_ref().is_some_and(|old| holds(&target.join(old), payload));
    if !same {
        let new = new_directory(target).map_err(text)?;
        let swapped = fill(&target.join(&new), payload, fs_group).and_then(|()| swap(target, &new));
        if let Err(error) = swapped {
            // The old files stay what they were.
            let _ = fs::remove_dir_all(target.join(&new));
            return Err(text(error));
        }
    }
    show(target, payload).map_err(text)?;
    clean(target, payload).map_err(text)
}

/// No absolute paths, no `..` anywhere, nothing that starts with `..` at the top.
fn validate(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err(format!("invalid path: must not be empty: {path:?}"));
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > PATH_MAX {
        return Err(format!("invalid path: must be less than or equal to {PATH_MAX} characters"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("invalid path: must not contain '..': {path}"));
    }
    if path.split('/').any(|part| part.len() > NAME_MAX) {
        return Err(format!("invalid path: filenames must be less than or equal to {NAME_MAX} characters"));
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// Whether the directory holds these files and no others.
fn holds(dir: &Path, payload: &Payload) -> bool {
    let wanted: BTreeSet<PathBuf> = payload.keys().map(|p| normal(p)).collect();
    let mut found = BTreeSet::new();
    let same = |(path, file): (&String, &File)| fs::read(dir.join(path)).is_ok_and(|data| data == file.data);
    list(dir, Path::new(""), &mut found).is_ok() && found == wanted && payload.iter().all(same)
}

fn list(dir: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(dir, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// `..2026_01_02_03_04_05.123456789`
fn new_directory(target: &Path) -> io::Result<String> {
    loop {
        let name = format!("..{}{:09}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S."), rand::random_range(0..1_000_000_000u32));
        match fs::create_dir(target.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                fs::set_permissions(target.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
        }
    }
}

fn fill(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<()> {
    for (path, file) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.data)?;
        // The umask may have cut the mode.
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if file.owner.is_some() {
            chown(&path, file.owner, None)?;
        }
    }
    fs_group.map_or(Ok(()), |group| ownership::apply(dir, group, ownership::Access::ReadOnly))
}

fn swap(target: &Path, new: &str) -> io::Result<()> {
    let link = target.join(DATA_NEW);
    // Left by a crash between the two steps below.
    let _ = fs::remove_file(&link);
    symlink(new, &link)?;
    fs::rename(&link, target.join(DATA))
}

/// Links for the first components of all paths.
fn show(target: &Path, payload: &Payload) -> io::Result<()> {
    for name in visible(payload) {
        let link = target.join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&name), link)?;
        }
    }
    Ok(())
}

/// Takes away the links and directories of earlier contents.
fn clean(target: &Path, payload: &Payload) -> io::Result<()> {
    let (wanted, current) = (visible(payload), fs::read_link(target.join(DATA))?);
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let ours = name.to_string_lossy().starts_with("..");
        if entry.file_type()?.is_dir() {
            if ours && name != current {
                fs::remove_dir_all(entry.path())?;
            }
        } else if !ours && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn visible(payload: &Payload) -> BTreeSet<PathBuf> {
    payload.keys().filter_map(|path| normal(path).components().next().map(|c| PathBuf::from(c.as_os_str()))).collect()
}

fn normal(path: &str) -> PathBuf {
    Path::new(path).components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    fn data_dir(dir: &Path) -> PathBuf {
        fs::read_link(dir.join(DATA)).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.retain(|n| !n.starts_with(".."));
        names
    }

    #[test]
    fn contents_are_swapped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        write(target, &payload(&[("a", "1"), ("d/e/f", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(target.join("d/e/f")).unwrap(), "2");
        assert_eq!(fs::read_link(target.join("d")).unwrap(), Path::new("..data/d"));
        assert_eq!(fs::metadata(target.join("a")).unwrap().mode() & 0o777, 0o640);
        let first = data_dir(target);

        write(target, &payload(&[("a", "1"), ("d/e/f", "2")]), None).unwrap();
        assert_eq!(data_dir(target), first, "nothing changed, nothing written");

        write(target, &payload(&[("a", "3"), ("b", "4")]), None).unwrap();
        assert_ne!(data_dir(target), first);
        assert_eq!(names(target), ["a", "b"]);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join(first).exists());

        write(target, &Payload::new(), None).unwrap();
        assert!(names(target).is_empty());
    }

    #[test]
    fn a_removed_key_alone_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("b", "2")]), None).unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        assert!(!dir.path().join("..data/b").exists());
    }

    #[test]
    fn what_a_crash_left_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        fs::create_dir(dir.path().join("..2020_01_01_00_00_00.1")).unwrap();
        symlink("..2020_01_01_00_00_00.1", dir.path().join(DATA_NEW)).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        write(dir.path(), &payload(&[("a", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "2");
        assert!(!dir.path().join("..2020_01_01_00_00_00.1").exists());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(256);
        for bad in ["", "/a", "..", "../a", "a/../b", "a/..", "..a", long.as_str()] {
            assert!(write(dir.path(), &payload(&[(bad, "1")]), None).unwrap_err().starts_with("invalid path"), "{bad}");
        }
        for good in ["a..b", "a/..b", ".a"] {
            write(dir.path(), &payload(&[(good, "1")]), None).unwrap();
        }
    }

    #[test]
    fn the_group_owns_what_it_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = payload(&[("a", "1")]);
        files.get_mut("a").unwrap().mode = 0o600;
        write(dir.path(), &files, Some(4321)).unwrap();
        let there = fs::metadata(dir.path().join("a")).unwrap();
        assert_eq!((there.gid(), there.mode() & 0o777), (4321, 0o640));
        let data = fs::metadata(dir.path().join(DATA)).unwrap();
        assert_eq!((data.gid(), data.mode() & 0o7777), (4321, 0o2755));
    }
}
