//! Volume + path below it -> a bind mount that cannot lead out of the volume, whatever its owner does to it meanwhile.
//!
//! The path is opened beneath the volume by the kernel itself (openat2, RESOLVE_BENEATH), and the open file is what is mounted: what a
//! name means afterwards does not matter. Source of the purpose: `pkg/volume/util/subpath/subpath_linux.go`.

use std::{
    fmt, fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat2},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
};

/// What failed; `making` tells whether it was while making missing directories.
#[derive(Debug)]
pub struct Refused {
    pub making: bool,
    pub what: &'static str,
    pub source: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

/// Mounts `volume`/`sub` at `target`. Missing directories are made with the volume's own mode. A mount that is there already is kept
/// if it shows the same file, and replaced otherwise.
///
/// # Errors
/// [`Refused`], where the path leads out of the volume or the kernel refuses.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> Result<(), Refused> {
    let failed = |what, making| move |source| Refused { making, what, source };
    let root = open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open volume", false))?;
    let file = match beneath(&root, sub, OFlags::PATH) {
        Err(Errno::NOENT) => {
            make_directories(&root, sub).map_err(failed("make directories", true))?;
            beneath(&root, sub, OFlags::PATH)
        }
        found => found,
    };
    let file = file.map_err(failed("open path", false))?;
    mount_at(&file, target).map_err(failed("mount", false))
}

fn beneath(root: &OwnedFd, sub: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(root, sub, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

fn make_directories(root: &OwnedFd, sub: &str) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode & 0o7777);
    let mut done = String::from(".");
    for part in sub.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let parent = beneath(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
        let made = mkdirat(&parent, part, mode);
        done = format!("{done}/{part}");
        match made {
            // The mode asked for was cut by the umask.
            Ok(()) => fchmod(beneath(root, &done, OFlags::RDONLY | OFlags::DIRECTORY)?, mode)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn mount_at(file: &OwnedFd, target: &Path) -> Result<(), Errno> {
    let wanted = fstat(file)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(wanted.st_mode).is_dir();
    if let Ok(there) = rustix::fs::stat(target) {
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) {
            return Ok(());
        }
        // Left by an earlier container of this name; not being a mount is fine.
        while unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    }
    make_target(target, is_dir).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    mount_bind(format!("/proc/self/fd/{}", file.as_raw_fd()), target)
}

fn make_target(target: &Path, is_dir: bool) -> std::io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if let Ok(there) = fs::symlink_metadata(target) {
        if there.is_dir() == is_dir {
            return Ok(());
        }
        // An empty place holder of the other kind.
        if there.is_dir() { fs::remove_dir(target)? } else { fs::remove_file(target)? }
    }
    if is_dir { fs::create_dir(target) } else { fs::File::create(target).map(drop) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Unmounted<'a>(&'a Path);

    impl Drop for Unmounted<'_> {
        fn drop(&mut self) {
            while unmount(self.0, UnmountFlags::DETACH).is_ok() {}
        }
    }

    /// A volume with a secret beside it.
    fn volume_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("volume/inner")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "s").unwrap();
        fs::write(dir.path().join("volume/inner/file"), "f").unwrap();
        dir
    }

    #[test]
    fn links_cannot_lead_out() {
        let dir = volume_dir();
        let volume = dir.path().join("volume");
        symlink("../outside", volume.join("relative")).unwrap();
        symlink(dir.path().join("outside"), volume.join("absolute")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        symlink("inner/../../outside", volume.join("winding")).unwrap();
        let target = dir.path().join("pod/0");
        for attack in ["relative", "relative/secret", "absolute", "absolute/secret", "magic/etc", "winding", "relative/new/dir"] {
            let refused = bind(&volume, attack, &target);
            let _guard = Unmounted(&target);
            assert!(refused.is_err(), "{attack}");
        }
        assert!(!dir.path().join("outside/new").exists());
    }

    #[test]
    fn links_inside_are_followed_and_files_mounted() {
        let dir = volume_dir();
        let volume = dir.path().join("volume");
        symlink("inner/file", volume.join("link")).unwrap();
        let target = dir.path().join("pod/volume-subpaths/v/c/0");
        let _guard = Unmounted(&target);
        bind(&volume, "link", &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "f");
        // Again: the same mount is kept; another path: replaced.
        bind(&volume, "link", &target).unwrap();
        bind(&volume, "inner", &target).unwrap();
        assert!(target.join("file").exists());
        // Swapping the name afterwards changes nothing.
        fs::rename(volume.join("inner"), volume.join("old")).unwrap();
        symlink("../outside", volume.join("inner")).unwrap();
        assert!(target.join("file").exists() && !target.join("secret").exists());
    }

    #[test]
    fn missing_directories_get_the_volumes_mode() {
        let dir = volume_dir();
        let volume = dir.path().join("volume");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        let target = dir.path().join("t");
        let _guard = Unmounted(&target);
        bind(&volume, "new/deep", &target).unwrap();
        assert_eq!(fs::metadata(volume.join("new/deep")).unwrap().permissions().mode() & 0o7777, 0o2777);
    }
}
