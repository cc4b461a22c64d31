//! Limits -> cgroup v2: one tree, controllers handed down level by level.

use std::path::{Path, PathBuf};

use super::{Error, Usage, files, usage};
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

    pub fn usage(&self, path: &str) -> Option<Usage> {
        let dir = self.directory(path);
        let stat = files::read(&dir, "memory.stat");
        // The root has neither (`fs2.statMemory` in opencontainers/cgroups): the machine's own numbers are its.
        let memory = match files::number(&dir, "memory.current") {
            Some(current) => {
                let limits = (files::number(&dir, "memory.max"), files::number(&dir, "memory.swap.current"));
                usage::Memory::v2(current, &stat, limits)
            }
            None if path.is_empty() => usage::Memory::machine(&stat),
            None => return None,
        };
        let cpu_micro = usage::entry(&files::read(&dir, "cpu.stat"), "usage_usec")?;
        Some(Usage { cpu_nano: cpu_micro.saturating_mul(1000), memory, processes: files::number(&dir, "pids.current") })
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

    #[test]
    fn usage_is_of_the_kernels_files() {
        let dir = tempfile::tempdir().unwrap();
        let unified = Unified { mount: dir.path().to_owned() };
        let write = |file: &str, text: &str| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (file, text) in [
            ("k/cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("k/memory.current", "8192\n"),
            ("k/memory.max", "16384\n"),
            ("k/memory.swap.current", "0\n"),
            ("k/memory.stat", "anon 2048\nfile 6144\ninactive_file 4096\npgfault 7\npgmajfault 1\n"),
            ("k/pids.current", "3\n"),
            ("cpu.stat", "usage_usec 9\n"),
            ("memory.stat", "inactive_file 4096\n"),
        ] {
            write(file, text);
        }
        let used = unified.usage("k").unwrap();
        let memory = usage::Memory {
            usage_bytes: 8192,
            working_set_bytes: 4096,
            rss_bytes: 2048,
            page_faults: 7,
            major_page_faults: 1,
            limit_bytes: Some(16384),
            swap_bytes: Some(0),
        };
        assert_eq!((used.cpu_nano, used.memory, used.processes), (1_500_000, memory, Some(3)));
        write("k/memory.max", "max\n");
        assert_eq!(unified.usage("k").unwrap().memory.limit_bytes, None);
        assert!(unified.usage("").unwrap().memory.usage_bytes > 1 << 20, "the root's memory is the machine's");
        assert!(unified.usage("nothing").is_none());
    }
}
