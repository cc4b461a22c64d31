//! This machine -> a node of it with the tests' images, one at a time, and the proof that it left nothing behind.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::{Options, Server, images, images::debian::said};

/// What the node is called.
pub const NAME: &str = "walk-node";
/// Bridges, rules and ports are the machine's: one node at a time, whoever starts it. The file stays, its lock goes with the value.
const LOCK: &str = "node-test";
const LOCKS: &str = "/tmp";
/// Where our containerd listens, below the data directory.
const CONTAINERD: &str = "agent/run/containerd/containerd.sock";
/// Apart from what a cluster of the developer's own uses.
const FLAGS: &[&str] = &[
    "--node-name=walk-node",
    "--cluster-cidr=10.77.0.0/16",
    "--service-cluster-ip-range=10.99.0.0/16",
    "--service-node-port-range=31000-32999",
];
/// Where containerd's network library keeps what the plugins answered.
const RESULTS: &str = "/var/lib/cni/results";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Hierarchies (v1), the top cgroup, QoS class, pod, container.
const CGROUP_DEPTH: usize = 5;

/// The machine's one place for a node. It is given back when dropped: after the server, which is reset before.
pub struct Claim {
    _locked: File,
    before: BTreeSet<String>,
}

/// Waits for its turn.
pub fn claim() -> Claim {
    Claim { _locked: lock(), before: traces() }
}

/// Held until the file is dropped.
pub(crate) fn lock() -> File {
    let file = lock_file(LOCK);
    file.lock().expect("a file can be locked");
    file
}

/// For those that leave alone what is the machine's; held until the file is dropped.
pub(crate) fn lock_shared() -> File {
    let file = lock_file(LOCK);
    file.lock_shared().expect("a file can be locked");
    file
}

/// Not locked yet.
pub(crate) fn lock_file(name: &str) -> File {
    let path = Path::new(LOCKS).join(format!("skiff-{name}.lock"));
    File::options().create(true).append(true).open(path).expect("a lock file in /tmp")
}

/// `skiff up`, with all images imported.
pub async fn start(claim: &Claim) -> Server {
    start_with(claim, &[]).await
}

/// The same with these flags, too.
pub async fn start_with(_claim: &Claim, flags: &[&str]) -> Server {
    let args = FLAGS.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    let server = Server::up(Options { args, ..Options::default() }).await;
    let archives = images::make(&server.scratch().join("images")).unwrap_or_else(|error| panic!("no images: {error:#}"));
    for archive in archives {
        images::import(&containerd(&server), Path::new(&archive)).unwrap_or_else(|error| panic!("{error:#}"));
    }
    has_room(&server).await;
    server
}

/// A node whose disk is nearly full takes no pods: better said at once than waited for.
async fn has_room(server: &Server) {
    let node = server.api().get(&format!("/api/v1/nodes/{NAME}")).await.expect(200);
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let full = conditions.iter().any(|condition| condition["type"] == "DiskPressure" && condition["status"] == "True");
    let dir = server.data_dir();
    assert!(!full, "less than a tenth of the disk under {} is free: pods are not let in; free some, or set TMPDIR", dir.display());
}

/// The socket of the node's containerd.
pub fn containerd(server: &Server) -> PathBuf {
    server.data_dir().join(CONTAINERD)
}

impl Claim {
    /// Resets the node, which must leave nothing that was not there before.
    pub fn end(self, server: Server) {
        let dir = server.data_dir();
        let said = server.reset().unwrap_or_else(|error| panic!("skiff reset: {error}"));
        let left: Vec<String> = traces().difference(&self.before).cloned().chain(traces_of(&dir)).collect();
        assert!(left.is_empty(), "skiff reset said\n{said}and left behind:\n{}", left.join("\n"));
    }
}

/// Links, rules, network namespaces, cached results, cgroups and processes of nodes, whoever they belong to.
pub(crate) fn traces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |what: &str, lines: Vec<String>| found.extend(lines.into_iter().map(|line| format!("{what} {line}")));
    let links = names(Path::new("/sys/class/net"));
    add("link", links.into_iter().filter(|name| name.starts_with("skiff") || name.starts_with("veth")).collect());
    for command in ["iptables-save", "ip6tables-save"] {
        let rules = said(command, &[]).unwrap_or_default();
        add(command, rules.lines().filter(|rule| rule.contains("KUBE-") || rule.contains("SKIFF-")).map(uncounted).collect());
    }
    let tables = said("nft", &["list", "tables"]).unwrap_or_default();
    add("nft", tables.lines().map(str::to_owned).collect());
    add("network namespace", names(Path::new("/run/netns")).into_iter().filter(|name| name.starts_with("cni-")).collect());
    add("cached result", names(Path::new(RESULTS)));
    add("cgroup", cgroups(Path::new(CGROUPS), CGROUP_DEPTH));
    found
}

/// Processes and mounts that belong to a data directory, and the directory itself.
fn traces_of(dir: &Path) -> Vec<String> {
    let path = dir.display().to_string();
    let mut found: Vec<String> = dir.exists().then(|| format!("directory {path}")).into_iter().collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&path)).map(|line| format!("mount {line}")));
    for pid in names(Path::new("/proc")).iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&path) {
            found.push(format!("process {pid} {line}"));
        }
    }
    found
}

/// `:KUBE-SERVICES - [12:345]` without what was counted.
fn uncounted(rule: &str) -> String {
    rule.split(" [").next().unwrap_or(rule).to_owned()
}

/// Those of pods, named by their paths.
fn cgroups(dir: &Path, depth: usize) -> Vec<String> {
    if depth == 0 {
        return Vec::new();
    }
    let below = names(dir).into_iter().map(|name| dir.join(name)).filter(|path| path.is_dir());
    below
        .flat_map(|path| {
            let own = path.display().to_string();
            let ours = own.contains("kubepods") || own.contains("k8s.io") || own.contains("skiff");
            ours.then_some(own).into_iter().chain(cgroups(&path, depth - 1)).collect::<Vec<_>>()
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
