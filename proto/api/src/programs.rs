//! A program's name -> a command that is found where the system keeps it, whatever PATH says.
//!
//! Debian keeps iptables, runc and their like in `/usr/sbin`, which is on PATH after `su -` and not after `su`, and in few service managers.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Command,
};

/// Looked through after what PATH names.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Like [`Command::new`]; the program's own children find theirs in the same places.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// The file that [`command`] would run.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&path()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// PATH, and the system's folders that it lacks.
pub fn path() -> OsString {
    widened(&env::var_os("PATH").unwrap_or_default())
}

fn widened(path: &OsStr) -> OsString {
    let mut folders: Vec<PathBuf> = env::split_paths(path).filter(|dir| !dir.as_os_str().is_empty()).collect();
    for system in SYSTEM.map(PathBuf::from) {
        if !folders.contains(&system) {
            folders.push(system);
        }
    }
    // Only a folder with a colon in its name fails, and none that was split at colons has one.
    env::join_paths(folders).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_folders_come_last_and_once() {
        for (path, wide) in [
            ("", "/usr/local/sbin:/usr/sbin:/sbin"),
            ("/sbin:/bin", "/sbin:/bin:/usr/local/sbin:/usr/sbin"),
            ("/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin"),
        ] {
            assert_eq!(widened(OsStr::new(path)), OsStr::new(wide), "{path}");
        }
    }
}
