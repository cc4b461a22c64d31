//! Limits -> cgroup v1: the same path in every controller's own tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, Usage, files, usage};
use crate::container_config::{Limits, QUOTA_PERIOD_US};

/// The mounted controllers: directory of each tree, with the controllers it serves.
#[derive(Clone, Debug)]
pub struct Controllers {
    trees: Vec<(PathBuf, Vec<String>)>,
}

impl Controllers {
    /// Reads `/proc/self/mountinfo`.
    pub fn find() -> Result<Self, Error> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| files::file(Path::new("/proc/self/mountinfo"), e))?;
        let trees = parse(&table);
        let needed = |name: &str| trees.iter().any(|(_, names)| names.iter().any(|n| n == name));
        if needed("cpu") && needed("memory") { Ok(Self { trees }) } else { Err(Error::NotMounted("/sys/fs/cgroup".into())) }
    }

    pub fn directories(&self, path: &str) -> Vec<PathBuf> {
        self.trees.iter().map(|(tree, _)| tree.join(path)).collect()
    }

    pub fn create(&self, path: &str) -> Result<(), Error> {
        for (tree, names) in &self.trees {
            files::create(&tree.join(path))?;
            if names.iter().any(|n| n == "cpuset") {
                inherit_cpuset(tree, path)?;
            }
        }
        Ok(())
    }

    pub fn set(&self, path: &str, limits: Limits) -> Result<(), Error> {
        let cpu = self.tree("cpu").join(path);
        files::write(&cpu, "cpu.shares", &limits.cpu_shares.to_string())?;
        // A kernel without CFS bandwidth has no such file; upstream's default is to want it, so its absence is reported only where it matters.
        if limits.cpu_quota_us.is_some() || cpu.join("cpu.cfs_quota_us").exists() {
            files::write(&cpu, "cpu.cfs_period_us", &QUOTA_PERIOD_US.to_string())?;
            files::write(&cpu, "cpu.cfs_quota_us", &limits.cpu_quota_us.unwrap_or(-1).to_string())?;
        }
        let memory = self.tree("memory").join(path);
        files::write(&memory, "memory.limit_in_bytes", &limits.memory_bytes.unwrap_or(-1).to_string())
    }

    pub fn usage(&self, path: &str) -> Option<Usage> {
        let memory = self.tree("memory").join(path);
        let pids = self.find_tree("pids").and_then(|tree| files::number(&tree.join(path), "pids.current"));
        Some(Usage {
            cpu_nano: files::number(&self.find_tree("cpuacct")?.join(path), "cpuacct.usage")?,
            memory: usage::Memory::v1(files::number(&memory, "memory.usage_in_bytes")?, &files::read(&memory, "memory.stat")),
            processes: pids,
        })
    }

    fn tree(&self, controller: &str) -> &Path {
        self.find_tree(controller).expect("find() made sure of cpu and memory")
    }

    fn find_tree(&self, controller: &str) -> Option<&Path> {
        let tree = self.trees.iter().find(|(_, names)| names.iter().any(|n| n == controller));
        tree.map(|(path, _)| path.as_path())
    }
}

/// A new cpuset has no cpus and no memory nodes, and then no process may enter: take the parent's, from the top down.
fn inherit_cpuset(tree: &Path, path: &str) -> Result<(), Error> {
    let mut dir = tree.to_owned();
    for part in Path::new(path) {
        let child = dir.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if files::read(&child, file).is_empty() {
                files::write(&child, file, &files::read(&dir, file))?;
            }
        }
        dir = child;
    }
    Ok(())
}

/// mountinfo -> the cgroup v1 trees under `/sys/fs/cgroup`.
fn parse(table: &str) -> Vec<(PathBuf, Vec<String>)> {
    let mut trees: Vec<(PathBuf, Vec<String>)> = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let hybrid = match right.next() {
            Some("cgroup") => false,
            // Beside v1 only for keeping track of processes: runc makes its directories there too.
            Some("cgroup2") => true,
            _ => continue,
        };
        let Some(mount) = left.split(' ').nth(4).filter(|m| m.starts_with("/sys/fs/cgroup/")) else { continue };
        let names = if hybrid { "unified" } else { right.nth(1).unwrap_or_default() };
        let names: Vec<String> = names.split(',').map(str::to_owned).collect();
        if !trees.iter().any(|(_, other)| *other == names) {
            trees.push((mount.into(), names));
        }
    }
    trees
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let table = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
            31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup none rw,memory\n\
            32 25 0:27 / /other/memory rw - cgroup none rw,memory\n\
            34 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 none rw,memory\n\
            33 25 0:28 / / rw - ext4 /dev/vda rw\n";
        let trees = parse(table);
        assert_eq!(trees.len(), 3);
        assert_eq!(trees[2].1, ["unified"]);
        assert_eq!(trees[0].0, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(trees[0].1, ["rw", "cpu", "cpuacct"]);
    }
}
