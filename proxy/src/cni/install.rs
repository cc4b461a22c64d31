//! The plugin's programs -> files under the names that a runtime calls.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use super::{LOOPBACK, PLUGIN};

/// The small program looks for this name beside itself, where no agent answers it.
const WHOLE: &str = "skiff";

/// Puts the `small` program under both names into `dir`, and a link to the `whole` one. What is there already is left alone.
///
/// # Errors
/// A file that cannot be written.
pub fn install(dir: &Path, small: &[u8], whole: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    link(&dir.join(WHOLE), whole)?;
    let (program, other) = (dir.join(PLUGIN), dir.join(LOOPBACK));
    // A link of an earlier version leads to the whole program.
    if fs::symlink_metadata(&program).is_ok_and(|m| m.is_symlink()) || fs::read(&program).ok().as_deref() != Some(small) {
        // Beside, then renamed: it may be running.
        let new = dir.join(".new");
        fs::write(&new, small)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(&new, &program)?;
    }
    link(&other, Path::new(PLUGIN))
}

fn link(at: &Path, to: &Path) -> io::Result<()> {
    if fs::read_link(at).is_ok_and(|found| found == to) {
        return Ok(());
    }
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(to, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_program_replaces_the_older_and_links_are_mended() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink("/bin/true", bin.join(PLUGIN)).unwrap();
        for small in [b"one", b"two"] {
            for _ in 0..2 {
                install(&bin, small, Path::new("/usr/bin/skiff")).unwrap();
            }
            assert_eq!(fs::read(bin.join(LOOPBACK)).unwrap(), small);
            assert_eq!(fs::metadata(bin.join(PLUGIN)).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::read_link(bin.join(WHOLE)).unwrap(), Path::new("/usr/bin/skiff"));
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 3);
    }
}
