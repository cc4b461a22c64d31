//! This machine -> the programs and what of the kernel a node needs, and the command that brings each.

use std::{fs, path::Path};

use api::preflight::{Finding, in_the_way};

/// What is lacking, in one sentence with the commands; `None` if nothing is.
pub fn lacking() -> Option<String> {
    let lines = in_the_way(&needs());
    (!lines.is_empty()).then(|| format!("this machine lacks:{lines}"))
}

/// What a node needs, there or not.
pub fn needs() -> Vec<Finding> {
    let program = |what, name, mend| Finding::needed(what, api::programs::find(name).is_some(), mend);
    let has_cgroups = Path::new("/sys/fs/cgroup").read_dir().is_ok_and(|mut dir| dir.next().is_some());
    vec![
        Finding::needed("root", rustix::process::geteuid().is_root(), "run it with sudo"),
        program("containerd", "containerd", "apt-get install -y containerd"),
        program("ctr (comes with containerd)", "ctr", "apt-get install -y containerd"),
        program("runc", "runc", "apt-get install -y runc"),
        program("iptables-restore", "iptables-restore", "apt-get install -y iptables"),
        Finding::needed("overlay file system", filesystem("overlay"), "modprobe overlay"),
        Finding::needed("cgroups", has_cgroups, "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
        Finding::needed("network namespaces", Path::new("/proc/self/ns/net").exists(), "use a kernel with CONFIG_NET_NS"),
    ]
}

fn filesystem(name: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let module = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let module = format!("/lib/modules/{}/kernel/fs/overlayfs", module.trim());
    known.lines().any(|l| l.split_whitespace().last() == Some(name)) || Path::new(&module).exists()
}
