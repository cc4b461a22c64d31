//! The kernel's files -> what this machine has: processors, memory, disk, identity.

use std::{fs, path::Path};

/// As the node reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: i64,
    pub memory_bytes: i64,
    /// Of the file system that pods write on.
    pub disk_bytes: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: &'static str,
    pub huge_pages: Vec<HugePages>,
    pub swap_bytes: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePages {
    pub size_kib: i64,
    pub count: i64,
}

/// What is free now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub inodes: i64,
    pub inodes_total: i64,
    pub pids: i64,
    pub pids_max: i64,
}

impl Machine {
    /// Asks the kernel. `dir` is on the file system that pods write on. What cannot be read is left empty.
    pub fn look(dir: &Path) -> Self {
        let memory = read("/proc/meminfo");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
            memory_bytes: kib(&memory, "MemTotal:") << 10,
            swap_bytes: kib(&memory, "SwapTotal:") << 10,
            disk_bytes: disk(dir).map_or(0, |s| blocks(s.f_blocks, s.f_frsize)),
            machine_id: machine_id(),
            system_uuid: first(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
            boot_id: first(&["/proc/sys/kernel/random/boot_id"]),
            kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&read("/etc/os-release")),
            architecture: go_arch(std::env::consts::ARCH),
            huge_pages: huge_pages(),
        }
    }
}

/// What systemd made for this machine alone; empty where it has none.
pub fn machine_id() -> String {
    first(&["/etc/machine-id", "/var/lib/dbus/machine-id"])
}

impl Free {
    pub fn look(dir: &Path) -> Self {
        let memory = read("/proc/meminfo");
        let disk = disk(dir);
        // "0.00 0.00 0.00 2/345 6789": running and existing tasks.
        let load = read("/proc/loadavg");
        let tasks = load.split_whitespace().nth(3).and_then(|t| t.split_once('/')).and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
        let pids_max = read("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(i64::MAX);
        Self {
            memory_bytes: kib(&memory, "MemAvailable:") << 10,
            disk_bytes: disk.as_ref().map_or(0, |s| blocks(s.f_bavail, s.f_frsize)),
            inodes: disk.as_ref().map_or(0, |s| blocks(s.f_favail, 1)),
            inodes_total: disk.as_ref().map_or(0, |s| blocks(s.f_files, 1)),
            pids: pids_max - tasks,
            pids_max,
        }
    }
}

fn disk(dir: &Path) -> Option<rustix::fs::StatVfs> {
    rustix::fs::statvfs(dir).ok()
}

fn blocks(count: u64, size: u64) -> i64 {
    i64::try_from(count.saturating_mul(size)).unwrap_or(i64::MAX)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first(paths: &[&str]) -> String {
    paths.iter().map(|p| read(p).trim().to_owned()).find(|text| !text.is_empty()).unwrap_or_default()
}

fn kib(meminfo: &str, key: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_owned())
}

fn go_arch(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn huge_pages() -> Vec<HugePages> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let size_kib = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some(HugePages { size_kib, count })
        })
        .collect();
    found.sort_by_key(|pages| pages.size_kib);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read() {
        assert_eq!(kib("MemTotal:       16 kB\nMemAvailable:    8 kB\n", "MemAvailable:"), 8);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), "Debian GNU/Linux 12 (bookworm)");
        let machine = Machine::look(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && machine.disk_bytes > 0);
        assert!(!machine.kernel_version.is_empty());
    }
}
