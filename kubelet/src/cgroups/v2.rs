//! Limits -> cgroup v2: one tree, controllers handed down level by level.

use std::path::{Path, PathBuf};

use super::{Error, files};
use crate::container_config::{Limits, QUOTA_PERIOD_US};

/// Those we and runc use; what the kernel lacks is left out.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// The unified tree's mount point.
#[derive(Clone, Debug)]
pub struct Unified {
    mount: PathBuf,
}

impl Unified {
    /// `None` where it is not cgroup v2 that is mounted there.
    pub fn at(mount: &Path) -> Option<Self> {
        mount.join("cgroup.controllers").exists().then(|| Self { mount: mount.to_owned() })
    }

    pub fn directory(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    pub fn create(&self, path: &str) -> Result<(), Error> {
        let mut dir = self.mount.clone();
        for part in Path::new(path) {
            hand_down(&dir)?;
            dir = dir.join(part);
            files::create(&dir)?;
        }
        hand_down(&dir)
    }

    pub fn set(&self, path: &str, limits: Limits) -> Result<(), Error> {
        let dir = self.directory(path);
        let quota = limits.cpu_quota_us.map_or("max".to_owned(), |q| q.to_string());
        let memory = limits.memory_bytes.map_or("max".to_owned(), |m| m.to_string());
        files::write(&dir, "cpu.weight", &weight(limits.cpu_shares).to_string())?;
        files::write(&dir, "cpu.max", &format!("{quota} {QUOTA_PERIOD_US}"))?;
        files::write(&dir, "memory.max", &memory)
    }

    #[cfg(test)]
    pub fn fake(mount: &str) -> Self {
        Self { mount: mount.into() }
    }
}

/// v1 shares (2 to 262144) -> v2 weight (1 to 10000). Source: `getCPUWeight` in `cgroup_v2_manager_linux.go`.
fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

fn hand_down(dir: &Path) -> Result<(), Error> {
    let (there, on) = (files::read(dir, "cgroup.controllers"), files::read(dir, "cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|n| n == name);
    for name in WANTED.iter().filter(|name| has(&there, name) && !has(&on, name)) {
        files::write(dir, "cgroup.subtree_control", &format!("+{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_upstreams() {
        for (shares, wanted) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), wanted);
        }
    }

    #[test]
    fn the_files_are_the_kernels() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let unified = Unified::at(dir.path()).unwrap();
        unified.create("k/burstable").unwrap();
        unified.set("k/burstable", Limits { cpu_shares: 1024, cpu_quota_us: Some(50_000), memory_bytes: None }).unwrap();
        let read = |f: &str| std::fs::read_to_string(dir.path().join("k/burstable").join(f)).unwrap();
        assert_eq!((read("cpu.weight").as_str(), read("cpu.max").as_str(), read("memory.max").as_str()), ("39", "50000 100000", "max"));
        assert!(Unified::at(&dir.path().join("k")).is_none());
    }
}
