//! Leases <-> a file, under a lock that all calls of the plugin for one network share.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use super::{
    ipam::Leases,
    spec::{Conf, Fault},
};

/// Another call holds the lock for milliseconds; one that takes this long is stuck.
const LOCK_BOUND: Duration = Duration::from_secs(20);
/// Where leases are kept when the configuration does not say.
const DATA_DIR: &str = "/var/lib/skiff/cni";

/// The leases of one network, read and held; dropping it gives the lock back.
pub struct LockedLeases {
    pub leases: Leases,
    path: PathBuf,
    _lock: File,
}

impl LockedLeases {
    /// # Errors
    /// Code 5 where the directory cannot be used or the file is damaged, 11 where the lock stays taken.
    pub fn open(conf: &Conf) -> Result<Self, Fault> {
        let dir = directory(conf)?;
        fs::create_dir_all(&dir).map_err(|e| Fault::io(&format!("create {}", dir.display()), &e))?;
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join("leases.json");
        let leases = read(&path)?;
        Ok(Self { leases, path, _lock: lock })
    }

    /// Replaces the file as a whole. It is not synced to disk: what it speaks of is gone after a power loss, as the file may be.
    pub fn save(&self) -> Result<(), Fault> {
        let fresh = self.path.with_extension("new");
        let text = serde_json::to_vec(&self.leases).map_err(|e| Fault::io("encode the leases", &e))?;
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &self.path)).map_err(|e| Fault::io("save the leases", &e))
    }
}

fn directory(conf: &Conf) -> Result<PathBuf, Fault> {
    let base = if conf.ipam.data_dir.as_os_str().is_empty() { Path::new(DATA_DIR) } else { &conf.ipam.data_dir };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !conf.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !conf.name.chars().all(plain) {
        return Err(Fault::config(format!("{:?} is not a network name", conf.name)));
    }
    Ok(base.join(&conf.name))
}

fn lock(path: &Path) -> Result<File, Fault> {
    let file = private(path).map_err(|e| Fault::io("open the lock", &e))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::Error(e)) => return Err(Fault::io("lock the leases", &e)),
        Err(TryLockError::WouldBlock) => {}
    }
    // flock has no deadline of its own: a thread waits in it; where that takes too long, it gives the lock back as soon as it has it.
    let (locked, waiting) = mpsc::sync_channel(1);
    std::thread::spawn(move || locked.send(file.lock().map(|()| file)));
    match waiting.recv_timeout(LOCK_BOUND) {
        Ok(outcome) => outcome.map_err(|e| Fault::io("lock the leases", &e)),
        Err(_) => Err(Fault::new(11, "the leases stay locked", path.display().to_string())),
    }
}

/// A lock that others cannot open, and so cannot hold.
fn private(path: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn read(path: &Path) -> Result<Leases, Fault> {
    match fs::read(path) {
        // An empty file is what a power loss leaves of a rename: the pods it spoke of are gone too.
        Ok(bytes) if bytes.is_empty() => Ok(Leases::default()),
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Fault::io(&format!("read {}: remove it to start afresh", path.display()), &e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Leases::default()),
        Err(e) => Err(Fault::io("read the leases", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{
        ipam::Range,
        spec::{Ipam, Owner},
    };

    fn conf(dir: &Path) -> Conf {
        let ipam = Ipam { subnet: "10.0.0.0/24".into(), data_dir: dir.into(), ..Ipam::default() };
        Conf { name: "skiff".into(), ipam, ..Conf::default() }
    }

    #[test]
    fn many_takers_get_different_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let conf = conf(dir.path());
        let range = Range::of(&conf.ipam).unwrap();
        let take = |n: usize| {
            let mut held = LockedLeases::open(&conf).unwrap();
            let owner = Owner { container: format!("c{n}"), ifname: "eth0".into() };
            let address = held.leases.take(range, &owner, &[]).unwrap();
            held.save().unwrap();
            address
        };
        let mut given: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..40).map(|n| s.spawn(move || take(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 40);
        assert_eq!(LockedLeases::open(&conf).unwrap().leases.leases.len(), 40);
    }

    #[test]
    fn the_lock_is_closed_to_others_even_where_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("skiff")).unwrap();
        let lock = dir.path().join("skiff/lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
        let _held = LockedLeases::open(&conf(dir.path())).unwrap();
        assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("skiff")).unwrap();
        let path = dir.path().join("skiff/leases.json");
        fs::write(&path, "{oops").unwrap();
        assert_eq!(LockedLeases::open(&conf(dir.path())).err().unwrap().code, 5);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{oops");
    }

    #[test]
    fn a_network_name_is_no_path() {
        let bad = Conf { name: "../x".into(), ..conf(Path::new("/nowhere")) };
        assert_eq!(LockedLeases::open(&bad).err().unwrap().code, 7);
    }
}
