//! Directories and what this machine can do -> containerd's configuration (version 2, which 1.6 and 2.x read).

use std::path::{Path, PathBuf};

use super::pause;

/// Where our containerd lives. Everything it makes is below these directories.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Images and snapshots: kept.
    pub root: PathBuf,
    /// Socket, process id, running containers' state: gone after a reboot.
    pub state: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
}

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    pub overlayfs: bool,
    /// CAP_SYS_RESOURCE: without it a process cannot lower its oom_score_adj, and sandboxes with -998 do not start.
    pub sys_resource: bool,
}

impl Layout {
    /// `<agent-dir>/containerd` and `<run-dir>/containerd`, with CNI's directories in `<agent-dir>/cni`.
    pub fn under(agent_dir: &Path, run_dir: &Path) -> Self {
        Self {
            root: agent_dir.join("containerd"),
            state: run_dir.join("containerd"),
            cni_conf_dir: agent_dir.join("cni/net.d"),
            cni_bin_dir: agent_dir.join("cni/bin"),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// What the pause program may do: an OCI seccomp profile.
    pub fn pause_profile(&self) -> PathBuf {
        self.root.join("pause-seccomp.json")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.state.join("containerd.pid")
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.root.join("containerd.log")
    }
}

/// The configuration file's text.
pub(super) fn render(layout: &Layout, can: Abilities) -> String {
    let quote = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let snapshotter = if can.overlayfs { "overlayfs" } else { "native" };
    format!(
        r#"# Written by skiff at each start.
version = 2
root = {root}
state = {state}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
  # Sets LD_LIBRARY_PATH: each shim and runc looked for its libraries in six places where none are, its working directory among them.
  "io.containerd.internal.v1.opt",
]

[grpc]
  address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = {restrict}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_cgroup = false
  # Walks every snapshot's files; upstream's kubelet looks at disks once a minute too.
  stats_collect_period = 60
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = {runc}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {certs}
"#,
        root = quote(&layout.root),
        state = quote(&layout.state),
        runc = quote(&layout.state.join("runc")),
        socket = quote(&layout.socket()),
        pause = pause::IMAGE,
        restrict = !can.sys_resource,
        cni_bin = quote(&layout.cni_bin_dir),
        cni_conf = quote(&layout.cni_conf_dir),
        certs = quote(&layout.root.join("certs.d")),
    )
}

/// Asks the machine. `probe_dir` is on the file system that the snapshots will be on.
pub(super) fn abilities(probe_dir: &Path) -> Abilities {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Abilities { overlayfs: mounts_overlay(probe_dir), sys_resource: has_sys_resource(&status) }
}

fn has_sys_resource(status: &str) -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << CAP_SYS_RESOURCE) != 0)
}

/// Kernels without overlayfs, and file systems that cannot be its upper layer, are found by trying.
fn mounts_overlay(dir: &Path) -> bool {
    let probe = dir.join("overlay-probe");
    let sub = |name: &str| probe.join(name);
    let names = ["lower", "upper", "work", "merged"];
    let made = names.iter().all(|name| std::fs::create_dir_all(sub(name)).is_ok());
    let options = format!("lowerdir={},upperdir={},workdir={}", sub("lower").display(), sub("upper").display(), sub("work").display());
    let options = std::ffi::CString::new(options).ok();
    let merged = sub("merged");
    let works = made
        && rustix::mount::mount("overlay", &merged, "overlay", rustix::mount::MountFlags::empty(), options.as_deref()).is_ok()
        && rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).is_ok();
    // Left-overs only cost a few inodes.
    let _ = std::fs::remove_dir_all(&probe);
    works
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_effective_set() {
        assert!(has_sys_resource("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_sys_resource("CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n"));
        assert!(!has_sys_resource(""));
    }

    #[test]
    fn the_file_says_what_the_machine_allows() {
        let layout = Layout::under(Path::new("/data/agent"), Path::new("/run/x"));
        let text = render(&layout, Abilities { overlayfs: false, sys_resource: false });
        assert!(text.contains("snapshotter = \"native\""));
        assert!(text.contains("restrict_oom_score_adj = true"));
        assert!(text.contains("address = \"/run/x/containerd/containerd.sock\""));
        assert!(text.contains("conf_dir = \"/data/agent/cni/net.d\""));
    }
}
