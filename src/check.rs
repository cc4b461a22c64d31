//! This machine -> what it lacks for `skiff up`, and the command that mends it.

use std::{fs, path::Path};

/// One thing that is needed.
pub struct Need {
    pub what: &'static str,
    pub met: bool,
    /// The command, or the deed, that mends it.
    pub mend: &'static str,
}

/// Prints every need; true if all are met.
pub fn run() -> bool {
    let needs = needs();
    for need in &needs {
        let sign = if need.met { "\u{2713}" } else { "\u{2717}" };
        println!(" {sign} {}", need.what);
        if !need.met {
            println!("     mend with: {}", need.mend);
        }
    }
    let lacking = needs.iter().filter(|n| !n.met).count();
    match lacking {
        0 => println!("this machine can run `skiff up`"),
        n => println!("this machine lacks {n} of {} things for `skiff up` (`skiff server` needs none of them)", needs.len()),
    }
    lacking == 0
}

/// What is lacking, in one sentence with the commands; `None` if nothing is.
pub fn lacking() -> Option<String> {
    let lines: Vec<String> = needs().into_iter().filter(|n| !n.met).map(|n| format!("  {}: mend with: {}", n.what, n.mend)).collect();
    (!lines.is_empty()).then(|| format!("this machine lacks:\n{}", lines.join("\n")))
}

fn needs() -> Vec<Need> {
    let program = |what, name, mend| Need { what, met: api::programs::find(name).is_some(), mend };
    vec![
        Need { what: "root", met: rustix::process::geteuid().is_root(), mend: "run it with sudo" },
        program("containerd", "containerd", "apt-get install -y containerd"),
        program("ctr (comes with containerd)", "ctr", "apt-get install -y containerd"),
        program("runc", "runc", "apt-get install -y runc"),
        program("iptables-restore", "iptables-restore", "apt-get install -y iptables"),
        Need { what: "overlay file system", met: filesystem("overlay"), mend: "modprobe overlay" },
        Need {
            what: "cgroups",
            met: Path::new("/sys/fs/cgroup").read_dir().is_ok_and(|mut d| d.next().is_some()),
            mend: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        },
        Need { what: "network namespaces", met: Path::new("/proc/self/ns/net").exists(), mend: "use a kernel with CONFIG_NET_NS" },
    ]
}

fn filesystem(name: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let module = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let module = format!("/lib/modules/{}/kernel/fs/overlayfs", module.trim());
    known.lines().any(|l| l.split_whitespace().last() == Some(name)) || Path::new(&module).exists()
}
