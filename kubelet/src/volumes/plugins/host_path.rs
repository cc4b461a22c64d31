//! hostPath -> the node's own path, checked for what it must be.
//!
//! Source: `checkTypeInternal` in `pkg/volume/hostpath/host_path.go`.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use api::k8s::api::core::v1::{HostPathVolumeSource, PersistentVolume, Volume};
use async_trait::async_trait;

use crate::volumes::plugin::{Mounted, VolumePlugin, VolumeToMount, blocking};

pub struct HostPath;

#[async_trait]
impl VolumePlugin for HostPath {
    fn name(&self) -> &'static str {
        "host-path"
    }

    fn can_support(&self, volume: &Volume, _claimed: Option<&PersistentVolume>) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, volume: VolumeToMount) -> Result<Mounted, String> {
        let source = volume.volume.host_path.unwrap_or_default();
        blocking(move || Ok(Mounted { path: set_up(&source)?, read_only: false })).await
    }
}

/// Checks the path, and makes it where its type says so.
///
/// # Errors
/// Upstream's words.
pub fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    if source.path.split('/').any(|part| part == "..") {
        return Err(format!("invalid HostPath `{}`: must not contain '..'", source.path));
    }
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "DirectoryOrCreate" if !path.exists() => make_directory(&path)?,
        "FileOrCreate" if !path.exists() => make_file(&path)?,
        _ => check(&path, wanted)?,
    }
    Ok(path)
}

fn check(path: &Path, wanted: &str) -> Result<(), String> {
    let kind = fs::metadata(path).map(|m| m.file_type()).ok();
    let is = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_some_and(test);
    let (right, what) = match wanted {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if right { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {what}", path.display())) }
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|e| e.to_string())
}

fn make_file(path: &Path) -> Result<(), String> {
    let made = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(path);
    made.map(drop).map_err(|e| format!("open {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_in_upstreams_words() {
        let dir = tempfile::tempdir().unwrap();
        let (file, missing) = (dir.path().join("f"), dir.path().join("x/y"));
        fs::write(&file, "").unwrap();
        let of = |path: &Path, kind: &str| {
            let type_ = Some(kind.to_owned());
            set_up(&HostPathVolumeSource { path: path.display().to_string(), type_ }).map(drop)
        };
        assert_eq!(of(&missing, ""), Ok(()));
        assert_eq!(of(dir.path(), "Directory"), Ok(()));
        assert_eq!(of(&file, "File"), Ok(()));
        assert_eq!(of(Path::new("/dev/null"), "CharDevice"), Ok(()));
        for (path, kind, what) in [
            (&file, "Directory", "directory"),
            (&file, "DirectoryOrCreate", "directory"),
            (&missing, "File", "file"),
            (&file, "Socket", "socket file"),
            (&file, "CharDevice", "character device"),
            (&file, "BlockDevice", "block device"),
        ] {
            assert_eq!(of(path, kind).unwrap_err(), format!("hostPath type check failed: {} is not a {what}", path.display()));
        }
        assert_eq!(of(&file, "Fifo").unwrap_err(), "Fifo is an invalid volume type");
        assert!(of(Path::new("/a/../b"), "").unwrap_err().contains("must not contain '..'"));
        assert_eq!(of(&missing, "DirectoryOrCreate"), Ok(()));
        assert!(missing.is_dir());
        let new = dir.path().join("new");
        assert_eq!(of(&new, "FileOrCreate"), Ok(()));
        assert!(new.is_file());
    }
}
