//! A place to walk (a server, or a whole node) and a kubectl -> the topics walked in order, and everything cleaned up.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
};

pub use e2e::free_port;
use e2e::{
    Options, Server,
    images::{self, debian},
    tools,
};
use tokio::runtime::Runtime;

use crate::terminal::Terminal;

/// A name, which is also that of its namespace, and the steps.
pub type Topic = (&'static str, fn(&Terminal));

/// Which kubectl is typed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubectl {
    /// 1.20, Debian 12's.
    Old,
    /// 1.32 or what else is on the path.
    Newer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The control plane alone.
    Server,
    /// Control plane and node, with the images imported.
    Node,
}

/// Bridges, rules and ports are the machine's: one node at a time, whoever starts it. The file stays, its lock goes with the value.
const NODE_LOCK: &str = "/tmp/skiff-node-test.lock";
/// Where our containerd listens, below the data directory.
const CONTAINERD: &str = "agent/run/containerd/containerd.sock";
/// Apart from what a cluster of the developer's own uses.
const NODE_FLAGS: &[&str] = &[
    "--node-name=walk-node",
    "--cluster-cidr=10.77.0.0/16",
    "--service-cluster-ip-range=10.99.0.0/16",
    "--service-node-port-range=31000-32999",
];

/// Starts, walks, and cleans up, also after a failure. Panics at the end if a topic failed.
pub fn walk(place: Place, kubectl: Kubectl, parts: &[&[Topic]]) {
    let program = program(kubectl);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // Given back after the server was reset: it is dropped last.
    let _one = (place == Place::Node).then(one_node);
    let server = match place {
        Place::Server => runtime.block_on(Server::start(Options::default())),
        Place::Node => node(&runtime),
    };
    let terminal = Terminal::new(server, runtime, kubectl, &program);
    let wanted = std::env::var("WALK").unwrap_or_default();
    let chosen = |name: &str| wanted.is_empty() || wanted.split(',').any(|w| w == name);
    let topics = parts.iter().copied().flatten().filter(|(name, _)| chosen(name));
    let failed: Vec<&str> = topics.filter(|topic| !walk_topic(&terminal, topic)).map(|(name, _)| *name).collect();
    terminal.server.borrow().assert_sound();
    assert!(failed.is_empty(), "with {kubectl:?} kubectl these topics failed: {}", failed.join(", "));
}

fn one_node() -> File {
    let file = File::options().create(true).append(true).open(NODE_LOCK).expect("a lock file in /tmp");
    file.lock().expect("a file can be locked");
    file
}

/// A node that has the images.
fn node(runtime: &Runtime) -> Server {
    let args = NODE_FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let server = runtime.block_on(Server::up(Options { args, ..Options::default() }));
    let archives = images::make(&server.scratch().join("images")).unwrap_or_else(|error| panic!("no images: {error:#}"));
    for archive in archives {
        images::import(&server.data_dir().join(CONTAINERD), Path::new(&archive)).unwrap_or_else(|error| panic!("{error:#}"));
    }
    server
}

/// False if a step failed; it has been told then, with the state of the cluster.
fn walk_topic(terminal: &Terminal, (name, steps): &Topic) -> bool {
    eprintln!("--- {name}");
    let walked = catch_unwind(AssertUnwindSafe(|| {
        terminal.run(&format!("kubectl create namespace {name}"));
        terminal.until(&format!("kubectl get serviceaccount default --namespace {name}"), "default");
        terminal.run(&format!("kubectl config set-context --current --namespace={name}"));
        steps(terminal);
    }));
    if walked.is_err() {
        eprintln!("=== topic {name} failed; the cluster:");
        eprintln!("{}", terminal.once("kubectl get nodes,pods,services,endpoints -o wide --all-namespaces"));
        eprintln!("{}", terminal.once("kubectl get events --sort-by=.lastTimestamp | tail -n 30"));
        let log = terminal.server.borrow().log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- the end of skiff's log\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
    }
    // A topic that failed half way leaves nothing in the way of the next.
    terminal.once("kubectl uncordon walk-node; kubectl taint node walk-node go- only-");
    terminal.once(&format!("kubectl config set-context --current --namespace=default; kubectl delete namespace {name} --wait=false"));
    walked.is_ok()
}

/// The program, fetched if need be.
fn program(kubectl: Kubectl) -> PathBuf {
    let unpacked = match kubectl {
        Kubectl::Old => tools().join("kubectl-1.20"),
        Kubectl::Newer => tools().join("kubectl-1.32"),
    };
    if unpacked.is_file() {
        return fs::canonicalize(unpacked).expect("it is there");
    }
    let found = match kubectl {
        Kubectl::Old => debian::unpack(&tools(), "kubernetes-client").map(|root| root.join("usr/bin/kubectl")),
        Kubectl::Newer => debian::said("sh", &["-c", "command -v kubectl"]).map(|path| PathBuf::from(path.trim())),
    };
    let found = found.unwrap_or_else(|error| panic!("no {kubectl:?} kubectl; `deploy/setup.sh tools` fetches it: {error:#}"));
    let version = Command::new(&found).args(["version", "--client"]).output().expect("kubectl runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let is_old = version.contains("v1.20");
    assert!(is_old == (kubectl == Kubectl::Old), "{} is not the {kubectl:?} kubectl: {version}", found.display());
    found
}
