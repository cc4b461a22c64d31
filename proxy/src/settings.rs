//! The kernel settings that a node changes -> as they were before, for when the node is removed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// All that this crate sets; what goes with its links is not among them.
const NAMES: [&str; 4] =
    ["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables"];
const FILE: &str = "kernel-settings.json";
const ROOT: &str = "/proc/sys";

/// Values are as they were in that boot: the next one has those of the machine's own configuration again.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    settings: BTreeMap<String, String>,
}

/// Notes the settings in a file of `dir`, unless that was done since the machine started. To be called before anything is changed.
///
/// # Errors
/// The file cannot be written.
pub fn remember(dir: &Path) -> io::Result<()> {
    remember_of(Path::new(ROOT), dir)
}

/// Gives the settings the values that were noted, and forgets them. Nothing to do where there are none of this boot.
///
/// # Errors
/// The first that was refused; the others are tried.
pub fn restore(dir: &Path) -> io::Result<()> {
    restore_of(Path::new(ROOT), dir)
}

fn remember_of(root: &Path, dir: &Path) -> io::Result<()> {
    let boot = boot(root)?;
    if read(dir).is_some_and(|noted| noted.boot == boot) {
        return Ok(());
    }
    let value = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(root.join(name)).ok()?.trim().to_owned()));
    let noted = Remembered { boot, settings: NAMES.iter().filter_map(value).collect() };
    let fresh = dir.join(format!(".{FILE}.new"));
    fs::create_dir_all(dir)?;
    fs::write(&fresh, serde_json::to_vec(&noted)?)?;
    fs::rename(&fresh, path(dir))
}

fn restore_of(root: &Path, dir: &Path) -> io::Result<()> {
    let Some(noted) = read(dir) else { return Ok(()) };
    let mut outcome = Ok(());
    if noted.boot == boot(root)? {
        // A file of ours may have been edited: what is not ours to set is left alone.
        for (name, value) in noted.settings.iter().filter(|(name, _)| NAMES.contains(&name.as_str())) {
            let there = fs::read_to_string(root.join(name));
            // A setting whose module went is nobody's any more.
            if there.is_ok_and(|there| there.trim() != value) {
                outcome = outcome.and(fs::write(root.join(name), value));
            }
        }
    }
    fs::remove_file(path(dir))?;
    outcome
}

fn read(dir: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(path(dir)).ok()?).ok()
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn boot(root: &Path) -> io::Result<String> {
    fs::read_to_string(root.join("kernel/random/boot_id")).map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_as_they_were_before_within_one_boot() {
        let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |name: &str, value: &str| {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), format!("{value}\n")).unwrap();
        };
        let value = |name: &str| fs::read_to_string(root.path().join(name)).unwrap().trim().to_owned();
        write("kernel/random/boot_id", "one");
        write(NAMES[0], "0");
        write(NAMES[1], "1");
        // There is no br_netfilter, and no IPv6.
        remember_of(root.path(), dir.path()).unwrap();
        [NAMES[0], NAMES[1], NAMES[3]].iter().for_each(|name| write(name, "1"));
        remember_of(root.path(), dir.path()).unwrap();
        restore_of(root.path(), dir.path()).unwrap();
        assert_eq!((value(NAMES[0]), value(NAMES[1]), value(NAMES[3])), ("0".into(), "1".into(), "1".into()));
        restore_of(root.path(), dir.path()).unwrap();
        // Of another boot: the machine's own configuration has spoken since.
        remember_of(root.path(), dir.path()).unwrap();
        write("kernel/random/boot_id", "two");
        write(NAMES[0], "1");
        restore_of(root.path(), dir.path()).unwrap();
        assert_eq!((value(NAMES[0]).as_str(), fs::read_dir(dir.path()).unwrap().count()), ("1", 0));
        remember_of(root.path(), dir.path()).unwrap();
        write("kernel/random/boot_id", "three");
        write(NAMES[0], "0");
        remember_of(root.path(), dir.path()).unwrap();
        write(NAMES[0], "1");
        restore_of(root.path(), dir.path()).unwrap();
        assert_eq!(value(NAMES[0]), "0", "noted anew after a boot");
    }
}
